"""Tasks: handlers under a name, with options of their own. `03_tasks.py worker` runs them, `03_tasks.py` uses them."""

import os
import sys
import time

from taskflow import Exponential, Job, JobFailed, JobOptions, Retry, TaskFlow

tf = TaskFlow(os.environ.get("TASKFLOW_ADDRESS", "localhost:9003"))


@tf.task(queue="emails", retries=5, timeout=30, backoff=Exponential(first=0.1, factor=2, limit=600))
async def send_email(to: str, subject: str = "hello", *, job: Job) -> dict[str, object]:
    if job.attempt < 2:
        raise Retry("the server was busy", delay=0.1)
    return {"to": to, "subject": subject, "attempt": job.attempt}


@tf.task(queue="reports")
def report(rows: int, job: Job) -> str:
    for row in range(0, rows, 100):
        job.progress(row, total=rows, unit="rows")
        time.sleep(0.01)
    job.log(f"wrote {rows} rows")
    return f"{rows} rows"


def use() -> None:
    mail = send_email.new_job(to="ada@example.org")  # arguments are checked against the signature
    soon = send_email.new_job(to="bob@example.org", _options=JobOptions(delay=0.5, priority=7))
    many = report.new_jobs([{"rows": n} for n in (100, 200, 300)])
    for job in (mail, soon, *many):
        print(job.wait(timeout=30).result)
    wrong = tf.new_job("reports", {"columns": 3}, task="report")  # not checked here, so it fails there
    try:
        wrong.wait(timeout=30)
    except JobFailed as error:
        print(error.job.error)
    print([line.message for line in tf.jobs.logs(many[0].id)])


if __name__ == "__main__":
    tf.run(concurrency=100) if "worker" in sys.argv else use()
