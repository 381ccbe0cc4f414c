-- name: all_jobs
-- Lists, newest first: a source proposes ids between two bounds, in falling order; `matching_jobs` alone decides.
select id from taskflow.jobs where id >= %(after)s::uuid and id < %(before)s::uuid order by id desc limit %(limit)s;

-- name: jobs_of_lanes
-- Of a queue, of a task, or of both: from the lists of its lanes.
select j.id
from (
    select distinct m.queue, m.task from taskflow.lanes m
    where (%(queue)s::text = '' or m.queue = %(queue)s) and (%(task)s::text = '' or m.task = %(task)s)
) lane
cross join lateral (
    select id from taskflow.jobs j
    where j.queue = lane.queue and j.task = lane.task and j.id >= %(after)s::uuid and j.id < %(before)s::uuid
    order by j.id desc limit %(limit)s
) j
order by j.id desc limit %(limit)s;

-- name: deferred_jobs
select job_id as id from taskflow.deferred
where job_id >= %(after)s::uuid and job_id < %(before)s::uuid
order by job_id desc limit %(limit)s;

-- name: deferred_jobs_of_queue
select job_id as id from taskflow.deferred
where queue = %(queue)s and job_id >= %(after)s::uuid and job_id < %(before)s::uuid
order by job_id desc limit %(limit)s;

-- name: unsuccessful_jobs
-- A job that was retried by hand may have several.
select distinct job_id as id from taskflow.attempts
where final and outcome <> 1 and job_id >= %(after)s::uuid and job_id < %(before)s::uuid
order by job_id desc limit %(limit)s;

-- name: jobs_beyond_marks
-- Whatever may be ready: beyond its lane's mark, of a transaction that ended late, or due. In no order, up to a limit.
select id from (
    select j.id from taskflow.lanes m
    join taskflow.jobs j on j.queue = m.queue and j.task = m.task and j.priority = m.priority and not j.deferred
        and ((j.tx, j.id) > (m.tx, m.id))
    where (%(queue)s::text = '' or m.queue = %(queue)s) and (%(task)s::text = '' or m.task = %(task)s)
    limit %(limit)s
) beyond
union
select id from (
    select j.id from taskflow.lanes m
    join taskflow.jobs j on j.queue = m.queue and j.task = m.task and j.priority = m.priority and not j.deferred
        and j.tx = any (m.late)
    where (%(queue)s::text = '' or m.queue = %(queue)s) and (%(task)s::text = '' or m.task = %(task)s)
    limit %(limit)s
) late
union
select id from (
    select d.job_id as id from taskflow.deferred d
    where d.due_at <= (select taskflow.now())
        and (%(queue)s::text = '' or d.queue = %(queue)s) and (%(task)s::text = '' or d.task = %(task)s)
    limit %(limit)s
) due;

-- name: tagged_jobs
-- Those that have a word; the rarest of several is asked for.
select job_id as id from taskflow.job_tags
where word = %(word)s and job_id >= %(after)s::uuid and job_id < %(before)s::uuid
order by job_id desc limit %(limit)s;

-- name: rarest_word
-- Counted up to a limit: which of these words the fewest jobs have.
select w.word from unnest(%(words)s::text[]) as w (word)
cross join lateral (
    select count(*) as n from (
        select from taskflow.job_tags t
        where t.word = w.word and t.job_id >= %(after)s::uuid and t.job_id < %(before)s::uuid limit 10000
    ) counted
) had
order by had.n limit 1;

-- name: matching_jobs
-- Which of these jobs are what was asked for, with their state by the facts on disk. Empty: no such wish.
select id, state from taskflow.job_facts
where id = any(%(ids)s::uuid[])
    and (%(queue)s::text = '' or queue = %(queue)s)
    and (%(task)s::text = '' or task = %(task)s)
    and (cardinality(%(states)s::integer[]) = 0 or state = any(%(states)s::integer[]))
    and (%(error)s::text = '' or error ->> 'type' = %(error)s
        or position(lower(%(error)s) in lower(error ->> 'message')) > 0)
    and (cardinality(%(tags)s::text[]) = 0 or coalesce(options -> 'tags', '[]') @> to_jsonb(%(tags)s::text[]))
    and (%(metadata)s::jsonb = '{}' or coalesce(options -> 'metadata', '{}') @> %(metadata)s::jsonb);

-- name: insert_tags
-- Of the transaction that inserts their jobs.
insert into taskflow.job_tags (word, job_id)
select * from unnest(%(word)s::text[], %(job_id)s::uuid[]) on conflict do nothing;

-- name: add_counts
-- Jobs that have ended, of a coordinator's own shards.
insert into taskflow.counts as c (queue, minute, outcome, n)
select * from unnest(%(queue)s::text[], %(minute)s::timestamptz[], %(outcome)s::smallint[], %(n)s::bigint[])
on conflict (queue, minute, outcome) do update set n = c.n + excluded.n;

-- name: counts_since
select queue, outcome, sum(n)::bigint as n from taskflow.counts
where queue = any(%(queues)s::text[]) and minute >= (select taskflow.now()) - %(seconds)s * interval '1 second'
group by queue, outcome;
