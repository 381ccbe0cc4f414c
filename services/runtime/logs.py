"""Structured logs: readable lines, or JSON for machines. A line about a job has its id in `job`.

Lines of libraries, of the SDK and of an app in a packaged worker take the same form as ours.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

# structlog imports rich where it is there, for traces that we print plainly: 40 ms and 5 MB of each service.
_without_rich = "rich" not in sys.modules
if _without_rich:
    sys.modules["rich"] = None  # type: ignore[assignment]

import structlog  # noqa: E402
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger  # noqa: E402

if _without_rich:
    del sys.modules["rich"]

FEW = 20  # jobs that one line names
_JOB_FIELDS = ("job", "jobs", "attempt", "queue", "task", "worker")  # fields that a standard logger's `extra` may add


def configure(level: str, fmt: str, service: str) -> None:
    """Once per process, before the first line."""
    number = logging.getLevelNamesMapping()[level.upper()]

    def named(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        event["service"] = service
        return event

    shared: list[Processor] = [
        named,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if fmt == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(allow=_JOB_FIELDS), _part, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler])
    logging.getLogger("taskflow").setLevel(number)  # the SDK's, in a packaged worker: its lines are ours
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # the services log outages themselves


def _part(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Shows the name of a standard logger in the field for TaskFlow's parts."""
    event["part"] = event["_record"].name
    return event


class Outage:
    """One line when something begins to fail, and one when it works again."""

    def __init__(self, log: FilteringBoundLogger, what: str) -> None:
        self._log = log
        self._what = what
        self._failures = 0

    def failed(self, error: BaseException) -> None:
        self._failures += 1
        if self._failures == 1:
            self._log.warning(f"{self._what}; retrying", why=(str(error).splitlines() or [type(error).__name__])[0])

    def over(self) -> None:
        if self._failures:
            self._log.info(f"{self._what}: over", failures=self._failures)
            self._failures = 0


class RateLimitedLog:
    """Lines that may come by the thousand: MOST a second. The next one after a gap says how many were left out."""

    MOST = 20

    def __init__(self, log: FilteringBoundLogger, monotonic: Callable[[], float]) -> None:
        self._log = log
        self._monotonic = monotonic
        self._enabled: dict[int, bool] = {}
        self._since, self._said, self._left_out = 0.0, 0, 0

    def wanted(self, level: int) -> bool:
        """Whether a line of this level may be logged now; counts it if not."""
        if level not in self._enabled:
            self._enabled[level] = self._log.is_enabled_for(level)
        if not self._enabled[level]:
            return False
        now = self._monotonic()
        if now - self._since >= 1.0:
            self._since, self._said = now, 0
        if self._said >= self.MOST:
            self._left_out += 1
            return False
        return True

    def say(self, level: int, event: str, **facts: object) -> None:
        self._said += 1
        if self._left_out:
            facts["left_out"], self._left_out = self._left_out, 0
        self._log.log(level, event, **facts)


def get(name: str) -> FilteringBoundLogger:
    log: FilteringBoundLogger = structlog.get_logger(part=name)
    return log
