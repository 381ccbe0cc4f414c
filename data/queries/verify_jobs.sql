-- name: verify_job_kept
-- An unfinished job is beyond its lane's mark, in `deferred` or in `leases`. Here are those that were tried already, or
-- that no lane reads: one that is deferred, whose lane has no row, or over which lanes pass. The owner ends what has an
-- open cancel.
select j.id::text as subject, jsonb_build_object(
    'queue', j.queue, 'task', j.task, 'priority', j.priority, 'tx', j.tx::text, 'deferred', j.deferred,
    'last_attempt', a.attempt, 'outcome', taskflow.outcome_name(a.outcome), 'lane', m.queue is not null,
    'passed_over', c.job_id is not null) as proof
from taskflow.jobs j
left join taskflow.lanes m on m.queue = j.queue and m.task = j.task and m.priority = j.priority
left join taskflow.cancels c on c.job_id = j.id
left join lateral (
    select a.attempt, a.outcome, a.final from taskflow.attempts a
    where a.job_id = j.id and a.job_id > %(low)s::uuid and a.job_id <= %(high)s::uuid order by a.attempt desc limit 1
) a on true
where j.id > %(low)s::uuid and j.id <= %(high)s::uuid and a.final is not true
    and (a.attempt is not null or j.deferred or m.queue is null or c.done)
    and c.done is distinct from false
    and not exists (select from taskflow.deferred d where d.job_id = j.id)
    and not exists (select from taskflow.leases l where l.job_id = j.id)
order by j.id;

-- name: verify_mark_bounds
-- B3: behind a lane's mark nothing waits that only the lane could bring.
select j.id::text as subject, jsonb_build_object(
    'queue', j.queue, 'task', j.task, 'priority', j.priority, 'tx', j.tx::text, 'mark_tx', m.tx::text, 'mark_id', m.id,
    'late', m.late::text) as proof
from taskflow.jobs j
join taskflow.lanes m on m.queue = j.queue and m.task = j.task and m.priority = j.priority
where j.id > %(low)s::uuid and j.id <= %(high)s::uuid and not j.deferred
    and (j.tx, j.id) <= (m.tx, m.id) and j.tx <> all (m.late)
    and not exists (
        select from taskflow.attempts a
        where a.job_id = j.id and a.job_id > %(low)s::uuid and a.job_id <= %(high)s::uuid)
    and not exists (select from taskflow.deferred d where d.job_id = j.id)
    and not exists (select from taskflow.leases l where l.job_id = j.id)
    and not exists (select from taskflow.cancels c where c.job_id = j.id)
order by j.id;

-- name: verify_job_ends_once
-- What follows a final attempt, be it an attempt, a deferred row or a lease, was asked for by hand, and each time noted.
-- Older versions noted nothing.
with ended as (
    select a.job_id, count(*) filter (where a.final) as finals, max(a.attempt) as last,
        max(a.attempt) filter (where a.final) as last_final, min(a.finished_at) filter (where a.final) as first_end
    from taskflow.attempts a
    where a.job_id > %(low)s::uuid and a.job_id <= %(high)s::uuid
    group by a.job_id having count(*) filter (where a.final) > 0
), followed as (
    select e.*, e.finals - case when e.last_final < e.last
            or exists (select from taskflow.deferred d where d.job_id = e.job_id)
            or exists (select from taskflow.leases l where l.job_id = e.job_id) then 0 else 1 end as restarts
    from ended e
)
select f.job_id::text as subject, jsonb_build_object(
    'final_attempts', f.finals, 'last_final_attempt', f.last_final, 'last_attempt', f.last, 'followed', f.restarts,
    'retried_by_hand', r.n) as proof
from followed f
cross join lateral (
    select count(*) as n from taskflow.job_actions c where c.job_id = f.job_id and c.action = 'retried'
) r
where f.restarts > r.n and f.first_end > (select applied_at from taskflow.migrations where name like '0020%%')
order by f.job_id;

-- name: verify_attempt_numbers
select a.job_id::text as subject, jsonb_build_object('attempts', array_agg(a.attempt order by a.attempt)) as proof
from taskflow.attempts a
where a.job_id > %(low)s::uuid and a.job_id <= %(high)s::uuid
group by a.job_id having min(a.attempt) <> 1 or max(a.attempt) <> count(*)
order by a.job_id;

-- name: verify_tries_counted
-- R4: an attempt adds one to the tries before it, or nothing when it was snoozed or returned. A retry by hand begins at 0.
select a.job_id || ' attempt ' || a.attempt as subject, jsonb_build_object(
    'attempt', a.attempt, 'outcome', taskflow.outcome_name(a.outcome), 'tries', a.tries, 'right', a.right) as proof
from (
    select a.job_id, a.attempt, a.outcome, a.tries, (a.outcome <= 5)::integer
        + case when lag(a.final) over job then 0 else coalesce(lag(a.tries) over job, 0) end as right
    from taskflow.attempts a
    where a.job_id > %(low)s::uuid and a.job_id <= %(high)s::uuid
    window job as (partition by a.job_id order by a.attempt)
) a
where a.tries <> a.right
order by a.job_id, a.attempt;

-- name: verify_retries_kept
-- R3: tries beyond the retries, and failures that were to be tried again with no try left.
select a.job_id || ' attempt ' || a.attempt as subject, jsonb_build_object(
    'attempt', a.attempt, 'outcome', taskflow.outcome_name(a.outcome), 'final', a.final, 'tries', a.tries,
    'retries', j.retries) as proof
from taskflow.attempts a
join taskflow.jobs j on j.id = a.job_id and j.id > %(low)s::uuid and j.id <= %(high)s::uuid
where a.job_id > %(low)s::uuid and a.job_id <= %(high)s::uuid
    and (a.tries > j.retries + 1 or (a.tries > j.retries and not a.final and a.outcome in (2, 3, 4)))
order by a.job_id, a.attempt;

-- name: verify_outcome_decides
-- A success or a cancel ends its job, a snooze or a return does not; only a success has a result; no end lies before its
-- start.
select a.job_id || ' attempt ' || a.attempt as subject, jsonb_build_object(
    'attempt', a.attempt, 'outcome', coalesce(taskflow.outcome_name(a.outcome), a.outcome::text), 'final', a.final,
    'has_result', a.result is not null, 'started_at', a.started_at, 'finished_at', a.finished_at) as proof
from taskflow.attempts a
where a.job_id > %(low)s::uuid and a.job_id <= %(high)s::uuid
    and (a.outcome not between 1 and 7 or a.final <> (a.outcome in (1, 5)) and a.outcome not in (2, 3, 4)
        or a.result is not null and a.outcome <> 1 or a.started_at > a.finished_at)
order by a.job_id, a.attempt;

-- name: verify_execution_once
-- An exec_id has one outcome. One exception (A8): a late outcome stands for the attempt after the one that was lost.
select a.job_id || ' attempt ' || a.attempt as subject, jsonb_build_object(
    'exec_id', a.exec_id, 'attempt', a.attempt, 'outcome', taskflow.outcome_name(a.outcome), 'final', a.final,
    'earlier_attempt', b.attempt, 'earlier_outcome', taskflow.outcome_name(b.outcome)) as proof
from taskflow.attempts a
join taskflow.attempts b on b.job_id = a.job_id and b.exec_id = a.exec_id and b.attempt < a.attempt
    and b.job_id > %(low)s::uuid and b.job_id <= %(high)s::uuid
where a.job_id > %(low)s::uuid and a.job_id <= %(high)s::uuid
    and not (b.attempt = a.attempt - 1 and b.outcome = 4 and not b.final and a.final and a.outcome in (1, 2))
order by a.job_id, a.attempt;

-- name: verify_attempt_fenced
-- An exec_id names its shard and epoch: its queue's shard, an epoch that the shard has had, and never an older one than
-- that of the job's attempt before.
with given as (
    select e.*, lag(e.epoch) over (partition by e.job_id order by e.attempt) as epoch_before
    from (
        select x.job_id, x.attempt, x.exec_id,
            ('x' || substr(replace(x.exec_id::text, '-', ''), 1, 4))::bit(16)::integer as shard,
            ('x' || substr(replace(x.exec_id::text, '-', ''), 5, 8))::bit(32)::bigint as epoch
        from (
            select a.job_id, a.attempt, a.exec_id from taskflow.attempts a
            where a.job_id > %(low)s::uuid and a.job_id <= %(high)s::uuid
            union all
            -- One that is written before its hand-out has none yet (A12).
            select l.job_id, l.attempt, nullif(l.exec_id, '00000000-0000-0000-0000-000000000000') from taskflow.leases l
            where l.job_id > %(low)s::uuid and l.job_id <= %(high)s::uuid
        ) x
        where x.exec_id is not null
    ) e
)
select g.job_id || ' attempt ' || g.attempt as subject, jsonb_build_object(
    'exec_id', g.exec_id, 'shard', g.shard, 'epoch', g.epoch, 'epoch_before', g.epoch_before, 'queue', j.queue,
    'shard_of_queue', q.shard, 'epoch_of_shard', s.epoch) as proof
from given g
join taskflow.jobs j on j.id = g.job_id and j.id > %(low)s::uuid and j.id <= %(high)s::uuid
join taskflow.queues q on q.name = j.queue
join taskflow.shards s on s.shard = q.shard
where g.shard <> q.shard or (s.epoch < 2147483648 and (g.epoch > s.epoch or g.epoch < g.epoch_before))
order by g.job_id, g.attempt;

-- name: verify_attempts_in_turn
-- No attempt of a job starts before the one before it has ended. A late outcome, which stands for the next attempt, may.
select a.job_id || ' attempt ' || a.attempt as subject, jsonb_build_object(
    'attempt', a.attempt, 'started_at', a.started_at, 'worker', a.worker, 'attempt_before_ended_at', a.before,
    'worker_before', a.worker_before) as proof
from (
    select a.job_id, a.attempt, a.started_at, a.worker, a.exec_id, lag(a.finished_at) over job as before,
        lag(a.exec_id) over job as exec_before, lag(a.worker) over job as worker_before
    from taskflow.attempts a
    where a.job_id > %(low)s::uuid and a.job_id <= %(high)s::uuid
    window job as (partition by a.job_id order by a.attempt)
) a
where a.started_at < a.before - interval '1 second' and a.exec_id is distinct from a.exec_before
order by a.job_id, a.attempt;

-- name: verify_lease_present
-- A lease is of a job's present attempt.
select l.job_id::text as subject, jsonb_build_object(
    'attempt', l.attempt, 'exec_id', l.exec_id, 'worker', l.worker, 'has_job', j.id is not null, 'last_attempt', a.attempt,
    'last_final', a.final, 'waits_for', d.attempt) as proof
from taskflow.leases l
left join taskflow.jobs j on j.id = l.job_id and j.id > %(low)s::uuid and j.id <= %(high)s::uuid
left join taskflow.deferred d on d.job_id = l.job_id
left join lateral (
    select a.attempt, a.final from taskflow.attempts a where a.job_id = l.job_id order by a.attempt desc limit 1
) a on true
where l.job_id > %(low)s::uuid and l.job_id <= %(high)s::uuid
    and (j.id is null or l.attempt <> coalesce(a.attempt, 0) + 1 or (a.final and d.job_id is null))
order by l.job_id;

-- name: verify_deferred_present
-- A deferred row is of a job's next attempt, with the tries that were used. One of a finished job was made by hand.
select d.job_id::text as subject, jsonb_build_object(
    'attempt', d.attempt, 'tries', d.tries, 'reason', d.reason, 'due_at', d.due_at, 'has_job', j.id is not null,
    'last_attempt', a.attempt, 'last_tries', a.tries, 'last_final', a.final) as proof
from taskflow.deferred d
left join taskflow.jobs j on j.id = d.job_id and j.id > %(low)s::uuid and j.id <= %(high)s::uuid
left join lateral (
    select a.attempt, a.tries, a.final from taskflow.attempts a where a.job_id = d.job_id order by a.attempt desc limit 1
) a on true
where d.job_id > %(low)s::uuid and d.job_id <= %(high)s::uuid
    and (j.id is null or d.attempt <> coalesce(a.attempt, 0) + 1 or (a.final and d.reason <> 5)
        or d.tries <> case when a.final then 0 else coalesce(a.tries, 0) end)
order by d.job_id;

-- name: verify_owner_agrees
-- The owner of a queue's shard finds what waits for it: rows of deferred jobs and leases say the same as their jobs.
select j.id::text as subject, jsonb_build_object(
    'found_in', w.place, 'queue', j.queue, 'task', j.task, 'priority', j.priority, 'shard_of_queue', q.shard,
    'row', jsonb_build_object('queue', w.queue, 'task', w.task, 'priority', w.priority, 'shard', w.shard)) as proof
from (
    select 'deferred' as place, d.job_id, d.queue, d.task, d.priority, d.shard from taskflow.deferred d
    where d.job_id > %(low)s::uuid and d.job_id <= %(high)s::uuid
    union all
    select 'leases', l.job_id, l.queue, l.task, l.priority, l.shard from taskflow.leases l
    where l.job_id > %(low)s::uuid and l.job_id <= %(high)s::uuid
    union all
    select 'jobs', j.id, j.queue, j.task, j.priority, null from taskflow.jobs j
    where j.id > %(low)s::uuid and j.id <= %(high)s::uuid
) w
join taskflow.jobs j on j.id = w.job_id and j.id > %(low)s::uuid and j.id <= %(high)s::uuid
left join taskflow.queues q on q.name = j.queue
where q.name is null or (w.queue, w.task, w.priority) <> (j.queue, j.task, j.priority) or w.shard <> q.shard
order by j.id;

-- name: verify_cancel_kept
-- A cancel that is done has ended its job, unless a retry by hand revoked it.
select c.job_id::text as subject, jsonb_build_object(
    'requested_at', c.requested_at, 'last_attempt', a.attempt, 'outcome', taskflow.outcome_name(a.outcome), 'final', a.final,
    'deferred', d.job_id is not null, 'leased', l.job_id is not null) as proof
from taskflow.cancels c
join taskflow.jobs j on j.id = c.job_id and j.id > %(low)s::uuid and j.id <= %(high)s::uuid
left join taskflow.deferred d on d.job_id = c.job_id
left join taskflow.leases l on l.job_id = c.job_id
left join lateral (
    select a.attempt, a.outcome, a.final from taskflow.attempts a where a.job_id = c.job_id order by a.attempt desc limit 1
) a on true
where c.job_id > %(low)s::uuid and c.job_id <= %(high)s::uuid and c.done and not c.revoked
    and (a.final is not true or d.job_id is not null or l.job_id is not null)
order by c.job_id;

-- name: verify_key_once
-- A key leads to its job for as long as the job is there. A second job of the same key has lost it.
select j.id::text as subject, jsonb_build_object(
    'key', j.key, 'namespace', n.name, 'queue', j.queue, 'created_at', j.created_at, 'key_leads_to', k.job_id) as proof
from taskflow.jobs j
cross join lateral (
    select case when j.queue like '%%/%%' then regexp_replace(j.queue, '/[^/]*$', '') else 'default' end as name
) n
left join taskflow.job_keys k on k.namespace = n.name and k.key = j.key
where j.id > %(low)s::uuid and j.id <= %(high)s::uuid and j.key is not null and k.job_id is distinct from j.id
    and not exists (select from taskflow.closed_days c where c.low <= j.id and j.id < c.high)
order by j.id;

-- name: verify_history_whole
-- What belongs to a job goes with it (A10). The days that are being dropped lose their parts one after the other.
select x.job_id::text as subject, jsonb_build_object('rows_in', array_agg(distinct x.place)) as proof
from (
    select 'attempts' as place, job_id from taskflow.attempts where job_id > %(low)s::uuid and job_id <= %(high)s::uuid
    union select 'job_logs', job_id from taskflow.job_logs where job_id > %(low)s::uuid and job_id <= %(high)s::uuid
    union select 'job_tags', job_id from taskflow.job_tags where job_id > %(low)s::uuid and job_id <= %(high)s::uuid
    union select 'job_actions', job_id from taskflow.job_actions where job_id > %(low)s::uuid and job_id <= %(high)s::uuid
    union
    select 'job_sla_misses', job_id from taskflow.job_sla_misses where job_id > %(low)s::uuid and job_id <= %(high)s::uuid
    union select 'task_logs', job_id from taskflow.task_logs where job_id > %(low)s::uuid and job_id <= %(high)s::uuid
    union select 'cancels', job_id from taskflow.cancels where job_id > %(low)s::uuid and job_id <= %(high)s::uuid
) x
where not exists (select from taskflow.jobs j where j.id = x.job_id and j.id > %(low)s::uuid and j.id <= %(high)s::uuid)
    and not exists (select from taskflow.closed_days c where c.low <= x.job_id and x.job_id < c.high)
group by x.job_id order by x.job_id;

-- name: verify_task_logged
-- Each attempt at a run of a named task has its row in `task_logs`, which says the same. Older versions had none.
select a.job_id || ' attempt ' || a.attempt as subject, jsonb_build_object(
    'task_id', j.options ->> 'task_id', 'attempt', a.attempt, 'outcome', taskflow.outcome_name(a.outcome), 'final', a.final,
    'logged', case when l.job_id is not null then jsonb_build_object(
        'outcome', taskflow.outcome_name(l.outcome), 'final', l.final) end) as proof
from taskflow.jobs j
join taskflow.attempts a on a.job_id = j.id and a.job_id > %(low)s::uuid and a.job_id <= %(high)s::uuid
left join taskflow.task_logs l on l.job_id = a.job_id and l.attempt = a.attempt
where j.id > %(low)s::uuid and j.id <= %(high)s::uuid and taskflow.uuid_in(j.options ->> 'task_id') is not null
    and (l.outcome, l.final) is distinct from (a.outcome, a.final)
    and a.finished_at > (select applied_at from taskflow.migrations where name like '0009%%')
order by a.job_id, a.attempt;

-- name: verify_step_job_run
-- A job that names a run as its maker has that run. Handlers may pass their metadata on, so the name alone proves no more.
select j.id::text as subject, jsonb_build_object(
    'run', r.id, 'step', j.options #>> '{metadata,taskflow.step}', 'created_at', j.created_at) as proof
from taskflow.jobs j
cross join lateral (select taskflow.uuid_in(j.options #>> '{metadata,taskflow.run}') as id) r
where j.id > %(low)s::uuid and j.id <= %(high)s::uuid and r.id >= taskflow.uuid_at(%(kept_from)s::timestamptz)
    and not exists (select from taskflow.runs x where x.id = r.id)
order by j.id;

-- name: verify_job_fired
-- A job that names an instant of a schedule is in the ledger, or that instant fired with another job: handlers may pass
-- their metadata on. Instants are compared as jobs have them, in text.
select j.id::text as subject, jsonb_build_object(
    'schedule', s.id, 'instant', w.instant, 'created_at', j.created_at) as proof
from taskflow.jobs j
join taskflow.schedules s on s.id = taskflow.uuid_in(j.options #>> '{metadata,taskflow.schedule}')
cross join lateral (select j.options #>> '{metadata,taskflow.instant}' as instant) w
where j.id > %(low)s::uuid and j.id <= %(high)s::uuid
    and w.instant collate "C" >= to_char(%(kept_from)s::timestamptz at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS')
    and w.instant collate "C" <= to_char((select taskflow.now()) at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS')
    and not exists (select from taskflow.firings f where f.job_id = j.id)
    and not exists (
        select from taskflow.firings f
        where f.schedule_id = s.id and f.state = 'fired' and w.instant in (
            to_char(f.instant at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"+00:00"'),
            to_char(f.instant at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"')))
order by j.id;
