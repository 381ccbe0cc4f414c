"""Ownership of shards: takeover, renewal and hand-over. A takeover is the one recovery."""
