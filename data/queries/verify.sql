-- name: verify_bounds
-- Where the walk begins and ends, and `kept_from`: no prune has deleted what happened after it. A prune deletes counts up
-- to the same time as all else, so the oldest of them shows how far it went; a young database was never pruned.
select taskflow.uuid_at(greatest(%(since)s::timestamptz, 'epoch')) as low,
    taskflow.uuid_at(coalesce(%(until)s::timestamptz, (select taskflow.now()) + interval '1 minute')) as high,
    taskflow.uuid_at((select taskflow.now()) + interval '2 hours') as beyond, c.oldest as oldest_count,
    case
        when c.oldest is null then greatest(b.born, (select taskflow.now()) - interval '1 hour')
        when c.oldest - b.born < interval '10 minutes' then b.born
        else c.oldest
    end as kept_from
from (select min(minute) as oldest from taskflow.counts) c, (select min(applied_at) as born from taskflow.migrations) b;

-- name: verify_prune_runs
-- Whether a prune holds its lock now.
select exists (
    select from pg_locks l
    where l.locktype = 'advisory' and l.database = (select oid from pg_database where datname = current_database())
        and l.objid = (hashtext('taskflow.prune')::bigint & 4294967295)::oid
        and l.classid = ((hashtext('taskflow.prune')::bigint >> 32) & 4294967295)::oid
) as runs;

-- name: verify_jobs_page
-- The next jobs in the order of their ids: how many, and the last of them.
select count(*) as n, max(id::text)::uuid as last
from (select id from taskflow.jobs where id > %(low)s::uuid and id <= %(high)s::uuid order by id limit %(limit)s) page;

-- name: verify_runs_page
select count(*) as n, max(id::text)::uuid as last
from (select id from taskflow.runs where id > %(low)s::uuid and id <= %(high)s::uuid order by id limit %(limit)s) page;

-- name: verify_schedules_page
-- Schedules are of any age, so that all of them are walked; their firings are bounded by their instants.
select count(*) as n, max(id::text)::uuid as last
from (select id from taskflow.schedules where id > %(low)s::uuid order by id limit %(limit)s) page;

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
            select l.job_id, l.attempt, l.exec_id from taskflow.leases l
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

-- name: verify_run_goes_on
-- A run that has not ended has something that moves it on: an event, a timer, a job or a run of its own that has not
-- ended, a signal that it waits for, or others of its workflow that must end first.
select r.id::text as subject, jsonb_build_object(
    'workflow', r.workflow, 'status', r.status, 'turn', r.turn, 'created_at', r.created_at) as proof
from taskflow.runs r
where r.id > %(low)s::uuid and r.id <= %(high)s::uuid and r.finished_at is null and not r.held and cardinality(r.signals) = 0
    and not exists (select from taskflow.run_inbox i where i.run_id = r.id)
    and not exists (select from taskflow.run_timers t where t.run_id = r.id)
    and not exists (
        select from taskflow.run_jobs p
        left join taskflow.runs c on c.id = p.child_id
        where p.run_id = r.id and (
            c.id is not null and c.finished_at is null
            or exists (select from taskflow.deferred d where d.job_id = p.job_id)
            or exists (select from taskflow.leases l where l.job_id = p.job_id)
            or exists (select from taskflow.jobs j where j.id = p.job_id)
                and not exists (select from taskflow.attempts a where a.job_id = p.job_id and a.final)))
order by r.id;

-- name: verify_run_whole
-- A run has ended exactly when its status says so, and nothing of it is left to do.
select r.id::text as subject, jsonb_build_object(
    'workflow', r.workflow, 'status', r.status, 'finished_at', r.finished_at,
    'unfinished_steps', (select array_agg(s.step) from taskflow.run_steps s
        where s.run_id = r.id and s.status not in ('succeeded', 'failed', 'skipped', 'cancelled')),
    'timers', (select array_agg(t.name) from taskflow.run_timers t where t.run_id = r.id)) as proof
from taskflow.runs r
where r.id > %(low)s::uuid and r.id <= %(high)s::uuid and (
    (r.finished_at is not null) <> (r.status in ('succeeded', 'failed', 'cancelled'))
    or r.finished_at is not null and (
        r.held
        or exists (select from taskflow.run_timers t where t.run_id = r.id)
        or exists (select from taskflow.run_steps s where s.run_id = r.id
            and s.status not in ('succeeded', 'failed', 'skipped', 'cancelled'))))
order by r.id;

-- name: verify_run_hears
-- Events of runs that have ended: their owner takes them out soon. `pulse` moves as long as it lives.
select r.id || ' event ' || i.seq as subject, jsonb_build_object(
    'workflow', r.workflow, 'status', r.status, 'event', i.event, 'job', i.job_id, 'owner', s.owner) as proof,
    coalesce(s.incarnation::text || ' ' || m.beat, '') as pulse
from taskflow.run_inbox i
join taskflow.runs r on r.id = i.run_id and r.finished_at is not null
join taskflow.shards s on s.shard = i.shard
left join taskflow.members m on m.name = s.owner and m.incarnation = s.incarnation
where i.run_id > %(low)s::uuid and i.run_id <= %(high)s::uuid
order by i.seq;

-- name: verify_step_order
-- A step begins after the steps that it depends on have succeeded, and after those that led to it have ended. Steps that
-- began once: a group that is retried begins steps anew.
select r.id || ' step ' || s.step as subject, jsonb_build_object(
    'workflow', r.workflow, 'version', r.version, 'started_at', s.started_at, 'status', s.status, 'waits_for', w.name,
    'its_status', coalesce(b.status, 'pending'), 'its_end', b.finished_at) as proof
from taskflow.runs r
join taskflow.run_steps s on s.run_id = r.id and s.started_at is not null
    and s.status in ('running', 'waiting', 'held', 'succeeded', 'failed')
left join taskflow.workflows v on v.name = r.workflow and v.version = r.version
left join lateral (
    select e.value as step
    from json_array_elements(
        case json_typeof(v.document -> 'steps') when 'array' then v.document -> 'steps' else '[]'::json end) e
    where e.value ->> 'name' = s.step limit 1
) n on true
cross join lateral (
    select d.name, true as must_succeed
    from json_array_elements_text(
        case json_typeof(n.step -> 'depends_on') when 'array' then n.step -> 'depends_on' else '[]'::json end) d (name)
    union all
    select a.name, false from unnest(s.after) a (name)
) w
left join taskflow.run_steps b on b.run_id = r.id and b.step = w.name
where r.id > %(low)s::uuid and r.id <= %(high)s::uuid and coalesce(b.iteration, 0) <= 1
    and exists (
        select from json_array_elements(
            case json_typeof(v.document -> 'steps') when 'array' then v.document -> 'steps' else '[]'::json end) e
        where e.value ->> 'name' = w.name)
    and (b.finished_at is null or b.finished_at > s.started_at or w.must_succeed and b.status <> 'succeeded')
order by r.id, s.step;

-- name: verify_step_jobs
-- A step's jobs and runs are there and name it as their maker, and are numbered from 0.
select r.id || ' step ' || p.step as subject, jsonb_build_object(
    'workflow', r.workflow, 'iteration', p.iteration, 'index', p.index, 'job', p.job_id, 'has_job', j.id is not null,
    'run_of_job', j.options #>> '{metadata,taskflow.run}', 'step_of_job', j.options #>> '{metadata,taskflow.step}',
    'child', p.child_id, 'parent_of_child', c.parent_id) as proof
from taskflow.runs r
join taskflow.run_jobs p on p.run_id = r.id
left join taskflow.jobs j on j.id = p.job_id
left join taskflow.runs c on c.id = p.child_id
where r.id > %(low)s::uuid and r.id <= %(high)s::uuid and (
    p.job_id is not null and case when j.id is null then r.created_at >= %(kept_from)s::timestamptz
        else (j.options #>> '{metadata,taskflow.run}', j.options #>> '{metadata,taskflow.step}')
            is distinct from (p.run_id::text, p.step) end
    or p.child_id is not null and case when c.id is null then r.created_at >= %(kept_from)s::timestamptz
        else (c.parent_id, c.parent_step, c.parent_iteration) is distinct from (p.run_id, p.step, p.iteration) end
    or p.index > 0 and not exists (select from taskflow.run_jobs b
        where b.run_id = p.run_id and b.step = p.step and b.iteration = p.iteration and b.index = p.index - 1))
order by r.id, p.step, p.iteration, p.index;

-- name: verify_child_known
-- A run that another one started has its place there.
select c.id::text as subject, jsonb_build_object(
    'workflow', c.workflow, 'parent', c.parent_id, 'step', c.parent_step, 'iteration', c.parent_iteration) as proof
from taskflow.runs c
join taskflow.runs r on r.id = c.parent_id
where c.id > %(low)s::uuid and c.id <= %(high)s::uuid
    and not exists (select from taskflow.run_jobs p where p.run_id = r.id and p.child_id = c.id)
order by c.id;

-- name: verify_run_fired
-- A run that a schedule started is in the ledger, at its instant.
select r.id::text as subject, jsonb_build_object(
    'workflow', r.workflow, 'schedule', r.schedule_id, 'instant', r.metadata ->> 'taskflow.instant',
    'created_at', r.created_at) as proof
from taskflow.runs r
join taskflow.schedules s on s.id = r.schedule_id
where r.id > %(low)s::uuid and r.id <= %(high)s::uuid and r.trigger in ('schedule', 'backfill')
    and r.created_at >= %(kept_from)s::timestamptz
    and not exists (select from taskflow.firings f where f.schedule_id = s.id and f.run_id = r.id)
order by r.id;

-- name: verify_firings_page
-- The next rows of ledgers: how many, and the last of them.
select count(*) as n, (array_agg(schedule_id order by schedule_id desc, instant desc))[1] as schedule_id,
    (array_agg(instant order by schedule_id desc, instant desc))[1] as instant
from (
    select schedule_id, instant from taskflow.firings
    where (schedule_id, instant) > (%(schedule_id)s::uuid, %(instant)s::timestamptz)
    order by schedule_id, instant limit %(limit)s
) page;

-- name: verify_firing_made
-- A firing has its job or run, which names the firing's schedule and instant; an instant that did not fire has none.
select f.schedule_id || ' ' || to_char(f.instant at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as subject,
    jsonb_build_object(
        'state', f.state, 'reason', f.reason, 'job', f.job_id, 'has_job', j.id is not null, 'run', f.run_id,
        'has_run', r.id is not null, 'decided_at', f.decided_at, 'instant_of_job', m.instant,
        'schedule_of_job', m.schedule) as proof
from taskflow.firings f
left join taskflow.jobs j on j.id = f.job_id
left join taskflow.runs r on r.id = f.run_id
cross join lateral (
    select coalesce(j.options #>> '{metadata,taskflow.instant}', r.metadata ->> 'taskflow.instant') as instant,
        coalesce(j.options #>> '{metadata,taskflow.schedule}', r.schedule_id::text) as schedule
) m
where (f.schedule_id, f.instant) > (%(schedule_id)s::uuid, %(instant)s::timestamptz)
    and (f.schedule_id, f.instant) <= (%(last_schedule_id)s::uuid, %(last_instant)s::timestamptz)
    and f.instant >= coalesce(%(since)s::timestamptz, '-infinity')
    and f.instant < coalesce(%(until)s::timestamptz, 'infinity')
    and (
        num_nonnulls(f.job_id, f.run_id) <> (f.state = 'fired')::integer
        or f.state = 'fired' and case when j.id is null and r.id is null then f.decided_at >= %(kept_from)s::timestamptz
            else m.schedule is distinct from f.schedule_id::text or m.instant is null or m.instant not in (
                to_char(f.instant at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"+00:00"'),
                to_char(f.instant at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"')) end)
order by f.schedule_id, f.instant;

-- name: verify_schedules
-- The schedules of a page, and from when on their ledger has every instant: since their times were last changed, as far
-- as no prune has deleted rows. A row is deleted by the time of its decision, which is never before its instant. The first
-- cursor is of the scheduler's clock, which is the database's but for a moment.
select s.id, s.cron, s.at, s.time_zone, s.start_at, s.end_at,
    least(s.cursor, %(until)s::timestamptz) as cursor, greatest(
        %(kept_from)s::timestamptz, %(since)s::timestamptz,
        interval '5 seconds' + case when s.updated_at = s.created_at then s.created_at + c.moved_by else s.updated_at end
    ) as counted_from
from taskflow.schedules s cross join taskflow.clock c
where s.id > %(low)s::uuid and s.id <= %(high)s::uuid order by s.id;

-- name: verify_ledger
-- The next rows of a schedule's ledger up to its cursor.
select f.instant, f.first, f.count, f.state, f.trigger from taskflow.firings f
where f.schedule_id = %(schedule_id)s::uuid and f.instant > %(after)s::timestamptz and f.instant <= %(cursor)s::timestamptz
order by f.instant limit %(limit)s;

-- name: verify_lanes_real
-- A lane has the shard of its queue, and a mark of this Postgres cluster: no transaction of it lies ahead.
select m.queue || ' ' || m.task || ' ' || m.priority as subject, jsonb_build_object(
    'shard', m.shard, 'shard_of_queue', q.shard, 'mark_tx', m.tx::text, 'reached', c.reached) as proof
from taskflow.lanes m
cross join (select pg_snapshot_xmax(pg_current_snapshot())::text::bigint + taskflow.tx_offset() as reached) c
left join taskflow.queues q on q.name = m.queue
where q.shard is distinct from m.shard or m.tx::text::bigint > c.reached
    or exists (select from unnest(m.late) l (tx) where l.tx::text::bigint > c.reached)
order by 1;

-- name: verify_keys_lead
-- A key leads to a job: one that leads nowhere answers for a job that is not there.
select k.namespace || ' ' || k.key as subject, jsonb_build_object('job', k.job_id, 'created_at', k.created_at) as proof
from taskflow.job_keys k
where (k.namespace, k.key) > (%(namespace)s::text, %(key)s::text)
    and (k.namespace, k.key) <= (%(last_namespace)s::text, %(last_key)s::text)
    and not exists (select from taskflow.jobs j where j.id = k.job_id and j.key = k.key)
    and not exists (select from taskflow.closed_days c where c.low <= k.job_id and k.job_id < c.high)
order by k.namespace, k.key;

-- name: verify_keys_page
-- The next keys: how many, and the last of them.
select count(*) as n, (array_agg(namespace order by namespace desc, key desc))[1] as namespace,
    (array_agg(key order by namespace desc, key desc))[1] as key
from (
    select namespace, key from taskflow.job_keys where (namespace, key) > (%(namespace)s::text, %(key)s::text)
    order by namespace, key limit %(limit)s
) page;

-- name: verify_counts
-- What the counts say has ended, since the oldest of them; read before the attempts, which only become more.
select queue, outcome, sum(n)::bigint as n from taskflow.counts group by queue, outcome order by queue, outcome;

-- name: verify_ends
-- How many jobs of a page have ended how.
select j.queue, a.outcome, count(*) as n
from taskflow.attempts a
join taskflow.jobs j on j.id = a.job_id and j.id > %(low)s::uuid and j.id <= %(high)s::uuid
where a.job_id > %(low)s::uuid and a.job_id <= %(high)s::uuid and a.final
group by j.queue, a.outcome;

-- name: verify_limited_tasks
-- Tasks that limit how many of their jobs run at once, and since when at the latest.
select id, name, concurrency, updated_at from taskflow.tasks where concurrency > 0 order by id;

-- name: verify_task_runs
-- The next attempts at runs of a task, in the order of their starts. A late outcome ran without a permit of its own.
select l.job_id, l.attempt, l.started_at, l.finished_at from taskflow.task_logs l
where l.task_id = %(task_id)s::uuid and (l.started_at, l.job_id) > (%(after)s::timestamptz, %(after_job)s::uuid)
    and l.started_at < coalesce(%(until)s::timestamptz, 'infinity')
    and not exists (
        select from taskflow.attempts a join taskflow.attempts b on b.job_id = a.job_id and b.attempt = a.attempt - 1
        where a.job_id = l.job_id and a.attempt = l.attempt and b.exec_id = a.exec_id)
order by l.started_at, l.job_id limit %(limit)s;

-- name: verify_lanes_page
select count(*) as n from taskflow.lanes;
