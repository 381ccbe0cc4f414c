-- Jobs that should start within a time (the sla of a task), and every missed sla, of jobs and of runs.

-- When a job with an sla should have started. A row goes when it is known whether the job did; a job without an sla has none.
create table taskflow.job_slas (
    shard       smallint    not null,
    due_at      timestamptz not null,
    job_id      uuid        not null,
    primary key (shard, due_at, job_id)
);

-- Each missed sla, once, appended in the transaction that finds it: `tx` is for those who read what is new.
create table taskflow.job_sla_misses (
    job_id      uuid        primary key,
    due_at      timestamptz not null,                               -- when it should have started
    missed_at   timestamptz not null default taskflow.now(),
    tx          xid8        not null default taskflow.tx()
);
create index job_sla_misses_at on taskflow.job_sla_misses (missed_at);

create table taskflow.run_sla_misses (
    run_id      uuid        primary key references taskflow.runs on delete cascade,
    missed_at   timestamptz not null default taskflow.now(),
    tx          xid8        not null default taskflow.tx()
);
create index run_sla_misses_at on taskflow.run_sla_misses (missed_at);

-- As before, with whether the job missed its sla.
create or replace view taskflow.task_instances as
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
    j.options -> 'tags' as tags,
    exists (select from taskflow.job_sla_misses m where m.job_id = j.id) as sla_missed
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
    j.key, j.options,
    exists (select from taskflow.job_sla_misses m where m.job_id = j.id) as sla_missed
from taskflow.jobs j
left join taskflow.leases l on l.job_id = j.id
left join taskflow.deferred d on d.job_id = j.id
left join lateral (
    select * from taskflow.attempts a where a.job_id = j.id order by a.attempt desc limit 1
) a on true;

-- As before, with missed slas.
create or replace view taskflow.events as
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
where f.state <> 'queued'
union all
select m.missed_at, m.job_id, null::uuid, 'sla_missed', '', 0, jsonb_build_object('due_at', m.due_at)
from taskflow.job_sla_misses m
union all
select m.missed_at, null::uuid, m.run_id, 'sla_missed', '', 0, null::jsonb
from taskflow.run_sla_misses m;
