-- Logs of named tasks, what triggered a firing, and the retention of firings and counts.

-- One row for each attempt at a job that was made as a run of a named task: by RunTask, by a schedule. Appended with the
-- attempt, in its transaction. What the attempt gave stands in `attempts`.
create table taskflow.task_logs (
    task_id     uuid        not null,
    job_id      uuid        not null,
    attempt     integer     not null,
    started_at  timestamptz,
    finished_at timestamptz not null,
    outcome     smallint    not null,
    final       boolean     not null,
    primary key (job_id, attempt)
);
create index task_logs_ended on taskflow.task_logs (task_id, outcome, finished_at) where final;
create index task_logs_started on taskflow.task_logs (task_id, started_at) where started_at is not null;
create index leases_task on taskflow.leases (task) where task <> '';

alter table taskflow.firings add column trigger text not null default 'schedule';  -- or backfill
create index firings_decided on taskflow.firings (decided_at) where state <> 'queued';
create index counts_minute on taskflow.counts using brin (minute);
