-- The spine: jobs and attempts, which are only ever appended, and the small tables beside them.
create schema if not exists taskflow;

-- What was asked for. One row a job, written once. Partitioned by id, which is a UUIDv7 and so by its day.
create table taskflow.jobs (
    id          uuid        not null,
    tx          xid8        not null default pg_current_xact_id(),  -- lane order is (tx, id): protocol A2
    created_at  timestamptz not null default now(),
    priority    smallint    not null default 5,
    encoding    smallint    not null default 1,                     -- 1 JSON, 2 text, 3 bytes
    retries     integer     not null default 0,
    deferred    boolean     not null default false,                 -- due later: stands in no lane
    queue       text        not null,
    task        text        not null default '',                    -- '': for the queue's own handler
    payload     bytea,                                              -- null: JSON null
    key         text,
    run_at      timestamptz,
    options     jsonb,                                              -- what most jobs leave out
    primary key (id),
    check (priority between 0 and 9),
    check (retries >= 0)
) partition by range (id);

create index jobs_lane on taskflow.jobs (queue, task, priority, tx, id) where not deferred;

-- What happened. One row a try, written once, keyed by the job it belongs to.
create table taskflow.attempts (
    job_id      uuid        not null,
    started_at  timestamptz,                                        -- null: it never started
    finished_at timestamptz not null,
    exec_id     uuid,                                               -- null: ended without being handed out
    attempt     integer     not null,
    tries       integer     not null,                               -- used, this one included
    outcome     smallint    not null,                               -- taskflow.outcome_name()
    final       boolean     not null,
    encoding    smallint    not null default 1,
    worker      text,
    result      bytea,
    error       jsonb,                                              -- type, message, traceback, details
    primary key (job_id, attempt)
) partition by range (job_id);

create index attempts_unsuccessful on taskflow.attempts (finished_at) where final and outcome <> 1;

create table taskflow.namespaces (
    name        text primary key,
    created_at  timestamptz not null default now()
);
insert into taskflow.namespaces (name) values ('default');

create table taskflow.queues (
    name        text primary key,                                   -- 'ns/name' outside the namespace default
    shard       smallint    not null,
    created_at  timestamptz not null default now()
);

-- One row for each of the logical shards. Changed by a takeover only; every fence reads it.
create table taskflow.shards (
    shard         smallint primary key,
    epoch         bigint   not null default 0,
    owner         text,                                             -- members.name
    incarnation   uuid,
    address       text,
    queue_name    text,
    queue_address text
) with (fillfactor = 50);
insert into taskflow.shards (shard) select generate_series(0, 15);

-- Every process of ours. `beat` grows while it lives; nobody compares clocks.
create table taskflow.members (
    name        text primary key,
    kind        text        not null,
    incarnation uuid        not null,
    beat        bigint      not null default 0,
    addresses   text[]      not null default '{}',
    started_at  timestamptz not null default now()
) with (fillfactor = 50);

-- Workers registered with a coordinator: those whose confirmation a takeover waits for (A5).
create table taskflow.workers (
    worker_id   uuid        not null,
    coordinator text        not null,
    name        text        not null,
    host        text        not null,
    pid         integer     not null,
    queues      text[]      not null,
    tasks       text[]      not null,
    concurrency integer     not null,
    sdk         text        not null,
    draining    boolean     not null default false,
    started_at  timestamptz not null default now(),
    primary key (worker_id, coordinator)
);

-- A lane is (queue, task, priority); its mark is the point up to which every unfinished job is in
-- `deferred` or `leases`, but for the jobs of the transactions in `late`.
create table taskflow.lanes (
    queue       text        not null,
    task        text        not null,
    priority    smallint    not null,
    shard       smallint    not null,
    tx          xid8        not null default '0',
    id          uuid        not null default '00000000-0000-0000-0000-000000000000',
    late        xid8[]      not null default '{}',
    primary key (queue, task, priority)
) with (fillfactor = 50);
create index lanes_shard on taskflow.lanes (shard);

-- Jobs that wait for a time. A due row stays until the transaction that appends the attempt it led to (A4).
create table taskflow.deferred (
    job_id      uuid primary key,
    due_at      timestamptz not null,
    shard       smallint    not null,
    priority    smallint    not null,
    attempt     integer     not null,                               -- number of the next attempt
    tries       integer     not null,                               -- used so far
    reason      smallint    not null,                               -- 1 scheduled, 2 retrying, 3 snoozed, 4 returned, 5 by hand
    queue       text        not null,
    task        text        not null
) with (fillfactor = 70);
create index deferred_due on taskflow.deferred (shard, due_at);

-- Attempts that outlast a heartbeat, and those handed out in doubt (A12: started = false).
create table taskflow.leases (
    job_id      uuid primary key,
    exec_id     uuid        not null,
    started_at  timestamptz,
    shard       smallint    not null,
    priority    smallint    not null,
    attempt     integer     not null,
    tries       integer     not null,
    handouts    integer     not null default 0,                     -- without a start: R4
    started     boolean     not null,
    queue       text        not null,
    task        text        not null,
    worker      text,
    progress    jsonb
) with (fillfactor = 50);
create index leases_shard on taskflow.leases (shard);

create table taskflow.job_keys (
    namespace   text        not null,
    key         text        not null,
    job_id      uuid        not null,
    created_at  timestamptz not null default now(),
    primary key (namespace, key)
);

-- Wishes to cancel. A row is done once the outcome stands in `attempts`; it stays, so that a lane that reads
-- the job later passes over it. Retrying the job by hand revokes it.
create table taskflow.cancels (
    job_id      uuid primary key,
    shard       smallint    not null,
    requested_at timestamptz not null default now(),
    reason      text        not null default '',
    done        boolean     not null default false,
    revoked     boolean     not null default false
);
create index cancels_open on taskflow.cancels (shard) where not done;

create table taskflow.job_logs (
    job_id      uuid        not null,
    seq         bigint      not null generated always as identity,
    attempt     integer     not null,
    logged_at   timestamptz not null,
    level       text        not null,
    message     text        not null,
    primary key (job_id, seq)
);

-- Raises unless every shard is still in the epoch given. The last statement of every transaction of a coordinator,
-- sent in one pipeline with COMMIT (A1). FOR SHARE, because a takeover's update must wait for it.
create function taskflow.fence(shards smallint[], epochs bigint[]) returns void
language plpgsql as $$
declare
    held integer;
begin
    select count(*) into held
    from (
        select s.shard, s.epoch from taskflow.shards s
        where s.shard = any (fence.shards) order by s.shard for share
    ) present
    join unnest(fence.shards, fence.epochs) as claimed (shard, epoch) using (shard, epoch);
    if held is distinct from cardinality(fence.shards) then
        raise exception 'a shard has another owner' using errcode = 'TF001';
    end if;
end $$;

-- The smallest UUIDv7 of an instant: a bound of partitions.
create function taskflow.uuid_at(instant timestamptz) returns uuid
language sql immutable strict as $$
    select (lpad(to_hex((extract(epoch from instant) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

-- Makes the daily partitions of jobs and attempts from `first` on. CREATE, CHECK, ATTACH: a long reader
-- of the parent stops nobody's insert (B7). Idempotent; the caller sets lock_timeout.
create function taskflow.create_partitions(first date, days integer) returns integer
language plpgsql as $$
declare
    made integer := 0;
    day date;
    parent text;
    col text;
    part text;
    low uuid;
    high uuid;
begin
    perform pg_advisory_xact_lock(hashtext('taskflow.create_partitions'));
    for day in select generate_series(first, first + days - 1, interval '1 day')::date loop
        low := taskflow.uuid_at(day::timestamp at time zone 'UTC');
        high := taskflow.uuid_at((day + 1)::timestamp at time zone 'UTC');
        foreach parent in array array['jobs', 'attempts'] loop
            part := format('%s_p%s', parent, to_char(day, 'YYYYMMDD'));
            continue when to_regclass('taskflow.' || part) is not null;
            col := case parent when 'jobs' then 'id' else 'job_id' end;
            execute format('create table taskflow.%I (like taskflow.%I including defaults including constraints)
                with (autovacuum_vacuum_insert_scale_factor = 0.05)', part, parent);
            execute format('alter table taskflow.%I add constraint %I check (%I >= %L and %I < %L)',
                part, part || '_day', col, low, col, high);
            execute format('alter table taskflow.%I attach partition taskflow.%I for values from (%L) to (%L)',
                parent, part, low, high);
            execute format('alter table taskflow.%I drop constraint %I', part, part || '_day');
            made := made + 1;
        end loop;
    end loop;
    return made;
end $$;

create function taskflow.outcome_name(outcome smallint) returns text
language sql immutable strict as $$
    select (array['succeeded', 'failed', 'timed_out', 'lost', 'cancelled', 'snoozed', 'returned'])[outcome]
$$;

-- Bytes as a person reads them: JSON and text as text, bytes as hex.
create function taskflow.readable(value bytea, encoding smallint) returns text
language sql immutable as $$
    select case when encoding = 3 then encode(value, 'hex') else convert_from(value, 'UTF8') end
$$;

-- Every job with its state, derived as architecture.md says: lease, then deferred, then the last attempt.
create view taskflow.job_states as
select j.id, j.queue, j.task,
    case
        when l.started then 'running'
        when l.job_id is not null then 'requested'
        when d.job_id is not null and d.due_at <= now() then 'ready'
        when d.reason = 2 then 'retrying'
        when d.job_id is not null then 'scheduled'
        when a.final and a.outcome in (2, 3, 4) then 'failed'
        when a.final then taskflow.outcome_name(a.outcome)
        else 'ready'
    end as state,
    coalesce(l.attempt, a.attempt, 0) as attempt,
    j.priority, j.retries, j.created_at,
    coalesce(d.due_at, j.run_at) as run_at,
    coalesce(l.started_at, a.started_at) as started_at,
    case when l.job_id is null and d.job_id is null and a.final then a.finished_at end as finished_at,
    taskflow.readable(j.payload, j.encoding) as payload,
    case when a.final then taskflow.readable(a.result, a.encoding) end as result,
    a.error ->> 'message' as error,
    coalesce(l.worker, a.worker) as worker,
    j.key, j.options
from taskflow.jobs j
left join taskflow.leases l on l.job_id = j.id
left join taskflow.deferred d on d.job_id = j.id
left join lateral (
    select * from taskflow.attempts a where a.job_id = j.id order by a.attempt desc limit 1
) a on true;

-- Every try, with names for numbers.
create view taskflow.attempt_history as
select a.job_id, j.queue, j.task, a.attempt, taskflow.outcome_name(a.outcome) as outcome, a.final,
    a.started_at, a.finished_at, a.finished_at - a.started_at as ran, a.tries, a.worker, a.exec_id,
    taskflow.readable(a.result, a.encoding) as result, a.error
from taskflow.attempts a
join taskflow.jobs j on j.id = a.job_id;
