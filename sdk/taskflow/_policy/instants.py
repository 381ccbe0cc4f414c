"""The range of instants that an API accepts.

The calendars of clients end with the year 9999. Its days are left out, so that no time zone and no calculation from an
accepted instant leads beyond the end.
"""

from datetime import UTC, datetime

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(9999, 1, 1, tzinfo=UTC)
LATEST_US = 253_370_764_800_000_000  # microseconds since 1970
RANGE = "between 1970-01-01 and 9999-01-01 (UTC)"
OUT_OF_RANGE = f"is not an instant {RANGE}"


def is_instant(moment: datetime) -> bool:
    """Whether a moment, which must name its zone, lies in the range. Both bounds are outside."""
    return EARLIEST < moment < LATEST
