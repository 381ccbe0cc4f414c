"""`taskflow verify`: the promises of docs/concepts/guarantees.md, each with an id, checked over the facts in Postgres.

Checks read and never write. Each is a query of `data/queries/verify.sql` or `verify_jobs.sql` that returns what
contradicts its promise in a page of rows. A page is one statement, hence one snapshot, in which the rules of
docs/protocol.md hold whatever the cluster is doing. So checks may run beside a working cluster, and hold up vacuum no
longer than a page takes.
"""
