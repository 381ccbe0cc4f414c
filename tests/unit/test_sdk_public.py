"""What `import taskflow` gives, and what it costs."""

import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import taskflow
from taskflow import errors
from taskflow._policy import JobState as PolicyState
from taskflow._policy import Outcome as PolicyOutcome
from taskflow._worker_leases import SDK


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


def test_every_error_is_in_the_tree_and_every_signal_outside() -> None:
    signals = {errors.Retry, errors.Fail, errors.Snooze, errors.Cancelled, errors.Signal}
    for value in vars(errors).values():
        if inspect.isclass(value) and issubclass(value, Exception):
            assert issubclass(value, errors.TaskFlowError) != (value in signals), value


def test_errors_are_what_python_expects_too() -> None:
    assert issubclass(taskflow.InvalidArgument, ValueError)
    assert issubclass(taskflow.DeadlineExceeded, TimeoutError)


def test_the_package_is_marked_as_typed() -> None:
    assert Path(taskflow.__file__).with_name("py.typed").exists()


def test_states_and_outcomes_are_those_of_the_policy() -> None:
    assert [s.name for s in taskflow.JobState] == [s.name for s in PolicyState]
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
