-- Rows of tests/support/history.py to which the seeds below do something.
create temporary table picked as
select *,
    (select id from taskflow.jobs where task = 'echo' and key is null and not deferred and options is null
        order by id limit 1) as echo,
    (select id from taskflow.jobs where task = 'flaky' order by id limit 1) as flaky,
    (select job_id from taskflow.job_actions where action = 'retried' limit 1) as again,
    (select j.id from taskflow.jobs j where j.queue = 'nobody'
        and not exists (select from taskflow.attempts a where a.job_id = j.id) order by j.id limit 1) as ready,
    (select l.job_id from taskflow.leases l where l.task = 'forever' limit 1) as held,
    (select d.job_id from taskflow.deferred d where d.reason = 1 limit 1) as later,
    (select id from taskflow.jobs where key = 'key-0') as keyed,
    (select id from taskflow.runs where workflow = 'release' and status = 'succeeded' and schedule_id is null
        and parent_id is null) as released,
    (select id from taskflow.runs where workflow = 'approved' and finished_at is null) as waits,
    (select id from taskflow.runs where workflow = 'stalled') as stalled,
    (select job_id from taskflow.task_logs order by started_at limit 1) as logged
from (
    select schedule_id as schedule, instant from taskflow.firings where state = 'fired' and job_id is not null
    order by instant desc offset 2 limit 1
) fired;

-- job-kept: a cancel that ended nothing keeps lanes from reading the job
insert into taskflow.cancels (job_id, shard, done) select ready, 0, true from picked returning job_id;

-- job-kept: the final attempt is not final any more
update taskflow.attempts set final = false, outcome = 2 where job_id = (select echo from picked) returning job_id;

-- job-kept: a deferred row is gone
delete from taskflow.deferred where job_id = (select later from picked) returning job_id;

-- job-kept: the lane of a waiting job is gone
delete from taskflow.lanes where queue = 'nobody';
select ready from picked;

-- job-kept: a job is to be tried again, and waits nowhere
update taskflow.attempts set final = false, outcome = 4, tries = 1
    where job_id = (select again from picked) and attempt = 2 returning job_id;

-- mark-bounds: a lane's mark is moved over a job that waits
update taskflow.lanes set tx = '999999999' where queue = 'nobody';
select ready from picked;

-- mark-bounds: the attempts of a job are gone
delete from taskflow.attempts where job_id = (select echo from picked) returning job_id;

-- mark-bounds: the lease of a running job is gone, and the mark has passed it
update taskflow.lanes set tx = '999999999' where task = 'forever';
delete from taskflow.leases where job_id = (select held from picked) returning job_id;

-- job-ends-once: an attempt follows a success
insert into taskflow.attempts (job_id, attempt, tries, outcome, final, exec_id, started_at, finished_at)
    select job_id, attempt + 1, tries + 1, outcome, final, gen_random_uuid(), finished_at, finished_at
    from taskflow.attempts where job_id = (select echo from picked) order by attempt desc limit 1
    returning job_id;

-- job-ends-once: a finished job is deferred anew, and nobody asked for it
insert into taskflow.deferred (job_id, due_at, shard, priority, attempt, tries, reason, queue, task)
    select id, now(), 0, 5, 2, 0, 5, queue, task from taskflow.jobs
    where id = (select echo from picked) returning job_id;

-- job-ends-once: who retried a job is forgotten
with gone as (
    delete from taskflow.job_actions
    where job_id = (select again from picked) returning job_id) select job_id from gone;

-- attempt-numbers: an attempt is missing
delete from taskflow.attempts where job_id = (select flaky from picked) and attempt = 2 returning job_id;

-- attempt-numbers: numbers begin at 2
update taskflow.attempts set attempt = 2 where job_id = (select echo from picked) returning job_id;

-- tries-counted: a failure used no try
update taskflow.attempts set tries = 0 where job_id = (select flaky from picked) and attempt = 1 returning job_id;

-- tries-counted: a snooze used a try
update taskflow.attempts set tries = 1 where job_id = (
    select job_id from taskflow.attempts where outcome = 6 limit 1) and attempt = 1 returning job_id;

-- retries-kept: a job without retries is tried again
update taskflow.jobs set retries = 0 where id = (select flaky from picked) returning id;

-- retries-kept: a job was tried once more than it may be
insert into taskflow.attempts (job_id, attempt, tries, outcome, final, exec_id, started_at, finished_at)
    select job_id, attempt + 1, 5, 2::smallint, true, gen_random_uuid(), finished_at, finished_at
    from taskflow.attempts where job_id = (select flaky from picked) order by attempt desc limit 1
    returning job_id;

-- outcome-decides: a success is not final
update taskflow.attempts set final = false where job_id = (select echo from picked) returning job_id;

-- outcome-decides: a snooze is final
update taskflow.attempts set final = true where job_id = (
    select job_id from taskflow.attempts where outcome = 6 limit 1) and attempt = 1 returning job_id;

-- outcome-decides: a failure has a result
update taskflow.attempts set result = '1'
    where job_id = (select flaky from picked) and attempt = 1 returning job_id;

-- outcome-decides: an attempt ended before it started
update taskflow.attempts
    set started_at = finished_at + interval '1 minute' where job_id = (select echo from picked) returning job_id;

-- execution-once: one execution has two outcomes
update taskflow.attempts set exec_id = (select exec_id from taskflow.attempts
    where job_id = (select flaky from picked) and attempt = 1)
    where job_id = (select flaky from picked) and attempt = 2 returning job_id;

-- attempt-fenced: an attempt is of another shard
update taskflow.attempts
    set exec_id = overlay(exec_id::text placing 'ff' from 1)::uuid
    where job_id = (select echo from picked) returning job_id;

-- attempt-fenced: an attempt is of an epoch that was never given out
update taskflow.attempts
    set exec_id = overlay(exec_id::text placing '0fff' from 10)::uuid
    where job_id = (select echo from picked) returning job_id;

-- attempt-fenced: a second attempt is of an older epoch than the first
update taskflow.shards set epoch = 9;
update taskflow.attempts set exec_id = overlay(exec_id::text placing '0007' from 10)::uuid
    where job_id = (select flaky from picked) and attempt = 1 returning job_id;

-- attempts-in-turn: two attempts ran at once
update taskflow.attempts
    set started_at = started_at - interval '1 minute'
    where job_id = (select flaky from picked) and attempt = 2 returning job_id;

-- lease-present: a lease is of a job that is not there
update taskflow.leases set job_id = taskflow.uuid_at(taskflow.now())
    where job_id = (select held from picked) returning job_id;

-- lease-present: a lease is of an attempt that has ended
insert into taskflow.leases (job_id, exec_id, shard, priority, attempt, tries, started, queue, task)
    select a.job_id, a.exec_id, q.shard, j.priority, a.attempt, 0, true, j.queue, j.task from taskflow.attempts a
    join taskflow.jobs j on j.id = a.job_id join taskflow.queues q on q.name = j.queue
    where a.job_id = (select echo from picked) returning job_id;

-- lease-present: a lease is of an attempt too many
update taskflow.leases set attempt = 3 where job_id = (select held from picked) returning job_id;

-- deferred-present: a deferred row is of a job that is not there
update taskflow.deferred set job_id = taskflow.uuid_at(taskflow.now())
    where job_id = (select later from picked) returning job_id;

-- deferred-present: a deferred row is of a finished job
insert into taskflow.deferred (job_id, due_at, shard, priority, attempt, tries, reason, queue, task)
    select id, now(), 0, 5, 4, 3, 2, queue, task from taskflow.jobs
    where id = (select flaky from picked) returning job_id;

-- deferred-present: a deferred row forgets an attempt
update taskflow.deferred set attempt = 2 where job_id = (select later from picked) returning job_id;

-- deferred-present: a deferred row gives tries back
update taskflow.deferred set tries = -1 where job_id = (select later from picked) returning job_id;

-- owner-agrees: a deferred row is in another shard, where its owner does not look for its lane
update taskflow.deferred set shard = (shard + 1) % 16 where job_id = (select later from picked) returning job_id;

-- owner-agrees: a lease names another queue
update taskflow.leases set queue = 'nobody' where job_id = (select held from picked) returning job_id;

-- owner-agrees: a queue is gone
delete from taskflow.queues where name = 'nobody';
select ready from picked;

-- cancel-kept: a job runs whose cancel is done
insert into taskflow.cancels (job_id, shard, done)
    values ((select held from picked), 0, true) returning job_id;

-- key-once: a second job has the key of another
update taskflow.jobs set key = 'key-0'
    where key = 'key-2' returning id;

-- key-once: a key is free although its job is there
delete from taskflow.job_keys where key = 'key-0';
select keyed from picked;

-- keys-lead: a key leads nowhere
update taskflow.job_keys set job_id = taskflow.uuid_at(taskflow.now()) where key = 'key-0'
    returning 'default key-0';

-- history-whole: a job is deleted, and its attempts stay
delete from taskflow.jobs where id = (select echo from picked) returning id;

-- history-whole: lines of a log are of no job
update taskflow.job_logs set job_id = taskflow.uuid_at(taskflow.now())
    where job_id = (select flaky from picked) returning job_id;

-- task-logged: an attempt at a named task has no log
delete from taskflow.task_logs where job_id = (select logged from picked) returning job_id;

-- task-logged: a log says failed of a success
update taskflow.task_logs set outcome = 2 where job_id = (select logged from picked) returning job_id;

-- limit-kept: two jobs of a task run at once that must not
update taskflow.tasks set updated_at = '2026-01-01' where concurrency = 1;
update taskflow.task_logs l set started_at = started_at - interval '1 hour' where job_id = (
    select job_id from taskflow.task_logs order by started_at desc limit 1);
select job_id from taskflow.task_logs order by finished_at limit 1;

-- counts-true: more is counted than has ended
update taskflow.counts set n = n + 1000 where ctid = (
    select ctid from taskflow.counts where queue = 'work' and outcome = 1 limit 1) returning queue;

-- lanes-real: a mark is of a transaction to come
update taskflow.lanes set tx = '99999999999' where queue = 'nobody' returning queue;

-- lanes-real: a lane is in another shard than its queue
update taskflow.lanes set shard = (shard + 1) % 16 where queue = 'nobody' returning queue;

-- instants-decided: an instant has no row in the ledger
delete from taskflow.firings f using picked x
    where (f.schedule_id, f.instant) = (x.schedule, x.instant) returning f.schedule_id;

-- instants-decided: the cursor is ahead of the ledger
update taskflow.schedules
    set cursor = cursor + interval '3 seconds' where cron = '* * * * * *' and task = 'echo' returning id;

-- instants-decided: a time that is no instant has fired
update taskflow.firings f
    set instant = f.instant + interval '0.5 seconds', first = f.instant + interval '0.5 seconds' from picked x
    where (f.schedule_id, f.instant) = (x.schedule, x.instant) returning f.schedule_id;

-- instants-decided: an instant is in two rows
update taskflow.firings f
    set first = f.instant - interval '1 second', count = 2 from picked x
    where (f.schedule_id, f.instant) = (x.schedule, x.instant) returning f.schedule_id;

-- firing-made: a firing has no job
update taskflow.firings f set job_id = null from picked x
    where (f.schedule_id, f.instant) = (x.schedule, x.instant) returning f.schedule_id;

-- firing-made: the job of a firing is not there
update taskflow.firings f set job_id = taskflow.uuid_at(taskflow.now()) from picked x
    where (f.schedule_id, f.instant) = (x.schedule, x.instant) returning f.schedule_id;

-- firing-made: two firings have one job
update taskflow.firings f set job_id = (
    select job_id from taskflow.firings o where o.schedule_id = x.schedule and o.instant < x.instant
    and o.job_id is not null order by instant desc limit 1) from picked x
    where (f.schedule_id, f.instant) = (x.schedule, x.instant) returning f.schedule_id;

-- firing-made: an instant that was skipped has a job
update taskflow.firings f set state = 'skipped_off'
    from picked x where (f.schedule_id, f.instant) = (x.schedule, x.instant) returning f.schedule_id;

-- job-fired: a schedule's job has no firing
delete from taskflow.firings f using picked x
    where (f.schedule_id, f.instant) = (x.schedule, x.instant) returning f.job_id;

-- run-fired: a schedule's run has no firing
delete from taskflow.firings where run_id = (
    select run_id from taskflow.firings where run_id is not null order by instant desc limit 1) returning run_id;

-- run-goes-on: the job that a run waits for has ended without a word
delete from taskflow.leases where job_id = (select job_id from taskflow.run_jobs
    where run_id = (select stalled from picked));
insert into taskflow.attempts (job_id, finished_at, attempt, tries, outcome, final)
    select job_id, now(), 1, 1, 1, true from taskflow.run_jobs where run_id = (select stalled from picked);
select stalled from picked;

-- run-goes-on: a run has forgotten the signal that it waits for
update taskflow.runs set signals = '{}' where id = (select waits from picked) returning id;

-- run-whole: a run has ended, and a step has not
update taskflow.run_steps set status = 'running',
    finished_at = null where run_id = (select released from picked) and step = 'test' returning run_id;

-- run-whole: a run has succeeded, and has no end
update taskflow.runs set finished_at = null where id = (select released from picked) returning id;

-- run-whole: a timer of a run that has ended is left
insert into taskflow.run_timers (run_id, name, iteration, due_at, shard)
    values ((select released from picked), 'pause', 1, now(), 0) returning run_id;

-- step-order: a step began before the one that it depends on had ended
update taskflow.run_steps
    set started_at = started_at - interval '1 minute'
    where run_id = (select released from picked) and step = 'test' returning run_id;

-- step-order: a step ran although the one that it depends on has failed
update taskflow.run_steps
    set status = 'failed' where run_id = (select released from picked) and step = 'build' returning run_id;

-- step-order: a step ran although the one that it depends on never did
delete from taskflow.run_steps where run_id = (select released from picked) and step = 'build' returning run_id;

-- step-jobs: the job of a step is not there
delete from taskflow.jobs where id = (
    select job_id from taskflow.run_jobs where run_id = (select released from picked) and step = 'build');
select released from picked;

-- step-jobs: a step has the job of another
update taskflow.run_jobs set step = 'unhappy'
    where run_id = (select released from picked) and step = 'build' returning run_id;

-- step-jobs: a step has lost the first of its jobs
update taskflow.run_jobs set index = 1
    where run_id = (select released from picked) and step = 'build' returning run_id;

-- child-known: a run does not know the run that it started
delete from taskflow.run_jobs where child_id is not null returning child_id;

-- step-job-run: the run of a job is gone
delete from taskflow.runs where id = (select released from picked);
select id from taskflow.jobs j where taskflow.uuid_in(options #>> '{metadata,taskflow.run}') is not null
    and not exists (select from taskflow.runs r where r.id::text = options #>> '{metadata,taskflow.run}')
    limit 1;
