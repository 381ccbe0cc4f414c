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
    decided_at timestamp with time zone NOT NULL,
    run_id uuid,
    trigger text DEFAULT 'schedule'::text NOT NULL
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
    progress jsonb,
    in_progress_ms bigint
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
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    app_url text
);

CREATE TABLE taskflow.queues (
    name text NOT NULL,
    shard smallint NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    paused boolean DEFAULT false NOT NULL
);

CREATE TABLE taskflow.run_inbox (
    seq bigint NOT NULL,
    run_id uuid NOT NULL,
    shard smallint NOT NULL,
    event json,
    job_id uuid,
    attempt integer
);

ALTER TABLE taskflow.run_inbox ALTER COLUMN seq ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME taskflow.run_inbox_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE taskflow.run_jobs (
    id bigint NOT NULL,
    run_id uuid NOT NULL,
    step text NOT NULL,
    iteration integer NOT NULL,
    index integer NOT NULL,
    job_id uuid,
    child_id uuid,
    after text[] DEFAULT '{}'::text[] NOT NULL
);

ALTER TABLE taskflow.run_jobs ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME taskflow.run_jobs_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE taskflow.run_logs (
    run_id uuid NOT NULL,
    seq bigint NOT NULL,
    logged_at timestamp with time zone NOT NULL,
    message text NOT NULL
);

ALTER TABLE taskflow.run_logs ALTER COLUMN seq ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME taskflow.run_logs_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE taskflow.run_steps (
    run_id uuid NOT NULL,
    step text NOT NULL,
    iteration integer NOT NULL,
    status text NOT NULL,
    error json,
    due_at timestamp with time zone,
    started_at timestamp with time zone,
    finished_at timestamp with time zone
)
WITH (fillfactor='70');

CREATE TABLE taskflow.run_timers (
    id bigint NOT NULL,
    run_id uuid NOT NULL,
    name text NOT NULL,
    iteration integer NOT NULL,
    due_at timestamp with time zone NOT NULL,
    shard smallint NOT NULL,
    after text[] DEFAULT '{}'::text[] NOT NULL
);

ALTER TABLE taskflow.run_timers ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME taskflow.run_timers_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE taskflow.runs (
    id uuid NOT NULL,
    workflow text NOT NULL,
    version integer NOT NULL,
    shard smallint NOT NULL,
    status text DEFAULT 'new'::text NOT NULL,
    held boolean DEFAULT false NOT NULL,
    waiting boolean DEFAULT true NOT NULL,
    input json,
    context json NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    label text,
    trigger text NOT NULL,
    schedule_id uuid,
    parent_id uuid,
    parent_step text,
    parent_iteration integer,
    depth integer DEFAULT 0 NOT NULL,
    state json DEFAULT '{}'::json NOT NULL,
    signals text[] DEFAULT '{}'::text[] NOT NULL,
    output json,
    error json,
    sla_missed boolean DEFAULT false NOT NULL,
    created_at timestamp with time zone NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone
)
WITH (fillfactor='50');

CREATE TABLE taskflow.workflows (
    name text NOT NULL,
    version integer NOT NULL,
    document json NOT NULL,
    digest text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    deleted boolean DEFAULT false NOT NULL
);

CREATE VIEW taskflow.schedule_task AS
 SELECT x.id,
    x.step AS task_id,
    COALESCE((s.value ->> 'kind'::text), 'decision'::text) AS task_type,
    ((s.value -> 'meta'::text))::text AS task_payload,
    ( SELECT
                CASE count(*)
                    WHEN 1 THEN min(o.result)
                    ELSE (('['::text || string_agg(COALESCE(o.result, 'null'::text), ','::text)) || ']'::text)
                END AS "case"
           FROM ( SELECT taskflow.readable(a.result, a.encoding) AS result
                   FROM (taskflow.run_jobs p
                     JOIN LATERAL ( SELECT a_1.job_id,
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
                          WHERE ((a_1.job_id = p.job_id) AND a_1.final)
                          ORDER BY a_1.attempt DESC
                         LIMIT 1) a ON (true))
                  WHERE ((p.run_id = x.run_id) AND (p.step = ANY (x.after)) AND (p.iteration = ( SELECT max(q.iteration) AS max
                           FROM taskflow.run_jobs q
                          WHERE ((q.run_id = p.run_id) AND (q.step = p.step)))))
                  ORDER BY p.id) o) AS pre_task_payload,
    (r.input)::text AS workflow_payload,
    (w.document)::text AS workflow_json,
    x.run_id,
    x.due_at,
    x.job_id
   FROM (((( SELECT (t.id * 2) AS id,
            t.run_id,
            t.name AS step,
            t.after,
            t.due_at,
            NULL::uuid AS job_id
           FROM taskflow.run_timers t
        UNION ALL
         SELECT ((j.id * 2) + 1),
            j.run_id,
            j.step,
            j.after,
            NULL::timestamp with time zone,
            j.job_id
           FROM taskflow.run_jobs j
          WHERE ((j.job_id IS NOT NULL) AND (NOT (EXISTS ( SELECT
                   FROM taskflow.attempts a
                  WHERE ((a.job_id = j.job_id) AND a.final)))))) x
     JOIN taskflow.runs r ON (((r.id = x.run_id) AND (r.finished_at IS NULL))))
     JOIN taskflow.workflows w ON (((w.name = r.workflow) AND (w.version = r.version))))
     LEFT JOIN LATERAL ( SELECT json_array_elements.value
           FROM json_array_elements(
                CASE json_typeof((w.document -> 'steps'::text))
                    WHEN 'array'::text THEN (w.document -> 'steps'::text)
                    ELSE '[]'::json
                END) json_array_elements(value)
          WHERE ((json_array_elements.value ->> 'name'::text) = x.step)) s ON (true));

CREATE TABLE taskflow.schedules (
    id uuid NOT NULL,
    namespace text DEFAULT 'default'::text NOT NULL,
    task text,
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
    workflow text,
    CONSTRAINT schedules_check CHECK (((cron IS NULL) <> (at IS NULL))),
    CONSTRAINT schedules_target CHECK (((task IS NULL) <> (workflow IS NULL)))
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

CREATE TABLE taskflow.task_logs (
    task_id uuid NOT NULL,
    job_id uuid NOT NULL,
    attempt integer NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone NOT NULL,
    outcome smallint NOT NULL,
    final boolean NOT NULL
);

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

ALTER TABLE ONLY taskflow.run_inbox
    ADD CONSTRAINT run_inbox_pkey PRIMARY KEY (seq);

ALTER TABLE ONLY taskflow.run_jobs
    ADD CONSTRAINT run_jobs_pkey PRIMARY KEY (run_id, step, iteration, index);

ALTER TABLE ONLY taskflow.run_logs
    ADD CONSTRAINT run_logs_pkey PRIMARY KEY (run_id, seq);

ALTER TABLE ONLY taskflow.run_steps
    ADD CONSTRAINT run_steps_pkey PRIMARY KEY (run_id, step);

ALTER TABLE ONLY taskflow.run_timers
    ADD CONSTRAINT run_timers_pkey PRIMARY KEY (run_id, name, iteration);

ALTER TABLE ONLY taskflow.runs
    ADD CONSTRAINT runs_pkey PRIMARY KEY (id);

ALTER TABLE ONLY taskflow.schedules
    ADD CONSTRAINT schedules_pkey PRIMARY KEY (id);

ALTER TABLE ONLY taskflow.shards
    ADD CONSTRAINT shards_pkey PRIMARY KEY (shard);

ALTER TABLE ONLY taskflow.task_logs
    ADD CONSTRAINT task_logs_pkey PRIMARY KEY (job_id, attempt);

ALTER TABLE ONLY taskflow.tasks
    ADD CONSTRAINT tasks_name_key UNIQUE (name);

ALTER TABLE ONLY taskflow.tasks
    ADD CONSTRAINT tasks_pkey PRIMARY KEY (id);

ALTER TABLE ONLY taskflow.workers
    ADD CONSTRAINT workers_pkey PRIMARY KEY (worker_id, coordinator);

ALTER TABLE ONLY taskflow.workflows
    ADD CONSTRAINT workflows_pkey PRIMARY KEY (name, version);

CREATE INDEX attempts_unsuccessful ON ONLY taskflow.attempts USING btree (job_id) WHERE (final AND (outcome <> 1));

CREATE INDEX cancels_open ON taskflow.cancels USING btree (shard) WHERE (NOT done);

CREATE INDEX counts_minute ON taskflow.counts USING brin (minute);

CREATE INDEX deferred_due ON taskflow.deferred USING btree (shard, due_at);

CREATE INDEX deferred_queue ON taskflow.deferred USING btree (queue, job_id);

CREATE INDEX firings_decided ON taskflow.firings USING btree (decided_at) WHERE (state <> 'queued'::text);

CREATE INDEX firings_job ON taskflow.firings USING btree (job_id) WHERE (job_id IS NOT NULL);

CREATE INDEX firings_open ON taskflow.firings USING btree (schedule_id) WHERE open;

CREATE INDEX firings_queued ON taskflow.firings USING btree (schedule_id, instant) WHERE (state = 'queued'::text);

CREATE INDEX job_tags_job ON taskflow.job_tags USING btree (job_id);

CREATE INDEX jobs_lane ON ONLY taskflow.jobs USING btree (queue, task, priority, tx, id) WHERE (NOT deferred);

CREATE INDEX jobs_list ON ONLY taskflow.jobs USING btree (queue, task, id);

CREATE INDEX lanes_shard ON taskflow.lanes USING btree (shard);

CREATE INDEX leases_shard ON taskflow.leases USING btree (shard);

CREATE INDEX leases_task ON taskflow.leases USING btree (task) WHERE (task <> ''::text);

CREATE INDEX queues_paused ON taskflow.queues USING btree (shard) WHERE paused;

CREATE INDEX run_inbox_run ON taskflow.run_inbox USING btree (run_id, seq);

CREATE UNIQUE INDEX run_jobs_job ON taskflow.run_jobs USING btree (job_id) WHERE (job_id IS NOT NULL);

CREATE INDEX run_timers_due ON taskflow.run_timers USING btree (shard, due_at);

CREATE INDEX runs_finished ON taskflow.runs USING btree (finished_at) WHERE (finished_at IS NOT NULL);

CREATE INDEX runs_held ON taskflow.runs USING btree (workflow, id) WHERE held;

CREATE INDEX runs_metadata ON taskflow.runs USING gin (metadata jsonb_path_ops);

CREATE INDEX runs_open ON taskflow.runs USING btree (workflow) WHERE (finished_at IS NULL);

CREATE INDEX runs_schedule ON taskflow.runs USING btree (schedule_id) WHERE ((schedule_id IS NOT NULL) AND (finished_at IS NULL));

CREATE INDEX runs_status ON taskflow.runs USING btree (status, id);

CREATE INDEX runs_workflow ON taskflow.runs USING btree (workflow, id);

CREATE INDEX runs_workflow_status ON taskflow.runs USING btree (workflow, status, id);

CREATE INDEX schedules_due ON taskflow.schedules USING btree (wake_at) WHERE (wake_at IS NOT NULL);

CREATE INDEX schedules_metadata ON taskflow.schedules USING gin (metadata jsonb_path_ops);

CREATE UNIQUE INDEX schedules_owned ON taskflow.schedules USING btree (task) WHERE owned;

CREATE UNIQUE INDEX schedules_owned_workflow ON taskflow.schedules USING btree (workflow) WHERE (owned AND (workflow IS NOT NULL));

CREATE INDEX schedules_task ON taskflow.schedules USING btree (task);

CREATE INDEX schedules_workflow ON taskflow.schedules USING btree (workflow) WHERE (workflow IS NOT NULL);

CREATE INDEX task_logs_ended ON taskflow.task_logs USING btree (task_id, outcome, finished_at) WHERE final;

CREATE INDEX task_logs_started ON taskflow.task_logs USING btree (task_id, started_at) WHERE (started_at IS NOT NULL);

ALTER TABLE ONLY taskflow.firings
    ADD CONSTRAINT firings_schedule_id_fkey FOREIGN KEY (schedule_id) REFERENCES taskflow.schedules(id) ON DELETE CASCADE;

ALTER TABLE ONLY taskflow.run_jobs
    ADD CONSTRAINT run_jobs_run_id_fkey FOREIGN KEY (run_id) REFERENCES taskflow.runs(id) ON DELETE CASCADE;

ALTER TABLE ONLY taskflow.run_logs
    ADD CONSTRAINT run_logs_run_id_fkey FOREIGN KEY (run_id) REFERENCES taskflow.runs(id) ON DELETE CASCADE;

ALTER TABLE ONLY taskflow.run_steps
    ADD CONSTRAINT run_steps_run_id_fkey FOREIGN KEY (run_id) REFERENCES taskflow.runs(id) ON DELETE CASCADE;

ALTER TABLE ONLY taskflow.run_timers
    ADD CONSTRAINT run_timers_run_id_fkey FOREIGN KEY (run_id) REFERENCES taskflow.runs(id) ON DELETE CASCADE;
