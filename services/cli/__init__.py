"""The server's own commands, which the `taskflow` script finds by entry points: `up` and `db`.

What a command needs is imported when it runs, so that `--help` stays quick.
"""

from services.cli.db import db
from services.cli.up import up

__all__ = ["db", "up"]
