-- name: transaction_number
-- Of the transaction that asks: the `tx` of the rows that it writes.
select taskflow.tx()::text::bigint;

-- name: wait_briefly
-- For another caller's open transaction on one of these keys (B5); then each goes alone.
set local lock_timeout = '500ms';

-- name: insert_jobs
-- The slow way in, for a batch whose COPY met a duplicate id or a bad row: tells which ids are new.
insert into taskflow.jobs (id, priority, encoding, retries, deferred, queue, task, payload, key, run_at, options)
select * from unnest(
    %(id)s::uuid[], %(priority)s::smallint[], %(encoding)s::smallint[], %(retries)s::integer[], %(deferred)s::boolean[],
    %(queue)s::text[], %(task)s::text[], %(payload)s::bytea[], %(key)s::text[], %(run_at)s::timestamptz[], %(options)s::jsonb[])
on conflict (id) do nothing
returning id;

-- name: insert_few_jobs
-- For a small batch, and a transaction of its own: an error leaves nothing. Binary arrays: they cost a sixth to make.
insert into taskflow.jobs (id, priority, encoding, retries, deferred, queue, task, payload, key, run_at, options)
select * from unnest(
    %(id)b::uuid[], %(priority)b::smallint[], %(encoding)b::smallint[], %(retries)b::integer[], %(deferred)b::boolean[],
    %(queue)b::text[], %(task)b::text[], %(payload)b::bytea[], %(key)b::text[], %(run_at)b::timestamptz[], %(options)s::jsonb[])
returning tx::text::bigint;

-- name: insert_one_job
-- The same for one job, as most calls bring it. Against arrays of one: 136 µs of CPU instead of 183, and Postgres 161 of 200.
insert into taskflow.jobs (id, priority, encoding, retries, deferred, queue, task, payload, key, run_at, options)
values (%(id)b, %(priority)b::smallint, %(encoding)b::smallint, %(retries)b::integer, %(deferred)b, %(queue)b, %(task)b,
    %(payload)b, %(key)b, %(run_at)b, %(options)s)
returning tx::text::bigint;

-- name: insert_deferred
-- Jobs that wait for a time, of the transaction that inserts them.
insert into taskflow.deferred (job_id, due_at, shard, priority, attempt, tries, reason, queue, task)
select * from unnest(
    %(job_id)s::uuid[], %(due_at)s::timestamptz[], %(shard)s::smallint[], %(priority)s::smallint[], %(attempt)s::integer[],
    %(tries)s::integer[], %(reason)s::smallint[], %(queue)s::text[], %(task)s::text[])
on conflict (job_id) do nothing;

-- name: same_jobs
-- Rows already there under these ids, to tell a repeated call from a clash (A9).
select id, queue, task, priority, encoding, retries, payload, key from taskflow.jobs where id = any(%(ids)s::uuid[]);

-- name: claim_keys
-- The winners of these idempotency keys. Sorted by the caller, so that two batches never deadlock (B5).
insert into taskflow.job_keys (namespace, key, job_id)
select * from unnest(%(namespace)s::text[], %(key)s::text[], %(job_id)s::uuid[])
on conflict (namespace, key) do nothing
returning namespace, key;

-- name: keyed_jobs
-- The jobs that hold these keys.
select k.namespace, k.key, k.job_id
from unnest(%(namespace)s::text[], %(key)s::text[]) as wanted (namespace, key)
join taskflow.job_keys k using (namespace, key);

-- name: insert_start_bys
-- Of the transaction that inserts their jobs.
insert into taskflow.start_bys (shard, start_by, job_id)
select q.shard, w.start_by, w.job_id
from unnest(%(job_id)s::uuid[], %(queue)s::text[], %(start_by)s::timestamptz[]) as w (job_id, queue, start_by)
join taskflow.queues q on q.name = w.queue
on conflict do nothing;

-- name: insert_job_slas
-- Of the transaction that inserts their jobs: when they should have started, counted from when they are due.
insert into taskflow.job_slas (shard, due_at, job_id)
select q.shard, coalesce(w.run_at, (select taskflow.now())) + w.sla * interval '1 second', w.job_id
from unnest(%(job_id)s::uuid[], %(queue)s::text[], %(run_at)s::timestamptz[], %(sla)s::float8[]) as w (job_id, queue, run_at, sla)
join taskflow.queues q on q.name = w.queue
on conflict do nothing;

-- name: load_small_specs
-- What workers are told of these jobs, where no payload exceeds so many bytes: without the sums of load_specs, which cost
-- 1 µs a job. `told` is false where one does.
select id, case when small then payload end, encoding, retries, case when small then options end, run_at, small
from (
    select *, coalesce(octet_length(payload), 0) <= %(most)s::bigint as small from taskflow.jobs
    where id = any(%(ids)s::uuid[])
) j;

-- name: load_specs
-- What workers are told of these jobs: in their order, until their payloads come to a size; of the others only that they
-- are there (`told` is false).
select id, case when told then payload end, encoding, retries, case when told then options end, run_at, told
from (
    select j.id, j.payload, j.encoding, j.retries, j.options, j.run_at,
        sum(coalesce(octet_length(j.payload), 0)) over (order by w.n rows unbounded preceding)
            - coalesce(octet_length(j.payload), 0) < %(most)s::bigint as told
    from unnest(%(ids)s::uuid[]) with ordinality as w (id, n)
    join taskflow.jobs j on j.id = w.id
) sized;

-- name: load_facts
-- All that is known of these jobs, for an attempt or a cancel that memory does not know; their payloads where they may
-- be handed out.
select j.id, j.queue, j.task, j.priority, case when %(payloads)s then j.payload end as payload, j.encoding, j.retries, j.options, j.run_at, j.deferred, q.shard,
    d.attempt as due_attempt, d.tries as due_tries, d.due_at,
    l.attempt as lease_attempt, l.tries as lease_tries, l.exec_id as lease_exec, l.fenced as lease_fenced,
    a.attempt as last_attempt, a.tries as last_tries, a.final as last_final, a.exec_id as last_exec
from taskflow.jobs j
join taskflow.queues q on q.name = j.queue
left join taskflow.deferred d on d.job_id = j.id
left join taskflow.leases l on l.job_id = j.id
left join lateral (
    select * from taskflow.attempts a where a.job_id = j.id order by a.attempt desc limit 1
) a on true
where j.id = any(%(ids)s::uuid[]);

-- name: get_jobs
-- Jobs with their derived state, as the API shows them.
select j.id, j.queue, j.task, j.priority, j.payload, j.encoding, j.retries, j.options, j.key, j.created_at,
    case when d.blocked_by is null then coalesce(d.due_at, j.run_at) else j.run_at end as run_at, d.blocked_by, d.reason, d.due_at <= (select taskflow.now()) as due,
    l.job_id is not null as leased, l.started, l.attempt as lease_attempt, l.started_at as lease_started_at,
    l.worker as lease_worker, l.exec_id as lease_exec_id, l.progress,
    a.attempt, a.exec_id, a.outcome, a.final, a.started_at, a.finished_at, a.result, a.encoding as result_encoding, a.error, a.worker,
    c.job_id is not null as cancelling,
    case when j.options ? 'sla' then exists (select from taskflow.job_sla_misses m where m.job_id = j.id) else false end as sla_missed
from taskflow.jobs j
left join taskflow.leases l on l.job_id = j.id
left join taskflow.deferred d on d.job_id = j.id
left join taskflow.cancels c on c.job_id = j.id and not c.done and not c.revoked
left join lateral (
    select * from taskflow.attempts a where a.job_id = j.id order by a.attempt desc limit 1
) a on true
where j.id = any(%(ids)s::uuid[]);

-- name: list_attempts
select a.job_id, a.attempt, a.exec_id, a.outcome, a.final, a.worker, a.started_at, a.finished_at, a.result, a.encoding, a.error
from taskflow.attempts a where a.job_id = %(job_id)s order by a.attempt;

-- name: current_lease
select attempt, exec_id, started, started_at, worker from taskflow.leases where job_id = %(job_id)s;

-- name: final_jobs
-- Which of these jobs are final now, for those who wait for them.
select wanted.id
from unnest(%(ids)s::uuid[]) as wanted (id)
cross join lateral (
    select a.final from taskflow.attempts a where a.job_id = wanted.id order by a.attempt desc limit 1
) last
where last.final
    and not exists (select from taskflow.deferred d where d.job_id = wanted.id)
    and not exists (select from taskflow.leases l where l.job_id = wanted.id);

-- name: retry_by_hand
-- A finished job waits again, due now, with the next attempt's number and fresh tries (A14).
with made as (
    insert into taskflow.deferred (job_id, due_at, shard, priority, attempt, tries, reason, queue, task)
    select j.id, (select taskflow.now()), q.shard, j.priority, a.attempt + 1, 0, 5, j.queue, j.task
    from taskflow.jobs j
    join taskflow.queues q on q.name = j.queue
    cross join lateral (
        select a.attempt, a.final from taskflow.attempts a where a.job_id = j.id order by a.attempt desc limit 1
    ) a
    where j.id = %(id)s and a.final and not exists (select from taskflow.leases l where l.job_id = j.id)
    on conflict (job_id) do nothing
    returning job_id, due_at
), noted as (
    insert into taskflow.job_actions (job_id, at, action, actor) select job_id, due_at, 'retried', %(actor)s from made
)
select job_id from made;

-- name: revoke_cancel
update taskflow.cancels set revoked = true, done = true where job_id = %(id)s;

-- name: request_cancel
-- A wish to cancel an unfinished job. No row comes back for a finished or unknown one. The first who asks is noted: a call
-- that is repeated while the job is being cancelled appends nothing.
with asked as (
    insert into taskflow.cancels as c (job_id, shard, requested_at, reason)
    select j.id, q.shard, (select taskflow.now()), %(reason)s
    from taskflow.jobs j
    join taskflow.queues q on q.name = j.queue
    left join lateral (
        select a.final from taskflow.attempts a where a.job_id = j.id order by a.attempt desc limit 1
    ) a on true
    where j.id = %(id)s
        and (a.final is not true
            or exists (select from taskflow.deferred d where d.job_id = j.id)
            or exists (select from taskflow.leases l where l.job_id = j.id))
    on conflict (job_id) do update
        set done = false, revoked = false, reason = excluded.reason, requested_at = excluded.requested_at
        where c.revoked or not c.done
    returning job_id, requested_at, reason
), noted as (
    insert into taskflow.job_actions (job_id, at, action, actor, reason)
    select a.job_id, a.requested_at, 'cancel_requested', %(actor)s, a.reason from asked a
    where not exists (select from taskflow.cancels c where c.job_id = %(id)s and not c.done and not c.revoked)
)
select job_id from asked;

-- name: append_logs
insert into taskflow.job_logs (job_id, attempt, logged_at, level, message)
select * from unnest(%(job_id)s::uuid[], %(attempt)s::integer[], %(logged_at)s::timestamptz[], %(level)s::text[], %(message)s::text[]);

-- name: list_logs
select seq, attempt, logged_at, level, message from taskflow.job_logs
where job_id = %(job_id)s and seq > %(after)s order by seq limit %(limit)s;
