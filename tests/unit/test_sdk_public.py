"""The names that `import taskflow` gives, and its cost."""

import copy
import inspect
import pickle
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import taskflow
from taskflow import (
    Cancelled,
    Fail,
    InvalidArgument,
    JobCancelled,
    JobFailed,
    QuotaExceeded,
    Retry,
    RunCancelled,
    RunFailed,
    Snooze,
    TaskFlowError,
    errors,
)
from taskflow._policy import JobState as PolicyState
from taskflow._policy import Outcome as PolicyOutcome
from taskflow._resources._async.tasks import AsyncTasks
from taskflow._resources._sync.tasks import Tasks
from taskflow._worker.leases import SDK
from tests.support.docs import ROOT


def test_all_is_sorted_and_complete() -> None:
    assert sorted(taskflow.__all__) == taskflow.__all__
    assert sorted(taskflow._HOMES) == taskflow.__all__


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'NewClient'"):
        taskflow.NewClient  # noqa: B018


def test_everything_public_says_what_it_is() -> None:
    for name in taskflow.__all__:
        thing = getattr(taskflow, name)
        if inspect.isclass(thing):
            assert thing.__doc__, name


def test_everything_public_is_in_the_reference() -> None:
    """`make verify` says whether it is as the docstrings are."""
    page = (ROOT / "docs" / "reference" / "sdk.md").read_text()

    assert [name for name in taskflow.__all__ if f"\n### {name}\n" not in page] == []
    verbs = [verb for verb in vars(taskflow.TaskFlow) if not verb.startswith("_")]
    assert [verb for verb in verbs if f"\n`{verb}(" not in page] == []


def test_every_error_is_in_the_tree_and_every_signal_outside() -> None:
    signals = {errors.Retry, errors.Fail, errors.Snooze, errors.Cancelled, errors.Signal}
    for value in vars(errors).values():
        if inspect.isclass(value) and issubclass(value, Exception):
            assert issubclass(value, errors.TaskFlowError) != (value in signals), value


def test_errors_are_what_python_expects_too() -> None:
    assert issubclass(taskflow.InvalidArgument, ValueError)
    assert issubclass(taskflow.DeadlineExceeded, TimeoutError)


class Own(TaskFlowError):
    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}", reason="OWN")
        self.code = code


class RateLimited(Retry):
    def __init__(self, status: int) -> None:
        self.status = status


@pytest.mark.parametrize(
    "error",
    [
        JobFailed("failed", None),  # type: ignore[arg-type]
        JobCancelled("cancelled", None),  # type: ignore[arg-type]
        RunFailed("failed", None),  # type: ignore[arg-type]
        RunCancelled("cancelled", None),  # type: ignore[arg-type]
        InvalidArgument("wrong", field="x", reason="BAD", problems=[("x", "bad")]),
        QuotaExceeded("full", reason="QUOTA_TASKS", namespace="n", quota="tasks", used=5, limit=5, retry_after=0.1),
        Snooze(5),
        Retry("later", delay=2),
        Fail("no"),
        Cancelled(),
        Own(7),
        RateLimited(429),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_and_signals_survive_pickle_and_copy(error: Exception) -> None:
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is type(error)
        assert (str(again), again.args, again.__dict__) == (str(error), error.args, error.__dict__)


def test_the_package_is_marked_as_typed() -> None:
    assert Path(taskflow.__file__).with_name("py.typed").exists()


def test_states_and_outcomes_are_those_of_the_policy() -> None:
    assert taskflow.JobState is PolicyState
    assert [o.name for o in taskflow.Outcome] == [o.name for o in PolicyOutcome]


def test_importing_stays_light_and_connects_nowhere() -> None:
    heavy = "{'pydantic', 'typer', 'rich', 'psycopg', 'services', 'croniter', 'prometheus_client'}"
    code = (
        "import sys, threading, taskflow; taskflow.TaskFlow('localhost:1');"
        f"print({heavy} & set(sys.modules), threading.active_count())"
    )

    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert seen.stdout.strip() == "set() 1"


def test_workers_tell_the_version_that_is_packaged() -> None:
    package = tomllib.loads((Path(taskflow.__file__).parents[1] / "pyproject.toml").read_text())

    assert f"python/{package['project']['version']}" == SDK


@pytest.mark.feature("R21")
def test_run_with_result_waits_a_minute_by_default() -> None:
    for face in (Tasks, AsyncTasks):
        assert inspect.signature(face.run_with_result).parameters["timeout"].default == 60
