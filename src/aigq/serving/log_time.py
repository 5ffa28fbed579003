"""The present in the time of the published log, which may have ended long ago."""

from typing import Final

DAY_S: Final = 86400.0
STALE_DAYS: Final = 30
"""A log that ended longer ago counts as ended yesterday; else its counts would have decayed to nothing."""


def days_back(now: float, day: int) -> float:
    """Seconds, whole days, by which live events are moved back; `day` is the one after the log."""
    days = int(now // DAY_S) - day
    return days * DAY_S if days > STALE_DAYS else 0.0
