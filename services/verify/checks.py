"""The table of checks: a promise in one sentence, its id, and the query that returns what contradicts it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Rows(StrEnum):
    """Rows that a check walks through, page by page; the value is how a report counts them."""

    JOBS = "jobs"
    RUNS = "runs"
    SCHEDULES = "schedules"
    KEYS = "keys"
    FIRINGS = "firings"
    LANES = "lanes"  # few: one page
    LEDGER = "instants"
    COUNTS = "counts"
    TASKS = "attempts"


@dataclass(frozen=True, slots=True)
class Check:
    """`settles`: what it finds may be on its way, and counts if it is still there while its owner lives. `pruned`: a
    prune that runs at the same time takes away what it looks for."""

    id: str
    promise: str
    rows: Rows
    query: str = ""
    settles: bool = False
    pruned: bool = False


CHECKS = (
    Check("job-kept", "an unfinished job waits where its owner finds it", Rows.JOBS, "verify_job_kept"),
    Check("mark-bounds", "no job that only its lane could bring is behind the mark", Rows.JOBS, "verify_mark_bounds"),
    Check("job-ends-once", "nothing follows a final attempt but a retry by hand", Rows.JOBS, "verify_job_ends_once"),
    Check("attempt-numbers", "attempts of a job are numbered 1, 2, 3, …", Rows.JOBS, "verify_attempt_numbers"),
    Check("tries-counted", "an attempt uses a try as its outcome says", Rows.JOBS, "verify_tries_counted"),
    Check("retries-kept", "a job has no more tries than its retries allow", Rows.JOBS, "verify_retries_kept"),
    Check("outcome-decides", "an outcome ends its job, or not, as its kind says", Rows.JOBS, "verify_outcome_decides"),
    Check("execution-once", "an exec_id has one outcome", Rows.JOBS, "verify_execution_once"),
    Check(
        "attempt-fenced", "an attempt is of its shard, under an epoch of its time", Rows.JOBS, "verify_attempt_fenced"
    ),
    Check("attempts-in-turn", "no two attempts of a job run at once", Rows.JOBS, "verify_attempts_in_turn"),
    Check("lease-present", "a lease is of its job's present attempt", Rows.JOBS, "verify_lease_present"),
    Check("deferred-present", "a deferred row is of its job's next attempt", Rows.JOBS, "verify_deferred_present"),
    Check("owner-agrees", "the owner of its queue finds what waits", Rows.JOBS, "verify_owner_agrees"),
    Check("cancel-kept", "a job whose cancel is done has ended", Rows.JOBS, "verify_cancel_kept"),
    Check("key-once", "an idempotency key has one job", Rows.JOBS, "verify_key_once", pruned=True),
    Check("keys-lead", "an idempotency key leads to its job", Rows.KEYS, "verify_keys_lead", pruned=True),
    Check(
        "history-whole",
        "attempts, logs, tags and cancels have their job",
        Rows.JOBS,
        "verify_history_whole",
        pruned=True,
    ),
    Check("task-logged", "each attempt at a named task is in its log", Rows.JOBS, "verify_task_logged"),
    Check("limit-kept", "no more jobs of a task run at once than its concurrency", Rows.TASKS),
    Check("counts-true", "no count exceeds the jobs that have ended", Rows.COUNTS, pruned=True),
    Check("lanes-real", "a lane has its queue's shard, and a mark of this cluster", Rows.LANES, "verify_lanes_real"),
    Check("instants-decided", "each instant of a schedule has one row in the ledger", Rows.LEDGER),
    Check("firing-made", "a firing has its job or run", Rows.FIRINGS, "verify_firing_made", pruned=True),
    Check("job-fired", "a schedule's job has its firing", Rows.JOBS, "verify_job_fired", pruned=True),
    Check("run-fired", "a schedule's run has its firing", Rows.RUNS, "verify_run_fired", pruned=True),
    Check("run-goes-on", "an unfinished run has something that moves it on", Rows.RUNS, "verify_run_goes_on"),
    Check("run-whole", "a run has ended when all of its steps have", Rows.RUNS, "verify_run_whole"),
    Check("run-hears", "a run that has ended has no events left", Rows.RUNS, "verify_run_hears", settles=True),
    Check("step-order", "a step begins after those that it depends on", Rows.RUNS, "verify_step_order"),
    Check("step-jobs", "a step's jobs and runs are there, and are its own", Rows.RUNS, "verify_step_jobs", pruned=True),
    Check("child-known", "a run that another one started has its place there", Rows.RUNS, "verify_child_known"),
    Check("step-job-run", "a job of a run has its run", Rows.JOBS, "verify_step_job_run", pruned=True),
)
BY_ID = {check.id: check for check in CHECKS}
