"""data/schema.sql: the schema that the migrations make, as one reads it. `python -m tools.schema` rewrites it."""

import asyncio
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from taskflow_server.cluster.embedded_postgres import EmbeddedPostgres
from taskflow_server.store.migrate import migrate

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = ROOT / "data" / "schema.sql"
NOTE = "-- The schema that data/migrations make, dumped by `make schema`. Read it; change a migration.\n"
# Daily partitions depend on the day; the marks that some versions put around a dump differ every time.
_NOISE = re.compile(r"^(--.*|SET .*|SELECT pg_catalog\.set_config.*|\\(un)?restrict .*)$", re.MULTILINE)


def dump() -> str:
    """Migrate an empty embedded Postgres and dump it, without partitions and without the version's own noise."""
    directory = Path(tempfile.mkdtemp(prefix="taskflow-schema-"))
    postgres = EmbeddedPostgres(directory, fsync=False)
    try:
        dsn = postgres.start()
        asyncio.run(migrate(dsn))
        text = subprocess.run(
            [
                postgres.bin / "pg_dump",
                "--schema-only",
                "--no-owner",
                "--schema=taskflow",
                "--exclude-table=taskflow.*_p20*",
                dsn,
            ],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    finally:
        postgres.remove()
        shutil.rmtree(directory, ignore_errors=True)
    return NOTE + re.sub(r"\n{3,}", "\n\n", _NOISE.sub("", text)).strip() + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(dump())
