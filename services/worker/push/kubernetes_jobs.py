"""Kubernetes Jobs as a destination, by the official client.

A Job's name is unique in its namespace, so that a submit which is repeated finds the first. Lists without a resource
version show what was written last. No call is repeated in here, and no watch is kept: each look lists the Jobs and
pods of the attempts that it is asked for, by their labels. A Job that is deleted stays until its pods are gone.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, cast
from uuid import UUID

from pydantic import ValidationError

from taskflow_server.worker.push.destination import (
    Away,
    Destination,
    External,
    Order,
    Phase,
    Refused,
    TaskOptions,
    Ticket,
    exec_id_of,
    name_of,
)
from taskflow_server.worker.push.kubernetes_settings import KubernetesSettings, KubernetesTask
from taskflow_server.worker.push.orders import filled, over, said_by

CONNECT_TIMEOUT, READ_TIMEOUT = 5.0, 10.0  # seconds of one HTTP call
CALLS = 4  # connections that are kept
LATER = 30  # seconds after TaskFlow's own limit of an attempt at which Kubernetes ends it, should no pusher run
MOST_TAIL = 65_536  # bytes of a log that are read for its last lines
MOST_RESTARTS = 3  # of a list whose next page has expired
CONTAINER = "job"
OWNER, JOB_ID, EXEC_ID = "taskflow/owner", "taskflow/job-id", "taskflow/exec-id"  # labels of Jobs and of their pods
# Why a container waits that does not start by waiting: what the operator or the job wrote is at fault.
_STUCK = frozenset({
    "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError",
    "CreateContainerConfigError", "CreateContainerError",
})  # fmt: skip
_REFUSED = (400, 413, 422)  # answers to a submit whose fault is the order's own


class KubernetesJobs(Destination):
    kind = "kubernetes"
    settings = KubernetesSettings

    def __init__(self, name: str, owner: str, settings: KubernetesSettings) -> None:
        super().__init__(name, owner, settings)
        try:
            import urllib3
            from kubernetes import client, config
        except ImportError:
            raise ValueError("Kubernetes needs its Python client: pip install kubernetes") from None
        self._settings = settings
        self._errors = client.ApiException
        self._no_answer = (urllib3.exceptions.HTTPError, OSError)
        configuration, load = client.Configuration(), cast(Any, config)
        try:
            if not settings.kubeconfig and not settings.context and "KUBERNETES_SERVICE_HOST" in os.environ:
                load.load_incluster_config(client_configuration=configuration)
            else:
                load.load_kube_config(
                    config_file=settings.kubeconfig or None,
                    context=settings.context or None,
                    client_configuration=configuration,
                )
        except (config.ConfigException, OSError) as error:
            raise ValueError(str(error)) from None
        configuration.retries = False  # see above: not even what Retry-After asks for, which would block a thread
        configuration.connection_pool_maxsize = CALLS
        api = client.ApiClient(configuration)
        api.user_agent = "taskflow"
        self._jobs: Any = client.BatchV1Api(api)  # asked for answers as they are, which its types do not know
        self._pods: Any = client.CoreV1Api(api)
        self._host = configuration.host
        self._check(client.V1Job)

    def _check(self, model: Any) -> None:
        """Whether there are such fields as the operator names. ValueError."""
        ticket = Ticket(bytes(16), bytes(16))
        for task, options in self._settings.routes(self.name).items():
            plain = options.model_copy(update={"command": None, "args": None})  # these need a payload
            try:
                model.model_validate(self._body(Order(ticket, "", task, 1, {}, plain), plain, {}))
            except ValidationError as error:
                raise ValueError(f"tasks.{task}: {_first(error)}") from None

    # -- making ------------------------------------------------------------------------------------------------------

    def submit(self, order: Order) -> External:
        assert isinstance(order.options, KubernetesTask)
        own = said_by(order, KubernetesTask, self._settings.overrides, self.name)
        what = over(order.options, own)
        if not (what.image or self._settings.image):
            raise Refused(f"destination {self.name} names no image for task {order.task!r}")
        said = own.environment if own is not None else {}
        try:
            made, _ = self._call(self._jobs.create_namespaced_job, body=self._body(order, what, said))
        except ValidationError as error:
            raise Refused(_first(error)) from None
        except self._errors as error:
            if _reason(error) != "AlreadyExists":
                raise self._fault(error, submitting=True) from None
            return self._existing(order.ticket)
        return External(made["metadata"]["name"], order.ticket, Phase.QUEUED)

    def _existing(self, ticket: Ticket) -> External:
        """The external job of a submit that had its effect, or that was made twice."""
        for there in self.find(ticket):
            return there
        raise Away(f"a Job {name_of(self.owner, ticket)} exists that bears no labels of this pusher, or has just gone")

    def _body(self, order: Order, what: TaskOptions, said: Mapping[str, str]) -> dict[str, Any]:
        assert isinstance(what, KubernetesTask)
        # Kubernetes expands $(NAME) in values: in those that the operator wrote, never in those that jobs bring.
        told = {name: value.replace("$", "$$") for name, value in (dict(said) | order.environment()).items()}
        container = {"securityContext": {"allowPrivilegeEscalation": False}} | what.container
        container |= {"name": CONTAINER, "image": what.image or self._settings.image}
        container["env"] = [
            *container.get("env", ()),
            *({"name": name, "value": value} for name, value in (what.environment | told).items()),
        ]
        if what.secrets:
            container["envFrom"] = [
                *container.get("envFrom", ()), *({"secretRef": {"name": name}} for name in what.secrets)
            ]  # fmt: skip
        for field, words in (("command", what.command), ("args", what.args)):
            if words is not None:
                container[field] = _words(words, order.payload)
        if what.cpu or what.memory:
            memory = {"memory": what.memory} if what.memory else {}
            container["resources"] = {"requests": ({"cpu": what.cpu} if what.cpu else {}) | memory, "limits": memory}
        defaults = {
            "automountServiceAccountToken": False,
            "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
            "terminationGracePeriodSeconds": self._settings.grace,
        }
        pod = defaults | what.pod | {"restartPolicy": "Never", "containers": [container]}
        if what.service_account:
            pod["serviceAccountName"] = what.service_account
        labels = self._settings.labels | {
            OWNER: self.owner, JOB_ID: order.ticket.job, EXEC_ID: order.ticket.exec_id.hex(),
            "app.kubernetes.io/managed-by": "taskflow",
        }  # fmt: skip
        spec = {
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            # A pod that is being ended still runs: it counts as failed, and its attempt with it, when it has ended.
            "podReplacementPolicy": "Failed",
            "ttlSecondsAfterFinished": self._settings.ttl,
            "template": {"metadata": {"labels": labels}, "spec": pod},
        }
        if order.timeout is not None:
            spec["activeDeadlineSeconds"] = math.ceil(order.timeout) + LATER
        name = name_of(self.owner, order.ticket)
        notes = {"taskflow/queue": order.queue, "taskflow/task": order.task, "taskflow/attempt": str(order.attempt)}
        metadata = {"name": name, "labels": labels, "annotations": notes}
        return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}

    # -- looking -----------------------------------------------------------------------------------------------------

    def find(self, ticket: Ticket) -> Sequence[External]:
        return list(self._seen([ticket]).values())

    def look(self, jobs: Sequence[External]) -> Mapping[str, External]:
        return self._seen([job.ticket for job in jobs])

    def unfinished(self) -> Iterator[External]:
        """Also those that have ended and were not cleaned up: their pusher died in between."""
        for job, _ in self._listed(self._jobs.list_namespaced_job, f"{OWNER}={self.owner}"):
            if found := self._external(job, None, None):
                yield found

    def _seen(self, tickets: Sequence[Ticket]) -> dict[str, External]:
        wanted = f"{OWNER}={self.owner},{EXEC_ID} in ({','.join(t.exec_id.hex() for t in tickets)})"
        jobs = list(self._listed(self._jobs.list_namespaced_job, wanted))
        pods: dict[str, dict[str, Any]] = {}
        for pod, _ in self._listed(self._pods.list_namespaced_pod, wanted) if jobs else ():
            exec_id = pod["metadata"]["labels"][EXEC_ID]
            other = pods.get(exec_id)
            if other is None or other["metadata"]["creationTimestamp"] < pod["metadata"]["creationTimestamp"]:
                pods[exec_id] = pod
        found = (self._external(job, pods.get(job["metadata"]["labels"][EXEC_ID]), now) for job, now in jobs)
        return {job.id: job for job in found if job is not None}

    def _listed(self, method: Any, selector: str) -> Iterator[tuple[dict[str, Any], datetime | None]]:
        """Each with the server's time. From the start again when the next page has expired (410)."""
        restarts = 0
        token: dict[str, str] = {}
        while True:
            try:
                page, now = self._call(method, label_selector=selector, limit=self.batch, **token)
            except self._errors as error:
                restarts += 1
                if error.status == 410 and token and restarts <= MOST_RESTARTS:
                    token = {}
                    continue
                raise self._fault(error) from None
            for item in page["items"]:
                yield item, now
            if not page["metadata"].get("continue"):
                return
            token = {"_continue": page["metadata"]["continue"]}

    def _external(self, job: dict[str, Any], pod: dict[str, Any] | None, now: datetime | None) -> External | None:
        """None for a job of another owner, even if its labels are similar."""
        metadata, status = job["metadata"], job.get("status") or {}
        exec_id = exec_id_of(self.owner, metadata["name"])
        try:
            job_id = UUID(metadata["labels"].get(JOB_ID, "")).bytes
        except ValueError:
            return None
        if exec_id is None:
            return None
        conditions = {each["type"]: each for each in status.get("conditions") or () if each["status"] == "True"}
        state = _State(pod)
        phase, reason = Phase.QUEUED, state.waiting
        if "Complete" in conditions:
            phase, reason = Phase.SUCCEEDED, ""
        elif failed := conditions.get("Failed"):
            phase, reason = Phase.FAILED, state.why_failed(failed)
        elif state.stuck_for(now) > self._settings.image_timeout:
            phase, reason = Phase.FAILED, f"{state.waiting} (for more than {self._settings.image_timeout:g} s)"
        elif state.began or (pod is None and status.get("ready")):
            phase, reason = Phase.RUNNING, state.disrupted
        return External(
            id=metadata["name"],
            ticket=Ticket(exec_id, job_id),
            phase=phase,
            reason=reason,
            exit_code=state.exit_code if phase.over else None,
            log_url=self._log_url(metadata["name"], state) if state.began else "",
            tail=self._tail(state) if phase.over and state.began else "",
        )

    def _log_url(self, job: str, state: _State) -> str:
        namespace = self._settings.namespace
        if self._settings.log_url:
            return self._settings.log_url.format(
                namespace=namespace, job=job, pod=state.name, container=CONTAINER, node=state.node
            )
        return f"{self._host}/api/v1/namespaces/{namespace}/pods/{state.name}/log?container={CONTAINER}"

    def _tail(self, state: _State) -> str:
        """Empty where it cannot be had: the node may be gone, or the right to read logs not given."""
        if not self._settings.log_lines:
            return ""
        try:
            answer = self._pods.read_namespaced_pod_log(
                state.name, self._settings.namespace, container=CONTAINER, tail_lines=self._settings.log_lines,
                limit_bytes=MOST_TAIL, _preload_content=False, _request_timeout=(CONNECT_TIMEOUT, READ_TIMEOUT),
            )  # fmt: skip
            return str(answer.data.decode(errors="replace")).rstrip()
        except (self._errors, *self._no_answer):
            return ""

    # -- ending ------------------------------------------------------------------------------------------------------

    def terminate(self, job: External, reason: str) -> None:
        """It stays, with a time of deletion, until its pods have ended."""
        self._delete(job, "Foreground")

    def forget(self, job: External) -> None:
        self._delete(job, "Background")

    def _delete(self, job: External, how: str) -> None:
        try:
            self._call(self._jobs.delete_namespaced_job, job.id, body={"propagationPolicy": how})
        except self._errors as error:
            if error.status != 404:
                raise self._fault(error) from None

    # -- the API -----------------------------------------------------------------------------------------------------

    def _call(self, method: Any, *arguments: Any, **named: Any) -> tuple[Any, datetime | None]:
        """The answer, and its time. Raises the client's own error where there is an answer that refuses."""
        try:
            answer = method(
                *arguments, namespace=self._settings.namespace, _preload_content=False,
                _request_timeout=(CONNECT_TIMEOUT, READ_TIMEOUT), **named,
            )  # fmt: skip
            return json.loads(answer.data), _date(answer.headers.get("Date"))
        except self._no_answer as error:
            raise Away(f"{type(error).__name__}: {error}") from None
        except ValueError as error:
            if isinstance(error, ValidationError):
                raise
            raise Away(f"{self._host} does not answer as Kubernetes: {error}") from None

    def _fault(self, error: Any, submitting: bool = False) -> Away | Refused:
        """The API server's message from the client's error, without the rest: its headers may hold more."""
        said = _status(error)
        message = f"{error.status} {said.get('reason') or error.reason}: {said.get('message', '')}".rstrip(": ")
        if submitting and error.status in _REFUSED:
            return Refused(message)
        return Away(message, after=_seconds((error.headers or {}).get("Retry-After")))


class _State:
    """A pod, as far as it matters to a look. None: there is none (yet, or any more)."""

    def __init__(self, pod: dict[str, Any] | None) -> None:
        metadata, status = (pod or {}).get("metadata", {}), (pod or {}).get("status") or {}
        self.name: str = metadata.get("name", "")
        self.node: str = ((pod or {}).get("spec") or {}).get("nodeName", "")
        self._status = status
        self._conditions = {each["type"]: each for each in status.get("conditions") or ()}
        ours = [each for each in status.get("containerStatuses") or () if each["name"] == CONTAINER]
        self._container: dict[str, Any] = (ours[0].get("state") or {}) if ours else {}
        self._terminated: dict[str, Any] = self._container.get("terminated") or {}
        self.began = "running" in self._container or "terminated" in self._container
        self.exit_code: int | None = self._terminated.get("exitCode")

    @property
    def waiting(self) -> str:
        """Why it does not run yet; empty where nothing is said."""
        waits = self._container.get("waiting") or {}
        scheduled = self._conditions.get("PodScheduled", {})
        if waits.get("reason") and waits["reason"] not in ("ContainerCreating", "PodInitializing"):
            return _said(waits)
        return _said(scheduled) if scheduled.get("status") == "False" else ""

    @property
    def disrupted(self) -> str:
        """Why it is about to be ended, or its node does not answer."""
        ending = self._conditions.get("DisruptionTarget", {})
        return _said(ending) if ending.get("status") == "True" else _said(self._status)

    def stuck_for(self, now: datetime | None) -> float:
        """Seconds since its node took it, where it waits for what cannot be had."""
        waits, began = self._container.get("waiting") or {}, self._status.get("startTime")
        if waits.get("reason") not in _STUCK or began is None or now is None:
            return -1.0
        return (now - datetime.fromisoformat(began)).total_seconds()

    def why_failed(self, condition: dict[str, Any]) -> str:
        plain = self._terminated.get("reason") in (None, "Error", "Completed")
        said = [_said(self._terminated) if not plain else self._terminated.get("message", ""), _said(self._status)]
        if (ending := self._conditions.get("DisruptionTarget", {})).get("status") == "True":
            said.append(_said(ending))
        reasons = [each for each in dict.fromkeys(said) if each]
        if condition.get("reason") != "BackoffLimitExceeded" or not (reasons or self.exit_code is not None):
            reasons.append(_said(condition))  # that all tries are used says nothing: there is one
        return "; ".join(reasons)


def _words(words: Sequence[str], payload: Any) -> list[str]:
    """Text that a payload brings into a command is not expanded, either."""
    return [
        new if new == old else new.replace("$", "$$") for old, new in zip(words, filled(words, payload), strict=True)
    ]


def _said(about: Mapping[str, Any]) -> str:
    return ": ".join(str(about[part]) for part in ("reason", "message") if about.get(part))


def _first(error: ValidationError) -> str:
    """The client's models' complaint about a field: without the value, which may be a secret."""
    first = error.errors(include_url=False, include_input=False)[0]
    path = first["loc"][1:] if isinstance(first["loc"][0], int) else first["loc"]  # the number of an argument
    return f"{'.'.join(map(str, path))}: {first['msg'][0].lower()}{first['msg'][1:]}"


def _status(error: Any) -> dict[str, Any]:
    try:
        said = json.loads(error.body or "{}")
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _reason(error: Any) -> str:
    return str(_status(error).get("reason", ""))


def _seconds(header: str | None) -> float:
    return float(header) if header and header.isdecimal() else 0.0


def _date(header: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(header) if header else None
    except ValueError:
        return None
