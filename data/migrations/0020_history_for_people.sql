-- History in SQL for people (S1.2): who asked for what, indexes for ranges of time, and views that never lose a column.

-- What was asked of a job beside what its other rows tell: that it is cancelled, that it is tried again. Appended in the
-- transaction that does it, pruned with the job.
create table taskflow.job_actions (
    job_id      uuid        not null,
    seq         bigint      not null generated always as identity,
    at          timestamptz not null,
    action      text        not null,                               -- cancel_requested, retried
    actor       text        not null,                               -- as whoever asked says; else its address
    reason      text        not null default '',
    primary key (job_id, seq)
);
create index job_actions_at on taskflow.job_actions (at);

-- The same of runs.
create table taskflow.run_actions (
    run_id      uuid        not null references taskflow.runs on delete cascade,
    seq         bigint      not null generated always as identity,
    at          timestamptz not null,
    action      text        not null,                               -- run_cancel_requested, run_retried
    actor       text        not null,
    primary key (run_id, seq)
);
create index run_actions_at on taskflow.run_actions (at);

-- Rows of a day come nearly in the order of time: a block range index costs an insert next to nothing, and finds a range of
-- time. Made with the day's partitions, while they are empty: no insert waits for it.
create or replace function taskflow.create_partitions(first date, days integer) returns integer
language plpgsql as $$
declare
    made integer := 0;
    day date;
    parent text;
    col text;
    part text;
    low uuid;
    high uuid;
begin
    perform pg_advisory_xact_lock(hashtext('taskflow.create_partitions'));
    for day in select generate_series(first, first + days - 1, interval '1 day')::date loop
        low := taskflow.uuid_at(day::timestamp at time zone 'UTC');
        high := taskflow.uuid_at((day + 1)::timestamp at time zone 'UTC');
        foreach parent in array array['jobs', 'attempts'] loop
            part := format('%s_p%s', parent, to_char(day, 'YYYYMMDD'));
            continue when to_regclass('taskflow.' || part) is not null;
            col := case parent when 'jobs' then 'id' else 'job_id' end;
            execute format('create table taskflow.%I (like taskflow.%I including defaults including constraints)
                with (autovacuum_vacuum_insert_scale_factor = 0.05)', part, parent);
            perform taskflow.index_times(parent, part);
            execute format('alter table taskflow.%I add constraint %I check (%I >= %L and %I < %L)',
                part, part || '_day', col, low, col, high);
            execute format('alter table taskflow.%I attach partition taskflow.%I for values from (%L) to (%L)',
                parent, part, low, high);
            execute format('alter table taskflow.%I drop constraint %I', part, part || '_day');
            made := made + 1;
        end loop;
    end loop;
    return made;
end $$;

create function taskflow.index_times(parent text, part text) returns void
language plpgsql as $$
begin
    execute format('create index %I on taskflow.%I using brin (%s) with (pages_per_range = 32, autosummarize = on)',
        part || '_times', part, case parent when 'jobs' then 'created_at' else 'finished_at, started_at' end);
end $$;

-- An id in metadata, which users can write too.
create function taskflow.uuid_in(word text) returns uuid
language sql immutable parallel safe
as $$ select case when word ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then word::uuid end $$;

-- The views below hold no payload, input, result or output. They read the clock's table and not taskflow.now(), which would
-- need rights of whoever asks. A later version adds columns at their end, and takes none away.

-- One row for each job.
create view taskflow.task_instances as
select j.id,
    coalesce(j.options #>> '{metadata,taskflow.task}', nullif(j.task, '')) as task_name,
    j.queue,
    case s.state
        when 'succeeded' then 'success'
        when 'cancelled' then 'dequeued'
        when 'retrying' then 'retry'
        when 'scheduled' then 'queued'
        when 'ready' then 'queued'
        when 'requested' then 'running'
        else s.state
    end as status,
    s.state,
    j.priority,
    coalesce(l.attempt, a.attempt, 0) as attempts,
    j.retries + 1 as max_attempts,
    j.options -> 'metadata' ? 'taskflow.schedule' is true as scheduled,
    taskflow.uuid_in(j.options #>> '{metadata,taskflow.schedule}') as schedule_id,
    taskflow.uuid_in(j.options #>> '{metadata,taskflow.run}') as workflow_instance_id,
    j.options #>> '{metadata,taskflow.step}' as step,
    j.created_at,
    coalesce(d.due_at, j.run_at, j.created_at) as run_at,
    coalesce(l.started_at, a.started_at) as started_at,
    case when l.job_id is null and d.job_id is null and a.final then a.finished_at end as ended_at,
    coalesce(l.worker, a.worker) as worker,
    a.error ->> 'type' as error_type,
    a.error ->> 'message' as error,
    j.options -> 'requester' as requester,
    j.options ->> 'label' as label,
    j.key,
    j.options -> 'metadata' as metadata,
    j.options -> 'tags' as tags
from taskflow.jobs j
left join taskflow.leases l on l.job_id = j.id
left join taskflow.deferred d on d.job_id = j.id
left join lateral (
    select * from taskflow.attempts a where a.job_id = j.id order by a.attempt desc limit 1
) a on true
cross join lateral (
    select case
        when l.started then 'running'
        when l.job_id is not null then 'requested'
        when d.job_id is not null and d.due_at <= (select now() + c.moved_by from taskflow.clock c) then 'ready'
        when d.reason = 2 then 'retrying'
        when d.job_id is not null then 'scheduled'
        when a.final and a.outcome in (2, 3, 4) then 'failed'
        when a.final then taskflow.outcome_name(a.outcome)
        else 'ready'
    end as state
) s;

-- One row for each attempt that has ended.
create view taskflow.task_attempts as
select a.job_id, a.attempt, taskflow.outcome_name(a.outcome) as outcome, a.final, a.started_at, a.finished_at as ended_at,
    a.finished_at - a.started_at as ran, a.tries, a.worker, a.exec_id, a.error ->> 'type' as error_type, a.error ->> 'message' as error
from taskflow.attempts a;

-- One row for each run of a workflow.
create view taskflow.workflow_instances as
select r.id, r.workflow as workflow_name, r.version,
    case r.status
        when 'new' then 'queued'
        when 'succeeded' then 'success'
        when 'cancelled' then 'dequeued'
        when 'failed' then 'failed'
        else 'running'
    end as status,
    r.status as state,
    r.trigger = 'schedule' as scheduled,
    r.schedule_id, r.trigger,
    r.parent_id as parent_instance_id, r.parent_step,
    r.created_at, r.started_at, r.finished_at as ended_at,
    r.sla_missed, r.error ->> 'type' as error_type, r.error ->> 'message' as error, r.label, r.metadata
from taskflow.runs r;

-- One row for each step that a run has reached, as it stood last.
create view taskflow.workflow_steps as
select s.run_id as workflow_instance_id, s.step, s.iteration,
    case s.status
        when 'pending' then 'queued'
        when 'succeeded' then 'success'
        when 'cancelled' then 'dequeued'
        when 'waiting' then 'running'
        when 'held' then 'retry'
        else s.status
    end as status,
    s.status as state, s.due_at, s.started_at, s.finished_at as ended_at,
    s.error ->> 'type' as error_type, s.error ->> 'message' as error, s.after
from taskflow.run_steps s;

-- One row for each instant of a schedule, or range of skipped ones, that was decided.
create view taskflow.schedule_firings as
select f.schedule_id, s.task as task_name, s.workflow as workflow_name, f.instant, f.first, f.count, f.state, f.reason, f.trigger,
    f.job_id, f.run_id as workflow_instance_id, f.decided_at
from taskflow.firings f
join taskflow.schedules s on s.id = f.schedule_id;

-- What happened to jobs, and was asked of them and of runs: who did what, when.
create view taskflow.events as
select j.created_at as at, j.id as job_id, null::uuid as workflow_instance_id, 'submitted' as event,
    coalesce('schedule ' || taskflow.uuid_in(j.options #>> '{metadata,taskflow.schedule}')::text,
        'run ' || taskflow.uuid_in(j.options #>> '{metadata,taskflow.run}')::text, (j.options -> 'requester')::text, '') as actor,
    0 as attempt,
    jsonb_strip_nulls(jsonb_build_object('queue', j.queue, 'task', nullif(j.task, ''), 'priority', j.priority, 'run_at', j.run_at))
        as detail
from taskflow.jobs j
union all
select a.started_at, a.job_id, null::uuid, 'started', coalesce(a.worker, ''), a.attempt, null::jsonb
from taskflow.attempts a
where a.started_at is not null
union all
select a.finished_at, a.job_id, null::uuid, taskflow.outcome_name(a.outcome), coalesce(a.worker, ''), a.attempt,
    jsonb_strip_nulls(jsonb_build_object('final', a.final, 'type', a.error ->> 'type', 'message', a.error ->> 'message'))
from taskflow.attempts a
union all
select l.started_at, l.job_id, null::uuid, 'started', coalesce(l.worker, ''), l.attempt, null::jsonb
from taskflow.leases l
where l.started and l.started_at is not null
union all
select c.at, c.job_id, null::uuid, c.action, c.actor, 0, jsonb_strip_nulls(jsonb_build_object('reason', nullif(c.reason, '')))
from taskflow.job_actions c
union all
select c.at, null::uuid, c.run_id, c.action, c.actor, 0, null::jsonb
from taskflow.run_actions c
union all
select f.decided_at, f.job_id, f.run_id, f.state, 'schedule ' || f.schedule_id::text, 0,
    jsonb_build_object('instant', f.instant, 'count', f.count, 'trigger', f.trigger, 'reason', f.reason)
from taskflow.firings f
where f.state <> 'queued';

-- As before, but for the clock's table: a role that may read the view needs no right on it.
create or replace view taskflow.job_states as
select j.id, j.queue, j.task,
    case
        when l.started then 'running'
        when l.job_id is not null then 'requested'
        when d.job_id is not null and d.due_at <= (select now() + c.moved_by from taskflow.clock c) then 'ready'
        when d.reason = 2 then 'retrying'
        when d.job_id is not null then 'scheduled'
        when a.final and a.outcome in (2, 3, 4) then 'failed'
        when a.final then taskflow.outcome_name(a.outcome)
        else 'ready'
    end as state,
    coalesce(l.attempt, a.attempt, 0) as attempt,
    j.priority, j.retries, j.created_at,
    coalesce(d.due_at, j.run_at) as run_at,
    coalesce(l.started_at, a.started_at) as started_at,
    case when l.job_id is null and d.job_id is null and a.final then a.finished_at end as finished_at,
    taskflow.readable(j.payload, j.encoding) as payload,
    case when a.final then taskflow.readable(a.result, a.encoding) end as result,
    a.error ->> 'message' as error,
    coalesce(l.worker, a.worker) as worker,
    j.key, j.options
from taskflow.jobs j
left join taskflow.leases l on l.job_id = j.id
left join taskflow.deferred d on d.job_id = j.id
left join lateral (
    select * from taskflow.attempts a where a.job_id = j.id order by a.attempt desc limit 1
) a on true;

-- Days that are there: those that are empty or small, as all to come are. A large one is read without until it is pruned:
-- making its index would hold up inserts for as long as that takes. So is one that somebody holds in a long transaction. At
-- the end, for inserts wait from here to the commit.
do $$
declare
    part record;
    patience text := current_setting('lock_timeout');
begin
    perform set_config('lock_timeout', '500ms', true);
    for part in
        select c.relname as name, p.relname as parent from pg_inherits i
        join pg_class c on c.oid = i.inhrelid
        join pg_class p on p.oid = i.inhparent
        where p.oid in ('taskflow.jobs'::regclass, 'taskflow.attempts'::regclass)
            and pg_relation_size(c.oid) < 64 * 1024 * 1024
    loop
        begin
            perform taskflow.index_times(part.parent, part.name);
        exception when lock_not_available then null;
        end;
    end loop;
    perform set_config('lock_timeout', patience, true);
end $$;
