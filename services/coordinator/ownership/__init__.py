"""Shards: taken over, kept and handed over. Taking over is the one recovery."""
