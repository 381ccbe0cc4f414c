"""Process state that a handler may change, restored after each attempt: every job begins with the same state."""

from __future__ import annotations

import contextlib
import locale
import os
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any

_LASTING = {signal.SIGKILL, signal.SIGSTOP}


class ProcessState:
    """Folder, environment, locale, umask, signal handlers and alarms, `sys.path` and `sys.argv`, and the standard
    streams, as they are now."""

    def __init__(self) -> None:
        self._folder = _or_none(os.getcwd)
        self._environment = dict(os.environ)
        self._locale = _or_none(lambda: locale.setlocale(locale.LC_ALL))
        os.umask(umask := os.umask(0))
        self._umask = umask
        self._signals = {number: signal.getsignal(number) for number in signal.valid_signals() - _LASTING}
        self._path, self._argv = list(sys.path), list(sys.argv)
        self._streams = (sys.stdin, sys.stdout, sys.stderr)
        self._filters = list(warnings.filters)

    def restore(self) -> None:
        """In the main thread. Never raises."""
        for restore in (
            self._restore_signals, self._restore_folder, self._restore_environment, self._restore_locale,
            self._restore_interpreter,
        ):  # fmt: skip
            with contextlib.suppress(Exception):
                restore()

    def _restore_signals(self) -> None:
        for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
            signal.setitimer(timer, 0)
        for number, handler in self._signals.items():
            if handler is not None and signal.getsignal(number) is not handler:
                with contextlib.suppress(OSError, ValueError):
                    signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def _restore_folder(self) -> None:
        if self._folder is not None and _or_none(os.getcwd) != self._folder:
            os.chdir(self._folder)
        os.umask(self._umask)

    def _restore_environment(self) -> None:
        if os.environ != self._environment:
            for name in os.environ.keys() - self._environment.keys():
                del os.environ[name]
            os.environ.update(self._environment)

    def _restore_locale(self) -> None:
        if self._locale is not None and locale.setlocale(locale.LC_ALL) != self._locale:
            locale.setlocale(locale.LC_ALL, self._locale)

    def _restore_interpreter(self) -> None:
        sys.path[:], sys.argv[:] = self._path, self._argv
        sys.stdin, sys.stdout, sys.stderr = self._streams
        if warnings.filters != self._filters:
            warnings.filters[:] = self._filters  # type: ignore[index]


def _or_none(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except Exception:
        return None
