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
