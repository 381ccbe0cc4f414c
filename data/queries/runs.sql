-- name: put_workflow
-- A new version, unless the latest has this very document.
insert into taskflow.workflows (name, version, document, digest)
select %(name)s, coalesce(max(w.version), 0) + 1, %(document)s::json, %(digest)s
from taskflow.workflows w where w.name = %(name)s
having (array_agg(w.digest order by w.version desc) filter (where not w.deleted))[1] is distinct from %(digest)s
returning version;

-- name: lock_workflow
-- Two that put versions of one workflow go one after the other.
select pg_advisory_xact_lock(hashtext('taskflow.workflow'), hashtext(%(name)s));

-- name: get_workflow
-- One version, or the latest (0), with its own schedule, and the start of its newest run by any trigger (R19): one look into the index for each state, however many runs are held.
select w.name, w.version, w.document::text as document, w.digest, w.created_at, s.cron, s.next_at,
    greatest(s.last_at, (
        select max(newest.started_at) from unnest(array['running', 'cancelling', 'ending', 'succeeded', 'failed', 'cancelled']) as of (status)
        cross join lateral (
            select r.started_at from taskflow.runs r
            where r.workflow = w.name and r.status = of.status and r.started_at is not null
            order by r.id desc limit 1) newest)) as last_at
from taskflow.workflows w
left join taskflow.schedules s on s.workflow = w.name and s.owned
where w.name = %(name)s and case when %(version)s::integer > 0 then w.version = %(version)s else not w.deleted end
order by w.version desc limit 1;

-- name: list_workflows
-- The latest version of each, by name; or the versions of one, newest first.
select w.name, w.version, w.document ->> 'title' as title, w.digest, w.created_at, s.cron, s.next_at,
    greatest(s.last_at, (
        select max(newest.started_at) from unnest(array['running', 'cancelling', 'ending', 'succeeded', 'failed', 'cancelled']) as of (status)
        cross join lateral (
            select r.started_at from taskflow.runs r
            where r.workflow = w.name and r.status = of.status and r.started_at is not null
            order by r.id desc limit 1) newest)) as last_at
from taskflow.workflows w
left join taskflow.schedules s on s.workflow = w.name and s.owned
where not w.deleted and case when %(name)s::text <> ''
    then w.name = %(name)s and (%(before)s::integer = 0 or w.version < %(before)s)
    else w.name > %(after)s and w.version = (select max(v.version) from taskflow.workflows v where v.name = w.name) end
order by w.name, w.version desc limit %(limit)s;

-- name: delete_workflow
update taskflow.workflows set deleted = true where name = %(name)s and not deleted;

-- name: delete_own_schedule_of_workflow
delete from taskflow.schedules where workflow = %(name)s and owned;

-- name: workflow_documents
-- For the owner of runs.
select w.name, w.version, w.document::text as document
from unnest(%(names)s::text[], %(versions)s::integer[]) as wanted (name, version)
join taskflow.workflows w using (name, version);

-- name: latest_versions
select name, max(version) as version from taskflow.workflows
where name = any(%(names)s::text[]) and not deleted group by name;

-- name: insert_runs
-- Runs that are to begin, and by when if their version has an sla. Those that are there already stay as they are.
with made as (
insert into taskflow.runs (id, workflow, version, shard, input, context, metadata, label, trigger, schedule_id,
    parent_id, parent_step, parent_iteration, depth, created_at)
select w.*, (select taskflow.now()) from unnest(%(id)s::uuid[], %(workflow)s::text[], %(version)s::integer[], %(shard)s::smallint[],
    %(input)s::text[]::json[], %(context)s::text[]::json[], %(metadata)s::text[]::jsonb[], %(label)s::text[], %(trigger)s::text[],
    %(schedule_id)s::uuid[], %(parent_id)s::uuid[], %(parent_step)s::text[], %(parent_iteration)s::integer[], %(depth)s::integer[]) w
on conflict (id) do nothing
returning id, shard, workflow, version, created_at
), due as (
    insert into taskflow.run_slas (shard, due_at, run_id)
    select m.shard, m.created_at + least((w.document ->> 'sla')::float8, 1e9) * interval '1 second', m.id
    from made m
    join taskflow.workflows w on w.name = m.workflow and w.version = m.version
    where json_typeof(w.document -> 'sla') = 'number'
)
select id, shard from made;

-- name: missed_slas
-- Runs that should have begun by now and have not, each once. The turn moves on, so that a decision which was made before
-- does not overwrite it. Rules of alerts that select them gather them in the same statement.
with due as (
    delete from taskflow.run_slas where ctid = any (array(
        select d.at from unnest(%(shards)s::smallint[]) as w (shard)
        cross join lateral (
            select d.ctid as at from taskflow.run_slas d where d.shard = w.shard and d.due_at <= (select taskflow.now())
            order by d.due_at limit %(limit)s for update skip locked
        ) d
    ))
    returning run_id
), missed as (
    update taskflow.runs r set turn = r.turn + 1, sla_missed = true
    where r.id = any (array(select run_id from due)) and r.status = 'new' and not r.sla_missed
    returning r.id, r.workflow
), noted as (
    insert into taskflow.run_sla_misses (run_id) select id from missed on conflict (run_id) do nothing
), told as (
    select taskflow.alert_runs('sla_missed', array(select id from missed)) from (select from missed limit 1) one
)
select m.id, m.workflow from missed m left join told on true;

-- name: note_run_sla_misses
-- Runs that began too late, in the transaction that begins them.
insert into taskflow.run_sla_misses (run_id) select unnest(%(ids)s::uuid[]) on conflict (run_id) do nothing;

-- name: tell_runs
-- Into the inboxes of these runs.
insert into taskflow.run_inbox (run_id, shard, event)
select r.id, r.shard, w.event::json
from unnest(%(run_id)s::uuid[], %(event)s::text[]) with ordinality as w (run_id, event, n)
join taskflow.runs r on r.id = w.run_id
order by w.n
returning seq;

-- name: ask_run
-- Into the inbox of a run, with who asked.
with told as (
    insert into taskflow.run_inbox (run_id, shard, event)
    select r.id, r.shard, %(event)s::json from taskflow.runs r where r.id = %(run_id)s
    returning run_id, seq
), noted as (
    insert into taskflow.run_actions (run_id, at, action, actor)
    select run_id, (select taskflow.now()), %(action)s, %(actor)s from told
)
select seq from told;

-- name: unheard
-- What of the inbox its owner has not applied yet.
select seq from taskflow.run_inbox where seq = %(seq)s;

-- name: tell_of_jobs
-- Of these jobs that are final, those of runs are told to their runs, in the transaction that appends the outcome (A11).
insert into taskflow.run_inbox (run_id, shard, job_id, attempt)
select r.id, r.shard, w.job_id, w.attempt
from unnest(%(job_id)s::uuid[], %(attempt)s::integer[]) as w (job_id, attempt)
join taskflow.run_jobs j on j.job_id = w.job_id
join taskflow.runs r on r.id = j.run_id;

-- name: runs_with_news
-- Runs of these shards that have events, the first after a place in the order of their ids; those with a timer that is
-- due; in how many seconds the next timer is, and whether there is anything for `missed_slas`. The row without a run is
-- always there. Each run is found by one probe, however many events it has: the comparison of both columns keeps the
-- planner from the index that lacks the shard.
select null::uuid as run_id, false as timed,
    (select extract(epoch from min(t.due_at) - (select taskflow.now()))::float8
        from unnest(%(shards)s::smallint[]) as w (shard)
        cross join lateral (
            select due_at from taskflow.run_timers t where t.shard = w.shard order by due_at limit 1
        ) t) as next_due,
    exists (
        select from unnest(%(shards)s::smallint[]) as w (shard)
        cross join lateral (
            select from taskflow.run_slas d where d.shard = w.shard and d.due_at <= (select taskflow.now())
            order by d.due_at limit 1
        ) d
    ) as slas_over
union all
(select f.run_id, false, null, false from unnest(%(shards)s::smallint[]) as w (shard)
    cross join lateral (
        with recursive found as (
            (select i.run_id, 1 as n from taskflow.run_inbox i
                where i.shard = w.shard and (i.shard, i.run_id) > (w.shard, %(after)s::uuid) order by i.run_id limit 1)
            union all
            select (select i.run_id from taskflow.run_inbox i
                where i.shard = w.shard and (i.shard, i.run_id) > (w.shard, f.run_id) order by i.run_id limit 1), f.n + 1
            from found f where f.run_id is not null and f.n < %(limit)s
        )
        select run_id from found where run_id is not null
    ) f
    order by f.run_id limit %(limit)s)
union all
(select t.run_id, true, null, false from unnest(%(shards)s::smallint[]) as w (shard)
    cross join lateral (
        select run_id, due_at from taskflow.run_timers t
        where t.shard = w.shard and t.due_at <= (select taskflow.now()) and t.run_id <> all(%(left_out)s::uuid[])
        order by t.due_at limit %(limit)s
    ) t
    order by t.due_at limit %(limit)s);

-- name: load_runs
-- As many as come to so many bytes, or just above. JSON as text: one value that cannot be read is its own run's fault.
-- `latest`: the version whose `concurrency` counts; null when the workflow is deleted.
select * from (
select r.id, r.workflow, r.version, r.shard, r.turn, r.status, r.held, r.input::text as input, r.context::text as context,
    r.metadata::text as metadata, r.state::text as state, r.parent_id, r.parent_step, r.parent_iteration, r.depth, r.sla_missed,
    r.created_at, (select taskflow.now()) as now,
    (select max(v.version) from taskflow.workflows v where v.name = r.workflow and not v.deleted) as latest,
    (select n.app_url from taskflow.namespaces n where n.name =
        case when r.workflow like '%%/%%' then regexp_replace(r.workflow, '/[^/]*$', '') else 'default' end) as app_url,
    sum(octet_length(r.state::text) + coalesce(octet_length(r.input::text), 0)) over (order by w.n
        rows between unbounded preceding and 1 preceding) as before
from unnest(%(ids)s::uuid[]) with ordinality as w (id, n)
join taskflow.runs r on r.id = w.id
) r where before is null or before < %(bytes)s;

-- name: events_of_runs
-- The oldest events of each, of a job's end what became of it; the first of every run before the second of any, as much as
-- comes to so many bytes, or just above. JSON as text, as in load_runs.
select * from (
select e.*, sum(e.size) over (order by e.n, e.seq rows between unbounded preceding and 1 preceding) as before
from (
select i.run_id, i.seq, i.n, i.event, i.job_id, j.step, j.iteration, j.index, a.outcome, a.result, a.encoding, a.error::text as error,
    coalesce(octet_length(a.result), 0) + coalesce(octet_length(i.event), 0) as size
from unnest(%(ids)s::uuid[]) as w (id)
cross join lateral (
    select i.run_id, i.seq, i.event::text as event, i.job_id, i.attempt, row_number() over (order by i.seq) as n
    from taskflow.run_inbox i where i.run_id = w.id order by i.seq limit %(limit)s
) i
left join lateral (
    select j.step, j.iteration, j.index from taskflow.run_jobs j where j.job_id = i.job_id offset 0
) j on true
left join lateral (
    select a.outcome, a.result, a.encoding, a.error from taskflow.attempts a
    where a.job_id = i.job_id and a.attempt = i.attempt offset 0
) a on true
) e
) e where before is null or before < %(bytes)s
order by seq;

-- name: due_timers
select run_id, name, iteration from taskflow.run_timers
where run_id = any(%(ids)s::uuid[]) and due_at <= (select taskflow.now()) order by due_at;

-- name: active_runs
-- Of these workflows, how many are under way.
select workflow, count(*) as n from taskflow.runs
where workflow = any(%(workflows)s::text[]) and finished_at is null and status <> 'new' group by workflow;

-- name: any_held
-- A row if some run waits for others of its workflow to end.
select 1 as held from taskflow.runs where held limit 1;

-- name: held_workflows
-- Workflows of these shards with runs that wait for others to end: how many are under way, and the version whose
-- `concurrency` counts: the latest, or, of one that is deleted, that of the oldest waiting run.
with recursive held as (
    (select workflow from taskflow.runs where held order by workflow limit 1)
    union all
    select (select r.workflow from taskflow.runs r where r.held and r.workflow > h.workflow order by r.workflow limit 1)
    from held h where h.workflow is not null
)
select h.workflow, oldest.shard, coalesce(
        (select max(v.version) from taskflow.workflows v where v.name = h.workflow and not v.deleted), oldest.version) as version,
    (select count(*) from taskflow.runs r where r.workflow = h.workflow and r.finished_at is null and r.status <> 'new') as active
from held h
cross join lateral (
    select r.version, r.shard from taskflow.runs r where r.workflow = h.workflow and r.held order by r.id limit 1
) oldest
where oldest.shard = any(%(shards)s::smallint[]);

-- name: tasks_of_jobs
-- What tasks say of their jobs, and the workers that have their handlers.
select w.name, t.id as task_id, t.name as task_name, coalesce(t.target, w.name) as target, t.queue, t.priority, t.retries,
    t.options, t.concurrency, t.payload as task_payload, t.encoding as task_encoding,
    h.queue as own_queue, h.retries as own_retries, h.priority as own_priority, h.options as own_options
from unnest(%(names)s::text[]) as w (name)
left join taskflow.tasks t on t.name = w.name
left join taskflow.handlers h on h.name = coalesce(t.target, w.name);

-- name: insert_run_jobs
insert into taskflow.run_jobs (run_id, step, iteration, index, job_id, child_id, after)
select w.run_id, w.step, w.iteration, w.index, w.job_id, w.child_id, w.after::text[]
from unnest(%(run_id)s::uuid[], %(step)s::text[], %(iteration)s::integer[], %(place)s::integer[], %(job_id)s::uuid[],
    %(child_id)s::uuid[], %(after)s::text[]) as w (run_id, step, iteration, index, job_id, child_id, after);

-- name: cancel_run_jobs
-- Wishes to cancel jobs of steps, as CancelJob leaves them.
with asked as (
    insert into taskflow.cancels (job_id, shard, requested_at, reason)
    select j.id, q.shard, (select taskflow.now()), 'its run does not need it any more'
    from unnest(%(run_id)s::uuid[], %(step)s::text[], %(iteration)s::integer[], %(place)s::integer[]) as w (run_id, step, iteration, index)
    join taskflow.run_jobs r using (run_id, step, iteration, index)
    join taskflow.jobs j on j.id = r.job_id
    join taskflow.queues q on q.name = j.queue
    on conflict (job_id) do nothing
    returning job_id, requested_at, reason
)
insert into taskflow.job_actions (job_id, at, action, actor, reason)
select a.job_id, a.requested_at, 'cancel_requested', 'run ' || r.run_id::text, a.reason
from asked a join taskflow.run_jobs r on r.job_id = a.job_id;

-- name: cancel_child_runs
with asked as (
    insert into taskflow.run_inbox (run_id, shard, event)
    select c.id, c.shard, '{"event": "cancel_requested"}'
    from unnest(%(run_id)s::uuid[], %(step)s::text[], %(iteration)s::integer[], %(place)s::integer[]) as w (run_id, step, iteration, index)
    join taskflow.run_jobs r using (run_id, step, iteration, index)
    join taskflow.runs c on c.id = r.child_id
    returning run_id
)
insert into taskflow.run_actions (run_id, at, action, actor)
select c.id, (select taskflow.now()), 'run_cancel_requested', 'run ' || c.parent_id::text
from asked a join taskflow.runs c on c.id = a.run_id where c.parent_id is not null;

-- name: cancel_jobs_of_runs
-- All jobs that are under way of runs whose state cannot be read.
with asked as (
    insert into taskflow.cancels (job_id, shard, requested_at, reason)
    select j.id, q.shard, (select taskflow.now()), 'its run cannot go on'
    from taskflow.run_jobs r
    join taskflow.jobs j on j.id = r.job_id
    join taskflow.queues q on q.name = j.queue
    where r.run_id = any(%(ids)s::uuid[]) and not exists (select from taskflow.attempts a where a.job_id = j.id and a.final)
    on conflict (job_id) do nothing
    returning job_id, requested_at, reason
)
insert into taskflow.job_actions (job_id, at, action, actor, reason)
select a.job_id, a.requested_at, 'cancel_requested', 'run ' || r.run_id::text, a.reason
from asked a join taskflow.run_jobs r on r.job_id = a.job_id;

-- name: cancel_children_of_runs
insert into taskflow.run_inbox (run_id, shard, event)
select c.id, c.shard, '{"event": "cancel_requested"}'
from taskflow.run_jobs r
join taskflow.runs c on c.id = r.child_id
where r.run_id = any(%(ids)s::uuid[]) and c.finished_at is null;

-- name: delete_timers_of_runs
delete from taskflow.run_timers where run_id = any(%(ids)s::uuid[]);

-- name: cancel_steps_of_runs
update taskflow.run_steps set status = 'cancelled', finished_at = (select taskflow.now())
where run_id = any(%(ids)s::uuid[]) and finished_at is null;

-- name: put_run_timers
insert into taskflow.run_timers (run_id, name, iteration, due_at, shard, after)
select w.run_id, w.name, w.iteration, w.due_at, w.shard, w.after::text[]
from unnest(%(run_id)s::uuid[], %(name)s::text[], %(iteration)s::integer[], %(due_at)s::timestamptz[], %(shard)s::smallint[],
    %(after)s::text[]) as w (run_id, name, iteration, due_at, shard, after)
on conflict (run_id, name, iteration) do update set due_at = excluded.due_at, after = excluded.after;

-- name: delete_run_timers
delete from taskflow.run_timers t
using unnest(%(run_id)s::uuid[], %(name)s::text[], %(iteration)s::integer[]) as w (run_id, name, iteration)
where (t.run_id, t.name, t.iteration) = (w.run_id, w.name, w.iteration);

-- name: put_run_steps
insert into taskflow.run_steps as s (run_id, step, iteration, status, error, due_at, started_at, finished_at, after)
select w.run_id, w.step, w.iteration, w.status, w.error::json, w.due_at,
    case when w.begun then (select taskflow.now()) end, case when w.ended then (select taskflow.now()) end, w.after::text[]
from unnest(%(run_id)s::uuid[], %(step)s::text[], %(iteration)s::integer[], %(status)s::text[], %(error)s::text[],
    %(due_at)s::timestamptz[], %(begun)s::boolean[], %(ended)s::boolean[], %(after)s::text[])
    as w (run_id, step, iteration, status, error, due_at, begun, ended, after)
on conflict (run_id, step) do update set
    after = case when s.iteration = excluded.iteration and excluded.after = '{}' then s.after else excluded.after end,
    iteration = excluded.iteration, status = excluded.status, error = excluded.error, due_at = excluded.due_at,
    started_at = case when s.iteration = excluded.iteration then coalesce(s.started_at, excluded.started_at) else excluded.started_at end,
    finished_at = excluded.finished_at;

-- name: runs_unchanged
-- The first statement of the batch in which the owner of these runs commits; it ends with the fence.
select taskflow.runs_unchanged(%(ids)s::uuid[], %(turns)s::bigint[]);

-- name: update_runs
-- Without a new `state` the stored one stays: it could not be read.
update taskflow.runs r set turn = r.turn + 1, status = w.status, held = w.held, waiting = w.waiting,
    state = coalesce(w.state::json, r.state), signals = w.signals::text[],
    output = w.output::json, error = w.error::json, sla_missed = w.sla_missed,
    started_at = coalesce(r.started_at, case when w.begun then (select taskflow.now()) end),
    finished_at = case when w.ended then coalesce(r.finished_at, (select taskflow.now())) end
from unnest(%(id)s::uuid[], %(status)s::text[], %(held)s::boolean[], %(waiting)s::boolean[], %(state)s::text[], %(signals)s::text[],
    %(output)s::text[], %(error)s::text[], %(sla_missed)s::boolean[], %(begun)s::boolean[], %(ended)s::boolean[])
    as w (id, status, held, waiting, state, signals, output, error, sla_missed, begun, ended)
where r.id = w.id;

-- name: release_held_runs
-- As many of each workflow as may begin now.
with freed as (
    update taskflow.runs r set turn = r.turn + 1, held = false
    from unnest(%(workflow)s::text[], %(n)s::integer[]) as w (workflow, n)
    cross join lateral (
        select h.id from taskflow.runs h where h.workflow = w.workflow and h.held order by h.id limit w.n
    ) x
    where r.id = x.id
    returning r.id, r.shard
)
insert into taskflow.run_inbox (run_id, shard, event) select id, shard, '{"event": "started"}' from freed;

-- name: add_run_logs
insert into taskflow.run_logs (run_id, logged_at, message)
select w.run_id, (select taskflow.now()), w.message from unnest(%(run_id)s::uuid[], %(message)s::text[]) as w (run_id, message);

-- name: delete_inbox
delete from taskflow.run_inbox where seq = any(%(seqs)s::bigint[]);

-- name: delete_inbox_of_nobody
-- What was told to runs that were pruned meanwhile.
delete from taskflow.run_inbox i
where i.run_id = any(%(ids)s::uuid[]) and not exists (select from taskflow.runs r where r.id = i.run_id);

-- name: get_runs
select r.*, w.document::text as document from taskflow.runs r
left join taskflow.workflows w on w.name = r.workflow and w.version = r.version
where r.id = any(%(ids)s::uuid[]);

-- name: list_runs
-- Newest first, after a place.
select id, workflow, version, status, waiting, error, metadata, label, trigger, schedule_id, parent_id, signals, sla_missed,
    created_at, started_at, finished_at
from taskflow.runs
where id < %(before)s::uuid order by id desc limit %(limit)s;

-- name: list_runs_of_workflow
-- An equality would let the planner go through all runs by their id until it has enough of this one's: as good for most,
-- and a scan of all for a rare one.
select id, workflow, version, status, waiting, error, metadata, label, trigger, schedule_id, parent_id, signals, sla_missed,
    created_at, started_at, finished_at
from taskflow.runs
where workflow >= %(workflow)s and workflow <= %(workflow)s and id < %(before)s::uuid
order by workflow desc, id desc limit %(limit)s;

-- name: list_runs_by_state
-- Of each state the newest, by an index of its own; of them, the newest.
select r.* from unnest(%(states)s::text[]) as w (status)
cross join lateral (
    select id, workflow, version, status, waiting, error, metadata, label, trigger, schedule_id, parent_id, signals, sla_missed,
        created_at, started_at, finished_at
    from taskflow.runs r
    where r.status >= w.status and r.status <= w.status and r.id < %(before)s::uuid
    order by r.status desc, r.id desc limit %(limit)s
) r
order by r.id desc limit %(limit)s;

-- name: list_runs_of_workflow_by_state
select r.* from unnest(%(states)s::text[]) as w (status)
cross join lateral (
    select id, workflow, version, status, waiting, error, metadata, label, trigger, schedule_id, parent_id, signals, sla_missed,
        created_at, started_at, finished_at
    from taskflow.runs r
    where r.workflow >= %(workflow)s and r.workflow <= %(workflow)s and r.status >= w.status and r.status <= w.status
        and r.id < %(before)s::uuid
    order by r.workflow desc, r.status desc, r.id desc limit %(limit)s
) r
order by r.id desc limit %(limit)s;

-- name: list_runs_by_metadata
-- By the index of attributes; the other filters are for what it finds.
select id, workflow, version, status, waiting, error, metadata, label, trigger, schedule_id, parent_id, signals, sla_missed,
    created_at, started_at, finished_at
from (
    select * from taskflow.runs where metadata @> %(metadata)s::jsonb offset 0
) r
where id < %(before)s::uuid and (%(workflow)s::text = '' or workflow = %(workflow)s)
    and (cardinality(%(states)s::text[]) = 0 or status = any(%(states)s::text[]))
order by id desc limit %(limit)s;

-- name: steps_of_run
select * from taskflow.run_steps where run_id = %(id)s limit %(limit)s;

-- name: jobs_of_run
select j.step, j.iteration, j.index, j.job_id, j.child_id, f.state as job_state, f.task, c.status as run_status, c.workflow
from taskflow.run_jobs j
left join taskflow.job_facts f on f.id = j.job_id
left join taskflow.runs c on c.id = j.child_id
where j.run_id = %(id)s
order by j.id desc limit %(limit)s;

-- name: run_of_job
-- The run that made this job.
select run_id from taskflow.run_jobs where job_id = %(id)s;

-- name: logs_of_run
select logged_at, message from taskflow.run_logs where run_id = %(id)s order by seq desc limit 100;

-- name: final_runs
-- Which of these are final.
select id from taskflow.runs where id = any(%(ids)s::uuid[]) and finished_at is not null;

-- name: cancel_runs_by_metadata
-- Every run with these attributes that waits is to end (S0.8).
with ended as (
    select id, shard from taskflow.runs where metadata @> %(metadata)s::jsonb and finished_at is null and waiting
), told as (
    insert into taskflow.run_inbox (run_id, shard, event) select id, shard, '{"event": "cancel_requested"}' from ended
), noted as (
    insert into taskflow.run_actions (run_id, at, action, actor)
    select id, (select taskflow.now()), 'run_cancel_requested', %(actor)s from ended
)
select id from ended;
