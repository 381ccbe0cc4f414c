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
-- Those that are to be decided now, with what their tasks say of their jobs.
select s.id, s.task, s.cron, s.at, s.time_zone, s.start_at, s.end_at, s.payload, s.encoding, s.metadata, s.misfire, s.overlap,
    s.cursor, t.target, t.queue, t.priority, t.retries, t.options, (select taskflow.now()) as now
from taskflow.schedules s left join taskflow.tasks t on t.name = s.task
where s.wake_at <= (select taskflow.now()) and s.active and coalesce(t.active, true)
order by s.wake_at limit %(limit)s
for update of s skip locked;

-- name: close_firings
-- Firings whose job is final by now.
update taskflow.firings f set open = false
from taskflow.job_facts j
where f.schedule_id = any(%(ids)s::uuid[]) and f.open and j.id = f.job_id and j.state >= 6;

-- name: open_firings
-- Unfinished jobs of schedules, and firings that wait for them.
select f.schedule_id, count(*) filter (where f.open) as unfinished, count(*) filter (where f.state = 'queued') as queued,
    min(f.instant) filter (where f.state = 'queued') as oldest_queued,
    array_agg(f.job_id) filter (where f.open) as jobs
from taskflow.firings f
where f.schedule_id = any(%(ids)s::uuid[]) and (f.open or f.state = 'queued')
group by f.schedule_id;

-- name: put_firings
-- The ledger (M.7). A queued firing becomes what was decided of it; nothing else is ever changed by another decision.
insert into taskflow.firings as f (schedule_id, instant, first, count, state, reason, job_id, open, decided_at)
select w.*, w.job_id is not null, (select taskflow.now())
from unnest(%(schedule_id)s::uuid[], %(instant)s::timestamptz[], %(first)s::timestamptz[], %(instants)s::bigint[],
    %(state)s::text[], %(reason)s::text[], %(job_id)s::uuid[]) as w (schedule_id, instant, first, count, state, reason, job_id)
on conflict (schedule_id, instant) do update set
    state = excluded.state, reason = excluded.reason, job_id = excluded.job_id, open = excluded.open,
    decided_at = excluded.decided_at
    where f.state = 'queued';

-- name: move_cursors
update taskflow.schedules s set cursor = w.cursor, next_at = w.next_at, wake_at = w.wake_at, last_at = coalesce(w.last_at, s.last_at)
from unnest(%(id)s::uuid[], %(cursor)s::timestamptz[], %(next_at)s::timestamptz[], %(wake_at)s::timestamptz[], %(last_at)s::timestamptz[])
    as w (id, cursor, next_at, wake_at, last_at)
where s.id = w.id;

-- name: cancel_replaced
-- What a firing replaces (overlap `replace`).
insert into taskflow.cancels (job_id, shard, requested_at, reason)
select j.id, q.shard, (select taskflow.now()), 'replaced by the next firing of its schedule'
from taskflow.jobs j join taskflow.queues q on q.name = j.queue
where j.id = any(%(ids)s::uuid[])
on conflict (job_id) do nothing;

-- name: next_wake
-- When the next schedule is to be decided, in seconds from now.
select extract(epoch from min(wake_at) - (select taskflow.now()))::float8 as seconds from taskflow.schedules where wake_at is not null;

-- name: insert_schedule
insert into taskflow.schedules (id, namespace, task, owned, cron, at, time_zone, start_at, end_at, payload, encoding, metadata,
    misfire, overlap, active, cursor, next_at, wake_at)
values (%(id)s, %(namespace)s, %(task)s, %(owned)s, %(cron)s, %(at)s, %(time_zone)s, %(start_at)s, %(end_at)s, %(payload)s,
    %(encoding)s, %(metadata)s::jsonb, %(misfire)s, %(overlap)s, %(active)s, %(cursor)s, %(next_at)s, %(wake_at)s)
on conflict (id) do nothing;

-- name: get_schedules
select *, (select taskflow.now()) as now from taskflow.schedules where id = any(%(ids)s::uuid[]);

-- name: lock_schedule
select *, (select taskflow.now()) as now from taskflow.schedules where id = %(id)s for update;

-- name: list_schedules
select * from taskflow.schedules
where id > %(after)s::uuid and (%(task)s::text = '' or task = %(task)s)
    and (%(metadata)s::jsonb = '{}' or metadata @> %(metadata)s::jsonb)
order by id limit %(limit)s;

-- name: change_schedule
-- What UpdateSchedule, PauseSchedule and ResumeSchedule may change.
update taskflow.schedules set cron = %(cron)s, at = %(at)s, time_zone = %(time_zone)s, start_at = %(start_at)s, end_at = %(end_at)s,
    payload = %(payload)s, encoding = %(encoding)s, metadata = %(metadata)s::jsonb, misfire = %(misfire)s, overlap = %(overlap)s,
    active = %(active)s, cursor = %(cursor)s, next_at = %(next_at)s, wake_at = %(wake_at)s, updated_at = (select taskflow.now())
where id = %(id)s;

-- name: delete_schedule
delete from taskflow.schedules where id = %(id)s;

-- name: delete_schedules_by_metadata
delete from taskflow.schedules where metadata @> %(metadata)s::jsonb returning id;

-- name: list_firings
select instant, first, count, state, reason, job_id from taskflow.firings
where schedule_id = %(schedule_id)s and instant < %(before)s::timestamptz
order by instant desc limit %(limit)s;

-- name: insert_task
insert into taskflow.tasks (id, name, title, description, active, target, queue, priority, retries, options)
values (%(id)s, %(name)s, %(title)s, %(description)s, %(active)s, %(target)s, %(queue)s, %(priority)s, %(retries)s, %(options)s::jsonb)
on conflict (name) do nothing;

-- name: get_tasks
-- By name or id; without either, a page by name. With its own schedule, and its last start by any trigger: of its newest jobs.
select t.*, s.id as schedule_id, s.cron, s.time_zone, case when t.active then s.next_at end as next_at, ran.at as last_run_at
from taskflow.tasks t
left join taskflow.schedules s on s.task = t.name and s.owned
left join lateral (
    select max(greatest(a.started_at, l.started_at)) as at
    from (
        select j.id from taskflow.jobs j where j.queue = t.queue and j.task = t.target order by j.id desc limit 1000
    ) recent
    left join taskflow.leases l on l.job_id = recent.id
    left join lateral (select max(a.started_at) as started_at from taskflow.attempts a where a.job_id = recent.id) a on true
) ran on true
where (cardinality(%(names)s::text[]) = 0 or t.name = any(%(names)s::text[]) or t.id = any(%(ids)s::uuid[]))
    and t.name > %(after)s
order by t.name limit %(limit)s;

-- name: update_task
update taskflow.tasks set title = %(title)s, description = %(description)s, active = %(active)s, target = %(target)s,
    queue = %(queue)s, priority = %(priority)s, retries = %(retries)s, options = %(options)s::jsonb,
    updated_at = (select taskflow.now())
where id = %(id)s;

-- name: rename_task
-- With the schedules that run it. No row comes back when the name is taken.
with renamed as (
    update taskflow.tasks set name = %(name)s where id = %(id)s
        and not exists (select from taskflow.tasks t where t.name = %(name)s and t.id <> %(id)s)
    returning id
), moved as (
    update taskflow.schedules set task = %(name)s where task = %(old)s and exists (select from renamed)
)
select id from renamed;

-- name: delete_task
with gone as (delete from taskflow.tasks where id = %(id)s returning name)
delete from taskflow.schedules s using gone where s.task = gone.name and s.owned;

-- name: schedules_of
select id, owned from taskflow.schedules where task = %(task)s;

-- name: handlers_seen
-- Which of these handlers a worker has registered that is alive now.
select distinct handler from taskflow.workers, unnest(tasks) as handler where handler = any(%(names)s::text[]);

-- name: task_logs
-- Runs that ended, newest first: of one task, or of all that there are. `count` stops at a limit.
with ended as (
    select j.id, coalesce(j.options -> 'metadata' ->> 'taskflow.task', j.task) as task, a.outcome, a.finished_at, a.result, a.encoding, a.error
    from taskflow.tasks t
    cross join lateral (
        select j.id, j.task, j.options from taskflow.jobs j
        where j.queue = t.queue and j.task = t.target order by j.id desc limit 10000
    ) j
    cross join lateral (
        select * from taskflow.attempts a where a.job_id = j.id order by a.attempt desc limit 1
    ) a
    where (%(task)s::text = '' or t.name = %(task)s) and a.final and a.outcome = any(%(outcomes)s::smallint[])
        and coalesce(j.options -> 'metadata' ->> 'taskflow.task', j.task) = t.name
)
select e.*, (select count(*) from ended) as count from ended e order by e.finished_at desc, e.id desc limit %(limit)s;
