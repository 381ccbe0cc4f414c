"""A fork of this process, by a handler or by the application: it must not go on as a worker or with our connections.

Our signal handlers are gone in a fork, and our descriptors closed; a handler that returns in a fork ends that fork,
and says nothing about its attempt.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from taskflow._process import grpc_environment
from taskflow.errors import FailedPrecondition

HAS_FORK = hasattr(os, "register_at_fork")

depth = 0
"""How many forks lie between this process and the one that imported this package."""

grpc_in_use = False
"""Whether a client of this process, or of one that it is a fork of, has used gRPC."""

_grpc_before_fork = False
_warned = False
_descriptors: set[int] = set()
_signals: dict[int, Any] = {}  # number -> what a fork has for it, where a worker listens
_forking = threading.local()


def used_grpc() -> None:
    """Says that gRPC is about to be used. FailedPrecondition, FORKED, in a fork of a process that has used it."""
    global grpc_in_use
    if _grpc_before_fork:
        raise FailedPrecondition(
            "this process was forked after its parent had used TaskFlow, and gRPC does not survive a fork; make the"
            " TaskFlow after the fork and use none before it, or use the start method 'spawn'",
            reason="FORKED",
        )
    grpc_in_use = True


def is_fork(of: int, verb: str) -> None:
    """FailedPrecondition, FORKED, when this process is not the one of depth `of`."""
    if depth != of:
        raise FailedPrecondition(
            f"{verb} was called in a process that the handler forked; call it in the handler's own process",
            reason="FORKED",
        )


def end_if_fork(of: int, error: BaseException | None) -> None:
    """For what called a handler: in a fork of it there is nobody to report to."""
    if depth != of:
        _end(error)


def _end(error: BaseException | None) -> NoReturn:
    status = 0
    with contextlib.suppress(BaseException):
        if isinstance(error, SystemExit):
            status = error.code if isinstance(error.code, int) else error.code is not None
        elif error is not None:
            status = 1
            traceback.print_exception(error)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()
    os._exit(status & 0xFF)


def close_in_forks(*descriptors: int) -> Callable[[], None]:
    """Closes them in each fork, until the answer is called: right before they are closed here."""
    _descriptors.update(descriptors)
    return lambda: _descriptors.difference_update(descriptors)


def restore_in_forks(before: Mapping[int, Any]) -> Callable[[], None]:
    """Each fork gets these signal handlers instead of ours, until the answer is called."""
    _signals.update(before)

    def forget() -> None:
        for number in before:
            _signals.pop(number, None)

    return forget


def _before() -> None:
    """A signal that came right after the fork would be lost: Python forgets those that are pending."""
    global _warned
    if grpc_environment.came_first and grpc_in_use and not _warned:
        _warned = True
        with contextlib.suppress(BaseException):  # a filter that makes it an error; a fork has nobody to raise to
            warnings.warn(
                "gRPC was imported before taskflow, and its own way to live on in a fork crashes forks of this process;"
                " set GRPC_ENABLE_FORK_SUPPORT=0 in the environment, or import taskflow first",
                RuntimeWarning,
                stacklevel=2,
            )
    if _signals:
        _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _signals.keys())


def _after() -> None:
    mask = _forking.__dict__.pop("mask", None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _after_in_child() -> None:
    global depth, _grpc_before_fork
    depth += 1
    _grpc_before_fork = grpc_in_use
    if _descriptors:
        with contextlib.suppress(OSError):
            nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            for each in _descriptors:  # the number stays taken: the objects that hold it may close it yet
                os.dup2(nothing, each, inheritable=False)
            os.close(nothing)
        _descriptors.clear()
    if _signals:
        with contextlib.suppress(ValueError):
            signal.set_wakeup_fd(-1)  # it is that of an event loop of the parent
        for number, handler in _signals.items():
            with contextlib.suppress(ValueError, TypeError):
                signal.signal(number, handler)
        _signals.clear()
    _after()


if HAS_FORK:
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after_in_child)
