"""Structured logs: readable lines, or JSON for machines."""

from __future__ import annotations

import logging
import sys

import structlog


def configure(level: str, fmt: str, service: str) -> None:
    """Once per process, before the first line."""
    number = logging.getLevelNamesMapping()[level.upper()]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if fmt == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # each failed try; what comes of them we say ourselves
    logging.basicConfig(level=max(number, logging.WARNING), stream=sys.stderr)


class Outage:
    """One line when something begins to fail, and one when it works again."""

    def __init__(self, log: structlog.typing.FilteringBoundLogger, what: str) -> None:
        self._log = log
        self._what = what
        self._failures = 0

    def failed(self, error: BaseException) -> None:
        self._failures += 1
        if self._failures == 1:
            self._log.warning(f"{self._what}; trying on", why=(str(error).splitlines() or [type(error).__name__])[0])

    def over(self) -> None:
        if self._failures:
            self._log.info(f"{self._what}: over", failures=self._failures)
            self._failures = 0


def get(name: str) -> structlog.typing.FilteringBoundLogger:
    log: structlog.typing.FilteringBoundLogger = structlog.get_logger(part=name)
    return log
