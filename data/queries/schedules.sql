-- name: read_leader
-- Who fires, and how its process does.
select l.term, l.owner, l.incarnation, m.beat, m.incarnation as member_incarnation
from taskflow.leaders l left join taskflow.members m on m.name = l.owner where l.role = %(role)s;

-- name: take_lead
-- From the term that was seen: of two that try, one does.
update taskflow.leaders set term = term + 1, owner = %(owner)s, incarnation = %(incarnation)s
where role = %(role)s and term = %(seen)s returning term;

-- name: leave_lead
update taskflow.leaders set owner = null, incarnation = null
where role = %(role)s and owner = %(owner)s and incarnation = %(incarnation)s;

-- name: leads
-- The last statement of a firing's transaction, in one pipeline with COMMIT.
select taskflow.leads(%(role)s, %(term)s);

-- name: lock_due_schedules
-- Those that are to be decided now, the one that has waited longest first, with what their tasks say of their jobs; or, of
-- these, the ones with given ids. `known_first` and `known_last`: the first row of the ledger beyond the cursor, if any.
select s.id, s.task, s.workflow, s.cron, s.at, s.time_zone, s.start_at, s.end_at, s.payload, s.encoding, s.metadata, s.misfire, s.overlap,
    s.cursor, s.next_at, t.id as task_id, t.name as task_name, coalesce(t.target, s.task) as target, t.queue, t.priority,
    t.retries, t.options, t.concurrency, t.payload as task_payload, t.encoding as task_encoding, (select taskflow.now()) as now,
    h.queue as own_queue, h.retries as own_retries, h.priority as own_priority, h.options as own_options,
    (select max(w.version) from taskflow.workflows w where w.name = s.workflow and not w.deleted) as version,
    k.first as known_first, k.instant as known_last
from taskflow.schedules s left join taskflow.tasks t on t.name = s.task
left join taskflow.handlers h on h.name = coalesce(t.target, s.task)
left join lateral (
    select f.first, f.instant from taskflow.firings f
    where f.schedule_id = s.id and f.instant > s.cursor order by f.instant limit 1
) k on true
where s.wake_at <= (select taskflow.now()) and s.active and coalesce(t.active, true)
    and (%(ids)s::uuid[] is null or s.id = any(%(ids)s::uuid[]))
order by s.wake_at limit %(limit)s
for update of s skip locked;

-- name: due_schedules
-- The ids alone of those, so that one whose row cannot be read is found.
select s.id from taskflow.schedules s left join taskflow.tasks t on t.name = s.task
where s.wake_at <= (select taskflow.now()) and s.active and coalesce(t.active, true)
order by s.wake_at limit %(limit)s;

-- name: put_off_schedule
-- One that cannot be fired is tried again later, and says why until it can.
update taskflow.schedules set error = %(error)s, wake_at = (select taskflow.now()) + %(seconds)s * interval '1 second'
where id = %(id)s;

-- name: wake_schedules_ahead
-- Those that the clock's step back would leave asleep: their cursor lies ahead of it, or they wait for a queued firing, or
-- for another try, that was timed by the clock as it was. All others wake at the instant after their cursor.
update taskflow.schedules set wake_at = (select taskflow.now())
where id = any (array(
    select id from taskflow.schedules
    where active and (wake_at is null or wake_at > (select taskflow.now()) + %(seconds)s * interval '1 second')
        and (cursor > (select taskflow.now()) + %(seconds)s * interval '1 second'
            or wake_at is distinct from next_at and wake_at > (select taskflow.now()) + (%(seconds)s + %(retry)s) * interval '1 second')
    limit %(limit)s for update skip locked
));

-- name: take_back_firings
-- Rows that a clock which was ahead has written of instants that are still to come, but for those that fired or will.
delete from taskflow.firings
where schedule_id = %(id)s and instant > %(now)s and state not in ('fired', 'queued')
returning instant, first, count, state, reason;

-- name: lock_schedule_to_fire
-- As lock_due_schedules has it, whenever it is due.
select s.*, t.id as task_id, t.name as task_name, coalesce(t.target, s.task) as target, t.queue, t.priority, t.retries,
    t.options, t.concurrency, t.payload as task_payload, t.encoding as task_encoding, (select taskflow.now()) as now,
    h.queue as own_queue, h.retries as own_retries, h.priority as own_priority, h.options as own_options,
    (select max(w.version) from taskflow.workflows w where w.name = s.workflow and not w.deleted) as version
from taskflow.schedules s left join taskflow.tasks t on t.name = s.task
left join taskflow.handlers h on h.name = coalesce(t.target, s.task)
where s.id = %(id)s for update of s;

-- name: firings_between
select instant, first, count, state, reason from taskflow.firings
where schedule_id = %(id)s and instant >= %(start)s and instant < %(end)s;

-- name: put_backfilled
-- Instants without a job or run get one. They hold up no other: what is asked for by hand does not overlap (R18).
insert into taskflow.firings as f (schedule_id, instant, first, count, state, reason, job_id, run_id, decided_at, trigger)
select w.*, (select taskflow.now()), 'backfill'
from unnest(%(schedule_id)s::uuid[], %(instant)s::timestamptz[], %(first)s::timestamptz[], %(instants)s::bigint[],
    %(state)s::text[], %(reason)s::text[], %(job_id)s::uuid[], %(run_id)s::uuid[])
    as w (schedule_id, instant, first, count, state, reason, job_id, run_id)
on conflict (schedule_id, instant) do update set
    first = excluded.first, count = excluded.count, state = excluded.state, reason = excluded.reason, job_id = excluded.job_id,
    run_id = excluded.run_id, decided_at = excluded.decided_at, trigger = excluded.trigger
    where f.state not in ('fired', 'queued');

-- name: close_firings
-- Firings whose job or run is final by now, or past its retention and gone; of each schedule the oldest few, since one
-- that lets its firings overlap may have any number. Those are not asked about while it does.
update taskflow.firings f set open = false
from unnest(%(ids)s::uuid[]) as w (id)
cross join lateral (
    select o.schedule_id, o.instant from taskflow.firings o
    where o.schedule_id = w.id and o.open order by o.instant limit %(limit)s
) o
where (f.schedule_id, f.instant) = (o.schedule_id, o.instant) and case when f.job_id is not null
    then coalesce((select j.final from taskflow.job_facts j where j.id = f.job_id), true)
    else coalesce((select r.finished_at is not null from taskflow.runs r where r.id = f.run_id), true) end;

-- name: open_firings
-- Unfinished jobs and runs of schedules, and firings that wait for them.
select f.schedule_id, count(*) filter (where f.open) as unfinished, count(*) filter (where f.state = 'queued') as queued,
    min(f.instant) filter (where f.state = 'queued') as oldest_queued,
    array_agg(f.job_id) filter (where f.open and f.job_id is not null) as jobs,
    array_agg(f.run_id) filter (where f.open and f.run_id is not null) as runs
from taskflow.firings f
where f.schedule_id = any(%(ids)s::uuid[]) and (f.open or f.state = 'queued')
group by f.schedule_id;

-- name: queued_firings
-- Firings that wait, of schedules that let theirs overlap: from a time when they did not.
select f.schedule_id, 0 as unfinished, count(*) as queued, min(f.instant) as oldest_queued,
    null::uuid[] as jobs, null::uuid[] as runs
from taskflow.firings f
where f.schedule_id = any(%(ids)s::uuid[]) and f.state = 'queued'
group by f.schedule_id;

-- name: put_firings
-- The ledger (M.7). A queued firing becomes what was decided of it; nothing else is ever changed by another decision.
insert into taskflow.firings as f (schedule_id, instant, first, count, state, reason, job_id, run_id, open, decided_at)
select w.*, w.job_id is not null or w.run_id is not null, (select taskflow.now())
from unnest(%(schedule_id)s::uuid[], %(instant)s::timestamptz[], %(first)s::timestamptz[], %(instants)s::bigint[],
    %(state)s::text[], %(reason)s::text[], %(job_id)s::uuid[], %(run_id)s::uuid[])
    as w (schedule_id, instant, first, count, state, reason, job_id, run_id)
on conflict (schedule_id, instant) do update set
    state = excluded.state, reason = excluded.reason, job_id = excluded.job_id, run_id = excluded.run_id, open = excluded.open,
    decided_at = excluded.decided_at
    where f.state = 'queued';

-- name: move_cursors
update taskflow.schedules s set cursor = w.cursor, next_at = w.next_at, wake_at = w.wake_at, last_at = coalesce(w.last_at, s.last_at),
    error = w.error
from unnest(%(id)s::uuid[], %(cursor)s::timestamptz[], %(next_at)s::timestamptz[], %(wake_at)s::timestamptz[], %(last_at)s::timestamptz[],
    %(error)s::text[]) as w (id, cursor, next_at, wake_at, last_at, error)
where s.id = w.id;

-- name: cancel_replaced
-- What a firing replaces (overlap `replace`).
with asked as (
    insert into taskflow.cancels (job_id, shard, requested_at, reason)
    select j.id, q.shard, (select taskflow.now()), 'replaced by the next firing of its schedule'
    from taskflow.jobs j join taskflow.queues q on q.name = j.queue
    where j.id = any(%(ids)s::uuid[])
    on conflict (job_id) do nothing
    returning job_id, requested_at, reason
)
insert into taskflow.job_actions (job_id, at, action, actor, reason)
select a.job_id, a.requested_at, 'cancel_requested', 'schedule ' || (j.options #>> '{metadata,taskflow.schedule}'), a.reason
from asked a join taskflow.jobs j on j.id = a.job_id;

-- name: next_wake
-- When the next schedule is to be decided, in seconds from now.
select extract(epoch from min(wake_at) - (select taskflow.now()))::float8 as seconds from taskflow.schedules where wake_at is not null;

-- name: insert_schedule
insert into taskflow.schedules (id, namespace, task, workflow, owned, cron, at, time_zone, start_at, end_at, payload, encoding, metadata,
    misfire, overlap, active, cursor, next_at, wake_at)
values (%(id)s, %(namespace)s, %(task)s, %(workflow)s, %(owned)s, %(cron)s, %(at)s, %(time_zone)s, %(start_at)s, %(end_at)s, %(payload)s,
    %(encoding)s, %(metadata)s::jsonb, %(misfire)s, %(overlap)s, %(active)s, %(cursor)s, %(next_at)s, %(wake_at)s)
on conflict (id) do nothing;

-- name: get_schedules
select *, (select taskflow.now()) as now from taskflow.schedules where id = any(%(ids)s::uuid[]);

-- name: lock_schedule
select *, (select taskflow.now()) as now from taskflow.schedules where id = %(id)s for update;

-- name: lock_own_schedule_of_workflow
select *, (select taskflow.now()) as now from taskflow.schedules where workflow = %(name)s and owned for update;

-- name: list_schedules
select * from taskflow.schedules
where id > %(after)s::uuid and (%(task)s::text = '' or task = %(task)s) and (%(workflow)s::text = '' or workflow = %(workflow)s)
    and (%(metadata)s::jsonb = '{}' or metadata @> %(metadata)s::jsonb)
order by id limit %(limit)s;

-- name: change_schedule
-- What UpdateSchedule, PauseSchedule and ResumeSchedule may change.
update taskflow.schedules set cron = %(cron)s, at = %(at)s, time_zone = %(time_zone)s, start_at = %(start_at)s, end_at = %(end_at)s,
    payload = %(payload)s, encoding = %(encoding)s, metadata = %(metadata)s::jsonb, misfire = %(misfire)s, overlap = %(overlap)s,
    active = %(active)s, cursor = %(cursor)s, next_at = %(next_at)s, wake_at = %(wake_at)s, error = null,
    updated_at = (select taskflow.now())
where id = %(id)s;

-- name: delete_schedule
delete from taskflow.schedules where id = %(id)s;

-- name: delete_schedules_by_metadata
delete from taskflow.schedules where metadata @> %(metadata)s::jsonb returning id;

-- name: list_firings
select instant, first, count, state, reason, job_id, run_id, trigger from taskflow.firings
where schedule_id = %(schedule_id)s and instant < %(before)s::timestamptz
order by instant desc limit %(limit)s;

-- name: insert_task
insert into taskflow.tasks (id, name, title, description, active, target, queue, priority, retries, options, payload, encoding,
    concurrency)
values (%(id)s, %(name)s, %(title)s, %(description)s, %(active)s, %(target)s, %(queue)s, %(priority)s, %(retries)s, %(options)s::jsonb,
    %(payload)s, %(encoding)s, %(concurrency)s)
on conflict (name) do nothing;

-- name: get_tasks
-- By name or id; without either, a page by name. With its own schedule, and its last start by any trigger: of a run that
-- has ended, or has a lease.
select t.*, s.id as schedule_id, s.cron, s.time_zone, s.start_at, s.end_at, case when t.active then s.next_at end as next_at,
    h.queue as own_queue, h.retries as own_retries, h.priority as own_priority, h.options as own_options,
    greatest(ended.started_at, running.started_at) as last_run_at
from taskflow.tasks t
left join taskflow.schedules s on s.task = t.name and s.owned
left join taskflow.handlers h on h.name = t.target
cross join lateral (
    select max(l.started_at) as started_at from taskflow.task_logs l where l.task_id = t.id
) ended
left join lateral (
    select l.started_at from taskflow.leases l
    where l.task = t.target and l.task <> '' and l.started_at is not null
        and exists (select from taskflow.jobs j where j.id = l.job_id and j.options ->> 'task_id' = t.id::text offset 0)
    order by l.started_at desc limit 1
) running on true
where (cardinality(%(names)s::text[]) = 0 or t.name = any(%(names)s::text[]) or t.id = any(%(ids)s::uuid[]))
    and t.name > %(after)s
order by t.name = any(%(names)s::text[]) desc, t.name limit %(limit)s;

-- name: lock_task
-- By its name or id. First the task, then its schedules: whoever changes several takes them in this order.
select *, (select taskflow.now()) as now from taskflow.tasks where name = %(name)s or id = %(id)s::uuid
order by (name = %(name)s) desc limit 1 for update;

-- name: update_task
update taskflow.tasks set name = %(name)s, title = %(title)s, description = %(description)s, active = %(active)s, target = %(target)s,
    queue = %(queue)s, priority = %(priority)s, retries = %(retries)s, options = %(options)s::jsonb,
    payload = %(payload)s, encoding = %(encoding)s, concurrency = %(concurrency)s, updated_at = (select taskflow.now())
where id = %(id)s;

-- name: rename_in_schedules
update taskflow.schedules set task = %(name)s where task = %(old)s;

-- name: delete_task
-- Its name stays with the logs of its runs.
with gone as (delete from taskflow.tasks where id = %(id)s returning id, name),
kept as (insert into taskflow.removed_tasks (id, name) select id, name from gone)
delete from taskflow.schedules s using gone where s.task = gone.name and s.owned;

-- name: removed_task
-- By its id, or the last one of its name.
select id from taskflow.removed_tasks where id = any(%(ids)s::uuid[]) or name = any(%(names)s::text[])
order by removed_at desc limit 1;

-- name: lock_schedules_of
select *, (select taskflow.now()) as now from taskflow.schedules where task = %(task)s order by id for update;

-- name: handlers_seen
-- Which of these handlers a worker has ever registered (R20).
select name from taskflow.handlers where name = any(%(names)s::text[]);

-- name: task_logs
-- Runs that ended, newest first: of one task, or of all that there are or were. Each index is read no further than the limit.
select l.job_id as id, l.task, l.task_id, l.outcome, l.started_at, l.finished_at, a.result, coalesce(a.encoding, 1::smallint) as encoding,
    a.error,
    case when j.metadata ? 'taskflow.run' then 'workflow'
        else coalesce(j.metadata ->> 'taskflow.trigger', case when j.metadata ? 'taskflow.schedule' then 'schedule' else 'manual' end)
    end as trigger
from (
    select l.*
    from (select id, name from taskflow.tasks union all select id, name from taskflow.removed_tasks) t
    cross join unnest(%(outcomes)s::smallint[]) as w (outcome)
    cross join lateral (
        select l.job_id, l.attempt, l.outcome, l.started_at, l.finished_at, t.id as task_id, t.name as task from taskflow.task_logs l
        where l.task_id = t.id and l.outcome = w.outcome and l.final
        order by l.finished_at desc limit %(limit)s
    ) l
    where %(task)s::uuid is null or t.id = %(task)s::uuid
    order by l.finished_at desc, l.job_id desc limit %(limit)s
) l
left join lateral (
    select a.result, a.encoding, a.error from taskflow.attempts a where a.job_id = l.job_id and a.attempt = l.attempt limit 1
) a on true
left join lateral (select j.options -> 'metadata' as metadata from taskflow.jobs j where j.id = l.job_id limit 1) j on true
order by l.finished_at desc, l.job_id desc;

-- name: count_task_logs
-- By the index, of those that it counts: 130 ms a million.
select coalesce(sum(l.n), 0)::bigint as count
from (select id, name from taskflow.tasks union all select id, name from taskflow.removed_tasks) t
cross join unnest(%(outcomes)s::smallint[]) as w (outcome)
cross join lateral (
    select count(*) as n from taskflow.task_logs l where l.task_id = t.id and l.outcome = w.outcome and l.final
) l
where %(task)s::uuid is null or t.id = %(task)s::uuid;

-- name: put_task_logs
-- With the attempts at runs of named tasks. Where memory does not know what a job is, its row does.
insert into taskflow.task_logs (task_id, job_id, attempt, started_at, finished_at, outcome, final)
select * from (
    select coalesce(w.task_id, (
            select case when j.options ->> 'task_id' ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then (j.options ->> 'task_id')::uuid end
            from taskflow.jobs j where j.id = w.job_id
        )) as task_id, w.job_id, w.attempt, w.started_at, w.finished_at, w.outcome, w.final
    from unnest(%(task_id)s::uuid[], %(job_id)s::uuid[], %(attempt)s::integer[], %(started_at)s::timestamptz[],
        %(finished_at)s::timestamptz[], %(outcome)s::smallint[], %(final)s::boolean[])
        as w (task_id, job_id, attempt, started_at, finished_at, outcome, final)
) w
where w.task_id is not null
on conflict do nothing;
