"""Keepalive and reconnection of gRPC: one place, for client and server must agree, or the server ends idle connections.

A server counts every ping that comes sooner than its minimum interval, and after two it sends GOAWAY, `too_many_pings`.
The minimum has one name, `grpc.http2.min_ping_interval_without_data_ms`, and five minutes by default; other names are
ignored without a word.
"""

from __future__ import annotations

INTERVAL = 10.0
"""Seconds between pings, of clients and of servers alike."""

ANSWER_WITHIN = 5.0
"""Seconds after which a ping without an answer ends the connection."""


FIRST_BACKOFF_MS = 100
"""Milliseconds between the first attempts to connect; later ones are further apart."""

CONNECT_WITHIN_MS = 3_000
"""Milliseconds that an attempt to connect may take, to the server's first frame: some round trips of a slow link, and
the turns of a busy machine. gRPC's name of it, `grpc.min_reconnect_backoff_ms`, says something else."""


def reconnect_options(longest_backoff_ms: int) -> list[tuple[str, int]]:
    """For a channel. `longest_backoff_ms`: milliseconds between attempts to connect, at most."""
    return [
        ("grpc.initial_reconnect_backoff_ms", FIRST_BACKOFF_MS),
        ("grpc.max_reconnect_backoff_ms", longest_backoff_ms),
        ("grpc.min_reconnect_backoff_ms", CONNECT_WITHIN_MS),
    ]


def client_options(interval: float = INTERVAL) -> list[tuple[str, int]]:
    """For a channel: pings at this interval, also while no call is under way."""
    return [
        ("grpc.keepalive_time_ms", round(interval * 1000)),
        ("grpc.keepalive_timeout_ms", round(ANSWER_WITHIN * 1000)),
        ("grpc.http2.ping_timeout_ms", round(ANSWER_WITHIN * 1000)),  # measured: else a frozen peer is unseen for 60 s
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),  # no limit; by default the third waits for a minute
    ]


def server_options(interval: float = INTERVAL) -> list[tuple[str, int]]:
    """For a server: its own pings, and the minimum for those of clients, half of what ours keep to."""
    shortest = min(interval, INTERVAL) / 2
    return [*client_options(interval), ("grpc.http2.min_ping_interval_without_data_ms", round(shortest * 1000))]
