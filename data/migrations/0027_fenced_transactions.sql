-- Transactions of handlers that hold only for the present attempt of their job (A17).

-- Null: the start of the attempt is not on disk by its worker's wish. True: its handler's transactions can be fenced; then
-- the attempt ends only by a row of `attempts`. False: its end is due, and no further transaction is let in.
alter table taskflow.leases add column fenced boolean;

-- Raises TF003 unless the attempt is the present one of its job, and keeps it so until the caller's transaction ends.
--
-- FOR KEY SHARE: what the coordinator updates meanwhile, as progress, does not wait for the caller; only the end of the
-- attempt does, which deletes the row. In a transaction with one snapshot, a row that has changed since raises 40001.
-- Should `attempts` have a row beside the lease row, the attempt is over.
create function taskflow.assert_current(job_id uuid, exec_id uuid) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
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
revoke execute on function taskflow.assert_current(uuid, uuid) from public;

-- Deletes the lease rows of attempts that end. Waits for no handler's transaction: where one is open, raises TF004 with
-- the jobs in its detail, so that nothing of the coordinator's transaction is written.
create function taskflow.end_leases(ids uuid[]) returns void
language plpgsql as $$
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

-- Makes the role taskflow_app, which may call assert_current and nothing else. An administrator grants it to the roles of
-- applications that share the database. As grant_reader: called after every migrate, answers with the statement that an
-- administrator must run first; else with ''.
create function taskflow.grant_app() returns text
language plpgsql as $$
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

select taskflow.grant_app();
