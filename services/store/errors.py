"""Postgres's errors, by the names under which they may be caught outside the store."""

from psycopg import Error as DatabaseError
from psycopg.errors import UniqueViolation

__all__ = ["DatabaseError", "UniqueViolation"]
