-- Makes the role taskflow_reader, which may read the views of history that hold no payload and no result, and nothing else.
-- It cannot log in: an administrator grants it to people. Roles are of the whole cluster, grants of each database: called after
-- every migrate too, as after a dump was restored without its grants. Answers with the statement that an administrator must
-- run first, where the present user may not make roles; else with ''.
create function taskflow.grant_reader() returns text
language plpgsql as $$
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

select taskflow.grant_reader();
