-- name: count_states
-- Of these jobs, how many stand in which derived state, and their attempts: what `make demo` checks its own count against.
select queue, state, count(*) as jobs, sum(attempt)::bigint as attempts
from taskflow.job_states where id = any(%(ids)s::uuid[]) group by queue, state order by queue, state;

-- name: job_latencies
-- Of these jobs, the milliseconds from their storing to their end, by queue.
select queue,
    (extract(epoch from percentile_cont(0.5) within group (order by finished_at - created_at)) * 1000)::float8 as p50,
    (extract(epoch from percentile_cont(0.99) within group (order by finished_at - created_at)) * 1000)::float8 as p99
from taskflow.job_states where id = any(%(ids)s::uuid[]) and finished_at is not null group by queue order by queue;
