-- Handlers of tasks that workers have registered, and what these say of the jobs of their tasks.

-- One row for each name that a worker has ever had a handler for (R20). Null: nothing was said. They hold for jobs that
-- name the task, where whoever submits them says nothing else.
create table taskflow.handlers (
    name          text        primary key,
    queue         text,
    retries       integer,
    priority      smallint,
    options       jsonb,
    -- When the worker whose word this is registered: an older one does not take it back by coming again.
    registered_at timestamptz not null default now(),
    first_seen_at timestamptz not null default now(),
    version       bigint      not null default 1 -- counts its changes: readers compare the sum
);

insert into taskflow.handlers (name)
select distinct handler from taskflow.workers, unnest(tasks) as handler
on conflict do nothing;

-- The queues that a worker takes jobs of tasks from; none: all.
alter table taskflow.workers add column only_queues text[] not null default '{}';

-- Null: as the task's handler says. Tasks that are there have said what they say.
alter table taskflow.tasks alter column queue drop not null;
alter table taskflow.tasks alter column priority drop not null, alter column priority drop default;
alter table taskflow.tasks alter column retries drop not null, alter column retries drop default;

-- Named tasks that were removed, for as long as there are logs of their runs.
create table taskflow.removed_tasks (
    id          uuid        primary key,
    name        text        not null,
    removed_at  timestamptz not null default now()
);
create index removed_tasks_name on taskflow.removed_tasks (name, removed_at);
