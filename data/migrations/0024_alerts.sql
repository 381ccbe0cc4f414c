-- Alerts (S1.10): rules, the facts that they select, and the messages that are being gathered from these.

-- A rule selects facts and says where they are sent. An empty selector selects all. Secrets are here by their names only.
create table taskflow.alert_rules (
    id              uuid primary key default gen_random_uuid(),
    name            text        not null unique,
    active          boolean     not null default true,
    events          text[]      not null,
    namespace       text        not null default '',
    queue           text        not null default '',
    task            text        not null default '',
    workflow        text        not null default '',
    kind            text        not null,               -- webhook, slack
    url             text        not null default '',
    url_secret      text        not null default '',    -- the name of the secret that is the URL
    secret          text        not null default '',    -- the name of the secret that signs
    gather          double precision not null,          -- seconds from the first fact of a message to its sending
    max_messages    integer     not null,               -- in any `period`
    period          double precision not null,          -- seconds
    no_worker_for   double precision not null,          -- seconds that a job waits without a worker before it is a fact
    backlog_age     double precision not null,          -- seconds that a job waits at all before it is a fact
    created_at      timestamptz not null default taskflow.now(),
    updated_at      timestamptz not null default taskflow.now()
);

-- Facts that a rule has selected and that are in no message yet: written by the transaction that makes them true, deleted
-- by the one that counts them (ADR 25). Without a foreign key: a rule that is deleted must not fail an outcome.
create table taskflow.alert_facts (
    seq         bigint      not null generated always as identity primary key,
    rule_id     uuid        not null,
    event       text        not null,
    subject     uuid,                                   -- the job or the run
    attempt     integer,
    queue       text        not null default '',
    task        text        not null default '',
    workflow    text        not null default '',
    detail      text,
    at          timestamptz not null default taskflow.now()
);

-- The next message of each rule as far as it is gathered, and when the last ones were made.
create table taskflow.alert_groups (
    rule_id     uuid primary key references taskflow.alert_rules on delete cascade,
    opened_at   timestamptz,                            -- null: nothing is gathered
    counts      jsonb       not null default '{}',      -- facts by event
    first       jsonb       not null default '[]',      -- the first of them
    sent        timestamptz[] not null default '{}',    -- of the messages within the period, at most max_messages
    last_job    uuid                                    -- that delivers the last message
);

-- Lanes that a rule has found without a worker, or with an old backlog, and that are so still: a fact once, until it ends.
create table taskflow.alert_conditions (
    rule_id     uuid        not null references taskflow.alert_rules on delete cascade,
    event       text        not null,
    queue       text        not null,
    task        text        not null,
    since       timestamptz not null default taskflow.now(),
    primary key (rule_id, event, queue, task)
);

create function taskflow.alert_wanted(in_event text) returns boolean
language sql stable
as $$ select exists (select from taskflow.alert_rules r where r.active and in_event = any (r.events)) $$;

-- Whether a rule selects a fact. The namespace is that of the queue, or of the workflow.
create function taskflow.alert_selects(r taskflow.alert_rules, in_event text, in_queue text, in_task text, in_workflow text)
returns boolean
language sql immutable
as $$
    select r.active and in_event = any (r.events)
        and (r.namespace = '' or r.namespace = coalesce(substring(in_queue || in_workflow from '^(.*)/'), 'default'))
        and (r.queue = '' or r.queue = in_queue)
        and (r.task = '' or r.task = in_task)
        and (r.workflow = '' or r.workflow = in_workflow)
$$;

-- Facts about jobs, within the transaction that makes them true. With `in_attempts`, of those attempts alone that this
-- transaction has inserted: one that repeats a commit in doubt tells nothing twice (A8). A rule's task is the handler, or
-- the named task. Alerts themselves are no facts, so that none can lead to another.
create function taskflow.alert_jobs(in_event text, in_jobs uuid[], in_attempts integer[] default null) returns void
language plpgsql
as $$
begin
    if not taskflow.alert_wanted(in_event) then
        return;
    end if;
    insert into taskflow.alert_facts (rule_id, event, subject, attempt, queue, task)
    select r.id, in_event, j.id, w.attempt, j.queue, coalesce(t.name, j.task)
    from unnest(in_jobs, in_attempts) as w (job_id, attempt)
    join taskflow.jobs j on j.id = w.job_id
    left join taskflow.attempts a on a.job_id = w.job_id and a.attempt = w.attempt
    left join taskflow.tasks t on t.id = case
        when j.options ->> 'task_id' ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then (j.options ->> 'task_id')::uuid
    end
    join taskflow.alert_rules r on taskflow.alert_selects(r, in_event, j.queue, j.task, '')
        or taskflow.alert_selects(r, in_event, j.queue, t.name, '')
    where j.task <> 'taskflow.alert' and (in_attempts is null or a.xmin = pg_current_xact_id()::xid);
end $$;

-- Facts about runs, within the transaction that makes them true.
create function taskflow.alert_runs(in_event text, in_runs uuid[]) returns void
language plpgsql
as $$
begin
    if not taskflow.alert_wanted(in_event) then
        return;
    end if;
    insert into taskflow.alert_facts (rule_id, event, subject, workflow)
    select r.id, in_event, x.id, x.workflow
    from taskflow.runs x
    join taskflow.alert_rules r on taskflow.alert_selects(r, in_event, '', '', x.workflow)
    where x.id = any (in_runs);
end $$;
