"""An app's tasks in memory, with a clock that the test moves: no cluster, no network, no thread left behind.

>>> from taskflow import testing
>>> with testing.cluster(app) as c:
...     job = send_email.new_job(to="ada@example.org")
...     c.run_until_idle()
...     assert c.job(job).outcomes == ["failed"]
...     c.advance(1)  # its backoff
...     assert job.wait().result == {"sent": "ada@example.org"}

Inside the `with`, everything that is asked of the app — `new_job`, `wait`, `tf.jobs`, … — is answered from memory.
Retries, delays, timeouts, bound arguments and outcomes are those of a cluster, because the code is. It differs in this:

- Nothing runs by itself: `run_until_idle` and `advance` run jobs, and so does a `wait`.
- The clock stands still until `advance`. `asyncio.sleep` and `asyncio.timeout` in handlers obey it; `time.sleep` does
  not.
- Plain handlers, and those with `processes=N`, run one after another where the test runs. A timeout ends one only if it
  moved the clock itself, by `advance`.
- Async handlers run on an event loop of the cluster's own, also in an async test: they cannot share what belongs to the
  test's loop, such as a connection.
- Backoff is exact, without its spread, unless `rng` is given.
"""

from taskflow.testing._cluster import MemoryCluster, cluster
from taskflow.testing._jobs import MemoryJob

__all__ = ["MemoryCluster", "MemoryJob", "cluster"]
