"""The server's own commands, which the `taskflow` script finds by entry points: `up`, `db` and `verify`.

A command imports its modules when it runs, so that `--help` stays quick.
"""

from taskflow_server.cli.db import db
from taskflow_server.cli.up import up
from taskflow_server.cli.verify import verify

__all__ = ["db", "up", "verify"]
