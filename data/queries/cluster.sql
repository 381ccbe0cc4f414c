-- name: set_session
-- The first statement of a connection; the settings hold until it is closed. The names are qualified: the search path is
-- not ours yet. Returns the number of the backend.
select pg_catalog.pg_backend_pid(), pg_catalog.set_config(w.name, w.value, false)
from rows from (pg_catalog.unnest(%(names)s::pg_catalog.text[]), pg_catalog.unnest(%(values)s::pg_catalog.text[]))
    as w (name, value);

-- name: backend
-- The backend that serves this connection now: behind a pooler, another than the one that the startup named.
select pg_backend_pid();

-- name: database_time
-- This server's clock, by which everything is timed, and by how much ours was moved from it.
select (extract(epoch from taskflow.now() - moved_by) * 1000000)::bigint as now_us,
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

-- name: find_member
select name, incarnation, beat, pid_namespace, pid, pid_started from taskflow.members where name = %(name)s;

-- name: take_name
-- A coordinator's row in place of the one that was read, if that has not changed since; no row when it has.
insert into taskflow.members (name, kind, incarnation, addresses, pid_namespace, pid, pid_started)
values (
    %(name)s, %(kind)s, %(incarnation)s, %(addresses)s, %(pid_namespace)s, %(pid)s::integer, %(pid_started)s::bigint)
on conflict (name) do update set
    kind = excluded.kind, incarnation = excluded.incarnation, addresses = excluded.addresses,
    pid_namespace = excluded.pid_namespace, pid = excluded.pid, pid_started = excluded.pid_started,
    beat = taskflow.members.beat + 1, started_at = now()
where taskflow.members.incarnation = %(former)s::uuid and taskflow.members.beat = %(beat)s::bigint;

-- name: claim_facts
-- What an owner reads after each beat: the clock as in database_time, and the epochs of all shards.
select (extract(epoch from taskflow.now() - moved_by) * 1000000)::bigint as now_us,
    (extract(epoch from moved_by) * 1000000)::bigint as moved_us,
    array(select shard from taskflow.shards order by shard) as shards,
    array(select epoch from taskflow.shards order by shard) as epochs
from taskflow.clock;

-- name: cluster_facts
-- What a scheduler reads with the topology: the clock as in database_time, draining_queues, and handlers_version.
select (extract(epoch from taskflow.now() - moved_by) * 1000000)::bigint as now_us,
    (extract(epoch from moved_by) * 1000000)::bigint as moved_us,
    array(select name from taskflow.queues where draining) as draining,
    (select coalesce(sum(version), 0)::bigint from taskflow.handlers) as handlers_version
from taskflow.clock;

-- name: beat
-- Still here; no row comes back when another incarnation has taken the name.
update taskflow.members set beat = beat + 1 where name = %(name)s and incarnation = %(incarnation)s returning beat;

-- name: leave_members
delete from taskflow.members where name = %(name)s and incarnation = %(incarnation)s;

-- name: list_members
select name, kind, incarnation, beat, addresses, pid_namespace, pid, pid_started from taskflow.members order by name;

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

-- name: blockers
-- The backends that hold up the backend `pid`, unless they wait for a lock themselves (A1).
select a.pid, a.usename from pg_stat_activity a
where a.pid = any(pg_blocking_pids(%(pid)s::integer)) and a.wait_event_type is distinct from 'Lock';

-- name: end_backend
-- One at a time: a backend of another role may be refused.
select pg_terminate_backend(%(pid)s::integer);

-- name: release_shards
-- A hand-over: nobody's, in order. The fence of the releasing transaction has proven that they were ours.
update taskflow.shards set owner = null, incarnation = null where shard = any(%(shards)s::smallint[]) and owner = %(owner)s;

-- name: register_worker
-- Replaces the worker's rows under coordinators that own no shard: a row of the worker stays at every moment (A5).
with former as (
    delete from taskflow.workers
    where worker_id = %(worker_id)s and coordinator <> %(coordinator)s
        and coordinator not in (select owner from taskflow.shards where owner is not null)
)
insert into taskflow.workers
    (worker_id, coordinator, name, host, pid, queues, tasks, only_queues, concurrency, sdk, pid_namespace, pid_started, started_at)
values (
    %(worker_id)s, %(coordinator)s, %(name)s, %(host)s, %(pid)s, %(queues)s, %(tasks)s, %(only_queues)s, %(concurrency)s, %(sdk)s,
    %(pid_namespace)s, %(pid_started)s,
    coalesce((select min(started_at) from taskflow.workers where worker_id = %(worker_id)s), now()))
on conflict (worker_id, coordinator) do update set
    name = excluded.name, queues = excluded.queues, tasks = excluded.tasks, only_queues = excluded.only_queues,
    concurrency = excluded.concurrency, draining = false;

-- name: register_handlers
-- What a worker that has just registered says of its tasks. It counts unless a worker that came later has said something.
insert into taskflow.handlers as h (name, queue, retries, priority, options, registered_at)
select w.name, w.queue, w.retries, w.priority, w.options, coalesce(
    (select min(started_at) from taskflow.workers where worker_id = %(worker_id)s), now())
from unnest(%(names)s::text[], %(queues)s::text[], %(retries)s::integer[], %(priorities)s::smallint[], %(options)s::jsonb[])
    as w (name, queue, retries, priority, options)
order by w.name
on conflict (name) do update set
    queue = excluded.queue, retries = excluded.retries, priority = excluded.priority, options = excluded.options,
    registered_at = excluded.registered_at, version = h.version + 1
where excluded.registered_at >= h.registered_at
    and (excluded.queue, excluded.retries, excluded.priority, excluded.options, excluded.registered_at)
        is distinct from (h.queue, h.retries, h.priority, h.options, h.registered_at);

-- name: handlers_version
-- Higher after every change of what workers have registered.
select coalesce(sum(version), 0)::bigint as version from taskflow.handlers;

-- name: takers
-- What live workers take. One that drains takes nothing more.
select distinct tasks, queues, only_queues from taskflow.workers where not draining;

-- name: waiting_tasks_of_queue
-- The tasks of a queue's lanes that have jobs which wait: beyond the lane's mark, or due.
select distinct m.task from taskflow.lanes m
where m.queue = %(queue)s and (
    exists (
        select from taskflow.jobs j
        where j.queue = m.queue and j.task = m.task and j.priority = m.priority and not j.deferred
            and (j.tx, j.id) > (m.tx, m.id)
    ) or exists (
        select from taskflow.deferred d
        where d.shard = m.shard and d.queue = m.queue and d.task = m.task and d.priority = m.priority
            and d.blocked_by is null and d.due_at <= (select taskflow.now())
    ) or exists (
        select from taskflow.deferred d
        where d.shard = m.shard and d.queue = m.queue and d.task = m.task and d.priority = m.priority
            and d.blocked_by is not null
    ))
order by m.task limit %(limit)s;

-- name: list_handlers
select name, queue as own_queue, retries as own_retries, priority as own_priority, options as own_options from taskflow.handlers;

-- name: unregister_workers
-- Their leases have ended. An owner also deletes their rows under coordinators that own no shard; others must not: such
-- a row may be the one that the next owner has to find.
delete from taskflow.workers
where worker_id = any(%(ids)s::uuid[]) and (
    coordinator = %(coordinator)s
    or %(owner)s::boolean and coordinator not in (select owner from taskflow.shards where owner is not null));

-- name: drain_worker
update taskflow.workers set draining = true where worker_id = %(worker_id)s and coordinator = %(coordinator)s;

-- name: registered_workers
-- Every registered worker, whichever coordinator it is registered with: a takeover waits for all of them (A5).
select distinct on (worker_id) worker_id, name, pid, pid_namespace, pid_started from taskflow.workers order by worker_id;

-- name: list_workers
-- One row for each worker, with every coordinator that it is registered with; the rest as the latest was told.
select w.worker_id, w.coordinators, l.name, l.host, l.pid, l.queues, l.tasks, l.concurrency, l.sdk, w.draining, w.started_at
from (
    select worker_id, array_agg(coordinator order by coordinator) as coordinators, bool_or(draining) as draining,
        min(started_at) as started_at
    from taskflow.workers group by worker_id
    having (min(started_at), worker_id) > (%(after_time)s::timestamptz, %(after_id)s::uuid)
    order by min(started_at), worker_id limit %(limit)s
) w
cross join lateral (
    select * from taskflow.workers l where l.worker_id = w.worker_id order by l.started_at desc, l.coordinator limit 1
) l
order by w.started_at, w.worker_id;

-- name: create_queues
insert into taskflow.queues (name, shard)
select * from unnest(%(names)s::text[], %(shards)s::smallint[]) on conflict do nothing;

-- name: get_queues
select name, shard, created_at from taskflow.queues where name = any(%(names)s::text[]);

-- name: list_queues
-- A page of queues with what the small tables know of them.
select q.name, q.shard, q.created_at, q.paused, q.draining,
    (select count(*) from taskflow.deferred d where d.queue = q.name and d.shard = q.shard and d.blocked_by is null
        and d.due_at > (select taskflow.now())) as scheduled,
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

-- name: backlog_of_queue
-- About how many jobs wait in a long queue: the entries of the lane index beyond the marks, and due rows. Those of them
-- that were dispatched or finished since the marks were written are counted too; nothing but indexes is read.
select count(*) as jobs from (
    select from taskflow.lanes m
    join taskflow.jobs j on j.queue = m.queue and j.task = m.task and j.priority = m.priority and not j.deferred
        and (j.tx, j.id) > (m.tx, m.id)
    where m.queue = %(queue)s
    union all
    select from taskflow.deferred d join taskflow.queues q on q.name = d.queue and q.shard = d.shard
    where d.queue = %(queue)s and d.blocked_by is null and d.due_at <= (select taskflow.now())
    union all
    select from taskflow.deferred d join taskflow.queues q on q.name = d.queue and q.shard = d.shard
    where d.queue = %(queue)s and d.blocked_by is not null
    limit %(cap)s
) waiting;

-- name: oldest_of_tasks
-- Of each task that waits in these queues, since when its oldest job does, and whether a live worker is registered for it
-- or an attempt of it runs. Those that wait longest.
select m.queue, m.task, min(r.at) as oldest,
    exists (
        select from taskflow.workers w where m.task <> '' and m.task = any(w.tasks) or m.task = '' and m.queue = any(w.queues)
    ) or exists (select from taskflow.leases l where l.queue = m.queue and l.task = m.task) as registered
from taskflow.lanes m
cross join lateral (
    (
        select j.created_at as at from taskflow.jobs j
        where j.queue = m.queue and j.task = m.task and j.priority = m.priority and not j.deferred
            and (j.tx, j.id) > (m.tx, m.id)
            and not exists (select from taskflow.attempts a where a.job_id = j.id)
            and not exists (select from taskflow.deferred d where d.job_id = j.id)
            and not exists (select from taskflow.leases l where l.job_id = j.id)
        order by j.tx, j.id limit 1
    )
    union all
    (
        select d.due_at from taskflow.deferred d
        where d.shard = m.shard and d.queue = m.queue and d.task = m.task and d.priority = m.priority
            and d.blocked_by is null and d.due_at <= (select taskflow.now())
            and not exists (select from taskflow.leases l where l.job_id = d.job_id)
        order by d.due_at, d.job_id limit 1
    )
    union all
    (
        select d.due_at from taskflow.deferred d
        where d.shard = m.shard and d.queue = m.queue and d.task = m.task and d.priority = m.priority
            and d.blocked_by is not null
            and not exists (select from taskflow.leases l where l.job_id = d.job_id)
        order by d.due_at, d.job_id limit 1
    )
) r
where m.queue = any(%(queues)s::text[])
group by m.queue, m.task order by min(r.at) limit %(limit)s;

-- name: ensure_partitions
select taskflow.create_partitions((now() at time zone 'UTC')::date - 1, %(days)s::integer);

-- name: pause_queue
update taskflow.queues set paused = true where name = %(name)s;

-- name: drain_queue
update taskflow.queues set draining = true where name = %(name)s;

-- name: resume_queue
update taskflow.queues set paused = false, draining = false where name = %(name)s;

-- name: draining_queues
select name from taskflow.queues where draining;

-- name: paused_queues
select name from taskflow.queues where paused and shard = any(%(shards)s::smallint[]);
