-- Runs that should begin within a time, and all that is scheduled in one view.

-- When a run with an sla should have begun. A row goes when its time has come: a run that is new then has missed it, whatever
-- it waits for. A run without an sla has none.
create table taskflow.run_slas (
    shard       smallint    not null,
    due_at      timestamptz not null,
    run_id      uuid        not null,
    primary key (shard, due_at, run_id)
);

-- Runs that have not begun yet.
insert into taskflow.run_slas (shard, due_at, run_id)
select r.shard, r.created_at + least((w.document ->> 'sla')::float8, 1e9) * interval '1 second', r.id
from taskflow.runs r
join taskflow.workflows w on w.name = r.workflow and w.version = r.version
where r.finished_at is null and r.status = 'new' and not r.sla_missed and json_typeof(w.document -> 'sla') = 'number';

-- The steps that led to a step: what a wait for a signal resumes with.
alter table taskflow.run_steps add column after text[] not null default '{}';

-- A number for what has none of its own. Those of timers and of steps' jobs lie below 2^60.
create function taskflow.scheduled_number(kind text, id text) returns bigint
language sql immutable parallel safe
as $$ select (1::bigint << 60) + ('x' || left(md5(kind || ' ' || id), 15))::bit(60)::bigint $$;

-- The output of the steps that led to one: of one step its result, of several their results as a JSON array.
create function taskflow.output_of_steps(in_run uuid, in_steps text[]) returns text
language sql stable
as $$
    select case count(*) when 1 then min(o.result) else '[' || string_agg(coalesce(o.result, 'null'), ',' order by o.id) || ']' end
    from (
        select p.id, coalesce(taskflow.readable(a.result, a.encoding), c.output::text) as result
        from taskflow.run_jobs p
        left join lateral (
            select a.result, a.encoding from taskflow.attempts a where a.job_id = p.job_id and a.final order by a.attempt desc limit 1
        ) a on true
        left join taskflow.runs c on c.id = p.child_id
        where p.run_id = in_run and p.step = any (in_steps) and (a.encoding is not null or c.id is not null) and p.iteration = (
            select max(q.iteration) from taskflow.run_jobs q where q.run_id = p.run_id and q.step = p.step)
    ) o
$$;

-- What is scheduled and has not happened yet, as the app reads it (S0.7): waits of runs for a time or a signal, groups that
-- wait for their retry, jobs of steps that are not final, schedules, and jobs that wait for their time.
create or replace view taskflow.schedule_task as
select x.id, x.step as task_id,
    case when g.value is not null then 'group' else coalesce(s.value ->> 'kind', 'decision') end as task_type,
    coalesce(g.value, s.value -> 'meta')::text as task_payload,
    taskflow.output_of_steps(x.run_id, case when g.value is null then x.after else array (
        select distinct a.name from taskflow.run_steps h cross join lateral unnest(h.after) as a (name)
        where h.run_id = x.run_id and h.status = 'held'
            and h.step in (select json_array_elements_text(g.value -> 'steps'))
    ) end) as pre_task_payload,
    r.input::text as workflow_payload,
    w.document::text as workflow_json,
    x.run_id, x.due_at, x.job_id, r.schedule_id
from (
    select t.id * 2 as id, t.run_id, t.name as step, t.after, t.due_at, null::uuid as job_id from taskflow.run_timers t
    union all
    select j.id * 2 + 1, j.run_id, j.step, j.after, (select d.due_at from taskflow.deferred d where d.job_id = j.job_id), j.job_id
    from taskflow.run_jobs j
    where j.job_id is not null
        and not exists (select from taskflow.attempts a where a.job_id = j.job_id and a.final)
    union all
    select taskflow.scheduled_number('wait', p.run_id || ' ' || p.step || ' ' || p.iteration), p.run_id, p.step, p.after, null, null
    from taskflow.run_steps p
    where p.status = 'waiting' and p.due_at is null
) x
join taskflow.runs r on r.id = x.run_id and r.finished_at is null
join taskflow.workflows w on w.name = r.workflow and w.version = r.version
left join lateral (
    select value from json_array_elements(case json_typeof(w.document -> 'steps') when 'array' then w.document -> 'steps' else '[]' end)
    where value ->> 'name' = x.step
) s on true
left join lateral (
    select value from json_array_elements(case json_typeof(w.document -> 'groups') when 'array' then w.document -> 'groups' else '[]' end)
    where value ->> 'name' = x.step
) g on s.value is null
union all
select taskflow.scheduled_number('schedule', c.id::text), coalesce(c.workflow, c.task),
    case when c.workflow is null then 'task' else 'workflow' end,
    taskflow.readable(c.payload, c.encoding), null,
    case when c.workflow is not null then taskflow.readable(c.payload, c.encoding) end,
    w.document::text,
    null, c.next_at, null, c.id
from taskflow.schedules c
left join taskflow.tasks t on t.name = c.task
left join lateral (
    select v.document from taskflow.workflows v where v.name = c.workflow and not v.deleted order by v.version desc limit 1
) w on true
where c.active and c.next_at is not null and coalesce(t.active, true)
union all
select taskflow.scheduled_number('job', d.job_id::text), coalesce(nullif(j.task, ''), j.queue), 'job',
    taskflow.readable(j.payload, j.encoding), null, null, null,
    null, d.due_at, d.job_id, null
from taskflow.deferred d
join taskflow.jobs j on j.id = d.job_id
where not exists (select from taskflow.run_jobs p where p.job_id = d.job_id);
