"""The demo's parcels: a workflow whose steps are done by Python, by sh and curl, and by a signal; and hourly reports in
a hurry, by a schedule of every second."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from contextlib import suppress
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskflow_server.cluster.process import spawn

if TYPE_CHECKING:
    from taskflow import FiringInfo, JobInfo, RunInfo, TaskFlow

SHOP = Path(__file__).resolve().parents[2] / "examples" / "shop"
ORDERS = range(1, 6)  # that get a parcel


class Parcels:
    """Made once the cluster is up; `look` as often as the demo looks, `end` before the cluster stops."""

    def __init__(self, tf: TaskFlow, gateway: str, folder: Path, environ: dict[str, str]) -> None:
        self._tf = tf
        self.courier = self._hired(f"http://{gateway}", folder, environ)
        tf.workflows.put(self._document())
        self._runs = [tf.workflows.start("parcel", {"order": n}, label=f"order {n}").id for n in ORDERS]
        self._open = set(self._runs)
        self._schedule = tf.schedules.create("report", cron="* * * * * *", overlap="allow").id
        self.runs: list[RunInfo] = []
        self.firings: list[FiringInfo] = []
        self.reports: dict[str, JobInfo] = {}

    def _hired(self, url: str, folder: Path, environ: dict[str, str]) -> subprocess.Popen[bytes] | None:
        """The courier at work; None on a machine without curl."""
        if not shutil.which("curl"):
            return None
        return spawn([str(SHOP / "courier.sh"), url], env=environ, cwd=folder, log=folder / "courier.log")

    def _document(self) -> dict[str, Any]:
        """As the file has it; without a courier the parcel is only packed, and arrives."""
        document: dict[str, Any] = json.loads((SHOP / "parcel.json").read_text())
        if self.courier is None:
            document["steps"] = [step for step in document["steps"] if step["name"] != "collect"]
            document["edges"] = [{"from": "pack", "to": "arrived"}, document["edges"][-1]]
            document["output"]["receipt"] = "none"
        return document

    @property
    def done(self) -> bool:
        return not self._open

    def look(self) -> None:
        """At each door that a parcel has reached, somebody signs."""
        for id in list(self._open):
            run = self._tf.workflows.get_run(id)
            if run.state.final:
                self._open.discard(id)
            elif "arrived" in run.signals:
                self._tf.workflows.signal(id, "arrived", {"by": "Ada"})

    def end(self) -> None:
        """Sends the courier home, ends the schedule, and gathers what came of both."""
        self._tf.schedules.pause(self._schedule)
        self.runs = [self._tf.workflows.get_run(id) for id in self._runs]
        ledger = reversed(list(self._tf.schedules.firings(self._schedule)))
        self.firings = [firing for firing in ledger if firing.state != "skipped_off"]
        self.reports = {f.job_id: self._tf.jobs.wait(f.job_id, timeout=20) for f in self.firings if f.job_id}
        self.close()

    def close(self) -> None:
        if self.courier is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.courier.pid, signal.SIGKILL)  # with the curl that it waits for
            self.courier.wait()

    def faults(self) -> list[str]:
        """The contradictions, a line each."""
        faults = []
        for run, order in zip(self.runs, ORDERS, strict=True):
            receipt = "none" if self.courier is None else f"courier-P{order:06}"
            if run.output != {"receipt": receipt, "signed": "Ada"}:
                faults.append(f"the parcel of order {order} is {run.state}: {run.output or run.error}")
        for before, after in pairwise(self.firings):
            if after.instant - before.instant != timedelta(seconds=1):
                faults.append(f"no report between {before.instant} and {after.instant}")
        if not self.firings:
            faults.append("the schedule of every second has not fired")
        faults += [f"report {job.id} is {job.state}" for job in self.reports.values() if job.state != "succeeded"]
        return faults

    def show(self) -> None:
        """For a person."""
        signed = sum(run.state == "succeeded" for run in self.runs)
        how = "collected by sh and curl" if self.courier else "not collected, without curl here"
        print(f"parcels     {signed} of {len(self.runs)} runs of the workflow are done: packed, {how}, signed for")
        last = next((job.result for job in reversed(self.reports.values())), None)
        print(f"reports     {len(self.firings)} seconds, {len(self.reports)} reports, the last: {last}")
