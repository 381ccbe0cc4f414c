"""AWS Batch on loopback (tests/support/batch_server.py), and what a pusher is told to use it."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from pathlib import Path
from typing import Any, ClassVar

import boto3
from botocore.config import Config

from taskflow_server.cluster.ports import free_ports
from taskflow_server.cluster.service import environment, python
from tests.support.cluster import ROOT, Program
from tests.support.waiting import eventually

REGION = "eu-central-1"
SECRET = "s3cr3t-of-the-aws-account"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_EC2_METADATA_DISABLED": "true"}
# Waits for the file `gate`, and exits with what stands in it; the parameters are the payload's.
GATED = ["sh", "-c", 'echo $$ > "$0.pid"; until [ -s "$0" ]; do sleep 0.05; done; exit $(cat "$0")', "Ref::gate"]


class BatchServer:
    """Started when made. Has the job definitions `gated` and `env`, and the queues that a test makes.

    `lag`: seconds until its lists show a job.
    """

    kind = "aws-batch"
    secret = SECRET
    last_line = ""  # of the programs: Batch shows no logs
    variables: ClassVar = CREDENTIALS  # of the pusher

    def __init__(self, directory: Path, port: int = 0, lag: float = 0.0) -> None:
        self.port = port or free_ports(1)[0]
        self.directory = directory
        self.url = f"http://127.0.0.1:{self.port}"
        command = python("tests.support.batch_server", str(self.port), str(lag))
        self.program = Program(command, directory / "batch.log", environment(os.environ, ROOT))
        eventually(self._answers, 30)
        self.batch = self.client("batch")
        self._set_up()

    def client(self, service: str) -> Any:
        once = Config(retries={"total_max_attempts": 1, "mode": "standard"})
        return boto3.session.Session(
            aws_access_key_id="testing", aws_secret_access_key=SECRET, region_name=REGION
        ).client(service, endpoint_url=self.url, config=once)

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.url}/moto-api/data.json", timeout=1).close()
        except OSError:
            return False
        return True

    def _set_up(self) -> None:
        role = self.client("iam").create_role(RoleName="batch", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
        compute = self.batch.create_compute_environment(
            computeEnvironmentName="here", type="UNMANAGED", state="ENABLED", serviceRole=role
        )
        self._place = [{"order": 1, "computeEnvironment": compute["computeEnvironmentArn"]}]
        self.define("gated", GATED)
        self.define("env", ["sh", "-c", 'env > "$0"', "Ref::file"])

    def queue(self, name: str) -> str:
        """A new one; its name."""
        self.batch.create_job_queue(jobQueueName=name, state="ENABLED", priority=1, computeEnvironmentOrder=self._place)
        return name

    def destination(self, home: str, **more: Any) -> dict[str, Any]:
        """Settings of a pusher, for the queue `home`."""
        return {
            "kind": "aws-batch", "job_queue": home, "region": REGION, "endpoint_url": self.url,
            "job_definition": "gated", **more,
        }  # fmt: skip

    def define(self, name: str, command: list[str]) -> None:
        self.batch.register_job_definition(
            jobDefinitionName=name, type="container",
            containerProperties={"image": "busybox", "vcpus": 1, "memory": 128, "command": command},
        )  # fmt: skip

    def submit(self, name: str, queue: str, gate: Path, **variables: str) -> str:
        """A job that no pusher has made; its id."""
        environment = [{"name": name, "value": value} for name, value in variables.items()]
        answer = self.batch.submit_job(
            jobName=name, jobQueue=queue, jobDefinition="gated", parameters={"gate": str(gate)},
            containerOverrides={"environment": environment},
        )  # fmt: skip
        return str(answer["jobId"])

    def hold(self, held: bool) -> None:
        """Whether what is submitted from now on stays queued."""
        transition = {"progression": "manual", "times": 1_000_000 if held else 1}
        body = json.dumps({"model_name": "batch::job", "transition": transition}).encode()
        where = f"{self.url}/moto-api/state-manager/set-transition"
        urllib.request.urlopen(urllib.request.Request(where, body, method="POST"), timeout=5).close()

    def jobs(self, queue: str) -> list[dict[str, Any]]:
        """All that were ever submitted, oldest first."""
        found = []
        for status in ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING", "SUCCEEDED", "FAILED"):
            found += self.batch.list_jobs(jobQueue=queue, jobStatus=status)["jobSummaryList"]
        return sorted(found, key=lambda job: job["createdAt"])

    def statuses(self, queue: str) -> list[str]:
        return [job["status"] for job in self.jobs(queue)]

    def left(self, queue: str) -> list[str]:
        """Jobs that have not ended: Batch itself cleans up after the others."""
        return [job["jobId"] for job in self.jobs(queue) if job["status"] not in ("SUCCEEDED", "FAILED")]

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP: it is away; SIGCONT: it is back."""
        self.program.signal(number)

    def close(self) -> None:
        self.program.signal(signal.SIGCONT)
        self.program.stop(grace=5)
