"""A whole cluster for a while: for the demo, the benchmarks, and scripts that examine it."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from taskflow_server.cluster.cluster import SERVICES, Cluster, names
from taskflow_server.cluster.embedded_postgres import EmbeddedPostgres
from taskflow_server.cluster.others import refuse_others, suffix
from taskflow_server.cluster.prepare import prepare


@contextmanager
def local_cluster(
    *,
    services: Sequence[str] = SERVICES,
    app: str | None = None,
    environ: Mapping[str, str] = os.environ,
    metrics: bool = False,
    stopping: Callable[[], bool] = lambda: False,
) -> Iterator[Cluster]:
    """Embedded Postgres and the services on free ports, stopped and deleted at the end.

    A database of one's own can be given by TASKFLOW_DATABASE_URL in `environ`; it is migrated, and left as it is at the
    end. `stopping` may be set by a signal handler: the start is then given up with process.Interrupted.
    """
    directory = Path(tempfile.mkdtemp(prefix="taskflow-"))
    postgres: EmbeddedPostgres | None = None
    try:
        dsn = environ.get("TASKFLOW_DATABASE_URL", "")
        if not dsn:
            postgres = EmbeddedPostgres(directory, environ=environ)
            dsn = postgres.start(stopping)
        prepare(dsn, stopping)
        end = "1" if postgres else suffix(directory)
        if postgres is None:
            refuse_others(dsn, names(end), stopping)
        with Cluster(
            dsn, directory, services=services, app=app, environ=environ, metrics=metrics, suffix=end
        ) as cluster:
            cluster.start(stopping=stopping)
            yield cluster
    finally:
        if postgres is not None:
            postgres.remove()
        shutil.rmtree(directory, ignore_errors=True)
