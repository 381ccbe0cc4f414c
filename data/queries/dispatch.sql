-- name: fence
-- Last, in one pipeline with COMMIT (A1).
select taskflow.fence(%(shards)s::smallint[], %(epochs)s::bigint[]);

-- name: read_lanes
-- Pages of several lanes in the order (tx, id), all of one snapshot (A2): the row n = 0 brings the snapshot, n > 0 what
-- stands beyond the position of lane n, n < 0 the rows of its late transactions that have ended since. A lane that
-- catches up after a takeover passes over what is known to be elsewhere (B3); `offset 0` keeps the planner from hashing
-- the whole history for it, and from going through the whole lane for transactions that it then finds not to be there (a
-- page of 2,000 beside 400,000 waiting: 5 ms instead of 740). Cancelled jobs are never read (A13).
with wanted as (
    select * from unnest(
        %(queues)s::text[], %(tasks)s::text[], %(priorities)s::smallint[], %(txs)s::text[]::xid8[], %(ids)s::uuid[],
        %(limits)s::integer[], %(catching_up)s::boolean[])
        with ordinality as w (queue, task, priority, tx, id, most, catching_up, n)
), ended as (
    select l.n, l.tx from unnest(%(late_of)s::integer[], %(late)s::text[]::xid8[]) as l (n, tx)
    where pg_visible_in_snapshot(l.tx, pg_current_snapshot())
)
select 0 as n, null::bigint as tx, null::uuid as id, pg_current_snapshot()::text as snapshot
union all
select w.n, r.tx::text::bigint, r.id, null
from wanted w
cross join lateral (
    select j.tx, j.id from taskflow.jobs j
    where j.queue = w.queue and j.task = w.task and j.priority = w.priority and not j.deferred
        and (j.tx, j.id) > (w.tx, w.id)
        and not exists (select from taskflow.cancels c where c.job_id = j.id)
        and (not w.catching_up or not (
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
        and (not w.catching_up or not (
            exists (select from taskflow.attempts a where a.job_id = j.id offset 0)
            or exists (select from taskflow.deferred d where d.job_id = j.id offset 0)
            or exists (select from taskflow.leases l where l.job_id = j.id offset 0)))
    offset 0
) r;

-- name: list_lanes
-- The lanes of these shards, with their marks.
select queue, task, priority, shard, tx::text::bigint as tx, id, array(select t::text::bigint from unnest(late) t) as late
from taskflow.lanes where shard = any(%(shards)s::smallint[]);

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

-- name: due_jobs
-- Deferred jobs that are due, in order of their time, from a time on.
select job_id, due_at, shard, priority, attempt, tries, reason, queue, task
from taskflow.deferred
where shard = any(%(shards)s::smallint[]) and due_at <= (select taskflow.now()) and due_at >= %(since)s::timestamptz
order by due_at limit %(limit)s;

-- name: snapshot_now
select pg_snapshot_xmax(pg_current_snapshot())::text::bigint as xmax, (select taskflow.now()) as now;

-- name: list_leases
select job_id, exec_id, shard, priority, attempt, tries, handouts, started, queue, task, worker, in_progress_ms,
    (extract(epoch from started_at) * 1000000)::bigint as started_us
from taskflow.leases where shard = any(%(shards)s::smallint[]);

-- name: put_leases
insert into taskflow.leases (job_id, exec_id, started_at, shard, priority, attempt, tries, handouts, started, queue, task, worker, progress, in_progress_ms)
select * from unnest(
    %(job_id)s::uuid[], %(exec_id)s::uuid[], %(started_at)s::timestamptz[], %(shard)s::smallint[], %(priority)s::smallint[],
    %(attempt)s::integer[], %(tries)s::integer[], %(handouts)s::integer[], %(started)s::boolean[], %(queue)s::text[],
    %(task)s::text[], %(worker)s::text[], %(progress)s::jsonb[], %(in_progress_ms)s::bigint[])
on conflict (job_id) do update set
    exec_id = excluded.exec_id, started_at = excluded.started_at, attempt = excluded.attempt, tries = excluded.tries,
    handouts = excluded.handouts, started = excluded.started, worker = excluded.worker, progress = excluded.progress,
    in_progress_ms = excluded.in_progress_ms;

-- name: delete_leases
delete from taskflow.leases where job_id = any(%(ids)s::uuid[]);

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
    due_at = excluded.due_at, attempt = excluded.attempt, tries = excluded.tries, reason = excluded.reason;

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
select job_id, shard, reason from taskflow.cancels where not done and shard = any(%(shards)s::smallint[]);

-- name: finish_cancels
update taskflow.cancels set done = true where job_id = any(%(ids)s::uuid[]) and not done;
