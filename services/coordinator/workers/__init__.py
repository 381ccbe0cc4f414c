"""Workers and executors: their sessions and leases, and their reports on running attempts."""
