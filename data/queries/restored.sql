-- name: has_tx_offset
-- False before the migration that brings it.
select to_regprocedure('taskflow.tx_offset()') is not null as there;

-- name: transaction_numbers
-- How far this cluster has counted, and the highest numbers in marks of lanes and in their jobs, of which an index knows
-- the last of each lane. Every number that was given here lies below `reached`, and no mark lies above it.
select taskflow.tx_offset() as tx_offset,
    pg_snapshot_xmax(pg_current_snapshot())::text::bigint + taskflow.tx_offset() as reached,
    coalesce(max(greatest(m.tx::text::bigint, (select max(l::text::bigint) from unnest(m.late) l))), 0) as marks,
    coalesce(max(j.tx::text::bigint), 0) as jobs
from taskflow.lanes m
left join lateral (
    select j.tx from taskflow.jobs j
    where j.queue = m.queue and j.task = m.task and j.priority = m.priority and not j.deferred
    order by j.tx desc limit 1
) j on true;

-- name: hold_new_jobs
-- To the end of the transaction: inserts wait, reads do not.
lock table taskflow.jobs in share row exclusive mode;

-- name: set_tx_offset
select taskflow.set_tx_offset(%(tx_offset)s::bigint);

-- name: defer_passed_over
-- Jobs below their lane's mark that stand nowhere: they were stored before the offset was set, and no page brings them.
-- They wait in `deferred` instead, due now.
insert into taskflow.deferred (job_id, due_at, shard, priority, attempt, tries, reason, queue, task)
select j.id, (select taskflow.now()), m.shard, j.priority, 1, 0, 4, j.queue, j.task
from taskflow.lanes m
join taskflow.jobs j on j.queue = m.queue and j.task = m.task and j.priority = m.priority and not j.deferred
    and (j.tx, j.id) <= (m.tx, m.id) and j.tx <> all (m.late)
where not exists (select from taskflow.attempts a where a.job_id = j.id)
    and not exists (select from taskflow.deferred d where d.job_id = j.id)
    and not exists (select from taskflow.leases l where l.job_id = j.id)
    and not exists (select from taskflow.cancels c where c.job_id = j.id)
on conflict do nothing;

-- name: raise_epochs
-- Whoever owns a shard takes it over again, and reads everything anew.
update taskflow.shards set epoch = epoch + 1;
