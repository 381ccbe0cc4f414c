"""The settings of a destination of Kubernetes Jobs, and of each task that has its jobs there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from taskflow_server.worker.push.destination import DestinationSettings, TaskOptions
from taskflow_server.worker.push.orders import check_given, check_template

_QUANTITY = re.compile(r"(?:[0-9]+|[0-9]*\.[0-9]+)(?:m|k|M|G|T|Ki|Mi|Gi|Ti)?\Z")
_LABEL = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?\Z")
_OURS_OF_POD = ("containers", "restartPolicy")
_OURS_OF_CONTAINER = ("name", "image", "command", "args")


class KubernetesTask(TaskOptions):
    """Options of a task's external jobs."""

    image: str = Field("", description="image of the container; empty: the destination's")
    command: list[str] | None = Field(None, description="instead of the image's entry point")
    args: list[str] | None = Field(None, description="instead of the image's arguments")
    environment: dict[str, str] = Field(default_factory=dict, description="variables of the container")
    secrets: list[str] = Field(default_factory=list, description="Secrets whose keys are variables of the container")
    cpu: str = Field("", description="request, as `500m`; empty: none")
    memory: str = Field("", description="request and limit, as `512Mi`; empty: none")
    service_account: str = Field("", description="service account of the pod; empty: the namespace's default")
    pod: dict[str, Any] = Field(default_factory=dict, description="more fields of the pod's spec")
    container: dict[str, Any] = Field(default_factory=dict, description="more fields of the container")

    @field_validator("cpu", "memory")
    @classmethod
    def _quantity(cls, value: str) -> str:
        if value and not _QUANTITY.match(value):
            raise ValueError(f"{value!r} is not a valid quantity, such as 500m, 2 or 512Mi")
        return value

    @field_validator("pod", "container")
    @classmethod
    def _not_ours(cls, value: dict[str, Any], info: Any) -> dict[str, Any]:
        ours = _OURS_OF_POD if info.field_name == "pod" else _OURS_OF_CONTAINER
        if taken := [name for name in ours if name in value]:
            raise ValueError(f"{', '.join(taken)} cannot be set here")
        return value


class KubernetesSettings(DestinationSettings):
    options = KubernetesTask

    kind: Literal["kubernetes"]
    namespace: str = Field("default", pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", description="where the Jobs are")
    image: str = Field("", description="for tasks that name none")
    kubeconfig: str = Field(
        "", description="path; empty: the pod's service account where there is one, else `KUBECONFIG` or ~/.kube/config"
    )
    context: str = Field("", description="context of the kubeconfig; empty: its current one")
    image_timeout: float = Field(
        300.0,
        ge=0,
        description="seconds that a pod may wait for an image or a configuration that cannot be had, until its attempt "
        "fails",
    )
    grace: int = Field(30, ge=0, le=3600, description="seconds between SIGTERM and SIGKILL when a pod is ended")
    ttl: int = Field(
        604_800, ge=600, description="seconds after which Kubernetes deletes a finished Job that no pusher cleans up"
    )
    log_lines: int = Field(20, ge=0, le=1000, description="last lines of the pod's log in the job's log; 0: none")
    log_url: str = Field(
        "",
        description="link to a log, with {namespace}, {job}, {pod}, {container} and {node} in it; empty: the log in "
        "Kubernetes' API",
    )
    labels: dict[str, str] = Field(default_factory=dict, description="more labels of Jobs and pods")
    overrides: frozenset[Literal["image", "command", "args", "environment", "cpu", "memory"]] = Field(
        frozenset(), description="options that a job may set, under `push` in its payload"
    )
    tasks: Mapping[str, KubernetesTask] = Field(
        default_factory=dict,
        description="tasks whose jobs go there, each with its options; without any, those of the task that has the "
        "destination's own name",
    )

    @model_validator(mode="after")
    def _images(self) -> KubernetesSettings:
        check_given(self, "image", "an image")
        return self

    @field_validator("log_url")
    @classmethod
    def _template(cls, value: str) -> str:
        return check_template(value, "namespace", "job", "pod", "container", "node")

    @field_validator("labels")
    @classmethod
    def _values(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not _LABEL.match(text):
                raise ValueError(f"{text!r} of {name} is not a valid value of a label")
            if name.startswith("taskflow/"):
                raise ValueError(f"{name} is the pusher's own")
        return value
