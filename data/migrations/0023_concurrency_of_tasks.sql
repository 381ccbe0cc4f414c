-- The concurrency of a named task: how many of its jobs may run at once, whoever made them. 0: no limit (R17, R18).
alter table taskflow.tasks add column concurrency integer not null default 0
    check (concurrency >= 0);
create index tasks_limited on taskflow.tasks (id) where concurrency > 0;

-- A due job that waits for a permit under a limit: the limit's key, as 'task:' and the task's id (B4). It is read in the
-- order of the limit, not by its time: readings of due rows must not step over a million of them.
alter table taskflow.deferred add column blocked_by text;

drop index taskflow.deferred_due;
create index deferred_due on taskflow.deferred (shard, due_at, job_id) where blocked_by is null;
drop index taskflow.deferred_lane;
create index deferred_lane on taskflow.deferred (shard, queue, task, priority, due_at, job_id) where blocked_by is null;
create index deferred_blocked on taskflow.deferred (blocked_by, priority desc, job_id) where blocked_by is not null;
create index deferred_blocked_lane on taskflow.deferred (shard, queue, task, priority, due_at, job_id)
    where blocked_by is not null;
