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
