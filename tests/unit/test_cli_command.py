"""The command line as a process, without a cluster: help, exit codes, plugins, one line for every error."""

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from taskflow._cli import main
from tests.support import forkserver

ROOT = Path(__file__).resolve().parents[2]
TASKFLOW = [sys.executable, "-m", "taskflow._cli"]
CLIENT_COMMANDS = [
    ["workers", "list"],
    ["job", "new", "q"],
    ["job", "list"],
    ["job", "show", "01980a2c-7d1e-7c43-9b1f-0c5d2f6a7b8c"],
    ["job", "wait", "01980a2c-7d1e-7c43-9b1f-0c5d2f6a7b8c"],
    ["job", "cancel", "01980a2c-7d1e-7c43-9b1f-0c5d2f6a7b8c"],
    ["job", "retry", "01980a2c-7d1e-7c43-9b1f-0c5d2f6a7b8c"],
    ["job", "logs", "01980a2c-7d1e-7c43-9b1f-0c5d2f6a7b8c"],
    ["queue", "list"],
    ["queue", "show", "q"],
    ["task", "create", "t"],
    ["task", "list"],
    ["task", "show", "t"],
    ["task", "run", "t"],
    ["task", "update", "t", "--inactive"],
    ["task", "remove", "t"],
    ["task", "logs"],
    ["schedule", "create", "t", "@daily"],
    ["schedule", "list"],
    ["schedule", "show", "01980a2c-7d1e-7c43-9b1f-0c5d2f6a7b8c"],
    ["schedule", "pause", "01980a2c-7d1e-7c43-9b1f-0c5d2f6a7b8c"],
    ["schedule", "resume", "01980a2c-7d1e-7c43-9b1f-0c5d2f6a7b8c"],
    ["schedule", "preview", "@daily"],
    ["schedule", "firings", "01980a2c-7d1e-7c43-9b1f-0c5d2f6a7b8c"],
    ["schedule", "delete", "01980a2c-7d1e-7c43-9b1f-0c5d2f6a7b8c"],
]


@dataclass
class Answer:
    code: int
    out: str
    err: str


Call = Callable[..., Answer]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """The command in this process, which saves the time to start another."""
    for name in [name for name in os.environ if name.startswith("TASKFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TASKFLOW_TIMEOUT", "0.3")

    def answer(*words: str) -> Answer:
        with pytest.raises(SystemExit) as end:
            main(words)
        captured = capsys.readouterr()
        return Answer(int(end.value.code or 0), captured.out, captured.err)

    return answer


def _run(
    *words: str, env: dict[str, str] | None = None, cwd: Path = ROOT, fresh: bool = False
) -> "subprocess.CompletedProcess[str]":
    """In a process of its own. `fresh`: with an interpreter of its own, for what depends on how modules are found."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TASKFLOW_")} | (env or {})
    if fresh:
        return subprocess.run([*TASKFLOW, *words], capture_output=True, text=True, timeout=60, cwd=cwd, env=environ)
    return forkserver.run([*TASKFLOW, *words], env=environ, cwd=cwd)


def _plugins(folder: Path, **points: str) -> dict[str, str]:
    """An environment with a distribution `plug` that brings these commands."""
    info = folder / "plug-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1\n")
    lines = [f"{name} = {target}" for name, target in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[taskflow.cli]", *lines, ""]))
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT), str(ROOT / "sdk")])}


def test_help_is_quick() -> None:
    """By the CPU that it takes, since other tests run beside it: on a quiet machine, the time that a person waits.

    They share caches and cores with it, which only adds: the least of some runs counts.
    """
    times: list[float] = []
    while len(times) < 20 and min(times, default=1.0) > 0.3:
        before = _cpu_of_children()
        assert _run("--help", fresh=True).returncode == 0
        times.append(_cpu_of_children() - before)

    assert min(times) <= 0.3, f"{times}"


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_imports_neither_grpc_nor_rich() -> None:
    code = (
        "import sys; from taskflow._cli._app import command\n"
        "command()(['--help'], standalone_mode=False)\n"
        "heavy = ('grpc', 'google.protobuf', 'asyncio', 'rich')\n"
        "print([name for name in heavy if name in sys.modules], file=sys.stderr)"
    )

    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    assert answer.stderr.strip() == "[]"


def test_help_names_the_exit_codes_and_has_examples() -> None:
    text = _run("--help").stdout

    for words in ("Exit codes:", "  3    the cluster cannot be reached", "  130  Ctrl-C", "Examples:", "up", "worker"):
        assert words in text


@pytest.mark.parametrize("command", CLIENT_COMMANDS, ids=" ".join)
def test_every_client_command_takes_address_and_json_and_says_when_nobody_answers(
    call: Call, command: list[str]
) -> None:
    for words in ([*command, "--json", "--address", "127.0.0.1:1"], ["--json", "-a", "127.0.0.1:1", *command]):
        answer = call(*words)

        assert answer.code == 3
        assert answer.out == ""
        assert answer.err.count("\n") == 1
        assert "127.0.0.1:1" in answer.err


def test_the_address_comes_from_the_environment_and_an_option_goes_before_it(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKFLOW_ADDRESS", "127.0.0.1:1")

    assert "127.0.0.1:1 " in call("queue", "list").err
    assert "127.0.0.1:2 " in call("queue", "list", "-a", "127.0.0.1:2").err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["jobb"], "did you mean 'job'"),
        (["job", "new"], "missing argument queue"),
        (["job", "list", "--foo"], "--foo"),
        (["job", "list", "--limit", "none"], "--limit"),
        (["job", "list", "--state", "broken"], "scheduled, ready"),
        (["job", "show", "17"], "'17' is not a valid id"),
        (["job", "new", "no name", "1"], "'no name' is not a valid name"),
        (["job", "new", "q", "{"], "line 1, column 2"),
        (["job", "new", "q", "@absent.json"], "absent.json"),
        (["job", "new", "q", "1", "--retries", "-1"], "retries"),
        (["job", "new", "q", "1", "--priority", "11"], "0 to 9"),
        (["job", "new", "q", "1", "--delay", "5", "--at", "2026-12-24"], "not both"),
        (["job", "new", "q", "1", "--task", "a b"], "task"),
        (["queue", "list", "--address", "localhost"], "host:port"),
        (["queue", "list", "--address", "http://localhost:9003"], "host:port"),
        (["queue", "show", "a/b/c"], "'a/b/c' is not a valid name"),
        (["worker", "no_colon"], "module:attribute"),
        (["worker", "nowhere:app"], "there is no module nowhere"),
        (["worker", "./shop/tasks.py:app"], "names a file; give the module, shop.tasks:app,"),
        (["worker", "shop.py"], "names a file; give the module, shop:app,"),
        (["worker", "json:app"], "json has nothing called app"),
        (["worker", "json:loads"], "has a function, not a TaskFlow app"),
        (["worker", "json:app", "--concurrency", "0"], "--concurrency"),
    ],
)
def test_a_wrong_call_is_one_line_and_exit_code_2(call: Call, words: list[str], said: str) -> None:
    answer = call(*words)

    assert answer.code == 2, answer.err
    assert answer.out == ""
    assert answer.err.count("\n") == 1
    assert answer.err.startswith("taskflow: ")
    assert said.lower() in answer.err.lower()


def test_an_app_that_fails_to_import_is_named_with_the_line_at_fault(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("import taskflow\n\nprice = 1 / 0\n")

    answer = _run("worker", "shop:app", cwd=tmp_path)

    assert answer.returncode == 2
    assert answer.stderr.count("\n") == 1
    assert "shop.py:3: ZeroDivisionError: division by zero" in answer.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("import json\nvalue = json.loads('{')", "shop.py:5: JSONDecodeError: Expecting property name"),
        ("import helper", "helper.py:2: KeyError: 'b'"),
        ("app.task(queue='a b')(print)", "shop.py:4: InvalidArgument: queue: 'a b' is not a valid name"),
        ("def broken(:", "shop.py:4: SyntaxError: invalid syntax"),
    ],
    ids=["in the standard library", "in another module of the app", "in TaskFlow", "syntax"],
)
def test_an_import_that_fails_is_shown_at_a_line_of_the_users_own(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "helper.py").write_text("def find(key):\n    return {}[key]\n\nfind('b')\n")
    (tmp_path / "shop.py").write_text(f"from taskflow import TaskFlow\n\napp = TaskFlow()\n{line}\n")

    answer = _run("worker", "shop:app", cwd=tmp_path)

    assert answer.returncode == 2
    assert answer.stderr.count("\n") == 1
    assert said in answer.stderr


def test_what_an_apps_module_misses_is_named_not_the_module(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("import nothing_of_this_name\n")

    answer = _run("worker", "shop:app", cwd=tmp_path)

    assert answer.returncode == 2
    assert "importing shop failed" in answer.stderr
    assert "nothing_of_this_name" in answer.stderr


def test_an_app_that_ends_the_process_is_named_with_the_line_at_fault(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("import sys\n\nsys.exit(0)\n")

    answer = _run("worker", "shop:app", cwd=tmp_path)

    assert answer.returncode == 2
    assert answer.stderr.count("\n") == 1
    assert "shop.py:3: it ended the process, by sys.exit(0)" in answer.stderr


@pytest.mark.parametrize("app", ["taskflow.shop:app", "taskflow:app", "taskflow_server.shop:app"])
def test_an_app_in_a_folder_named_like_our_package_says_so(tmp_path: Path, app: str) -> None:
    name = re.split("[.:]", app)[0]
    (tmp_path / name).mkdir()
    (tmp_path / name / "shop.py").write_text("from taskflow import TaskFlow\n\napp = TaskFlow()\n")

    answer = _run("worker", app, cwd=tmp_path, fresh=True)

    assert answer.returncode == 2
    assert answer.stderr.count("\n") == 1
    assert f"has the name of TaskFlow's own package {name}" in answer.stderr


def test_an_app_under_another_name_is_suggested(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("from taskflow import TaskFlow\n\ntf = TaskFlow()\n")

    answer = _run("worker", "shop:app", cwd=tmp_path)

    assert answer.returncode == 2
    assert "it has tf" in answer.stderr


def test_debug_shows_where_an_error_came_from() -> None:
    answer = _run("job", "list", "--state", "broken", env={"TASKFLOW_DEBUG": "1"})

    assert "Traceback" in answer.stderr


def test_a_plugin_is_a_command(tmp_path: Path) -> None:
    (tmp_path / "plug.py").write_text("def hello(name: str = 'you') -> None:\n    print(f'\"{name}\"')\n")
    env = _plugins(tmp_path, hello="plug:hello")

    assert json.loads(_run("hello", "--name", "Ada", env=env).stdout) == "Ada"
    assert "hello" in _run("--help", env=env).stdout


def test_a_plugin_that_cannot_be_loaded_spoils_nothing_else(tmp_path: Path) -> None:
    env = _plugins(tmp_path, broken="nowhere:hello")

    called = _run("broken", env=env)

    assert called.returncode == 2
    assert called.stderr == (
        "taskflow: taskflow broken (from plug) cannot be loaded: ModuleNotFoundError: No module named 'nowhere'\n"
    )
    assert _run("--help", env=env).returncode == 0


def test_without_typer_there_is_worker_and_a_word_on_the_rest(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ImportError('not here')\n")
    (tmp_path / "shop.py").write_text("from taskflow import TaskFlow\n\ntf = TaskFlow()\n")
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "sdk")])}

    other = _run("job", "list", env=env, fresh=True)
    worker = _run("worker", "shop:app", env=env, fresh=True)

    assert (other.returncode, other.stderr.count("\n")) == (2, 1)
    assert "pip install './sdk[cli]'" in other.stderr
    assert worker.returncode == 2
    assert "it has tf" in worker.stderr


def test_the_server_s_commands_say_what_to_install_where_it_is_absent() -> None:
    code = (
        "import sys, importlib.metadata as m; m.entry_points = lambda **_: ()\n"
        "import taskflow._cli as c; sys.argv = ['taskflow', 'up', '--port-base', '9100']; c.main()"
    )

    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    assert answer.returncode == 2
    assert answer.stderr == "taskflow: taskflow up is part of the server; in a clone: pip install '.[embedded]'\n"


def test_a_wrong_choice_names_the_choices_in_our_words(call: Call) -> None:
    answer = call("up", "--clock", "bla")

    assert answer.code == 2
    assert answer.err == (
        "taskflow: invalid value for '--clock': 'bla' is not one of 'system', 'manual'; see `taskflow up --help`\n"
    )
