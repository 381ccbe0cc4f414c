"""Errors for a type checker, with the code of each at the end of its line. Never imported."""

from taskflow import AsyncTaskFlow, Exponential, Job, JobOptions, NewJob, TaskFlow

tf = TaskFlow("localhost:9003")
atf = AsyncTaskFlow("localhost:9003")


@tf.task(queue="emails", retries=5, backoff=Exponential(first=1))
def send(to: str, job: Job) -> int:
    return len(to)


tf.new_job("emails", {}, retrys=1)  # wrong: call-arg
tf.new_job("emails", {}, retries="3")  # wrong: arg-type
tf.new_job(7)  # wrong: arg-type
tf.new_job("emails").wait(until=3)  # wrong: call-arg
tf.new_jobs([1, 2])  # wrong: list-item
NewJob("emails", {}, priority=[7])  # wrong: arg-type
JobOptions("positional")  # wrong: call-arg
Exponential(1.0)  # wrong: call-arg
send(17, None)  # wrong: arg-type
tf.task(queue=3)  # wrong: call-overload
tf.jobs.get(17)  # wrong: arg-type
print(tf.workflow)  # wrong: attr-defined


async def later() -> str:
    job = atf.new_job("emails")
    return job.id  # wrong: attr-defined
