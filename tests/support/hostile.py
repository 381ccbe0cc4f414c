"""A database with defaults of its own, as an operator or another program may have set them."""

import psycopg
from psycopg import sql

DEFAULTS = {
    "TimeZone": "Asia/Tokyo",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "client_encoding": "LATIN1",
    "standard_conforming_strings": "off",
    "bytea_output": "escape",
    "extra_float_digits": "-10",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "default_transaction_isolation": "serializable",
    "lock_timeout": "1ms",
}


def make_hostile(dsn: str) -> None:
    """Every session that is opened from now on begins with these defaults, and with other functions in front."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        name = sql.Identifier(conn.info.dbname)
        for setting, value in DEFAULTS.items():
            conn.execute(sql.SQL("alter database {} set {} = {}").format(name, sql.Identifier(setting), value))
        conn.execute("create schema shadow")
        conn.execute(
            "create function shadow.now() returns timestamptz language sql immutable"
            " as $$ select '2000-01-01'::timestamptz $$"
        )
        conn.execute(sql.SQL("alter database {} set search_path = shadow, pg_catalog").format(name))
