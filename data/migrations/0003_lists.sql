-- Lists and counts that never scan history (protocol.md, part D).

-- A queue's jobs, and a task's, newest first: ids are in order of time.
create index jobs_list on taskflow.jobs (queue, task, id);

-- What did not succeed, newest first.
drop index taskflow.attempts_unsuccessful;
create index attempts_unsuccessful on taskflow.attempts (job_id) where final and outcome <> 1;

create index deferred_queue on taskflow.deferred (queue, job_id);

-- One row for each tag and each metadata entry of a job; jobs without any have none. Written with the job.
create table taskflow.job_tags (
    word        text        not null,                               -- taskflow's store makes it: services/store/tags.py
    job_id      uuid        not null,
    primary key (word, job_id)
);
create index job_tags_job on taskflow.job_tags (job_id);

-- Jobs that ended, by queue, minute and outcome. Written with the marks: a coordinator that is killed takes the
-- counts of its last seconds along, never a job.
create table taskflow.counts (
    queue       text        not null,
    minute      timestamptz not null,
    outcome     smallint    not null,
    n           bigint      not null,
    primary key (queue, minute, outcome)
) with (fillfactor = 50);

-- Every job with its state as the number that the API has for it, and what lists are filtered by. `job_states` is the
-- same for people; a test holds both equal.
create view taskflow.job_facts as
select j.id, j.queue, j.task, j.options,
    case
        when l.started then 4
        when l.job_id is not null then 3
        when d.job_id is not null and d.due_at <= (select taskflow.now()) then 2
        when d.reason = 2 then 5
        when d.job_id is not null then 1
        when a.final and a.outcome in (2, 3, 4) then 7
        when a.final and a.outcome = 5 then 8
        when a.final then 6
        else 2
    end as state,
    a.error
from taskflow.jobs j
left join taskflow.leases l on l.job_id = j.id
left join taskflow.deferred d on d.job_id = j.id
left join lateral (
    select a.final, a.outcome, a.error from taskflow.attempts a where a.job_id = j.id order by a.attempt desc limit 1
) a on true;

create or replace view taskflow.job_states as
select j.id, j.queue, j.task,
    case
        when l.started then 'running'
        when l.job_id is not null then 'requested'
        when d.job_id is not null and d.due_at <= (select taskflow.now()) then 'ready'
        when d.reason = 2 then 'retrying'
        when d.job_id is not null then 'scheduled'
        when a.final and a.outcome in (2, 3, 4) then 'failed'
        when a.final then taskflow.outcome_name(a.outcome)
        else 'ready'
    end as state,
    coalesce(l.attempt, a.attempt, 0) as attempt,
    j.priority, j.retries, j.created_at,
    coalesce(d.due_at, j.run_at) as run_at,
    coalesce(l.started_at, a.started_at) as started_at,
    case when l.job_id is null and d.job_id is null and a.final then a.finished_at end as finished_at,
    taskflow.readable(j.payload, j.encoding) as payload,
    case when a.final then taskflow.readable(a.result, a.encoding) end as result,
    a.error ->> 'message' as error,
    coalesce(l.worker, a.worker) as worker,
    j.key, j.options
from taskflow.jobs j
left join taskflow.leases l on l.job_id = j.id
left join taskflow.deferred d on d.job_id = j.id
left join lateral (
    select * from taskflow.attempts a where a.job_id = j.id order by a.attempt desc limit 1
) a on true;
