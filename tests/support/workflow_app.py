"""The app of the workflows' tests: `python -m tests.support.workflow_app SCHEDULER`."""

import sys
from typing import Any

from taskflow import Fail, Job, TaskFlow

tf = TaskFlow(sys.argv[1])
refused: set[str] = set()
ended: list[str] = []


@tf.task(queue="steps")
async def add(job: Job) -> int:
    return sum(job.payload)


@tf.task(queue="steps")
async def shout(job: Job) -> dict[str, Any]:
    return {"text": str(job.payload["text"]).upper()}


@tf.task(queue="steps")
async def nest(job: Job) -> Any:
    """A list in a list, so deep."""
    found: list[Any] = []
    for _ in range(job.payload):
        found = [found]
    return found


@tf.task(queue="steps")
async def fail_once(job: Job) -> str:
    """Fails for good in the first job with each payload."""
    if job.payload not in refused:
        refused.add(job.payload)
        raise Fail("not the first time")
    return "now"


@tf.task(queue="steps")
async def fail(job: Job) -> None:
    raise Fail(f"will not {job.payload}")


@tf.task(queue="steps", name="close-campaign")
async def close_campaign(job: Job) -> str:
    return f"closed for {job.payload['user']}"


@tf.task(queue="default", name="awf.workflow.decision/decided")
async def decide(job: Job) -> Any:
    """First a task and a run of another workflow, both at once; when both have ended, the end."""
    action = "awf.workflow.action/"
    if job.payload["event"].endswith("/workflow-init"):
        return [
            {"action": f"{action}schedule-task", "task-request": {"definition": "shout", "params": {"text": "hello"}}},
            {"action": f"{action}schedule-workflow", "task-request": {"definition": "counted", "params": [1, 2]}},
            {
                "action": f"{action}schedule-task",
                "task-request": {"definition": "awf.task/wait", "params": {"duration": "0.05s"}},
            },
        ]
    ended.append(job.payload["event"].rpartition("/")[2])
    if len(ended) < 3:
        return {"action": f"{action}do-nothing"}
    return {"action": f"{action}complete-workflow", "result": sorted(ended)}


if __name__ == "__main__":
    tf.run(concurrency=20)
