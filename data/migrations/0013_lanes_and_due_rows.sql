-- Due rows by lane, cancels in pages, and the jobs that must start by a time.

-- In the order in which they are due, also where many share one time.
drop index taskflow.deferred_due;
create index deferred_due on taskflow.deferred (shard, due_at, job_id);
-- A lane with more due rows than have room is read from where it was left, and nobody waits for it.
create index deferred_lane on taskflow.deferred (shard, queue, task, priority, due_at, job_id);

drop index taskflow.cancels_open;
-- Not by job alone: the planner would go through the primary key, and past all wishes that are done.
create index cancels_open on taskflow.cancels (shard, requested_at, job_id) where not done;

-- Jobs with a start_by, from the transaction that makes them until that time, or until they are due if that is later:
-- whether one is late is seen here, wherever it waits. A job without has no row.
create table taskflow.start_bys (
    shard       smallint    not null,
    start_by    timestamptz not null,
    job_id      uuid        not null,
    primary key (shard, start_by, job_id)
);

-- Those that wait now: beyond their lane's mark, or deferred.
insert into taskflow.start_bys (shard, start_by, job_id)
select m.shard, timestamptz 'epoch' + (j.options ->> 'start_by')::bigint * interval '1 microsecond', j.id
from taskflow.lanes m
join taskflow.jobs j on j.queue = m.queue and j.task = m.task and j.priority = m.priority and not j.deferred
    and ((j.tx, j.id) > (m.tx, m.id) or j.tx = any (m.late))
where j.options ? 'start_by'
union
select d.shard,
    greatest(timestamptz 'epoch' + (j.options ->> 'start_by')::bigint * interval '1 microsecond', d.due_at), j.id
from taskflow.deferred d
join taskflow.jobs j on j.id = d.job_id
where j.options ? 'start_by' and d.attempt = 1;
