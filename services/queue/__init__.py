"""The queue service: pending jobs in memory, one ordered structure per lane; answers workers' polls. Never Postgres."""
