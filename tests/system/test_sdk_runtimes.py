"""Runtimes that differ from a plain process: forks of a client, faked clocks, green threads, sub-interpreters, embedded
ones, notebooks, nested loops, waits inside handlers."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskflow import Constant, DeadlineExceeded, TaskFlow
from tests.support.cluster import ROOT, ServiceCluster
from tests.support.workers import working


@pytest.fixture(scope="module")
def tf(cluster: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(cluster.scheduler_address) as made:
        yield made


def python(code: str, *words: str, status: int = 0, timeout: float = 30.0) -> str:
    """The output of a program of its own, given on standard input: its main module then has no file."""
    # Without the variables that the SDK has set in this process.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}
    done = subprocess.run(
        [sys.executable, "-", *words],
        input=code, cwd=ROOT, text=True, timeout=timeout, capture_output=True, check=False, env=env,
    )  # fmt: skip
    assert done.returncode == status, done.stderr[-2000:]
    return done.stdout


FORK = """
import multiprocessing, os, sys
from taskflow import TaskFlow, TaskFlowError

address, when, how = sys.argv[1:]
tf = TaskFlow(address)
tf.new_job("forked", 0)
if when == "closed":
    tf.close()

def use():
    for client in (tf, TaskFlow(address, timeout=5)):
        try:
            client.new_job("forked", 1)
        except TaskFlowError as error:
            print(error.reason, "make the TaskFlow after the fork" in str(error), flush=True)

if how == "process":
    child = multiprocessing.get_context("fork").Process(target=use)
    child.start()
    child.join()
    status = child.exitcode
else:
    pid = os.fork()
    if pid == 0:
        use()
        os._exit(0) if how == "_exit" else sys.exit(0)
    status = os.waitpid(pid, 0)[1]
print(status)
print(bool(TaskFlow(address).new_job("forked", 2).id))
"""


@pytest.mark.parametrize("how", ["_exit", "exit", "process"])
@pytest.mark.parametrize("when", ["open", "closed"])
def test_a_fork_of_a_client_is_refused_at_once_and_its_parent_goes_on(
    cluster: ServiceCluster, when: str, how: str
) -> None:
    said = python(FORK, cluster.scheduler_address, when, how).split("\n")

    assert said == ["FORKED True", "FORKED True", "0", "True", ""]


def test_a_client_that_was_not_used_before_a_fork_works_after_it(cluster: ServiceCluster) -> None:
    code = """
import os, sys
from taskflow import TaskFlow
tf = TaskFlow(sys.argv[1])
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        print(bool(tf.new_job("forked").id))
        sys.exit(0)
    print(os.waitpid(pid, 0)[1])
"""
    assert python(code, cluster.scheduler_address).split() == ["True", "0"] * 2


MANY_FORKS = """
import collections, os, signal, sys, threading, time, warnings
if sys.argv[2] == "grpc":
    import grpc
from taskflow import TaskFlow, TaskFlowError
tf = TaskFlow(sys.argv[1])
job = tf.new_job("forked", 0)
threading.Thread(target=lambda: job.wait(timeout=60), daemon=True).start()
ends = collections.Counter()
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    for _ in range(1 if sys.argv[2] == "grpc" else 16):
        if (pid := os.fork()) == 0:
            signal.alarm(20)
            time.sleep(0.05)  # gRPC's threads, where it starts them in a fork, crash within this time
            os._exit(0)
        ends[os.waitpid(pid, 0)[1]] += 1
if sys.argv[2] == "grpc":
    print(["set GRPC_ENABLE_FORK_SUPPORT=0" in str(each.message) for each in said if each.category is RuntimeWarning])
else:
    print(dict(ends))
os._exit(0)
"""


def test_no_fork_of_a_client_in_use_crashes(cluster: ServiceCluster) -> None:
    assert python(MANY_FORKS, cluster.scheduler_address, "taskflow", timeout=60) == "{0: 16}\n"


def test_a_fork_is_warned_of_when_grpc_was_imported_before_the_sdk(cluster: ServiceCluster) -> None:
    assert python(MANY_FORKS, cluster.scheduler_address, "grpc") == "[True]\n"


def test_values_survive_pickle_and_copy(tf: TaskFlow) -> None:
    job = tf.new_job("copied", {"a": 1}, metadata={"a": "b"}, tags=["x"], requester={"id": 1}, backoff=Constant(1))
    values = [job.get(), *tf.queues.list(), *tf.workers.list(), *tf.schedules.list(), *tf.jobs.attempts(job.id)]

    for value in values:
        assert pickle.loads(pickle.dumps(value)) == copy.deepcopy(value) == copy.copy(value) == value


FROZEN = """
import sys, threading
if sys.argv[2] == "asyncio":
    sys.modules["uvloop"] = None
from freezegun import freeze_time
from taskflow import TaskFlow, TaskFlowError

with freeze_time("2012-01-14"):
    tf = TaskFlow(sys.argv[1], timeout=5)
    job = tf.new_job("frozen")
    for call in (lambda: job.wait(timeout=0.2), lambda: TaskFlow("127.0.0.1:1", timeout=0.2).queues.get("x")):
        try:
            call()
        except TaskFlowError as error:
            print(type(error).__name__)
    worker = threading.Thread(target=lambda: tf.run("frozen", lambda job: "ran", signals=False))
    worker.start()
    print(job.wait(timeout=20).result)
    tf.stop()
    worker.join(20)
    print(worker.is_alive())
"""


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_deadlines_and_workers_keep_to_the_real_clock_in_a_test_that_freezes_it(
    cluster: ServiceCluster, loop: str
) -> None:
    said = python(FROZEN, cluster.scheduler_address, loop).split()

    assert said == ["DeadlineExceeded", "Unavailable", "ran", "False"]


@pytest.mark.parametrize(
    ("module", "asked"), [("gevent.monkey", "is_module_patched"), ("eventlet.patcher", "is_monkey_patched")]
)
def test_green_threads_are_refused_with_the_cure(module: str, asked: str) -> None:
    """The part of these libraries that is asked; they are not among the tests' dependencies."""
    code = f"""
import sys, types
sys.modules[{module!r}] = types.SimpleNamespace({asked}=lambda name: name in ("thread", "threading"))
from taskflow import FailedPrecondition, TaskFlow
try:
    TaskFlow("127.0.0.1:1", timeout=1).new_job("x")
except FailedPrecondition as error:
    print(error.reason, "patch_all(thread=False)" in str(error))
"""
    assert python(code).split() == ["MONKEY_PATCHED", "True"]


def test_a_cell_of_a_notebook_may_be_edited_and_run_again() -> None:
    code = """
from taskflow import AlreadyExists, TaskFlow
tf = TaskFlow()
for cell in ("return 1", "return 2"):
    exec(f"@tf.task(queue='q')\\ndef add() -> int:\\n    {cell}\\n")
print(tf._registry.tasks["add"].function())
try:
    exec("@tf.task(queue='q', name='add')\\ndef other() -> int:\\n    return 3\\n")
except AlreadyExists:
    print("refused")
"""
    assert python(code).split() == ["2", "refused"]


SUB = """
import importlib, sys
try:
    interpreters = importlib.import_module("_interpreters")
except ImportError:
    interpreters = importlib.import_module("_xxsubinterpreters")
code = f'''
import sys
sys.path[:] = {sys.path!r}
from taskflow import errors
for imported in ("from taskflow import TaskFlow", "from taskflow import testing", "from taskflow import Job"):
    try:
        exec(imported)
    except errors.FailedPrecondition as error:
        print(error.reason, "WSGIApplicationGroup %{{GLOBAL}}" in str(error), "grpc" in sys.modules, flush=True)
'''
if "before" in sys.argv:
    from taskflow import TaskFlow
for settings in ("legacy", "isolated"):
    if hasattr(interpreters, "new_config"):
        made = interpreters.create(interpreters.new_config(settings))
    else:
        made = interpreters.create(isolated=settings == "isolated")
    interpreters.run_string(made, code)
    interpreters.destroy(made)
if "before" in sys.argv:
    print(bool(TaskFlow(sys.argv[1]).new_job("beside").id))
"""


@pytest.mark.parametrize("when", ["before", "never"], ids=lambda when: f"main uses it {when}")
def test_a_sub_interpreter_is_refused_at_its_import_with_the_cure(cluster: ServiceCluster, when: str) -> None:
    said = python(SUB, cluster.scheduler_address, when).split()

    assert said == ["SUB_INTERPRETER", "True", "False"] * 6 + ["True"] * (when == "before")


HOST = """
#include <Python.h>
#include <pthread.h>

static const char *script;

static void *serve(void *unused) {
    FILE *file = fopen(script, "r");
    Py_Initialize();
    int failed = PyRun_SimpleFile(file, script);
    return Py_FinalizeEx() < 0 || failed ? (void *)1 : NULL;
}

int main(int count, char **words) {
    void *failed = NULL;
    pthread_t thread;
    script = words[1];
    if (count > 2) {
        pthread_create(&thread, NULL, serve, NULL);
        pthread_join(thread, &failed);
    } else {
        failed = serve(NULL);
    }
    return failed != NULL;
}
"""

EMBEDDED = """
import os, threading
from taskflow import TaskFlow

tf = TaskFlow(os.environ["SCHEDULER"], timeout=20)

@tf.task(queue="embedded")
def double(n: int) -> int:
    return 2 * n

@tf.task(queue="embedded")
async def triple(n: int) -> int:
    return 3 * n

running = threading.Thread(target=tf.run, kwargs={"queues": ["embedded"]})
running.start()
try:
    print([tf.new_job("embedded", {"n": 7}, task=name).wait(20).result for name in ("double", "triple")], flush=True)
finally:
    tf.stop()
    running.join(20)
print(running.is_alive())
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program in C that has a Python in it."""
    folder = tmp_path_factory.mktemp("host")
    (folder / "host.c").write_text(HOST)
    value = sysconfig.get_config_var
    words = [
        "cc", "host.c", "-o", "host", f"-I{value('INCLUDEPY')}", f"-L{value('LIBPL')}", f"-L{value('LIBDIR')}",
        f"-lpython{value('LDVERSION')}", "-pthread", f"-Wl,-rpath,{value('LIBDIR')}",
        *f"{value('LIBS')} {value('SYSLIBS')} {value('LINKFORSHARED')}".split(),
    ]  # fmt: skip
    try:
        made = subprocess.run(words, cwd=folder, text=True, capture_output=True, timeout=60, check=False)
    except FileNotFoundError:
        pytest.skip("there is no C compiler (cc)")
    if made.returncode:
        pytest.skip(f"this Python cannot be embedded: {made.stderr[-300:]}")
    return folder / "host"


@pytest.mark.parametrize("where", [(), ("thread",)], ids=["main thread", "another thread"])
def test_an_embedded_interpreter_calls_and_works(cluster: ServiceCluster, host: Path, where: tuple[str, ...]) -> None:
    script = host.with_name("script.py")
    script.write_text(EMBEDDED)
    env = {"PYTHONPATH": os.pathsep.join(sys.path), "SCHEDULER": cluster.scheduler_address, "PATH": os.environ["PATH"]}

    done = subprocess.run(
        [str(host), str(script), *where], env=env, cwd=ROOT, text=True, capture_output=True, timeout=60, check=False
    )

    assert (done.returncode, done.stdout.splitlines()) == (0, ["[14, 21]", "False"]), done.stderr[-2000:]


def test_processes_of_an_embedded_interpreter_need_an_executable(cluster: ServiceCluster) -> None:
    code = """
import sys, textwrap
from taskflow import FailedPrecondition, TaskFlow
sys.executable = ""
try:
    TaskFlow(sys.argv[1], timeout=20).run("embedded-processes", textwrap.dedent, processes=1)
except FailedPrecondition as error:
    print(error.reason, "set sys.executable" in str(error))
"""
    assert python(code, cluster.scheduler_address).split() == ["HANDLER_PROCESS", "True"]


CELLS = """
import asyncio, sys, threading
if sys.argv[2] == "asyncio":
    sys.modules["uvloop"] = None
if sys.argv[3] == "nested":
    import nest_asyncio
from taskflow import AsyncTaskFlow, DeadlineExceeded, FailedPrecondition, TaskFlow

async def cells():
    if sys.argv[3] == "nested":
        nest_asyncio.apply()
    queue = f"cells-{sys.argv[2]}-{sys.argv[3]}"
    tf = TaskFlow(sys.argv[1], timeout=20)
    job = tf.new_job(queue, 1)
    try:
        job.wait(timeout=0.1)
    except DeadlineExceeded:
        print("waited", flush=True)
    try:
        tf.run(queue, lambda job: "ran")
    except FailedPrecondition as error:
        print(error.reason, flush=True)
    worker = threading.Thread(target=tf.run, args=(queue, lambda job: "ran"), kwargs={"signals": False})
    worker.start()
    print(await asyncio.to_thread(job.wait, 20) and job.wait(20).result, flush=True)
    tf.stop()
    await asyncio.to_thread(worker.join, 20)
    async with AsyncTaskFlow(sys.argv[1], timeout=20) as atf:
        async def handler(job):
            inner = atf.new_job(queue + "-inner")
            if sys.argv[3] == "nested":  # a loop within the loop, from plain code below a handler
                return bool(asyncio.get_running_loop().run_until_complete(inner).id)
            return bool((await inner).id)
        running = asyncio.create_task(atf.run(queue, handler, signals=False))
        print((await (await atf.new_job(queue)).wait(20)).result, flush=True)
        if sys.argv[3] == "nested":
            again = asyncio.run(atf.new_job(queue))
            print((await again.wait(20)).result, flush=True)
        atf.stop()
        await running
    return "ended"

print(asyncio.run(cells()))
"""


@pytest.mark.parametrize("nested", ["plain", "nested"])
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_clients_work_within_a_running_loop_as_notebooks_have_it(
    cluster: ServiceCluster, loop: str, nested: str
) -> None:
    """`loop`: of the client's own thread; the notebook's is asyncio's."""
    said = python(CELLS, cluster.scheduler_address, loop, nested).split()

    assert said == ["waited", "IN_EVENT_LOOP", "ran", *["True"] * (2 if nested == "nested" else 1), "ended"]


def test_an_app_that_calls_run_while_it_is_imported_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "eager.py").write_text("""
from taskflow import TaskFlow

app = TaskFlow()


@app.task(queue="eager")
def work() -> None: ...


app.run()
""")

    done = subprocess.run(
        [str(Path(sys.executable).with_name("taskflow")), "worker", "eager:app"],
        cwd=tmp_path, text=True, timeout=30, capture_output=True, check=False,
    )  # fmt: skip

    assert done.returncode == 2
    assert "eager" in done.stderr and "__name__ == '__main__'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_handler_that_waits_for_a_job_in_the_last_slot_is_warned_about(
    tf: TaskFlow, caplog: pytest.LogCaptureFixture
) -> None:
    def outer() -> str:
        try:
            return str(tf.new_job("waits-inside-other").wait(timeout=0.1))
        except DeadlineExceeded:
            return "in vain"

    for concurrency in (2, 1):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "taskflow"), working(tf, "waits-inside", outer, concurrency=concurrency):
            assert tf.new_job("waits-inside").wait(timeout=20).result == "in vain"
        told = [each.message for each in caplog.records if "waits for another job" in each.message]
        assert len(told) == (concurrency == 1)
