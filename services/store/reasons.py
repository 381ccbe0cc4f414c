"""Explains why a database cannot be used: one line with the fault and its cure, and without a password.

Errors of a connection have no SQLSTATE, so they are recognised by texts of Postgres, of its client library and of
PgBouncer. Any other error is shown unchanged.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

EXAMPLE: Final = "postgresql://user:password@host:5432/database"
POOLERS: Final = "docs/operations/poolers.md"
BAD_URL: Final = f"not a valid URL of Postgres; give {EXAMPLE}"
_ENCODE: Final = (
    "not a valid URL of Postgres: a character of its user or password must be percent-encoded"
    " (@ is %40, / is %2F, % is %25, : is %3A); `python3 -c 'import urllib.parse as u;"
    ' print(u.quote(input(), ""))\'` encodes a line'
)
_SCHEMES = ("postgresql", "postgres")
_SHOWN = 200  # characters of a server's message


class BadUrl(ValueError):
    """The URL of a database is not valid; the text does not repeat it."""


class Unusable(psycopg.NotSupportedError):
    """A database that a service cannot use, now or after a retry; the message has the reason and the cure."""


@dataclass(frozen=True, slots=True)
class Reason:
    """`answered`: a server answered, so a retry will get the same answer. `absent`: no server was reached."""

    text: str
    answered: bool = True

    @property
    def absent(self) -> bool:
        return not self.answered


@dataclass(frozen=True, slots=True)
class Place:
    """The parts of a URL, as libpq reads it."""

    host: str
    port: str
    user: str
    database: str

    def __str__(self) -> str:
        hosts, ports = self.host.split(","), self.port.split(",")
        if len(ports) < len(hosts):
            ports *= len(hosts)
        where = [f"[{h}]:{p}" if ":" in h else f"{h}:{p}" for h, p in zip(hosts, ports, strict=False)]
        return f"{','.join(where)}/{self.database}"


def place(url: str) -> Place:
    """The parts of a URL that may be shown. Raises BadUrl with a text that repeats nothing that may be secret."""
    if not url.strip():
        raise BadUrl(f"it is empty; give {EXAMPLE}")
    if url != url.strip() or any(ord(char) < 32 for char in url):
        raise BadUrl("not a valid URL of Postgres: it has a space or a line break at an end, or a control character")
    scheme, is_url, rest = url.partition("://")
    if is_url and scheme not in _SCHEMES and re.fullmatch(r"[a-z0-9+.-]{1,30}", scheme, re.IGNORECASE):
        raise BadUrl(f"{BAD_URL}; its scheme is {scheme!r}, not 'postgresql'")
    if scheme == "jdbc:postgresql":
        raise BadUrl(f"{BAD_URL}; its scheme is 'jdbc:postgresql', not 'postgresql'")
    if url[0] in "\"'":
        raise BadUrl(f"{BAD_URL}; it begins with a quotation mark, which is for the shell or the env file to read")
    credentials = bool(is_url) and "@" in rest
    try:
        found = conninfo_to_dict(url)
    except psycopg.Error as error:
        if "invalid URI query parameter" in str(error):  # the name may be part of a password
            raise BadUrl(f"{BAD_URL}; Postgres does not know a parameter after its '?'") from None
        raise BadUrl(_ENCODE if credentials and "%" in rest.rpartition("@")[0] else BAD_URL) from None
    host, port = str(found.get("host") or ""), str(found.get("port") or "")
    database = str(found.get("dbname") or "")
    cut = not found.get("user") and not _are_ports(port)
    if "@" in host or (credentials and ("@" in database or cut)):
        raise BadUrl(_ENCODE)  # libpq took a part of the password for the host, its port or the database
    if not _are_ports(port):
        raise BadUrl(f"{BAD_URL}; its port must be a number from 1 to 65535")
    return Place(host or "localhost", port.strip(",") or "5432", str(found.get("user") or ""), database)


def _are_ports(text: str) -> bool:
    return all(not word or (word.isascii() and word.isdigit() and 0 < int(word) < 65536) for word in text.split(","))


def where(url: str) -> str:
    """host:port/database of a URL, for people: never the password."""
    try:
        return str(place(url))
    except BadUrl:
        return "the database"


def why(error: BaseException, url: str) -> Reason:
    """The reason for an error of a connection to `url`."""
    if isinstance(error, Unusable):
        return Reason(str(error))
    try:
        at = place(url)
    except BadUrl as fault:
        return Reason(str(fault))
    said = words(error)
    if isinstance(error, TimeoutError | psycopg.errors.ConnectionTimeout):
        return Reason(
            f"no answer of Postgres at {at} in time; is it running, can it be reached from here, and is its pooler,"
            " if it has one, full or without a server?",
            answered=False,
        )
    for pattern, kind, cure in _KINDS:
        if re.search(pattern, said, re.IGNORECASE):
            shown = cure.format(user=at.user or "…", database=at.database or "…", at=at)
            return Reason(f"{kind.format(at=at)} ({said}); {shown}" if kind else f"{said}; {shown}")
    if right := missing_right(error, at.user):
        return Reason(right)
    if _answered(error, said):
        return Reason(f"Postgres at {at} refuses: {said}")
    return Reason(f"no Postgres answers at {at}: {said}", answered=False)


def _answered(error: BaseException, said: str) -> bool:
    """Whether a server has refused for good. With 57P03, known by its text, it is only starting or stopping."""
    if re.search("the database system is", said):
        return False
    return getattr(error, "sqlstate", None) is not None or bool(re.match("(FATAL|PANIC|ERROR): ", said))


# Pattern of an error's text -> the fault, and the cure. The first match counts.
_KINDS: Final[tuple[tuple[str, str, str], ...]] = (
    (r"no password supplied", "the password is missing", "put it into the URL: " + EXAMPLE),
    (
        r"password authentication failed|SASL authentication failed|no such user|auth failed",
        "the user or the password is wrong",
        "the user is {user!r}; a special character of its password must be percent-encoded, as @ is %40",
    ),
    (
        r'database ".*" does not exist',
        "",
        "create it: `create database \"{database}\" encoding 'UTF8' template template0`",
    ),
    (r'role ".*" does not exist', "", "create it: `create role \"{user}\" login password '…'`"),
    (
        r"no pg_hba.conf entry.*no encryption|SSL required|SSL connection is required",
        "the server wants TLS",
        "add ?sslmode=require to the URL",
    ),
    (
        r"no pg_hba.conf entry",
        "the server's pg_hba.conf does not admit this connection",
        "add a line there for {user!r}",
    ),
    (
        r"server does not support SSL",
        "the server has no TLS, and the URL wants it",
        "turn TLS on there, or change sslmode in the URL",
    ),
    (
        r"certificate verify failed|root certificate file|server certificate for",
        "the certificate of the server is not trusted",
        "name its authority with sslrootcert=… in the URL",
    ),
    (r"requires a valid client certificate", "the server wants a client's certificate", "add sslcert=… and sslkey=…"),
    (
        r"no such database|unsupported startup parameter|no more connections allowed|query_wait_timeout"
        r"|pgbouncer|server login (has been|failed)|server_login_retry|not supported by pooler",
        "a pooler in front of Postgres refuses",
        f"see {POOLERS}",
    ),
    (
        r"too many (clients|connections)|remaining connection slots",
        "Postgres has no connection left",
        "raise max_connections there, or close other connections",
    ),
    (
        r"invalid response to SSL negotiation|expected authentication request",
        "the server at {at} is not Postgres",
        "give the address of Postgres",
    ),
    (r"not allowed in statement pooling", "a pooler in front of Postgres pools statements", f"see {POOLERS}"),
    (r"in a read-only transaction", "this Postgres is read-only, as a standby is", "give the URL of the primary"),
    (r"invalid sslmode|invalid (channel_binding|gssencmode|target_session_attrs) value", BAD_URL, "see its parameters"),
)


def words(error: BaseException) -> str:
    """The text of an error of Postgres in one line, without the driver's prefix. If there were several attempts, for
    example at the addresses of a name, that of the first which a server answered."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    said = next((line for line in lines if re.search("failed: (FATAL|PANIC|ERROR):", line)), lines[0])
    driver = r"^(?:- .*?: )?connection (?:failed|is bad): (?:connection to server (?:at|on) .*? failed: )?"
    return re.sub(driver, "", said)[:_SHOWN]


_DENIED = re.compile(r"permission denied for (database|schema|table|view|sequence|function|relation) (\S+)")
_OWNER = re.compile(r"must be owner of (\w+) (\S+)")
_TABLES: Final = "GRANT select, insert, update, delete ON all tables in schema taskflow"
_GRANT: Final = {
    "table": _TABLES,
    "view": _TABLES,
    "relation": _TABLES,
    "sequence": "GRANT usage, select ON all sequences in schema taskflow",
    "function": "GRANT execute ON all functions in schema taskflow",
    "schema": "GRANT usage ON schema taskflow",
}


def missing_right(error: BaseException, user: str = "") -> str:
    """For an error about a missing privilege: its name, and the GRANT that gives it; else empty."""
    said = words(error)
    role = f'"{user}"' if user else "the role of TASKFLOW_DATABASE_URL"
    if found := _OWNER.search(said):
        return (
            f"{role} does not own what it must change ({said}); run as the role that applied the migrations, or make"
            f" {role} a member of it: GRANT <that role> TO {role}"
        )
    if not (found := _DENIED.search(said)):
        return ""
    kind, name = found.groups()
    if kind == "database":
        right = "connect" if "FATAL" in said else "create"
        return f'{role} lacks a right ({said}); GRANT {right} ON DATABASE "{name.strip(chr(34))}" TO {role}'
    return f"{role} lacks a right ({said}); {_GRANT[kind]} TO {role}"
