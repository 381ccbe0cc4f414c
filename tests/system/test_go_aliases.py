"""The words of the Go SDK on a real cluster: NewServer, NewJob, Run."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from taskflow import CreateJobRequest, Job, NewServer, RunConfigurations
from tests.support.cluster import ServiceCluster


@pytest.mark.feature("S3.1", "S3.2")
def test_a_job_is_in_postgres_before_the_answer_and_runs_by_the_card_s_words(
    cluster: ServiceCluster, database: str
) -> None:
    server = NewServer(cluster.scheduler_address, cluster.address("queue"))
    payload = json.dumps({"EmailSenderId": "a", "EmailReceiverId": "b"})
    seen: list[object] = []

    def deliver(job: Job) -> None:
        seen.append(job.payload)
        if job.attempt == 1:
            raise ConnectionError("not yet")

    id = server.NewJob(CreateJobRequest(queue_name="EmailQueue", payload=payload, retries=5))
    with psycopg.connect(database) as connection:
        stored = connection.execute("select queue, retries from taskflow.jobs where id = %s", (id,)).fetchall()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.Run, RunConfigurations(queue_name="EmailQueue", handler=deliver, concurrency=2))
        try:
            job = server.taskflow.jobs.wait(id, timeout=30)
        finally:
            server.taskflow.stop()
            running.result(30)

    assert stored == [("EmailQueue", 5)]
    assert job.state == "succeeded" and job.attempt == 2
    assert seen == [payload, payload]
