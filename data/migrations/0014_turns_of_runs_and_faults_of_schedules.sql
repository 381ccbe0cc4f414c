-- The state of a run that a transaction builds on is named by its turn: one that was changed meanwhile, as by a commit
-- whose answer was lost, is read again and never overwritten.
alter table taskflow.runs add column turn bigint not null default 0;

-- Locks these runs. Raises unless each is at the turn given. The first statement of the batch that ends with the fence:
-- it waits for a commit in doubt, and sees what became of it.
create function taskflow.runs_unchanged(in_ids uuid[], in_turns bigint[]) returns void
language plpgsql as $$
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

-- The runs that have events, in the order of their ids, without reading every event of each.
create index run_inbox_shard on taskflow.run_inbox (shard, run_id);

-- Why a schedule could not be fired when it was last due; null when it could.
alter table taskflow.schedules add column error text;
