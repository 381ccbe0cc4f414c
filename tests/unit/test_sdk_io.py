"""The I/O thread: what fails on it stops nothing else, and nobody waits for it once it is closed."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections import deque
from typing import Any

import pytest

from taskflow import AsyncTaskFlow, FailedPrecondition, TaskFlow, Unavailable
from taskflow._transport.io_thread import IoThread, Mailbox, complain
from tests.support.waiting import eventually, eventually_async


async def test_an_item_that_cannot_be_handled_holds_up_none_behind_it(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[int] = []

    def take(items: deque[int]) -> None:
        while items:
            item = items.popleft()
            if item == 1:
                raise ValueError("not this one")
            seen.append(item)

    box: Mailbox[int] = Mailbox(asyncio.get_running_loop(), take)
    box.put_all([0, 1, 2, 1, 3])

    await eventually_async(lambda: seen == [0, 2, 3])
    assert "not this one" in caplog.text


async def test_a_put_at_the_bottom_of_a_stack_does_not_silence_the_mailbox() -> None:
    seen: list[int] = []

    def take(items: deque[int]) -> None:
        seen.extend(items)
        items.clear()

    box: Mailbox[int] = Mailbox(asyncio.get_running_loop(), take)

    def sink(number: int) -> None:
        box.put(number)  # deeper and deeper, until one fails at whatever line
        sink(number + 1)

    for _ in range(3):
        with pytest.raises(RecursionError):
            sink(0)
        await asyncio.sleep(0)
    box.put(-1)

    await eventually_async(lambda: -1 in seen)


def test_a_task_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    io = IoThread()

    async def fail() -> None:
        raise KeyError("in the background")

    async def begin() -> None:
        io.spawn(fail())

    io.call(begin)

    eventually(lambda: "in the background" in caplog.text)
    io.close()


def test_an_application_s_log_filter_that_raises_stops_no_loop(capfd: pytest.CaptureFixture[str]) -> None:
    def refuse(record: logging.LogRecord) -> bool:
        raise RuntimeError("a filter of the application")

    logger = logging.getLogger("taskflow")
    logger.addFilter(refuse)
    try:
        complain("a loop goes on", ValueError("the reason"))
    finally:
        logger.removeFilter(refuse)

    said = capfd.readouterr().err
    assert "a loop goes on" in said and "the reason" in said and "a filter of the application" in said


def test_a_call_that_cannot_begin_fails_its_caller() -> None:
    io = IoThread()

    def make() -> Any:
        raise LookupError("before there is a coroutine")

    with pytest.raises(LookupError):
        io.call(make)
    io.close()


def test_calls_under_way_when_their_client_is_closed_end_with_an_error_of_the_tree() -> None:
    io = IoThread()
    begun = threading.Event()

    async def never() -> None:
        begun.set()
        await asyncio.Event().wait()

    calls = [io.submit(never) for _ in range(3)]
    assert begun.wait(10)

    io.close()

    for call in calls:
        with pytest.raises(Unavailable) as closed:
            call.result(10)
        assert closed.value.reason == "CLOSED"


def test_a_call_that_its_caller_gives_up_is_cancelled() -> None:
    io = IoThread()
    begun, ended = threading.Event(), threading.Event()

    async def wait() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    call = io.submit(wait)
    assert begun.wait(10)
    call.cancel()

    assert ended.wait(10)
    io.close()


@pytest.mark.parametrize("attempt", range(20))
def test_threads_that_call_while_their_client_is_closed_all_get_an_error_of_the_tree(attempt: int) -> None:
    """At moments of chance: a call may be posted to a loop that ends before it begins."""
    io = IoThread()
    ends: list[BaseException] = []
    ready = threading.Barrier(5)

    async def nothing() -> None: ...

    def call_on() -> None:
        ready.wait(10)
        try:
            while True:
                io.call(nothing)
        except BaseException as error:
            ends.append(error)

    threads = [threading.Thread(target=call_on, daemon=True) for _ in range(4)]
    io.call(nothing)
    for thread in threads:
        thread.start()
    ready.wait(10)

    io.close()

    for thread in threads:
        thread.join(10)
    assert [isinstance(error, (FailedPrecondition, Unavailable)) for error in ends] == [True] * 4, ends


@pytest.mark.parametrize("attempt", range(10))
async def test_jobs_that_are_made_while_their_client_is_closed_all_get_an_answer(attempt: int) -> None:
    """From threads and coroutines, with a scheduler that never answers."""
    ends: list[object] = []
    closed = threading.Event()

    def make(tf: TaskFlow) -> None:
        try:
            ends.append(tf.new_job("closing"))
        except BaseException as error:
            ends.append(error)

    def make_many(tf: TaskFlow, threads: list[threading.Thread]) -> None:
        while not closed.is_set():
            threads.append(threading.Thread(target=make, args=(tf,), daemon=True))
            threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        tf, of_coroutines = TaskFlow(address, timeout=60), AsyncTaskFlow(address, timeout=60)
        threads: list[threading.Thread] = []
        maker = threading.Thread(target=make_many, args=(tf, threads), daemon=True)
        maker.start()
        theirs = [asyncio.ensure_future(of_coroutines.new_job("closing")) for _ in range(20)]
        await eventually_async(lambda: len(threads) > 20)
        await asyncio.to_thread(tf.close)
        await of_coroutines.close()
        closed.set()
        await asyncio.to_thread(maker.join, 10)
        await eventually_async(lambda: not any(thread.is_alive() for thread in threads))

        ends += await asyncio.wait_for(asyncio.gather(*theirs, return_exceptions=True), 10)

    assert len(ends) == len(threads) + len(theirs)
    assert {type(end) for end in ends} <= {Unavailable, FailedPrecondition}
