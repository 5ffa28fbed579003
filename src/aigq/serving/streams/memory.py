"""A log in this process, for tests: SQLite's own memory, so that there is one implementation of the rules."""

import time

from aigq.serving.stores.store import Clock
from aigq.serving.streams.embedded import SqliteLog


class MemoryLog(SqliteLog):
    """Gone when it is closed.

    Args:
        clock: seconds; tests give their own.
    """

    def __init__(self, clock: Clock = time.time) -> None:
        super().__init__(":memory:", clock)
