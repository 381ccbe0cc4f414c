"""Parts that the tests share: a Postgres, a cluster of real processes, and the one way to wait."""
