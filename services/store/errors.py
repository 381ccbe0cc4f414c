"""Classifies errors of Postgres: the fault of a row, an outage that is waited out, or a fault in TaskFlow.

A row whose error is of the first kind is refused, alone. Every other SQLSTATE class is a fault of the server, its
configuration or a lock, and decides nothing about the row, which is kept and written again. Such an error becomes
Unavailable and is counted by its class. A query that the driver cannot send, for example without a parameter, is a
fault in TaskFlow: the server was not asked, and a retry cannot help. It becomes InternalFault. No error ends a
service.
"""

from __future__ import annotations

import re
from enum import Enum

import psycopg
from psycopg import Error as DatabaseError
from psycopg.errors import UniqueViolation

from taskflow_server.core.errors import InternalFault, NotOwner, Unavailable
from taskflow_server.runtime import metrics
from taskflow_server.store.reasons import BAD_URL, missing_right
from taskflow_server.store.session import is_bad_url

FENCED = "TF001"  # raised by TaskFlow's fences: see taskflow.fence
FENCED_OPEN = "TF004"  # raised by taskflow.end_leases
NO_PARTITION = "NO_PARTITION"  # reason of an Unavailable: the row's day has no partition
CONNECTION = "connection"  # label of an error without SQLSTATE: the connection broke, or was never made
OTHER = "other"  # label of a class that is not in the table
QUERY = "query"  # label of a query that the driver cannot send


class FencedOpen(Exception):
    """Handlers' transactions hold the attempts of these jobs, so that nothing was written."""

    def __init__(self, jobs: frozenset[bytes]) -> None:
        super().__init__(f"{len(jobs)} attempts are held by transactions of their handlers")
        self.jobs = jobs


# Every exception that a call of the store raises. A loop that catches them retries later.
FAULTS = (Unavailable, NotOwner, InternalFault, DatabaseError)


class Fault(Enum):
    """The part that is at fault."""

    ROW = "row"
    OUTAGE = "outage"
    OURS = "ours"


# SQLSTATE's first two characters. A class that is not listed is an outage.
CLASSES: dict[str, Fault] = {
    "00": Fault.OUTAGE,  # successful completion
    "01": Fault.OUTAGE,  # warning
    "02": Fault.OUTAGE,  # no data
    "03": Fault.OUTAGE,  # SQL statement not yet complete
    "08": Fault.OUTAGE,  # connection exception
    "09": Fault.OUTAGE,  # triggered action exception
    "0A": Fault.OUTAGE,  # feature not supported
    "0B": Fault.OUTAGE,  # invalid transaction initiation
    "0F": Fault.OUTAGE,  # locator exception
    "0L": Fault.OUTAGE,  # invalid grantor
    "0P": Fault.OUTAGE,  # invalid role specification
    "0Z": Fault.OUTAGE,  # diagnostics exception
    "10": Fault.OUTAGE,  # XQuery error
    "20": Fault.OUTAGE,  # case not found
    "21": Fault.OUTAGE,  # cardinality violation
    "22": Fault.ROW,  # data exception
    "23": Fault.ROW,  # integrity constraint violation; a missing partition (23514) excepted
    "24": Fault.OUTAGE,  # invalid cursor state
    "25": Fault.OUTAGE,  # invalid transaction state: also a server that is read-only
    "26": Fault.OUTAGE,  # invalid SQL statement name
    "27": Fault.OUTAGE,  # triggered data change violation
    "28": Fault.OUTAGE,  # invalid authorization
    "2B": Fault.OUTAGE,  # dependent privilege descriptors still exist
    "2D": Fault.OUTAGE,  # invalid transaction termination
    "2F": Fault.OUTAGE,  # SQL routine exception
    "34": Fault.OUTAGE,  # invalid cursor name
    "38": Fault.OUTAGE,  # external routine exception
    "39": Fault.OUTAGE,  # external routine invocation exception
    "3B": Fault.OUTAGE,  # savepoint exception
    "3D": Fault.OUTAGE,  # invalid catalog name
    "3F": Fault.OUTAGE,  # invalid schema name
    "40": Fault.OUTAGE,  # transaction rollback: deadlocks
    "42": Fault.OUTAGE,  # syntax error or access rule violation: a missing table, a missing privilege
    "44": Fault.OUTAGE,  # WITH CHECK OPTION violation
    "53": Fault.OUTAGE,  # insufficient resources: a full disk, too many connections
    "54": Fault.OUTAGE,  # program limit exceeded
    "55": Fault.OUTAGE,  # object not in prerequisite state: a lock that was not granted in time
    "57": Fault.OUTAGE,  # operator intervention: a shutdown, a statement timeout
    "58": Fault.OUTAGE,  # system error
    "72": Fault.OUTAGE,  # snapshot too old
    "F0": Fault.OUTAGE,  # configuration file error
    "HV": Fault.OUTAGE,  # foreign data wrapper error
    "P0": Fault.OUTAGE,  # PL/pgSQL error
    "TF": Fault.OUTAGE,  # TaskFlow's own; TF001, the fence, is NotOwner
    "XX": Fault.OUTAGE,  # internal error
}


def fault_of(error: BaseException) -> Fault:
    """The part that is at fault for an error of Postgres or its driver."""
    state = getattr(error, "sqlstate", None)
    if state is None:  # raised by the driver: a value that cannot be sent is the fault of its row
        if isinstance(error, psycopg.ProgrammingError):
            return Fault.OURS
        return Fault.ROW if isinstance(error, psycopg.DataError) else Fault.OUTAGE
    if _lacks_partition(error):
        return Fault.OUTAGE
    return CLASSES.get(state[:2], Fault.OUTAGE)


def unavailable(error: BaseException) -> Unavailable:
    """The Unavailable that callers get for an outage, with its reason; counts it."""
    count(error)
    state = getattr(error, "sqlstate", None)
    if _lacks_partition(error):
        return Unavailable(f"the database lacks the partition for these jobs' day ({short(error)})", NO_PARTITION)
    if state is None:
        return Unavailable(f"Postgres does not answer ({short(error)}); try again", "DATABASE_UNAVAILABLE")
    if right := missing_right(error):
        return Unavailable(f"Postgres refuses ({state}): {right}", "DATABASE_UNAVAILABLE")
    return Unavailable(f"Postgres refuses ({short(error)}); try again", "DATABASE_UNAVAILABLE")


def bad_query(error: BaseException) -> InternalFault:
    """The InternalFault that callers get for a query that the driver cannot send; counts it."""
    metrics.database_errors.labels(QUERY).inc()
    line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    said = f"a query of TaskFlow's own cannot be sent ({line}): please report it; a retry cannot help"
    return InternalFault(said, "BAD_QUERY")


def count(error: BaseException) -> None:
    """Counts an outage, by its class."""
    state = getattr(error, "sqlstate", None)
    label = CONNECTION if state is None else state[:2] if state[:2] in CLASSES else OTHER
    metrics.database_errors.labels(label).inc()


def short(error: BaseException) -> str:
    """The error's SQLSTATE, if any, and its first line, of bounded length. Contains no password, although the driver's
    text repeats a URL that is not valid."""
    if is_bad_url(error) and not re.search("placeholder|query parameter missing", str(error)):  # errors of queries
        return BAD_URL
    state = getattr(error, "sqlstate", None)
    line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return f"{state}: {line}" if state else line


def _lacks_partition(error: BaseException) -> bool:
    """Postgres reports a missing partition, and TaskFlow a closed day, as a check violation without a constraint."""
    return isinstance(error, psycopg.errors.CheckViolation) and error.diag.constraint_name is None


for _label in (CONNECTION, OTHER, QUERY):  # a rate needs a first value of zero
    metrics.database_errors.labels(_label)


__all__ = [
    "CLASSES", "CONNECTION", "FAULTS", "FENCED", "FENCED_OPEN", "NO_PARTITION", "OTHER", "QUERY", "DatabaseError",
    "Fault", "FencedOpen", "UniqueViolation", "bad_query", "count", "fault_of", "short", "unavailable",
]  # fmt: skip
