"""Workers and executors: their sessions and leases, and what they report of running attempts."""
