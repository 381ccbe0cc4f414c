-- Named tasks, schedules, and the ledger of their firings (M.7).

create table taskflow.tasks (
    id          uuid        primary key,
    name        text        not null unique,                        -- 'ns/name' outside the namespace default
    title       text        not null default '',
    description text        not null default '',
    active      boolean     not null default true,                  -- false stops its schedule, not run() (R18)
    target      text        not null,                               -- the registered handler's name
    queue       text        not null,
    priority    smallint    not null default 5,
    retries     integer     not null default 0,
    options     jsonb,
    created_at  timestamptz not null default now(),
    updated_at  timestamptz not null default now()
);

-- When jobs are made by themselves. `cursor` is the last nominal instant that was decided; `wake_at`, when to decide
-- again; `next_at`, what people see.
create table taskflow.schedules (
    id          uuid        primary key,
    namespace   text        not null default 'default',
    task        text        not null,                               -- a task's name; its row may come later
    owned       boolean     not null default false,                 -- the task's own: it goes with the task
    cron        text,
    at          timestamptz,
    time_zone   text        not null,
    start_at    timestamptz,
    end_at      timestamptz,
    payload     bytea,
    encoding    smallint    not null default 1,
    metadata    jsonb       not null default '{}',
    misfire     text        not null,
    overlap     text        not null,
    active      boolean     not null default true,
    cursor      timestamptz not null,
    next_at     timestamptz,
    wake_at     timestamptz,
    last_at     timestamptz,                                        -- of the last job that it made
    created_at  timestamptz not null default now(),
    updated_at  timestamptz not null default now(),
    check ((cron is null) <> (at is null))
) with (fillfactor = 70);
create index schedules_due on taskflow.schedules (wake_at) where wake_at is not null;
create index schedules_task on taskflow.schedules (task);
create unique index schedules_owned on taskflow.schedules (task) where owned;
create index schedules_metadata on taskflow.schedules using gin (metadata jsonb_path_ops);

-- One row for every nominal instant, or for a range of skipped ones: what became of it, and why.
create table taskflow.firings (
    schedule_id uuid        not null references taskflow.schedules on delete cascade,
    instant     timestamptz not null,
    first       timestamptz not null,
    count       bigint      not null default 1,
    state       text        not null,
    reason      text        not null,
    job_id      uuid,
    open        boolean     not null default false,                 -- its job is not known to be final
    decided_at  timestamptz not null,
    primary key (schedule_id, instant)
);
create index firings_open on taskflow.firings (schedule_id) where open;
create index firings_queued on taskflow.firings (schedule_id, instant) where state = 'queued';
create index firings_job on taskflow.firings (job_id) where job_id is not null;

-- Who fires: one scheduler at a time. Each firing ends by reading its term here, FOR SHARE: a leader that was replaced
-- commits nothing.
create table taskflow.leaders (
    role        text        primary key,
    term        bigint      not null default 0,
    owner       text,                                               -- members.name
    incarnation uuid
);
insert into taskflow.leaders (role) values ('schedules');

-- Raises unless the leader's term is still this one. The last statement before its COMMIT.
create function taskflow.leads(in_role text, in_term bigint) returns void
language plpgsql as $$
begin
    perform from taskflow.leaders where role = in_role and term = in_term for share;
    if not found then
        raise exception 'another scheduler leads' using errcode = 'TF001';
    end if;
end $$;
