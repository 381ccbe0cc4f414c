-- What data/migrations make, dumped by `make schema`. Read it; change a migration.
CREATE SCHEMA taskflow;

CREATE FUNCTION taskflow.create_partitions(first date, days integer) RETURNS integer
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION taskflow.fence(shards smallint[], epochs bigint[]) RETURNS void
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION taskflow.leads(in_role text, in_term bigint) RETURNS void
    LANGUAGE plpgsql
    AS $$
begin
    perform from taskflow.leaders where role = in_role and term = in_term for share;
    if not found then
        raise exception 'another scheduler leads' using errcode = 'TF001';
    end if;
end $$;

CREATE FUNCTION taskflow.now() RETURNS timestamp with time zone
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    select now() + moved_by from taskflow.clock
$$;

CREATE FUNCTION taskflow.outcome_name(outcome smallint) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT
    AS $$
    select (array['succeeded', 'failed', 'timed_out', 'lost', 'cancelled', 'snoozed', 'returned'])[outcome]
$$;

CREATE FUNCTION taskflow.readable(value bytea, encoding smallint) RETURNS text
    LANGUAGE sql IMMUTABLE
    AS $$
    select case when encoding = 3 then encode(value, 'hex') else convert_from(value, 'UTF8') end
$$;

CREATE FUNCTION taskflow.refuse_closed_day() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
    raise exception 'the day of job % is past its retention, and is being dropped', new.id using errcode = 'check_violation';
end $$;

CREATE FUNCTION taskflow.uuid_at(instant timestamp with time zone) RETURNS uuid
    LANGUAGE sql IMMUTABLE STRICT
    AS $$
    select (lpad(to_hex((extract(epoch from instant) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

CREATE TABLE taskflow.attempts (
    job_id uuid NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone NOT NULL,
    exec_id uuid,
    attempt integer NOT NULL,
    tries integer NOT NULL,
    outcome smallint NOT NULL,
    final boolean NOT NULL,
    encoding smallint DEFAULT 1 NOT NULL,
    worker text,
    result bytea,
    error jsonb
)
PARTITION BY RANGE (job_id);

CREATE TABLE taskflow.jobs (
    id uuid NOT NULL,
    tx xid8 DEFAULT pg_current_xact_id() NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    priority smallint DEFAULT 5 NOT NULL,
    encoding smallint DEFAULT 1 NOT NULL,
    retries integer DEFAULT 0 NOT NULL,
    deferred boolean DEFAULT false NOT NULL,
    queue text NOT NULL,
    task text DEFAULT ''::text NOT NULL,
    payload bytea,
    key text,
    run_at timestamp with time zone,
    options jsonb,
    CONSTRAINT jobs_priority_check CHECK (((priority >= 0) AND (priority <= 9))),
    CONSTRAINT jobs_retries_check CHECK ((retries >= 0))
)
PARTITION BY RANGE (id);

CREATE VIEW taskflow.attempt_history AS
 SELECT a.job_id,
    j.queue,
    j.task,
    a.attempt,
    taskflow.outcome_name(a.outcome) AS outcome,
    a.final,
    a.started_at,
    a.finished_at,
    (a.finished_at - a.started_at) AS ran,
    a.tries,
    a.worker,
    a.exec_id,
    taskflow.readable(a.result, a.encoding) AS result,
    a.error
   FROM (taskflow.attempts a
     JOIN taskflow.jobs j ON ((j.id = a.job_id)));

CREATE TABLE taskflow.cancels (
    job_id uuid NOT NULL,
    shard smallint NOT NULL,
    requested_at timestamp with time zone DEFAULT now() NOT NULL,
    reason text DEFAULT ''::text NOT NULL,
    done boolean DEFAULT false NOT NULL,
    revoked boolean DEFAULT false NOT NULL
);

CREATE TABLE taskflow.clock (
    only_row boolean DEFAULT true NOT NULL,
    moved_by interval DEFAULT '00:00:00'::interval NOT NULL,
    CONSTRAINT clock_only_row_check CHECK (only_row)
);

CREATE TABLE taskflow.closed_days (
    day date NOT NULL,
    low uuid NOT NULL,
    high uuid NOT NULL,
    closed_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE taskflow.counts (
    queue text NOT NULL,
    minute timestamp with time zone NOT NULL,
    outcome smallint NOT NULL,
    n bigint NOT NULL
)
WITH (fillfactor='50');

CREATE TABLE taskflow.deferred (
    job_id uuid NOT NULL,
    due_at timestamp with time zone NOT NULL,
    shard smallint NOT NULL,
    priority smallint NOT NULL,
    attempt integer NOT NULL,
    tries integer NOT NULL,
    reason smallint NOT NULL,
    queue text NOT NULL,
    task text NOT NULL
)
WITH (fillfactor='70');

CREATE TABLE taskflow.firings (
    schedule_id uuid NOT NULL,
    instant timestamp with time zone NOT NULL,
    first timestamp with time zone NOT NULL,
    count bigint DEFAULT 1 NOT NULL,
    state text NOT NULL,
    reason text NOT NULL,
    job_id uuid,
    open boolean DEFAULT false NOT NULL,
    decided_at timestamp with time zone NOT NULL
);

CREATE TABLE taskflow.leases (
    job_id uuid NOT NULL,
    exec_id uuid NOT NULL,
    started_at timestamp with time zone,
    shard smallint NOT NULL,
    priority smallint NOT NULL,
    attempt integer NOT NULL,
    tries integer NOT NULL,
    handouts integer DEFAULT 0 NOT NULL,
    started boolean NOT NULL,
    queue text NOT NULL,
    task text NOT NULL,
    worker text,
    progress jsonb
)
WITH (fillfactor='50');

CREATE VIEW taskflow.job_facts AS
 SELECT j.id,
    j.queue,
    j.task,
    j.options,
        CASE
            WHEN l.started THEN 4
            WHEN (l.job_id IS NOT NULL) THEN 3
            WHEN ((d.job_id IS NOT NULL) AND (d.due_at <= ( SELECT taskflow.now() AS now))) THEN 2
            WHEN (d.reason = 2) THEN 5
            WHEN (d.job_id IS NOT NULL) THEN 1
            WHEN (a.final AND (a.outcome = ANY (ARRAY[2, 3, 4]))) THEN 7
            WHEN (a.final AND (a.outcome = 5)) THEN 8
            WHEN a.final THEN 6
            ELSE 2
        END AS state,
    a.error
   FROM (((taskflow.jobs j
     LEFT JOIN taskflow.leases l ON ((l.job_id = j.id)))
     LEFT JOIN taskflow.deferred d ON ((d.job_id = j.id)))
     LEFT JOIN LATERAL ( SELECT a_1.final,
            a_1.outcome,
            a_1.error
           FROM taskflow.attempts a_1
          WHERE (a_1.job_id = j.id)
          ORDER BY a_1.attempt DESC
         LIMIT 1) a ON (true));

CREATE TABLE taskflow.job_keys (
    namespace text NOT NULL,
    key text NOT NULL,
    job_id uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE taskflow.job_logs (
    job_id uuid NOT NULL,
    seq bigint NOT NULL,
    attempt integer NOT NULL,
    logged_at timestamp with time zone NOT NULL,
    level text NOT NULL,
    message text NOT NULL
);

ALTER TABLE taskflow.job_logs ALTER COLUMN seq ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME taskflow.job_logs_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE VIEW taskflow.job_states AS
 SELECT j.id,
    j.queue,
    j.task,
        CASE
            WHEN l.started THEN 'running'::text
            WHEN (l.job_id IS NOT NULL) THEN 'requested'::text
            WHEN ((d.job_id IS NOT NULL) AND (d.due_at <= ( SELECT taskflow.now() AS now))) THEN 'ready'::text
            WHEN (d.reason = 2) THEN 'retrying'::text
            WHEN (d.job_id IS NOT NULL) THEN 'scheduled'::text
            WHEN (a.final AND (a.outcome = ANY (ARRAY[2, 3, 4]))) THEN 'failed'::text
            WHEN a.final THEN taskflow.outcome_name(a.outcome)
            ELSE 'ready'::text
        END AS state,
    COALESCE(l.attempt, a.attempt, 0) AS attempt,
    j.priority,
    j.retries,
    j.created_at,
    COALESCE(d.due_at, j.run_at) AS run_at,
    COALESCE(l.started_at, a.started_at) AS started_at,
        CASE
            WHEN ((l.job_id IS NULL) AND (d.job_id IS NULL) AND a.final) THEN a.finished_at
            ELSE NULL::timestamp with time zone
        END AS finished_at,
    taskflow.readable(j.payload, j.encoding) AS payload,
        CASE
            WHEN a.final THEN taskflow.readable(a.result, a.encoding)
            ELSE NULL::text
        END AS result,
    (a.error ->> 'message'::text) AS error,
    COALESCE(l.worker, a.worker) AS worker,
    j.key,
    j.options
   FROM (((taskflow.jobs j
     LEFT JOIN taskflow.leases l ON ((l.job_id = j.id)))
     LEFT JOIN taskflow.deferred d ON ((d.job_id = j.id)))
     LEFT JOIN LATERAL ( SELECT a_1.job_id,
            a_1.started_at,
            a_1.finished_at,
            a_1.exec_id,
            a_1.attempt,
            a_1.tries,
            a_1.outcome,
            a_1.final,
            a_1.encoding,
            a_1.worker,
            a_1.result,
            a_1.error
           FROM taskflow.attempts a_1
          WHERE (a_1.job_id = j.id)
          ORDER BY a_1.attempt DESC
         LIMIT 1) a ON (true));

CREATE TABLE taskflow.job_tags (
    word text NOT NULL,
    job_id uuid NOT NULL
);

CREATE TABLE taskflow.lanes (
    queue text NOT NULL,
    task text NOT NULL,
    priority smallint NOT NULL,
    shard smallint NOT NULL,
    tx xid8 DEFAULT '0'::xid8 NOT NULL,
    id uuid DEFAULT '00000000-0000-0000-0000-000000000000'::uuid NOT NULL,
    late xid8[] DEFAULT '{}'::xid8[] NOT NULL
)
WITH (fillfactor='50');

CREATE TABLE taskflow.leaders (
    role text NOT NULL,
    term bigint DEFAULT 0 NOT NULL,
    owner text,
    incarnation uuid
);

CREATE TABLE taskflow.members (
    name text NOT NULL,
    kind text NOT NULL,
    incarnation uuid NOT NULL,
    beat bigint DEFAULT 0 NOT NULL,
    addresses text[] DEFAULT '{}'::text[] NOT NULL,
    started_at timestamp with time zone DEFAULT now() NOT NULL
)
WITH (fillfactor='50');

CREATE TABLE taskflow.migrations (
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE taskflow.namespaces (
    name text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE taskflow.queues (
    name text NOT NULL,
    shard smallint NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    paused boolean DEFAULT false NOT NULL
);

CREATE TABLE taskflow.schedules (
    id uuid NOT NULL,
    namespace text DEFAULT 'default'::text NOT NULL,
    task text NOT NULL,
    owned boolean DEFAULT false NOT NULL,
    cron text,
    at timestamp with time zone,
    time_zone text NOT NULL,
    start_at timestamp with time zone,
    end_at timestamp with time zone,
    payload bytea,
    encoding smallint DEFAULT 1 NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    misfire text NOT NULL,
    overlap text NOT NULL,
    active boolean DEFAULT true NOT NULL,
    cursor timestamp with time zone NOT NULL,
    next_at timestamp with time zone,
    wake_at timestamp with time zone,
    last_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT schedules_check CHECK (((cron IS NULL) <> (at IS NULL)))
)
WITH (fillfactor='70');

CREATE TABLE taskflow.shards (
    shard smallint NOT NULL,
    epoch bigint DEFAULT 0 NOT NULL,
    owner text,
    incarnation uuid,
    address text,
    queue_name text,
    queue_address text
)
WITH (fillfactor='50');

CREATE TABLE taskflow.tasks (
    id uuid NOT NULL,
    name text NOT NULL,
    title text DEFAULT ''::text NOT NULL,
    description text DEFAULT ''::text NOT NULL,
    active boolean DEFAULT true NOT NULL,
    target text NOT NULL,
    queue text NOT NULL,
    priority smallint DEFAULT 5 NOT NULL,
    retries integer DEFAULT 0 NOT NULL,
    options jsonb,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE taskflow.workers (
    worker_id uuid NOT NULL,
    coordinator text NOT NULL,
    name text NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    queues text[] NOT NULL,
    tasks text[] NOT NULL,
    concurrency integer NOT NULL,
    sdk text NOT NULL,
    draining boolean DEFAULT false NOT NULL,
    started_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE ONLY taskflow.attempts
    ADD CONSTRAINT attempts_pkey PRIMARY KEY (job_id, attempt);

ALTER TABLE ONLY taskflow.cancels
    ADD CONSTRAINT cancels_pkey PRIMARY KEY (job_id);

ALTER TABLE ONLY taskflow.clock
    ADD CONSTRAINT clock_pkey PRIMARY KEY (only_row);

ALTER TABLE ONLY taskflow.closed_days
    ADD CONSTRAINT closed_days_pkey PRIMARY KEY (day);

ALTER TABLE ONLY taskflow.counts
    ADD CONSTRAINT counts_pkey PRIMARY KEY (queue, minute, outcome);

ALTER TABLE ONLY taskflow.deferred
    ADD CONSTRAINT deferred_pkey PRIMARY KEY (job_id);

ALTER TABLE ONLY taskflow.firings
    ADD CONSTRAINT firings_pkey PRIMARY KEY (schedule_id, instant);

ALTER TABLE ONLY taskflow.job_keys
    ADD CONSTRAINT job_keys_pkey PRIMARY KEY (namespace, key);

ALTER TABLE ONLY taskflow.job_logs
    ADD CONSTRAINT job_logs_pkey PRIMARY KEY (job_id, seq);

ALTER TABLE ONLY taskflow.job_tags
    ADD CONSTRAINT job_tags_pkey PRIMARY KEY (word, job_id);

ALTER TABLE ONLY taskflow.jobs
    ADD CONSTRAINT jobs_pkey PRIMARY KEY (id);

ALTER TABLE ONLY taskflow.lanes
    ADD CONSTRAINT lanes_pkey PRIMARY KEY (queue, task, priority);

ALTER TABLE ONLY taskflow.leaders
    ADD CONSTRAINT leaders_pkey PRIMARY KEY (role);

ALTER TABLE ONLY taskflow.leases
    ADD CONSTRAINT leases_pkey PRIMARY KEY (job_id);

ALTER TABLE ONLY taskflow.members
    ADD CONSTRAINT members_pkey PRIMARY KEY (name);

ALTER TABLE ONLY taskflow.migrations
    ADD CONSTRAINT migrations_pkey PRIMARY KEY (name);

ALTER TABLE ONLY taskflow.namespaces
    ADD CONSTRAINT namespaces_pkey PRIMARY KEY (name);

ALTER TABLE ONLY taskflow.queues
    ADD CONSTRAINT queues_pkey PRIMARY KEY (name);

ALTER TABLE ONLY taskflow.schedules
    ADD CONSTRAINT schedules_pkey PRIMARY KEY (id);

ALTER TABLE ONLY taskflow.shards
    ADD CONSTRAINT shards_pkey PRIMARY KEY (shard);

ALTER TABLE ONLY taskflow.tasks
    ADD CONSTRAINT tasks_name_key UNIQUE (name);

ALTER TABLE ONLY taskflow.tasks
    ADD CONSTRAINT tasks_pkey PRIMARY KEY (id);

ALTER TABLE ONLY taskflow.workers
    ADD CONSTRAINT workers_pkey PRIMARY KEY (worker_id, coordinator);

CREATE INDEX attempts_unsuccessful ON ONLY taskflow.attempts USING btree (job_id) WHERE (final AND (outcome <> 1));

CREATE INDEX cancels_open ON taskflow.cancels USING btree (shard) WHERE (NOT done);

CREATE INDEX deferred_due ON taskflow.deferred USING btree (shard, due_at);

CREATE INDEX deferred_queue ON taskflow.deferred USING btree (queue, job_id);

CREATE INDEX firings_job ON taskflow.firings USING btree (job_id) WHERE (job_id IS NOT NULL);

CREATE INDEX firings_open ON taskflow.firings USING btree (schedule_id) WHERE open;

CREATE INDEX firings_queued ON taskflow.firings USING btree (schedule_id, instant) WHERE (state = 'queued'::text);

CREATE INDEX job_tags_job ON taskflow.job_tags USING btree (job_id);

CREATE INDEX jobs_lane ON ONLY taskflow.jobs USING btree (queue, task, priority, tx, id) WHERE (NOT deferred);

CREATE INDEX jobs_list ON ONLY taskflow.jobs USING btree (queue, task, id);

CREATE INDEX lanes_shard ON taskflow.lanes USING btree (shard);

CREATE INDEX leases_shard ON taskflow.leases USING btree (shard);

CREATE INDEX queues_paused ON taskflow.queues USING btree (shard) WHERE paused;

CREATE INDEX schedules_due ON taskflow.schedules USING btree (wake_at) WHERE (wake_at IS NOT NULL);

CREATE INDEX schedules_metadata ON taskflow.schedules USING gin (metadata jsonb_path_ops);

CREATE UNIQUE INDEX schedules_owned ON taskflow.schedules USING btree (task) WHERE owned;

CREATE INDEX schedules_task ON taskflow.schedules USING btree (task);

ALTER TABLE ONLY taskflow.firings
    ADD CONSTRAINT firings_schedule_id_fkey FOREIGN KEY (schedule_id) REFERENCES taskflow.schedules(id) ON DELETE CASCADE;
