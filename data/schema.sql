-- The schema that data/migrations make, dumped by `make schema`. Read it; change a migration.
CREATE SCHEMA taskflow;

CREATE FUNCTION taskflow.alert_jobs(in_event text, in_jobs uuid[], in_attempts integer[] DEFAULT NULL::integer[]) RETURNS void
    LANGUAGE plpgsql
    AS $_$
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
end $_$;

CREATE FUNCTION taskflow.alert_runs(in_event text, in_runs uuid[]) RETURNS void
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION taskflow.now() RETURNS timestamp with time zone
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    select now() + moved_by from taskflow.clock
$$;

CREATE TABLE taskflow.alert_rules (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    name text NOT NULL,
    active boolean DEFAULT true NOT NULL,
    events text[] NOT NULL,
    namespace text DEFAULT ''::text NOT NULL,
    queue text DEFAULT ''::text NOT NULL,
    task text DEFAULT ''::text NOT NULL,
    workflow text DEFAULT ''::text NOT NULL,
    kind text NOT NULL,
    url text DEFAULT ''::text NOT NULL,
    url_secret text DEFAULT ''::text NOT NULL,
    secret text DEFAULT ''::text NOT NULL,
    gather double precision NOT NULL,
    max_messages integer NOT NULL,
    period double precision NOT NULL,
    no_worker_for double precision NOT NULL,
    backlog_age double precision NOT NULL,
    created_at timestamp with time zone DEFAULT taskflow.now() NOT NULL,
    updated_at timestamp with time zone DEFAULT taskflow.now() NOT NULL
);

CREATE FUNCTION taskflow.alert_selects(r taskflow.alert_rules, in_event text, in_queue text, in_task text, in_workflow text) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    AS $$
    select r.active and in_event = any (r.events)
        and (r.namespace = '' or r.namespace = coalesce(substring(in_queue || in_workflow from '^(.*)/'), 'default'))
        and (r.queue = '' or r.queue = in_queue)
        and (r.task = '' or r.task = in_task)
        and (r.workflow = '' or r.workflow = in_workflow)
$$;

CREATE FUNCTION taskflow.alert_wanted(in_event text) RETURNS boolean
    LANGUAGE sql STABLE
    AS $$ select exists (select from taskflow.alert_rules r where r.active and in_event = any (r.events)) $$;

CREATE FUNCTION taskflow.assert_current(job_id uuid, exec_id uuid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    present integer;
begin
    select l.attempt into present from taskflow.leases l
    where l.job_id = assert_current.job_id and l.exec_id = assert_current.exec_id and l.started and l.fenced
    for key share;
    if present is null or exists (
        select from taskflow.attempts a where a.job_id = assert_current.job_id and a.attempt >= present
    ) then
        raise exception 'exec_id % is not the present attempt of job %', coalesce(exec_id::text, 'null'), coalesce(job_id::text, 'null')
            using errcode = 'TF003',
            detail = 'The attempt has ended, its end is due, or its start is not on disk.',
            hint = 'Roll the transaction back and let the handler end: its outcome does not count.';
    end if;
end $$;

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
            perform taskflow.index_times(parent, part);
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

CREATE FUNCTION taskflow.end_leases(ids uuid[]) RETURNS void
    LANGUAGE plpgsql
    AS $$
declare
    held uuid[];
begin
    with free as materialized (
        select l.job_id from taskflow.leases l where l.job_id = any (end_leases.ids) for update skip locked
    )
    delete from taskflow.leases l using free where l.job_id = free.job_id;
    held := array(select l.job_id from taskflow.leases l where l.job_id = any (end_leases.ids));
    if cardinality(held) > 0 then
        raise exception 'fenced transactions are open' using errcode = 'TF004', detail = array_to_string(held, ',');
    end if;
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

CREATE FUNCTION taskflow.grant_app() RETURNS text
    LANGUAGE plpgsql
    AS $$
begin
    if to_regrole('taskflow_app') is null then
        begin
            create role taskflow_app nologin;
        exception
            when duplicate_object or unique_violation then null;  -- another database's migrate was first
            when insufficient_privilege then return 'create role taskflow_app nologin';
        end;
    end if;
    if not has_schema_privilege('taskflow_app', 'taskflow', 'usage') then
        grant usage on schema taskflow to taskflow_app;
    end if;
    if not has_function_privilege('taskflow_app', 'taskflow.assert_current(uuid, uuid)', 'execute') then
        grant execute on function taskflow.assert_current(uuid, uuid) to taskflow_app;
    end if;
    return '';
end $$;

CREATE FUNCTION taskflow.grant_reader() RETURNS text
    LANGUAGE plpgsql
    AS $$
declare
    view text;
begin
    if to_regrole('taskflow_reader') is null then
        begin
            create role taskflow_reader nologin;
        exception
            when duplicate_object or unique_violation then null;  -- another database's migrate was first
            when insufficient_privilege then return 'create role taskflow_reader nologin';
        end;
    end if;
    if not has_schema_privilege('taskflow_reader', 'taskflow', 'usage') then
        grant usage on schema taskflow to taskflow_reader;
    end if;
    foreach view in array array[
        'task_instances', 'task_attempts', 'workflow_instances', 'workflow_steps', 'schedule_firings', 'events']
    loop
        continue when has_table_privilege('taskflow_reader', 'taskflow.' || view, 'select');
        execute format('grant select on taskflow.%I to taskflow_reader', view);
    end loop;
    return '';
end $$;

CREATE FUNCTION taskflow.has_ended(tx xid8) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    select pg_visible_in_snapshot(
        case when taskflow.tx_offset() = 0 then tx
            else greatest(tx::text::bigint - taskflow.tx_offset(), 3)::text::xid8 end,
        pg_current_snapshot())
$$;

CREATE FUNCTION taskflow.index_times(parent text, part text) RETURNS void
    LANGUAGE plpgsql
    AS $$
begin
    execute format('create index %I on taskflow.%I using brin (%s) with (pages_per_range = 32, autosummarize = on)',
        part || '_times', part, case parent when 'jobs' then 'created_at' else 'finished_at, started_at' end);
end $$;

CREATE FUNCTION taskflow.is_final(state integer) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ select state = any ('{6, 7, 8}') $$;

CREATE FUNCTION taskflow.job_state(started boolean, due boolean, reason smallint, final boolean, outcome smallint) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select case started
        when true then 4
        when false then 3
        else case due
            when true then 2
            when false then case reason when 2 then 5 else 1 end
            else case when final then case outcome when 1 then 6 when 5 then 8 else 7 end else 2 end
        end
    end
$$;

CREATE FUNCTION taskflow.leads(in_role text, in_term bigint) RETURNS void
    LANGUAGE plpgsql
    AS $$
begin
    perform from taskflow.leaders where role = in_role and term = in_term for share;
    if not found then
        raise exception 'another scheduler leads' using errcode = 'TF001';
    end if;
end $$;

CREATE FUNCTION taskflow.outcome_name(outcome smallint) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT
    AS $$
    select (array['succeeded', 'failed', 'timed_out', 'lost', 'cancelled', 'snoozed', 'returned'])[outcome]
$$;

CREATE FUNCTION taskflow.output_of_steps(in_run uuid, in_steps text[]) RETURNS text
    LANGUAGE sql STABLE
    AS $$
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

CREATE FUNCTION taskflow.runs_unchanged(in_ids uuid[], in_turns bigint[]) RETURNS void
    LANGUAGE plpgsql
    AS $$
declare
    unchanged bigint;
begin
    select count(*) into unchanged from (
        select r.id from unnest(in_ids, in_turns) as w (id, turn)
        join taskflow.runs r on r.id = w.id and r.turn = w.turn
        order by r.id for no key update of r
    ) locked;
    if unchanged <> cardinality(in_ids) then
        raise exception 'a run was changed since it was read' using errcode = 'TF002';
    end if;
end $$;

CREATE FUNCTION taskflow.scheduled_number(kind text, id text) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ select (1::bigint << 60) + ('x' || left(md5(kind || ' ' || id), 15))::bit(60)::bigint $$;

CREATE FUNCTION taskflow.set_tx_offset(to_add bigint) RETURNS void
    LANGUAGE plpgsql
    AS $$
begin
    execute format('create or replace function taskflow.tx_offset() returns bigint
        language sql stable parallel safe as %L', format('select %s::bigint', to_add));
end $$;

CREATE FUNCTION taskflow.state_name(state integer) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select (array['scheduled', 'ready', 'requested', 'running', 'retrying', 'succeeded', 'failed', 'cancelled'])[state]
$$;

CREATE FUNCTION taskflow.state_status(state integer) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select (array['queued', 'queued', 'running', 'running', 'retry', 'success', 'failed', 'dequeued'])[state]
$$;

CREATE FUNCTION taskflow.tx() RETURNS xid8
    LANGUAGE sql STABLE
    AS $$
    select case when taskflow.tx_offset() = 0 then pg_current_xact_id()
        else (pg_current_xact_id()::text::bigint + taskflow.tx_offset())::text::xid8 end
$$;

CREATE FUNCTION taskflow.tx_offset() RETURNS bigint
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ select 0::bigint $$;

CREATE FUNCTION taskflow.uuid_at(instant timestamp with time zone) RETURNS uuid
    LANGUAGE sql IMMUTABLE STRICT
    AS $$
    select (lpad(to_hex((extract(epoch from instant) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

CREATE FUNCTION taskflow.uuid_in(word text) RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $_$ select case when word ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then word::uuid end $_$;

CREATE TABLE taskflow.alert_conditions (
    rule_id uuid NOT NULL,
    event text NOT NULL,
    queue text NOT NULL,
    task text NOT NULL,
    since timestamp with time zone DEFAULT taskflow.now() NOT NULL
);

CREATE TABLE taskflow.alert_facts (
    seq bigint NOT NULL,
    rule_id uuid NOT NULL,
    event text NOT NULL,
    subject uuid,
    attempt integer,
    queue text DEFAULT ''::text NOT NULL,
    task text DEFAULT ''::text NOT NULL,
    workflow text DEFAULT ''::text NOT NULL,
    detail text,
    at timestamp with time zone DEFAULT taskflow.now() NOT NULL
);

ALTER TABLE taskflow.alert_facts ALTER COLUMN seq ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME taskflow.alert_facts_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE taskflow.alert_groups (
    rule_id uuid NOT NULL,
    opened_at timestamp with time zone,
    counts jsonb DEFAULT '{}'::jsonb NOT NULL,
    first jsonb DEFAULT '[]'::jsonb NOT NULL,
    sent timestamp with time zone[] DEFAULT '{}'::timestamp with time zone[] NOT NULL,
    last_job uuid
);

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
    tx xid8 DEFAULT taskflow.tx() NOT NULL,
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
    task text NOT NULL,
    blocked_by text
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

CREATE TABLE taskflow.job_actions (
    job_id uuid NOT NULL,
    seq bigint NOT NULL,
    at timestamp with time zone NOT NULL,
    action text NOT NULL,
    actor text NOT NULL,
    reason text DEFAULT ''::text NOT NULL
);

CREATE TABLE taskflow.job_sla_misses (
    job_id uuid NOT NULL,
    due_at timestamp with time zone NOT NULL,
    missed_at timestamp with time zone DEFAULT taskflow.now() NOT NULL,
    tx xid8 DEFAULT taskflow.tx() NOT NULL
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
    in_progress_ms bigint,
    fenced boolean
)
WITH (fillfactor='50');

CREATE TABLE taskflow.run_actions (
    run_id uuid NOT NULL,
    seq bigint NOT NULL,
    at timestamp with time zone NOT NULL,
    action text NOT NULL,
    actor text NOT NULL
);

CREATE TABLE taskflow.run_sla_misses (
    run_id uuid NOT NULL,
    missed_at timestamp with time zone DEFAULT taskflow.now() NOT NULL,
    tx xid8 DEFAULT taskflow.tx() NOT NULL
);

CREATE VIEW taskflow.events AS
 SELECT j.created_at AS at,
    j.id AS job_id,
    NULL::uuid AS workflow_instance_id,
    'submitted'::text AS event,
    COALESCE(('schedule '::text || (taskflow.uuid_in((j.options #>> '{metadata,taskflow.schedule}'::text[])))::text), ('run '::text || (taskflow.uuid_in((j.options #>> '{metadata,taskflow.run}'::text[])))::text), ((j.options -> 'requester'::text))::text, ''::text) AS actor,
    0 AS attempt,
    jsonb_strip_nulls(jsonb_build_object('queue', j.queue, 'task', NULLIF(j.task, ''::text), 'priority', j.priority, 'run_at', j.run_at)) AS detail
   FROM taskflow.jobs j
UNION ALL
 SELECT a.started_at AS at,
    a.job_id,
    NULL::uuid AS workflow_instance_id,
    'started'::text AS event,
    COALESCE(a.worker, ''::text) AS actor,
    a.attempt,
    NULL::jsonb AS detail
   FROM taskflow.attempts a
  WHERE (a.started_at IS NOT NULL)
UNION ALL
 SELECT a.finished_at AS at,
    a.job_id,
    NULL::uuid AS workflow_instance_id,
    taskflow.outcome_name(a.outcome) AS event,
    COALESCE(a.worker, ''::text) AS actor,
    a.attempt,
    jsonb_strip_nulls(jsonb_build_object('final', a.final, 'type', (a.error ->> 'type'::text), 'message', (a.error ->> 'message'::text))) AS detail
   FROM taskflow.attempts a
UNION ALL
 SELECT l.started_at AS at,
    l.job_id,
    NULL::uuid AS workflow_instance_id,
    'started'::text AS event,
    COALESCE(l.worker, ''::text) AS actor,
    l.attempt,
    NULL::jsonb AS detail
   FROM taskflow.leases l
  WHERE (l.started AND (l.started_at IS NOT NULL))
UNION ALL
 SELECT c.at,
    c.job_id,
    NULL::uuid AS workflow_instance_id,
    c.action AS event,
    c.actor,
    0 AS attempt,
    jsonb_strip_nulls(jsonb_build_object('reason', NULLIF(c.reason, ''::text))) AS detail
   FROM taskflow.job_actions c
UNION ALL
 SELECT c.at,
    NULL::uuid AS job_id,
    c.run_id AS workflow_instance_id,
    c.action AS event,
    c.actor,
    0 AS attempt,
    NULL::jsonb AS detail
   FROM taskflow.run_actions c
UNION ALL
 SELECT f.decided_at AS at,
    f.job_id,
    f.run_id AS workflow_instance_id,
    f.state AS event,
    ('schedule '::text || (f.schedule_id)::text) AS actor,
    0 AS attempt,
    jsonb_build_object('instant', f.instant, 'count', f.count, 'trigger', f.trigger, 'reason', f.reason) AS detail
   FROM taskflow.firings f
  WHERE (f.state <> 'queued'::text)
UNION ALL
 SELECT m.missed_at AS at,
    m.job_id,
    NULL::uuid AS workflow_instance_id,
    'sla_missed'::text AS event,
    ''::text AS actor,
    0 AS attempt,
    jsonb_build_object('due_at', m.due_at) AS detail
   FROM taskflow.job_sla_misses m
UNION ALL
 SELECT m.missed_at AS at,
    NULL::uuid AS job_id,
    m.run_id AS workflow_instance_id,
    'sla_missed'::text AS event,
    ''::text AS actor,
    0 AS attempt,
    NULL::jsonb AS detail
   FROM taskflow.run_sla_misses m;

CREATE TABLE taskflow.handlers (
    name text NOT NULL,
    queue text,
    retries integer,
    priority smallint,
    options jsonb,
    registered_at timestamp with time zone DEFAULT now() NOT NULL,
    first_seen_at timestamp with time zone DEFAULT now() NOT NULL,
    version bigint DEFAULT 1 NOT NULL
);

ALTER TABLE taskflow.job_actions ALTER COLUMN seq ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME taskflow.job_actions_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE VIEW taskflow.job_facts AS
 SELECT j.id,
    j.queue,
    j.task,
    j.options,
    s.state,
    a.error,
    taskflow.is_final(s.state) AS final
   FROM ((((taskflow.jobs j
     LEFT JOIN taskflow.leases l ON ((l.job_id = j.id)))
     LEFT JOIN taskflow.deferred d ON ((d.job_id = j.id)))
     LEFT JOIN LATERAL ( SELECT a_1.final,
            a_1.outcome,
            a_1.error
           FROM taskflow.attempts a_1
          WHERE (a_1.job_id = j.id)
          ORDER BY a_1.attempt DESC
         LIMIT 1) a ON (true))
     CROSS JOIN LATERAL ( SELECT taskflow.job_state(l.started, (d.due_at <= ( SELECT taskflow.now() AS now)), d.reason, a.final, a.outcome) AS state) s);

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

CREATE TABLE taskflow.job_slas (
    shard smallint NOT NULL,
    due_at timestamp with time zone NOT NULL,
    job_id uuid NOT NULL
);

CREATE VIEW taskflow.job_states AS
 SELECT j.id,
    j.queue,
    j.task,
    taskflow.state_name(s.state) AS state,
    COALESCE(l.attempt, a.attempt, 0) AS attempt,
    j.priority,
    j.retries,
    j.created_at,
    COALESCE(d.due_at, j.run_at) AS run_at,
    COALESCE(l.started_at, a.started_at) AS started_at,
        CASE
            WHEN taskflow.is_final(s.state) THEN a.finished_at
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
    j.options,
    (EXISTS ( SELECT
           FROM taskflow.job_sla_misses m
          WHERE (m.job_id = j.id))) AS sla_missed
   FROM ((((taskflow.jobs j
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
         LIMIT 1) a ON (true))
     CROSS JOIN LATERAL ( SELECT taskflow.job_state(l.started, (d.due_at <= ( SELECT (now() + c.moved_by)
                   FROM taskflow.clock c)), d.reason, a.final, a.outcome) AS state) s);

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
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    pid_namespace text,
    pid integer,
    pid_started bigint
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
    app_url text,
    quota_tasks integer,
    quota_waiting_jobs bigint,
    quota_payload_bytes integer
);

CREATE TABLE taskflow.queues (
    name text NOT NULL,
    shard smallint NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    paused boolean DEFAULT false NOT NULL,
    draining boolean DEFAULT false NOT NULL
);

CREATE TABLE taskflow.removed_tasks (
    id uuid NOT NULL,
    name text NOT NULL,
    removed_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE taskflow.run_actions ALTER COLUMN seq ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME taskflow.run_actions_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
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

CREATE TABLE taskflow.run_slas (
    shard smallint NOT NULL,
    due_at timestamp with time zone NOT NULL,
    run_id uuid NOT NULL
);

CREATE TABLE taskflow.run_steps (
    run_id uuid NOT NULL,
    step text NOT NULL,
    iteration integer NOT NULL,
    status text NOT NULL,
    error json,
    due_at timestamp with time zone,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    after text[] DEFAULT '{}'::text[] NOT NULL
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
    finished_at timestamp with time zone,
    turn bigint DEFAULT 0 NOT NULL
)
WITH (fillfactor='50');

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
    error text,
    CONSTRAINT schedules_check CHECK (((cron IS NULL) <> (at IS NULL))),
    CONSTRAINT schedules_target CHECK (((task IS NULL) <> (workflow IS NULL)))
)
WITH (fillfactor='70');

CREATE VIEW taskflow.schedule_firings AS
 SELECT f.schedule_id,
    s.task AS task_name,
    s.workflow AS workflow_name,
    f.instant,
    f.first,
    f.count,
    f.state,
    f.reason,
    f.trigger,
    f.job_id,
    f.run_id AS workflow_instance_id,
    f.decided_at
   FROM (taskflow.firings f
     JOIN taskflow.schedules s ON ((s.id = f.schedule_id)));

CREATE TABLE taskflow.tasks (
    id uuid NOT NULL,
    name text NOT NULL,
    title text DEFAULT ''::text NOT NULL,
    description text DEFAULT ''::text NOT NULL,
    active boolean DEFAULT true NOT NULL,
    target text NOT NULL,
    queue text,
    priority smallint,
    retries integer,
    options jsonb,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    payload bytea,
    encoding smallint,
    concurrency integer DEFAULT 0 NOT NULL,
    CONSTRAINT tasks_concurrency_check CHECK ((concurrency >= 0))
);

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
        CASE
            WHEN (g.value IS NOT NULL) THEN 'group'::text
            ELSE COALESCE((s.value ->> 'kind'::text), 'decision'::text)
        END AS task_type,
    (COALESCE(g.value, (s.value -> 'meta'::text)))::text AS task_payload,
    taskflow.output_of_steps(x.run_id,
        CASE
            WHEN (g.value IS NULL) THEN x.after
            ELSE ARRAY( SELECT DISTINCT a.name
               FROM (taskflow.run_steps h
                 CROSS JOIN LATERAL unnest(h.after) a(name))
              WHERE ((h.run_id = x.run_id) AND (h.status = 'held'::text) AND (h.step IN ( SELECT json_array_elements_text((g.value -> 'steps'::text)) AS json_array_elements_text))))
        END) AS pre_task_payload,
    (r.input)::text AS workflow_payload,
    (w.document)::text AS workflow_json,
    x.run_id,
    x.due_at,
    x.job_id,
    r.schedule_id
   FROM ((((( SELECT (t.id * 2) AS id,
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
            ( SELECT d.due_at
                   FROM taskflow.deferred d
                  WHERE (d.job_id = j.job_id)) AS due_at,
            j.job_id
           FROM taskflow.run_jobs j
          WHERE ((j.job_id IS NOT NULL) AND (NOT (EXISTS ( SELECT
                   FROM taskflow.attempts a
                  WHERE ((a.job_id = j.job_id) AND a.final)))))
        UNION ALL
         SELECT taskflow.scheduled_number('wait'::text, ((((p.run_id || ' '::text) || p.step) || ' '::text) || p.iteration)) AS scheduled_number,
            p.run_id,
            p.step,
            p.after,
            NULL::timestamp with time zone,
            NULL::uuid
           FROM taskflow.run_steps p
          WHERE ((p.status = 'waiting'::text) AND (p.due_at IS NULL))) x
     JOIN taskflow.runs r ON (((r.id = x.run_id) AND (r.finished_at IS NULL))))
     JOIN taskflow.workflows w ON (((w.name = r.workflow) AND (w.version = r.version))))
     LEFT JOIN LATERAL ( SELECT json_array_elements.value
           FROM json_array_elements(
                CASE json_typeof((w.document -> 'steps'::text))
                    WHEN 'array'::text THEN (w.document -> 'steps'::text)
                    ELSE '[]'::json
                END) json_array_elements(value)
          WHERE ((json_array_elements.value ->> 'name'::text) = x.step)) s ON (true))
     LEFT JOIN LATERAL ( SELECT json_array_elements.value
           FROM json_array_elements(
                CASE json_typeof((w.document -> 'groups'::text))
                    WHEN 'array'::text THEN (w.document -> 'groups'::text)
                    ELSE '[]'::json
                END) json_array_elements(value)
          WHERE ((json_array_elements.value ->> 'name'::text) = x.step)) g ON ((s.value IS NULL)))
UNION ALL
 SELECT taskflow.scheduled_number('schedule'::text, (c.id)::text) AS id,
    COALESCE(c.workflow, c.task) AS task_id,
        CASE
            WHEN (c.workflow IS NULL) THEN 'task'::text
            ELSE 'workflow'::text
        END AS task_type,
    taskflow.readable(c.payload, c.encoding) AS task_payload,
    NULL::text AS pre_task_payload,
        CASE
            WHEN (c.workflow IS NOT NULL) THEN taskflow.readable(c.payload, c.encoding)
            ELSE NULL::text
        END AS workflow_payload,
    (w.document)::text AS workflow_json,
    NULL::uuid AS run_id,
    c.next_at AS due_at,
    NULL::uuid AS job_id,
    c.id AS schedule_id
   FROM ((taskflow.schedules c
     LEFT JOIN taskflow.tasks t ON ((t.name = c.task)))
     LEFT JOIN LATERAL ( SELECT v.document
           FROM taskflow.workflows v
          WHERE ((v.name = c.workflow) AND (NOT v.deleted))
          ORDER BY v.version DESC
         LIMIT 1) w ON (true))
  WHERE (c.active AND (c.next_at IS NOT NULL) AND COALESCE(t.active, true))
UNION ALL
 SELECT taskflow.scheduled_number('job'::text, (d.job_id)::text) AS id,
    COALESCE(NULLIF(j.task, ''::text), j.queue) AS task_id,
    'job'::text AS task_type,
    taskflow.readable(j.payload, j.encoding) AS task_payload,
    NULL::text AS pre_task_payload,
    NULL::text AS workflow_payload,
    NULL::text AS workflow_json,
    NULL::uuid AS run_id,
    d.due_at,
    d.job_id,
    NULL::uuid AS schedule_id
   FROM (taskflow.deferred d
     JOIN taskflow.jobs j ON ((j.id = d.job_id)))
  WHERE (NOT (EXISTS ( SELECT
           FROM taskflow.run_jobs p
          WHERE (p.job_id = d.job_id))));

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

CREATE TABLE taskflow.start_bys (
    shard smallint NOT NULL,
    start_by timestamp with time zone NOT NULL,
    job_id uuid NOT NULL
);

CREATE VIEW taskflow.task_attempts AS
 SELECT job_id,
    attempt,
    taskflow.outcome_name(outcome) AS outcome,
    final,
    started_at,
    finished_at AS ended_at,
    (finished_at - started_at) AS ran,
    tries,
    worker,
    exec_id,
    (error ->> 'type'::text) AS error_type,
    (error ->> 'message'::text) AS error
   FROM taskflow.attempts a;

CREATE VIEW taskflow.task_instances AS
 SELECT j.id,
    COALESCE((j.options #>> '{metadata,taskflow.task}'::text[]), NULLIF(j.task, ''::text)) AS task_name,
    j.queue,
    taskflow.state_status(s.state) AS status,
    taskflow.state_name(s.state) AS state,
    j.priority,
    COALESCE(l.attempt, a.attempt, 0) AS attempts,
    (j.retries + 1) AS max_attempts,
    (((j.options -> 'metadata'::text) ? 'taskflow.schedule'::text) IS TRUE) AS scheduled,
    taskflow.uuid_in((j.options #>> '{metadata,taskflow.schedule}'::text[])) AS schedule_id,
    taskflow.uuid_in((j.options #>> '{metadata,taskflow.run}'::text[])) AS workflow_instance_id,
    (j.options #>> '{metadata,taskflow.step}'::text[]) AS step,
    j.created_at,
    COALESCE(d.due_at, j.run_at, j.created_at) AS run_at,
    COALESCE(l.started_at, a.started_at) AS started_at,
        CASE
            WHEN taskflow.is_final(s.state) THEN a.finished_at
            ELSE NULL::timestamp with time zone
        END AS ended_at,
    COALESCE(l.worker, a.worker) AS worker,
    (a.error ->> 'type'::text) AS error_type,
    (a.error ->> 'message'::text) AS error,
    (j.options -> 'requester'::text) AS requester,
    (j.options ->> 'label'::text) AS label,
    j.key,
    (j.options -> 'metadata'::text) AS metadata,
    (j.options -> 'tags'::text) AS tags,
    (EXISTS ( SELECT
           FROM taskflow.job_sla_misses m
          WHERE (m.job_id = j.id))) AS sla_missed
   FROM ((((taskflow.jobs j
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
         LIMIT 1) a ON (true))
     CROSS JOIN LATERAL ( SELECT taskflow.job_state(l.started, (d.due_at <= ( SELECT (now() + c.moved_by)
                   FROM taskflow.clock c)), d.reason, a.final, a.outcome) AS state) s);

CREATE TABLE taskflow.task_logs (
    task_id uuid NOT NULL,
    job_id uuid NOT NULL,
    attempt integer NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone NOT NULL,
    outcome smallint NOT NULL,
    final boolean NOT NULL
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
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    pid_namespace text,
    pid_started bigint,
    only_queues text[] DEFAULT '{}'::text[] NOT NULL
);

CREATE VIEW taskflow.workflow_instances AS
 SELECT id,
    workflow AS workflow_name,
    version,
        CASE status
            WHEN 'new'::text THEN 'queued'::text
            WHEN 'succeeded'::text THEN 'success'::text
            WHEN 'cancelled'::text THEN 'dequeued'::text
            WHEN 'failed'::text THEN 'failed'::text
            ELSE 'running'::text
        END AS status,
    status AS state,
    (trigger = 'schedule'::text) AS scheduled,
    schedule_id,
    trigger,
    parent_id AS parent_instance_id,
    parent_step,
    created_at,
    started_at,
    finished_at AS ended_at,
    sla_missed,
    (error ->> 'type'::text) AS error_type,
    (error ->> 'message'::text) AS error,
    label,
    metadata
   FROM taskflow.runs r;

CREATE VIEW taskflow.workflow_steps AS
 SELECT run_id AS workflow_instance_id,
    step,
    iteration,
        CASE status
            WHEN 'pending'::text THEN 'queued'::text
            WHEN 'succeeded'::text THEN 'success'::text
            WHEN 'cancelled'::text THEN 'dequeued'::text
            WHEN 'waiting'::text THEN 'running'::text
            WHEN 'held'::text THEN 'retry'::text
            ELSE status
        END AS status,
    status AS state,
    due_at,
    started_at,
    finished_at AS ended_at,
    (error ->> 'type'::text) AS error_type,
    (error ->> 'message'::text) AS error,
    after
   FROM taskflow.run_steps s;

ALTER TABLE ONLY taskflow.alert_conditions
    ADD CONSTRAINT alert_conditions_pkey PRIMARY KEY (rule_id, event, queue, task);

ALTER TABLE ONLY taskflow.alert_facts
    ADD CONSTRAINT alert_facts_pkey PRIMARY KEY (seq);

ALTER TABLE ONLY taskflow.alert_groups
    ADD CONSTRAINT alert_groups_pkey PRIMARY KEY (rule_id);

ALTER TABLE ONLY taskflow.alert_rules
    ADD CONSTRAINT alert_rules_name_key UNIQUE (name);

ALTER TABLE ONLY taskflow.alert_rules
    ADD CONSTRAINT alert_rules_pkey PRIMARY KEY (id);

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

ALTER TABLE ONLY taskflow.handlers
    ADD CONSTRAINT handlers_pkey PRIMARY KEY (name);

ALTER TABLE ONLY taskflow.job_actions
    ADD CONSTRAINT job_actions_pkey PRIMARY KEY (job_id, seq);

ALTER TABLE ONLY taskflow.job_keys
    ADD CONSTRAINT job_keys_pkey PRIMARY KEY (namespace, key);

ALTER TABLE ONLY taskflow.job_logs
    ADD CONSTRAINT job_logs_pkey PRIMARY KEY (job_id, seq);

ALTER TABLE ONLY taskflow.job_sla_misses
    ADD CONSTRAINT job_sla_misses_pkey PRIMARY KEY (job_id);

ALTER TABLE ONLY taskflow.job_slas
    ADD CONSTRAINT job_slas_pkey PRIMARY KEY (shard, due_at, job_id);

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

ALTER TABLE ONLY taskflow.removed_tasks
    ADD CONSTRAINT removed_tasks_pkey PRIMARY KEY (id);

ALTER TABLE ONLY taskflow.run_actions
    ADD CONSTRAINT run_actions_pkey PRIMARY KEY (run_id, seq);

ALTER TABLE ONLY taskflow.run_inbox
    ADD CONSTRAINT run_inbox_pkey PRIMARY KEY (seq);

ALTER TABLE ONLY taskflow.run_jobs
    ADD CONSTRAINT run_jobs_pkey PRIMARY KEY (run_id, step, iteration, index);

ALTER TABLE ONLY taskflow.run_logs
    ADD CONSTRAINT run_logs_pkey PRIMARY KEY (run_id, seq);

ALTER TABLE ONLY taskflow.run_sla_misses
    ADD CONSTRAINT run_sla_misses_pkey PRIMARY KEY (run_id);

ALTER TABLE ONLY taskflow.run_slas
    ADD CONSTRAINT run_slas_pkey PRIMARY KEY (shard, due_at, run_id);

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

ALTER TABLE ONLY taskflow.start_bys
    ADD CONSTRAINT start_bys_pkey PRIMARY KEY (shard, start_by, job_id);

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

CREATE INDEX cancels_open ON taskflow.cancels USING btree (shard, requested_at, job_id) WHERE (NOT done);

CREATE INDEX counts_minute ON taskflow.counts USING brin (minute);

CREATE INDEX deferred_blocked ON taskflow.deferred USING btree (blocked_by, priority DESC, job_id) WHERE (blocked_by IS NOT NULL);

CREATE INDEX deferred_blocked_lane ON taskflow.deferred USING btree (shard, queue, task, priority, due_at, job_id) WHERE (blocked_by IS NOT NULL);

CREATE INDEX deferred_due ON taskflow.deferred USING btree (shard, due_at, job_id) WHERE (blocked_by IS NULL);

CREATE INDEX deferred_lane ON taskflow.deferred USING btree (shard, queue, task, priority, due_at, job_id) WHERE (blocked_by IS NULL);

CREATE INDEX deferred_queue ON taskflow.deferred USING btree (queue, job_id);

CREATE INDEX firings_decided ON taskflow.firings USING btree (decided_at) WHERE (state <> 'queued'::text);

CREATE INDEX firings_job ON taskflow.firings USING btree (job_id) WHERE (job_id IS NOT NULL);

CREATE INDEX firings_open ON taskflow.firings USING btree (schedule_id) WHERE open;

CREATE INDEX firings_queued ON taskflow.firings USING btree (schedule_id, instant) WHERE (state = 'queued'::text);

CREATE INDEX job_actions_at ON taskflow.job_actions USING btree (at);

CREATE INDEX job_sla_misses_at ON taskflow.job_sla_misses USING btree (missed_at);

CREATE INDEX job_tags_job ON taskflow.job_tags USING btree (job_id);

CREATE INDEX jobs_lane ON ONLY taskflow.jobs USING btree (queue, task, priority, tx, id) WHERE (NOT deferred);

CREATE INDEX jobs_list ON ONLY taskflow.jobs USING btree (queue, task, id);

CREATE INDEX lanes_shard ON taskflow.lanes USING btree (shard);

CREATE INDEX leases_shard ON taskflow.leases USING btree (shard);

CREATE INDEX leases_task ON taskflow.leases USING btree (task) WHERE (task <> ''::text);

CREATE INDEX queues_draining ON taskflow.queues USING btree (name) WHERE draining;

CREATE INDEX queues_paused ON taskflow.queues USING btree (shard) WHERE paused;

CREATE INDEX removed_tasks_name ON taskflow.removed_tasks USING btree (name, removed_at);

CREATE INDEX run_actions_at ON taskflow.run_actions USING btree (at);

CREATE INDEX run_inbox_run ON taskflow.run_inbox USING btree (run_id, seq);

CREATE INDEX run_inbox_shard ON taskflow.run_inbox USING btree (shard, run_id);

CREATE UNIQUE INDEX run_jobs_job ON taskflow.run_jobs USING btree (job_id) WHERE (job_id IS NOT NULL);

CREATE INDEX run_sla_misses_at ON taskflow.run_sla_misses USING btree (missed_at);

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

CREATE INDEX tasks_limited ON taskflow.tasks USING btree (id) WHERE (concurrency > 0);

ALTER TABLE ONLY taskflow.alert_conditions
    ADD CONSTRAINT alert_conditions_rule_id_fkey FOREIGN KEY (rule_id) REFERENCES taskflow.alert_rules(id) ON DELETE CASCADE;

ALTER TABLE ONLY taskflow.alert_groups
    ADD CONSTRAINT alert_groups_rule_id_fkey FOREIGN KEY (rule_id) REFERENCES taskflow.alert_rules(id) ON DELETE CASCADE;

ALTER TABLE ONLY taskflow.firings
    ADD CONSTRAINT firings_schedule_id_fkey FOREIGN KEY (schedule_id) REFERENCES taskflow.schedules(id) ON DELETE CASCADE;

ALTER TABLE ONLY taskflow.run_actions
    ADD CONSTRAINT run_actions_run_id_fkey FOREIGN KEY (run_id) REFERENCES taskflow.runs(id) ON DELETE CASCADE;

ALTER TABLE ONLY taskflow.run_jobs
    ADD CONSTRAINT run_jobs_run_id_fkey FOREIGN KEY (run_id) REFERENCES taskflow.runs(id) ON DELETE CASCADE;

ALTER TABLE ONLY taskflow.run_logs
    ADD CONSTRAINT run_logs_run_id_fkey FOREIGN KEY (run_id) REFERENCES taskflow.runs(id) ON DELETE CASCADE;

ALTER TABLE ONLY taskflow.run_sla_misses
    ADD CONSTRAINT run_sla_misses_run_id_fkey FOREIGN KEY (run_id) REFERENCES taskflow.runs(id) ON DELETE CASCADE;

ALTER TABLE ONLY taskflow.run_steps
    ADD CONSTRAINT run_steps_run_id_fkey FOREIGN KEY (run_id) REFERENCES taskflow.runs(id) ON DELETE CASCADE;

ALTER TABLE ONLY taskflow.run_timers
    ADD CONSTRAINT run_timers_run_id_fkey FOREIGN KEY (run_id) REFERENCES taskflow.runs(id) ON DELETE CASCADE;

GRANT USAGE ON SCHEMA taskflow TO taskflow_reader;
GRANT USAGE ON SCHEMA taskflow TO taskflow_app;

REVOKE ALL ON FUNCTION taskflow.assert_current(job_id uuid, exec_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION taskflow.assert_current(job_id uuid, exec_id uuid) TO taskflow_app;

GRANT SELECT ON TABLE taskflow.events TO taskflow_reader;

GRANT SELECT ON TABLE taskflow.schedule_firings TO taskflow_reader;

GRANT SELECT ON TABLE taskflow.task_attempts TO taskflow_reader;

GRANT SELECT ON TABLE taskflow.task_instances TO taskflow_reader;

GRANT SELECT ON TABLE taskflow.workflow_instances TO taskflow_reader;

GRANT SELECT ON TABLE taskflow.workflow_steps TO taskflow_reader;
