-- Transaction numbers that go on after a dump was restored into another cluster (protocol C3). Postgres numbers the
-- transactions of a cluster, and a dump brings numbers of the cluster that it came from: a cluster that has counted less far
-- would stamp new jobs with numbers below the marks of lanes, where nobody reads. So a database adds an offset to them.

-- 0 in the cluster where the database was born. STABLE, so that plans which have it inlined are made again after a change.
create function taskflow.tx_offset() returns bigint
language sql stable parallel safe as $$ select 0::bigint $$;

create function taskflow.set_tx_offset(to_add bigint) returns void
language plpgsql as $$
begin
    execute format('create or replace function taskflow.tx_offset() returns bigint
        language sql stable parallel safe as %L', format('select %s::bigint', to_add));
end $$;

-- The number of the present transaction, which its jobs are stamped with. With an offset of 0 the planner makes it
-- pg_current_xact_id() alone.
create function taskflow.tx() returns xid8
language sql stable as $$
    select case when taskflow.tx_offset() = 0 then pg_current_xact_id()
        else (pg_current_xact_id()::text::bigint + taskflow.tx_offset())::text::xid8 end
$$;

-- Whether a transaction had ended when the snapshot of this statement was taken. Numbers of the former cluster lie below the
-- offset: 3 stands for them, the first number of every cluster.
create function taskflow.has_ended(tx xid8) returns boolean
language sql stable parallel safe as $$
    select pg_visible_in_snapshot(
        case when taskflow.tx_offset() = 0 then tx
            else greatest(tx::text::bigint - taskflow.tx_offset(), 3)::text::xid8 end,
        pg_current_snapshot())
$$;

alter table taskflow.jobs alter column tx set default taskflow.tx();
