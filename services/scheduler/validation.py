"""The border: a JobSpec becomes a row to be stored, or an error that names its field."""

from __future__ import annotations

from taskflow._policy import MAX_KEY
from taskflow.v1 import jobs_pb2 as pb
from taskflow_server.core import ids
from taskflow_server.core.errors import InvalidArgument
from taskflow_server.core.names import is_known, qualify
from taskflow_server.rpc.defaults import NOTHING, Defaults
from taskflow_server.rpc.values import options_to_json, seconds, timestamp_us, unfit
from taskflow_server.runtime.clock import SystemClock
from taskflow_server.scheduler.settings import SchedulerSettings
from taskflow_server.store.jobs import NewJob
from taskflow_server.store.tags import words

HOUR_MS = 3_600_000
_NONE: frozenset[str] = frozenset()
_ENCODINGS = {pb.ENCODING_JSON, pb.ENCODING_TEXT, pb.ENCODING_BYTES}


class Validation:
    def __init__(self, settings: SchedulerSettings, clock: SystemClock) -> None:
        self._settings = settings
        self._clock = clock

    def check(self, spec: pb.JobSpec, field: str, call: int, own: Defaults = NOTHING) -> NewJob:
        """The row for `spec`, with shard 0, or InvalidArgument. Sets in `spec` a missing id, and the options that it
        leaves to its task, whose options are `own`.
        """
        unsaid = own.fill(spec) if spec.task else _NONE
        queue = spec.queue
        if not is_known(queue):
            queue = qualify(queue, field=f"{field}.queue")
        task = qualify(spec.task, field=f"{field}.task") if spec.task else ""
        if not spec.id:
            spec.id = self._clock.new_id()
        else:
            self._check_id(spec.id, field)
        priority = spec.priority if spec.HasField("priority") else 5
        if not 0 <= priority <= 9:
            raise InvalidArgument(f"{field}.priority: {priority} is not between 0 and 9", f"{field}.priority")
        if not 0 <= spec.retries <= self._settings.max_retries:
            raise InvalidArgument(
                f"{field}.retries: {spec.retries} is not between 0 and {self._settings.max_retries}", f"{field}.retries"
            )
        encoding = spec.encoding or pb.ENCODING_JSON
        if encoding not in _ENCODINGS:
            raise InvalidArgument(
                f"{field}.encoding: {encoding} is not one of JSON (1), TEXT (2), BYTES (3)", f"{field}.encoding"
            )
        payload = spec.payload or None
        if payload is not None:
            self._check_payload(payload, encoding, field)
        elif encoding != pb.ENCODING_JSON:
            payload = b""
        key = spec.key or None
        if key is not None and (len(key) > MAX_KEY or "\0" in key):
            said = f"{field}.key: must be text of 1 to {MAX_KEY} characters, none of them NUL"
            raise InvalidArgument(said, f"{field}.key")
        options: bytes | None = None
        found_by: tuple[str, ...] = ()
        if spec.HasField("options"):
            options = options_to_json(spec.options.SerializeToString(deterministic=True), f"{field}.options")
            found_by = tuple(words(spec.options.tags, spec.options.metadata))
        run_at = self._due(spec, field) if spec.HasField("run_at") or spec.HasField("delay") else None
        return NewJob(
            spec.id, priority, encoding, spec.retries, run_at is not None, queue, task, payload, key, run_at, options,
            shard=0, call=call, words=found_by, unsaid=unsaid,
        )  # fmt: skip

    def _check_id(self, job_id: bytes, field: str) -> None:
        if not ids.is_uuid7(job_id):
            raise InvalidArgument(f"{field}.id: must be the 16 bytes of a UUIDv7", f"{field}.id", "BAD_ID")
        off = ids.unix_ms_of(job_id) - self._clock.real_now_us() // 1000
        if abs(off) > HOUR_MS:
            raise InvalidArgument(
                f"{field}.id: its time is {abs(off) / 1000:.0f} s {'ahead of' if off > 0 else 'behind'} the database's;"
                " the limit is an hour: set the clock of the machine that made it",
                f"{field}.id",
                "ID_TIME",
            )

    def _check_payload(self, payload: bytes, encoding: int, field: str) -> None:
        most = self._settings.max_payload_bytes
        if len(payload) > most:
            raise InvalidArgument(
                f"{field}.payload: {len(payload)} bytes exceed the limit of {most} (TASKFLOW_MAX_PAYLOAD_BYTES)",
                f"{field}.payload",
                "TOO_LARGE",
            )
        why = unfit(payload, encoding)
        if why:
            raise InvalidArgument(f"{field}.payload: {why}", f"{field}.payload", "BAD_PAYLOAD")

    def _due(self, spec: pb.JobSpec, field: str) -> int | None:
        """Microseconds since 1970, or None when it is due already."""
        if spec.HasField("run_at") and spec.HasField("delay"):
            raise InvalidArgument(f"{field}.delay: give either run_at or delay, not both", f"{field}.delay")
        now = self._clock.now_us()
        if spec.HasField("run_at"):
            due = timestamp_us(spec.run_at, f"{field}.run_at")
        else:
            due = now + int(seconds(spec.delay, f"{field}.delay") * 1e6)
        return due if due > now else None
