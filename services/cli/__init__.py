"""The server's own commands, which the `taskflow` script finds by entry points: `up` and `db`.

A command imports its modules when it runs, so that `--help` stays quick.
"""

from taskflow_server.cli.db import db
from taskflow_server.cli.up import up

__all__ = ["db", "up"]
