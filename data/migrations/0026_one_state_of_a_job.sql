-- The state of a job is derived here alone, for lists, filters and views; a later migration replaces these functions only.

-- The number of the state, as in the API, by the first fact that applies: a lease (`started` is null without one), else a row
-- of `deferred` (`due` is null without one), else the last attempt. `taskflow._policy.states.state_of` is the same in Python,
-- and a test compares both. Each argument is used once: then Postgres puts the body in place of the call, a subselect in an
-- argument included.
create function taskflow.job_state(started boolean, due boolean, reason smallint, final boolean, outcome smallint) returns integer
language sql immutable parallel safe as $$
    select case started
        when true then 4
        when false then 3
        else case due
            when true then 2
            when false then case reason when 2 then 5 else 1 end
            else case when final then case outcome when 1 then 6 when 5 then 8 else 7 end else 2 end
        end
    end
$$;

create function taskflow.state_name(state integer) returns text
language sql immutable parallel safe as $$
    select (array['scheduled', 'ready', 'requested', 'running', 'retrying', 'succeeded', 'failed', 'cancelled'])[state]
$$;

create function taskflow.is_final(state integer) returns boolean
language sql immutable parallel safe as $$ select state = any ('{6, 7, 8}') $$;

-- The word of `task_instances.status`.
create function taskflow.state_status(state integer) returns text
language sql immutable parallel safe as $$
    select (array['queued', 'queued', 'running', 'running', 'retry', 'success', 'failed', 'dequeued'])[state]
$$;

-- The three views as before, with these functions; `job_facts` also says whether the state is final.
create or replace view taskflow.job_facts as
select j.id, j.queue, j.task, j.options, s.state, a.error, taskflow.is_final(s.state) as final
from taskflow.jobs j
left join taskflow.leases l on l.job_id = j.id
left join taskflow.deferred d on d.job_id = j.id
left join lateral (
    select a.final, a.outcome, a.error from taskflow.attempts a where a.job_id = j.id order by a.attempt desc limit 1
) a on true
cross join lateral (
    select taskflow.job_state(l.started, d.due_at <= (select taskflow.now()), d.reason, a.final, a.outcome) as state
) s;

create or replace view taskflow.task_instances as
select j.id,
    coalesce(j.options #>> '{metadata,taskflow.task}', nullif(j.task, '')) as task_name,
    j.queue,
    taskflow.state_status(s.state) as status,
    taskflow.state_name(s.state) as state,
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
    case when taskflow.is_final(s.state) then a.finished_at end as ended_at,
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
    select taskflow.job_state(l.started, d.due_at <= (select now() + c.moved_by from taskflow.clock c), d.reason, a.final, a.outcome)
        as state
) s;

create or replace view taskflow.job_states as
select j.id, j.queue, j.task,
    taskflow.state_name(s.state) as state,
    coalesce(l.attempt, a.attempt, 0) as attempt,
    j.priority, j.retries, j.created_at,
    coalesce(d.due_at, j.run_at) as run_at,
    coalesce(l.started_at, a.started_at) as started_at,
    case when taskflow.is_final(s.state) then a.finished_at end as finished_at,
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
) a on true
cross join lateral (
    select taskflow.job_state(l.started, d.due_at <= (select now() + c.moved_by from taskflow.clock c), d.reason, a.final, a.outcome)
        as state
) s;
