-- One clock for all: this server's, moved forward by what `--clock=manual` was told. A cluster that nobody moved reads zero.
create table taskflow.clock (
    only_row    boolean  primary key default true check (only_row),
    moved_by    interval not null default '0'
);
insert into taskflow.clock default values;

-- The present instant, for whatever machines compare. In a filter write `(select taskflow.now())`: read once.
create function taskflow.now() returns timestamptz
language sql stable parallel safe as $$
    select now() + moved_by from taskflow.clock
$$;
