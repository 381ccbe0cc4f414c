-- Workflows: documents with their versions, runs of them, and what runs have under way.
-- Documents, states and values are `json`, not `jsonb`: their order and every text that JSON can hold are kept.

create table taskflow.workflows (
    name        text        not null,                               -- 'ns/name' outside the namespace default
    version     integer     not null,                               -- from 1
    document    json        not null,
    digest      text        not null,
    created_at  timestamptz not null default now(),
    deleted     boolean     not null default false,                 -- its runs still need it
    primary key (name, version)
);

-- Base URL of relative REST calls of a namespace's workflows (S0.9).
alter table taskflow.namespaces add column app_url text;

-- Changed only by the owner of its shard, which is its workflow's: all else goes through run_inbox (A11).
create table taskflow.runs (
    id          uuid        primary key,
    workflow    text        not null,
    version     integer     not null,
    shard       smallint    not null,
    status      text        not null default 'new',
    held        boolean     not null default false,                 -- new, until another run of its workflow ends
    waiting     boolean     not null default true,                  -- nothing of it is under way: for a time, a signal, its begin
    input       json,
    context     json        not null,                               -- what templates read besides the input
    metadata    jsonb       not null default '{}',                  -- the app's attributes
    label       text,
    trigger     text        not null,                               -- manual, schedule, workflow
    schedule_id uuid,
    parent_id   uuid,
    parent_step text,
    parent_iteration integer,
    depth       integer     not null default 0,                     -- of runs that runs have started
    state       json        not null default '{}',                  -- services.core.workflow.RunState
    signals     text[]      not null default '{}',                  -- that steps wait for
    output      json,
    error       json,
    sla_missed  boolean     not null default false,
    created_at  timestamptz not null,
    started_at  timestamptz,
    finished_at timestamptz
) with (fillfactor = 50);
create index runs_workflow on taskflow.runs (workflow, id);
create index runs_held on taskflow.runs (workflow, id) where held;
create index runs_open on taskflow.runs (workflow) where finished_at is null;
create index runs_finished on taskflow.runs (finished_at) where finished_at is not null;
create index runs_metadata on taskflow.runs using gin (metadata jsonb_path_ops);
create index runs_schedule on taskflow.runs (schedule_id) where schedule_id is not null and finished_at is null;

-- Where each step of a run stood last.
create table taskflow.run_steps (
    run_id      uuid        not null references taskflow.runs on delete cascade,
    step        text        not null,
    iteration   integer     not null,
    status      text        not null,
    error       json,
    due_at      timestamptz,
    started_at  timestamptz,
    finished_at timestamptz,
    primary key (run_id, step)
) with (fillfactor = 70);

-- The jobs and child runs of steps: (run, step, iteration, index) makes one, however often it is decided.
create table taskflow.run_jobs (
    id          bigint      not null generated always as identity,
    run_id      uuid        not null references taskflow.runs on delete cascade,
    step        text        not null,
    iteration   integer     not null,
    index       integer     not null,
    job_id      uuid,                                               -- neither: it could not be made
    child_id    uuid,
    after       text[]      not null default '{}',                  -- the steps that led here
    primary key (run_id, step, iteration, index)
);
create unique index run_jobs_job on taskflow.run_jobs (job_id) where job_id is not null;

-- Waits for a time.
create table taskflow.run_timers (
    id          bigint      not null generated always as identity,
    run_id      uuid        not null references taskflow.runs on delete cascade,
    name        text        not null,                               -- a step, or a group that waits for its retry
    iteration   integer     not null,
    due_at      timestamptz not null,
    shard       smallint    not null,
    after       text[]      not null default '{}',
    primary key (run_id, name, iteration)
);
create index run_timers_due on taskflow.run_timers (shard, due_at);

-- What runs must hear. The end of a job is told by its id: what it was stands in `attempts`.
create table taskflow.run_inbox (
    seq         bigint      primary key generated always as identity,
    run_id      uuid        not null,
    shard       smallint    not null,
    event       json,                                               -- services.core.workflow.events
    job_id      uuid,
    attempt     integer
);
create index run_inbox_run on taskflow.run_inbox (run_id, seq);

-- What was not done, and why.
create table taskflow.run_logs (
    run_id      uuid        not null references taskflow.runs on delete cascade,
    seq         bigint      not null generated always as identity,
    logged_at   timestamptz not null,
    message     text        not null,
    primary key (run_id, seq)
);

-- A schedule makes jobs of a task, or runs of a workflow.
alter table taskflow.schedules alter column task drop not null;
alter table taskflow.schedules add column workflow text;
alter table taskflow.schedules add constraint schedules_target check ((task is null) <> (workflow is null));
create index schedules_workflow on taskflow.schedules (workflow) where workflow is not null;
create unique index schedules_owned_workflow on taskflow.schedules (workflow) where owned and workflow is not null;
alter table taskflow.firings add column run_id uuid;

-- What is scheduled and has not happened yet, as the app reads it (S0.7): waits, and jobs that are not final.
create view taskflow.schedule_task as
select x.id, x.step as task_id,
    coalesce(s.value ->> 'kind', 'decision') as task_type,
    (s.value -> 'meta')::text as task_payload,
    (
        select case count(*) when 1 then min(o.result) else '[' || string_agg(coalesce(o.result, 'null'), ',') || ']' end
        from (
            select taskflow.readable(a.result, a.encoding) as result
            from taskflow.run_jobs p
            join lateral (
                select * from taskflow.attempts a where a.job_id = p.job_id and a.final order by a.attempt desc limit 1
            ) a on true
            where p.run_id = x.run_id and p.step = any (x.after) and p.iteration = (
                select max(q.iteration) from taskflow.run_jobs q where q.run_id = p.run_id and q.step = p.step)
            order by p.id
        ) o
    ) as pre_task_payload,
    r.input::text as workflow_payload,
    w.document::text as workflow_json,
    x.run_id, x.due_at, x.job_id
from (
    select t.id * 2 as id, t.run_id, t.name as step, t.after, t.due_at, null::uuid as job_id from taskflow.run_timers t
    union all
    select j.id * 2 + 1, j.run_id, j.step, j.after, null, j.job_id
    from taskflow.run_jobs j
    where j.job_id is not null
        and not exists (select from taskflow.attempts a where a.job_id = j.job_id and a.final)
) x
join taskflow.runs r on r.id = x.run_id and r.finished_at is null
join taskflow.workflows w on w.name = r.workflow and w.version = r.version
left join lateral (
    select value from json_array_elements(case json_typeof(w.document -> 'steps') when 'array' then w.document -> 'steps' else '[]' end)
    where value ->> 'name' = x.step
) s on true;
