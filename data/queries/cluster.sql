-- name: database_time
-- This server's clock, and by how much ours was moved from it.
select (extract(epoch from clock_timestamp()) * 1000000)::bigint as now_us,
    (extract(epoch from moved_by) * 1000000)::bigint as moved_us
from taskflow.clock;

-- name: move_clock
-- Forward, for every process of the cluster. Two callers at once move it by the sum.
update taskflow.clock set moved_by = moved_by + %(by)s * interval '1 microsecond'
returning (extract(epoch from moved_by) * 1000000)::bigint as moved_us;

-- name: join_members
-- This process, under its stable name, in a new incarnation.
insert into taskflow.members (name, kind, incarnation, addresses)
values (%(name)s, %(kind)s, %(incarnation)s, %(addresses)s)
on conflict (name) do update set
    kind = excluded.kind, incarnation = excluded.incarnation, addresses = excluded.addresses,
    beat = taskflow.members.beat + 1, started_at = now();

-- name: beat
-- Still here; no row comes back when another incarnation has taken the name.
update taskflow.members set beat = beat + 1 where name = %(name)s and incarnation = %(incarnation)s returning beat;

-- name: leave_members
delete from taskflow.members where name = %(name)s and incarnation = %(incarnation)s;

-- name: list_members
select name, kind, incarnation, beat, addresses from taskflow.members order by name;

-- name: list_shards
select shard, epoch, owner, incarnation, address, queue_name, queue_address from taskflow.shards order by shard;

-- name: lock_shards
-- The rows that a takeover is about to change, in the order in which fences lock them. Waits for fences under way.
select shard, owner from taskflow.shards where shard = any(%(shards)s::smallint[]) order by shard for update;

-- name: take_shards
-- A takeover: the epoch rises above everything that the queue service has seen.
update taskflow.shards s set
    epoch = greatest(s.epoch, w.floor) + 1, owner = %(owner)s, incarnation = %(incarnation)s, address = %(address)s,
    queue_name = %(queue_name)s, queue_address = %(queue_address)s
from unnest(%(shards)s::smallint[], %(floors)s::bigint[]) as w (shard, floor)
where s.shard = w.shard
returning s.shard, s.epoch;

-- name: end_blockers
-- Ends those who hold up the backend `pid`, unless they wait for a lock themselves (A1).
select pg_terminate_backend(a.pid) from pg_stat_activity a
where a.pid = any(pg_blocking_pids(%(pid)s::integer)) and a.wait_event_type is distinct from 'Lock';

-- name: release_shards
-- A hand-over: nobody's, in order. The fence of the releasing transaction has proven that they were ours.
update taskflow.shards set owner = null, incarnation = null where shard = any(%(shards)s::smallint[]) and owner = %(owner)s;

-- name: register_worker
insert into taskflow.workers (worker_id, coordinator, name, host, pid, queues, tasks, concurrency, sdk)
values (%(worker_id)s, %(coordinator)s, %(name)s, %(host)s, %(pid)s, %(queues)s, %(tasks)s, %(concurrency)s, %(sdk)s)
on conflict (worker_id, coordinator) do update set
    name = excluded.name, queues = excluded.queues, tasks = excluded.tasks, concurrency = excluded.concurrency, draining = false;

-- name: unregister_workers
delete from taskflow.workers where coordinator = %(coordinator)s and worker_id = any(%(ids)s::uuid[]);

-- name: drain_worker
update taskflow.workers set draining = true where worker_id = %(worker_id)s and coordinator = %(coordinator)s;

-- name: registered_workers
select worker_id, name, host, pid, queues, tasks, concurrency, sdk from taskflow.workers where coordinator = any(%(coordinators)s);

-- name: list_workers
select worker_id, coordinator, name, host, pid, queues, tasks, concurrency, sdk, draining, started_at
from taskflow.workers where (started_at, worker_id) > (%(after_time)s::timestamptz, %(after_id)s::uuid)
order by started_at, worker_id limit %(limit)s;

-- name: create_queues
insert into taskflow.queues (name, shard)
select * from unnest(%(names)s::text[], %(shards)s::smallint[]) on conflict do nothing;

-- name: get_queues
select name, shard, created_at from taskflow.queues where name = any(%(names)s::text[]);

-- name: list_queues
-- A page of queues with what the small tables know of them.
select q.name, q.shard, q.created_at, q.paused,
    (select count(*) from taskflow.deferred d where d.queue = q.name and d.shard = q.shard and d.due_at > (select taskflow.now())) as scheduled,
    (select count(*) from taskflow.leases l where l.queue = q.name and l.shard = q.shard) as leased
from taskflow.queues q
where q.name > %(after)s and (cardinality(%(names)s::text[]) = 0 or q.name = any(%(names)s::text[]))
order by q.name limit %(limit)s;

-- name: ready_of_queues
-- Jobs that wait for a worker: in a lane beyond its mark without being elsewhere, or due. Counted up to a cap.
select q.name, count(*) as ready, min(r.at) as oldest
from unnest(%(names)s::text[]) as q (name)
cross join lateral (
    select j.created_at as at from taskflow.lanes m
    join taskflow.jobs j on j.queue = m.queue and j.task = m.task and j.priority = m.priority and not j.deferred
        and (j.tx, j.id) > (m.tx, m.id)
    where m.queue = q.name
        and not exists (select from taskflow.attempts a where a.job_id = j.id)
        and not exists (select from taskflow.deferred d where d.job_id = j.id)
        and not exists (select from taskflow.leases l where l.job_id = j.id)
    union all
    select d.due_at from taskflow.deferred d
    where d.queue = q.name and d.due_at <= (select taskflow.now())
        and not exists (select from taskflow.leases l where l.job_id = d.job_id)
    limit %(cap)s
) r
group by q.name;

-- name: ensure_partitions
select taskflow.create_partitions((now() at time zone 'UTC')::date - 1, %(days)s::integer);

-- name: pause_queue
update taskflow.queues set paused = %(paused)s where name = %(name)s;

-- name: paused_queues
select name from taskflow.queues where paused and shard = any(%(shards)s::smallint[]);
