-- name: fence
-- Last, in one pipeline with COMMIT (A1).
select taskflow.fence(%(shards)s::smallint[], %(epochs)s::bigint[]);

-- name: read_lanes
-- Pages of several lanes in the order (tx, id), all of one snapshot (A2): the row n = 0 brings the snapshot in the
-- numbers of the cluster and the offset from them to ours (C3), n > 0 the rows beyond the position of lane n, n < 0 the
-- rows of its late transactions that have ended since. A lane that catches up after a takeover passes over what is known
-- to be elsewhere (B3); `offset 0` keeps the planner from hashing the whole history for it, and from going through the
-- whole lane for transactions that it then finds not to be there (a page of 2,000 beside 400,000 waiting: 5 ms instead
-- of 740). Cancelled jobs are never read (A13).
with wanted as (
    select * from unnest(
        %(queues)s::text[], %(tasks)s::text[], %(priorities)s::smallint[], %(txs)s::text[]::xid8[], %(ids)s::uuid[],
        %(limits)s::integer[], %(catch_tos)s::text[]::xid8[])
        with ordinality as w (queue, task, priority, tx, id, most, catch_to, n)
), ended as (
    select l.n, l.tx from unnest(%(late_of)s::integer[], %(late)s::text[]::xid8[]) as l (n, tx)
    where taskflow.has_ended(l.tx)
)
select 0 as n, taskflow.tx_offset() as tx, null::uuid as id, pg_current_snapshot()::text as snapshot
union all
select w.n, r.tx::text::bigint, r.id, null
from wanted w
cross join lateral (
    select j.tx, j.id from taskflow.jobs j
    where j.queue = w.queue and j.task = w.task and j.priority = w.priority and not j.deferred
        and (j.tx, j.id) > (w.tx, w.id)
        and not exists (select from taskflow.cancels c where c.job_id = j.id)
        and (j.tx >= w.catch_to or not (
            exists (select from taskflow.attempts a where a.job_id = j.id offset 0)
            or exists (select from taskflow.deferred d where d.job_id = j.id offset 0)
            or exists (select from taskflow.leases l where l.job_id = j.id offset 0)))
    order by j.tx, j.id limit w.most
) r
union all
select -w.n, r.tx::text::bigint, r.id, null
from ended e
join wanted w on w.n = e.n
cross join lateral (
    select j.tx, j.id from taskflow.jobs j
    where j.queue = w.queue and j.task = w.task and j.priority = w.priority and not j.deferred and j.tx = e.tx
        and not exists (select from taskflow.cancels c where c.job_id = j.id)
        and (j.tx >= w.catch_to or not (
            exists (select from taskflow.attempts a where a.job_id = j.id offset 0)
            or exists (select from taskflow.deferred d where d.job_id = j.id offset 0)
            or exists (select from taskflow.leases l where l.job_id = j.id offset 0)))
    offset 0
) r;

-- name: lanes_with_news
-- Of the next lanes in the order of their keys, those with something beyond their marks, which may be finished already.
-- The last of them always comes, so that the reader knows where it is. `read_at`: what began later, nobody can have seen.
with next as (
    select queue, task, priority, shard, tx, id, late from taskflow.lanes
    where (queue, task, priority) > (%(queue)s::text, %(task)s::text, %(priority)s::smallint)
        and shard = any(%(shards)s::smallint[])
    order by queue, task, priority limit %(limit)s
), looked as (
    select m.*,
        exists (
            select from taskflow.jobs j
            where j.queue = m.queue and j.task = m.task and j.priority = m.priority and not j.deferred
                and (j.tx, j.id) > (m.tx, m.id)
        ) or exists (
            select from unnest(m.late) l (tx)
            cross join lateral (
                select from taskflow.jobs j
                where j.queue = m.queue and j.task = m.task and j.priority = m.priority and not j.deferred and j.tx = l.tx
                limit 1
            ) found
        ) as news,
        row_number() over (order by m.queue, m.task, m.priority) as n, count(*) over () as looked_at
    from next m
)
select queue, task, priority, shard, tx::text::bigint as tx, id, array(select t::text::bigint from unnest(late) t) as late,
    pg_snapshot_xmax(pg_current_snapshot())::text::bigint + taskflow.tx_offset() as read_at, news, looked_at
from looked where news or n = looked_at order by n;

-- name: lanes_by_key
-- These lanes, whether or not they have news.
select m.queue, m.task, m.priority, m.shard, m.tx::text::bigint as tx, m.id,
    array(select t::text::bigint from unnest(m.late) t) as late,
    pg_snapshot_xmax(pg_current_snapshot())::text::bigint + taskflow.tx_offset() as read_at, true as news, 0 as looked_at
from unnest(%(queues)s::text[], %(tasks)s::text[], %(priorities)s::smallint[]) as w (queue, task, priority)
join taskflow.lanes m using (queue, task, priority)
where m.shard = any(%(shards)s::smallint[]);

-- name: queues_of_tasks
-- The queues in which jobs of these tasks have been.
select distinct task, queue from taskflow.lanes
where task = any(%(tasks)s::text[]) and shard = any(%(shards)s::smallint[]);

-- name: create_lanes
insert into taskflow.lanes (queue, task, priority, shard)
select w.queue, w.task, w.priority, q.shard
from unnest(%(queue)s::text[], %(task)s::text[], %(priority)s::smallint[]) as w (queue, task, priority)
join taskflow.queues q on q.name = w.queue
on conflict do nothing;

-- name: write_marks
update taskflow.lanes l set tx = m.tx, id = m.id, late = m.late::text[]::xid8[]
from unnest(%(queue)s::text[], %(task)s::text[], %(priority)s::smallint[], %(tx)s::text[]::xid8[], %(id)s::uuid[], %(late)s::text[])
    as m (queue, task, priority, tx, id, late)
where (l.queue, l.task, l.priority) = (m.queue, m.task, m.priority);

-- name: newly_due
-- Of each shard what has become due beyond a place, in the order of its time. The row without a job brings the time, and
-- whether there is anything for `late_starts`, and for `due_job_slas` with the same `seconds`.
with wanted as (
    select * from unnest(%(shards)s::smallint[], %(sinces)s::timestamptz[], %(ids)s::uuid[]) as w (shard, since, id)
)
select null::uuid as job_id, taskflow.now() as due_at, 0::smallint as shard, 0::smallint as priority, 0 as attempt,
    0 as tries, '' as queue, '' as task,
    exists (
        select from wanted w
        cross join lateral (
            select from taskflow.start_bys b where b.shard = w.shard and b.start_by <= (select taskflow.now())
            order by b.start_by limit 1
        ) b
    ) as starts_late,
    exists (
        select from wanted w
        cross join lateral (
            select from taskflow.job_slas s
            where s.shard = w.shard and s.due_at <= (select taskflow.now()) - %(seconds)s * interval '1 second'
            order by s.due_at limit 1
        ) s
    ) as slas_over
union all
select r.*, false, false from wanted w
cross join lateral (
    select d.job_id, d.due_at, d.shard, d.priority, d.attempt, d.tries, d.queue, d.task from taskflow.deferred d
    where d.shard = w.shard and d.blocked_by is null and d.due_at <= (select taskflow.now())
        and (d.due_at, d.job_id) > (w.since, w.id)
    order by d.due_at, d.job_id limit %(limit)s
) r;

-- name: due_of_lanes
-- The next due rows of some lanes, each from its place on; n is the lane's number.
with wanted as (
    select * from unnest(
        %(shards)s::smallint[], %(queues)s::text[], %(tasks)s::text[], %(priorities)s::smallint[],
        %(sinces)s::timestamptz[], %(ids)s::uuid[], %(limits)s::integer[])
        with ordinality as w (shard, queue, task, priority, since, id, most, n)
)
select r.*, w.n from wanted w
cross join lateral (
    select d.job_id, d.due_at, d.shard, d.priority, d.attempt, d.tries, d.queue, d.task from taskflow.deferred d
    where d.shard = w.shard and d.queue = w.queue and d.task = w.task and d.priority = w.priority and d.blocked_by is null
        and d.due_at <= (select taskflow.now()) and (d.due_at, d.job_id) > (w.since, w.id)
    order by d.due_at, d.job_id limit w.most
) r
order by w.n, r.due_at, r.job_id;

-- name: lanes_with_due
-- Of each shard its lanes with deferred rows, in the order of their keys, from beyond one on: a step from lane to lane in
-- the index, however many rows each has. `due`: whether the first of its rows is.
with wanted as (
    select * from unnest(%(shards)s::smallint[], %(queues)s::text[], %(tasks)s::text[], %(priorities)s::smallint[])
        as w (shard, queue, task, priority)
)
select w.shard, walked.queue, walked.task, walked.priority, walked.due_at <= (select taskflow.now()) as due
from wanted w
cross join lateral (
    with recursive walk as (
        (select d.queue, d.task, d.priority, d.due_at, 1 as n from taskflow.deferred d
         where d.shard = w.shard and d.blocked_by is null and (d.queue, d.task, d.priority) > (w.queue, w.task, w.priority)
         order by d.queue, d.task, d.priority, d.due_at limit 1)
        union all
        select next.queue, next.task, next.priority, next.due_at, walk.n + 1 from walk
        cross join lateral (
            select d.queue, d.task, d.priority, d.due_at from taskflow.deferred d
            where d.shard = w.shard and d.blocked_by is null
                and (d.queue, d.task, d.priority) > (walk.queue, walk.task, walk.priority)
            order by d.queue, d.task, d.priority, d.due_at limit 1
        ) next
        where walk.n < %(limit)s
    )
    select * from walk
) walked
order by w.shard, walked.n;

-- name: snapshot_now
select pg_snapshot_xmax(pg_current_snapshot())::text::bigint + taskflow.tx_offset() as xmax, (select taskflow.now()) as now;

-- name: list_leases
select job_id, exec_id, shard, priority, attempt, tries, handouts, started, queue, task, worker, in_progress_ms, fenced,
    (extract(epoch from started_at) * 1000000)::bigint as started_us
from taskflow.leases where shard = any(%(shards)s::smallint[]);

-- name: put_leases
-- What `fenced` says of the same attempt stays, unless it says nothing.
insert into taskflow.leases (job_id, exec_id, started_at, shard, priority, attempt, tries, handouts, started, queue, task, worker, progress, in_progress_ms, fenced)
select * from unnest(
    %(job_id)s::uuid[], %(exec_id)s::uuid[], %(started_at)s::timestamptz[], %(shard)s::smallint[], %(priority)s::smallint[],
    %(attempt)s::integer[], %(tries)s::integer[], %(handouts)s::integer[], %(started)s::boolean[], %(queue)s::text[],
    %(task)s::text[], %(worker)s::text[], %(progress)s::jsonb[], %(in_progress_ms)s::bigint[], %(fenced)s::boolean[])
on conflict (job_id) do update set
    fenced = case when leases.exec_id = excluded.exec_id then coalesce(leases.fenced, excluded.fenced) else excluded.fenced end,
    exec_id = excluded.exec_id, started_at = excluded.started_at, attempt = excluded.attempt, tries = excluded.tries,
    handouts = excluded.handouts, started = excluded.started, worker = excluded.worker, progress = excluded.progress,
    in_progress_ms = excluded.in_progress_ms;

-- name: end_leases
-- Waits for no handler's transaction (A17): see the function.
select taskflow.end_leases(%(ids)s::uuid[]);

-- name: close_fences
-- The ends of these attempts are due: none of their handlers' transactions is let in any more.
update taskflow.leases set fenced = false where job_id = any(%(ids)s::uuid[]) and fenced;

-- name: held_leases
-- Those of these jobs whose handlers' transactions are still open.
with free as materialized (
    select l.job_id from taskflow.leases l where l.job_id = any(%(ids)s::uuid[]) for update skip locked
)
select l.job_id from taskflow.leases l
where l.job_id = any(%(ids)s::uuid[]) and not exists (select from free f where f.job_id = l.job_id);

-- name: lock_lease
select from taskflow.leases where job_id = %(id)s for update;

-- name: delete_deferred
delete from taskflow.deferred where job_id = any(%(ids)s::uuid[]);

-- name: put_deferred
insert into taskflow.deferred (job_id, due_at, shard, priority, attempt, tries, reason, queue, task)
select w.job_id, (select taskflow.now()) + w.delay * interval '1 second', w.shard, w.priority, w.attempt, w.tries, w.reason, w.queue, w.task
from unnest(
    %(job_id)s::uuid[], %(delay)s::double precision[], %(shard)s::smallint[], %(priority)s::smallint[], %(attempt)s::integer[],
    %(tries)s::integer[], %(reason)s::smallint[], %(queue)s::text[], %(task)s::text[])
    as w (job_id, delay, shard, priority, attempt, tries, reason, queue, task)
on conflict (job_id) do update set
    due_at = excluded.due_at, attempt = excluded.attempt, tries = excluded.tries, reason = excluded.reason,
    blocked_by = null;

-- name: put_blocked
-- Jobs that wait for a permit under a limit (B4). One that was deferred already keeps its row.
insert into taskflow.deferred (job_id, due_at, shard, priority, attempt, tries, reason, queue, task, blocked_by)
select w.job_id, least(coalesce(j.run_at, j.created_at), (select taskflow.now())), w.shard, w.priority, w.attempt, w.tries, w.reason,
    w.queue, w.task, w.blocked_by
from unnest(
    %(job_id)s::uuid[], %(shard)s::smallint[], %(priority)s::smallint[], %(attempt)s::integer[], %(tries)s::integer[],
    %(reason)s::smallint[], %(queue)s::text[], %(task)s::text[], %(blocked_by)s::text[])
    as w (job_id, shard, priority, attempt, tries, reason, queue, task, blocked_by)
join taskflow.jobs j on j.id = w.job_id
on conflict (job_id) do update set blocked_by = excluded.blocked_by;

-- name: blocked_of_limits
-- The next jobs of some limits, in the order in which they get a permit.
select r.* from unnest(%(keys)s::text[], %(limits)s::integer[]) as w (key, most)
cross join lateral (
    select d.blocked_by, d.job_id, d.due_at, d.shard, d.priority, d.attempt, d.tries, d.queue, d.task from taskflow.deferred d
    where d.blocked_by = w.key order by d.priority desc, d.job_id limit w.most
) r;

-- name: keys_of_blocked
-- The limits for which jobs wait here: a step from key to key in the index, however many rows each has.
with recursive walk as (
    (select blocked_by from taskflow.deferred where blocked_by is not null order by blocked_by limit 1)
    union all
    select next.blocked_by from walk
    cross join lateral (
        select d.blocked_by from taskflow.deferred d
        where d.blocked_by is not null and d.blocked_by > walk.blocked_by order by d.blocked_by limit 1
    ) next
)
select blocked_by from walk;

-- name: release_blocked
-- Some of the jobs of a limit that is there no more: they are due.
update taskflow.deferred set blocked_by = null
where job_id in (
    select d.job_id from taskflow.deferred d
    where d.blocked_by = %(key)s order by d.priority desc, d.job_id limit %(limit)s);

-- name: limited_task
select name, concurrency from taskflow.tasks where id = %(id)s and concurrency > 0;

-- name: task_limits
-- The named tasks whose jobs may not all run at once.
select id, concurrency from taskflow.tasks where concurrency > 0;
-- name: insert_attempts
-- The slow way, after a commit of unknown fate or a batch with a bad row: waits for a commit in doubt, and tells which are new (A8).
insert into taskflow.attempts (job_id, started_at, finished_at, exec_id, attempt, tries, outcome, final, encoding, worker, result, error)
select * from unnest(
    %(job_id)s::uuid[], %(started_at)s::timestamptz[], %(finished_at)s::timestamptz[], %(exec_id)s::uuid[], %(attempt)s::integer[],
    %(tries)s::integer[], %(outcome)s::smallint[], %(final)s::boolean[], %(encoding)s::smallint[], %(worker)s::text[],
    %(result)s::bytea[], %(error)s::jsonb[])
on conflict (job_id, attempt) do nothing;

-- name: insert_few_attempts
-- For a small batch. Binary arrays: they cost a sixth to make.
insert into taskflow.attempts (job_id, started_at, finished_at, exec_id, attempt, tries, outcome, final, encoding, worker, result, error)
select * from unnest(
    %(job_id)b::uuid[], %(started_at)b::timestamptz[], %(finished_at)b::timestamptz[], %(exec_id)b::uuid[], %(attempt)b::integer[],
    %(tries)b::integer[], %(outcome)b::smallint[], %(final)b::boolean[], %(encoding)b::smallint[], %(worker)b::text[],
    %(result)b::bytea[], %(error)s::jsonb[]);

-- name: recorded
-- What stands for these attempts.
select a.job_id, a.attempt, a.exec_id, a.outcome
from unnest(%(job_ids)s::uuid[], %(attempts)s::integer[]) as w (job_id, attempt)
join taskflow.attempts a using (job_id, attempt);

-- name: recorded_executions
-- What stands under these exec_ids of these jobs.
select a.exec_id, a.outcome
from unnest(%(job_ids)s::uuid[], %(exec_ids)s::uuid[]) as w (job_id, exec_id)
join taskflow.attempts a using (job_id, exec_id);

-- name: open_cancels
-- Of each shard the next open cancels beyond a place, the oldest first.
select r.* from unnest(%(shards)s::smallint[], %(sinces)s::timestamptz[], %(ids)s::uuid[]) as w (shard, since, id)
cross join lateral (
    select c.job_id, c.shard, c.requested_at, c.reason from taskflow.cancels c
    where c.shard = w.shard and not c.done and (c.requested_at, c.job_id) > (w.since, w.id)
    order by c.requested_at, c.job_id limit %(limit)s
) r
order by r.shard, r.requested_at, r.job_id;

-- name: pass_over
-- These jobs have ended without having been read by their lane: it passes over what has a row here.
insert into taskflow.cancels (job_id, shard, reason, done)
select w.job_id, w.shard, '', true from unnest(%(job_id)s::uuid[], %(shard)s::smallint[]) as w (job_id, shard)
on conflict (job_id) do nothing;

-- name: late_starts
-- Of each shard what should have started by now, beyond a place. `begun`: it has started once, or has ended.
with wanted as (
    select * from unnest(%(shards)s::smallint[], %(sinces)s::timestamptz[], %(ids)s::uuid[]) as w (shard, since, id)
)
select r.shard, r.start_by, r.job_id,
    exists (select from taskflow.attempts a where a.job_id = r.job_id)
        or exists (select from taskflow.leases l where l.job_id = r.job_id and l.started) as begun
from wanted w
cross join lateral (
    select b.shard, b.start_by, b.job_id from taskflow.start_bys b
    where b.shard = w.shard and b.start_by <= (select taskflow.now()) and (b.start_by, b.job_id) > (w.since, w.id)
    order by b.start_by, b.job_id limit %(limit)s
) r
order by r.shard, r.start_by, r.job_id;

-- name: forget_start_bys
delete from taskflow.start_bys b
using unnest(%(shard)s::smallint[], %(start_by)s::timestamptz[], %(job_id)s::uuid[]) as w (shard, start_by, job_id)
where (b.shard, b.start_by, b.job_id) = (w.shard, w.start_by, w.job_id);

-- name: due_job_slas
-- Of each shard the next jobs that should have started a moment ago, beyond a place.
select r.shard, r.due_at, r.job_id from unnest(%(shards)s::smallint[], %(sinces)s::timestamptz[], %(ids)s::uuid[]) as w (shard, since, id)
cross join lateral (
    select s.shard, s.due_at, s.job_id from taskflow.job_slas s
    where s.shard = w.shard and s.due_at <= (select taskflow.now()) - %(seconds)s * interval '1 second'
        and (s.due_at, s.job_id) > (w.since, w.id)
    order by s.due_at, s.job_id limit %(limit)s
) r
order by r.shard, r.due_at, r.job_id;

-- name: judge_job_slas
-- Which of these jobs have missed their sla, each recorded once. The first start or end that is on disk decides, and where
-- there is none what memory knows: `late`, null when it cannot tell; `absent` for what is in no memory, which a lease row
-- may yet bring there. What cannot be told now stays for a later look. A job that is past its retention has missed nothing.
with judged as materialized (
    select w.shard, w.due_at, w.job_id, j.id is not null and coalesce(
        least(a.started_at, a.ended_at) > w.due_at,
        case when w.absent and exists (select from taskflow.leases l where l.job_id = w.job_id) then null else w.late end) as missed
    from unnest(%(shard)s::smallint[], %(due_at)s::timestamptz[], %(job_id)s::uuid[], %(late)s::boolean[], %(absent)s::boolean[])
        as w (shard, due_at, job_id, late, absent)
    left join taskflow.jobs j on j.id = w.job_id
    left join lateral (
        select min(a.started_at) as started_at, min(a.finished_at) filter (where a.final) as ended_at
        from taskflow.attempts a where a.job_id = w.job_id
    ) a on true
), gone as (
    delete from taskflow.job_slas s using judged w
    where (s.shard, s.due_at, s.job_id) = (w.shard, w.due_at, w.job_id) and w.missed is not null
    returning s.job_id, s.due_at, w.missed
), noted as (
    insert into taskflow.job_sla_misses (job_id, due_at) select job_id, due_at from gone where missed
    on conflict (job_id) do nothing
    returning job_id
), told as (
    select taskflow.alert_jobs('sla_missed', array(select job_id from noted)) from (select from noted limit 1) one
)
select n.job_id, j.queue, coalesce(j.options #>> '{metadata,taskflow.task}', j.task) as task
from noted n join taskflow.jobs j on j.id = n.job_id left join told on true;

-- name: finish_cancels
update taskflow.cancels set done = true where job_id = any(%(ids)s::uuid[]) and not done;
