"""The service's own record of what it showed: gathered for a moment, written to the log in one piece."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from aigq.serving import users
from aigq.serving.blend import Hint
from aigq.serving.metrics import IMPRESSIONS_LOST
from aigq.serving.state import Event, encode
from aigq.serving.stores import Store
from aigq.serving.streams import EventLog, LogError, Message

EVERY_S: Final = 0.2
MOST: Final = 20_000
"""Messages held while the log is away; the oldest then make room, and are counted."""

AT_ONCE: Final = 2_000


class Impressions:
    """One event `hint_impression` per answer. A process killed at once loses those of the last 0.2 seconds.

    Args:
        store: knows who was erased; what a user was shown before that is not written.
        log: where they go.
    """

    def __init__(self, store: Store, log: EventLog) -> None:
        self._store, self._log = store, log
        self._waiting: deque[tuple[float, Message]] = deque()

    def add(self, user: str, request_id: str, hints: Sequence[Hint], surface: str | None) -> None:
        """Remember the hints of one answer. Never waits."""
        event = Event(
            request_id, user, time.time(), "hint_impression", request=request_id, surface=surface,
            hints=[(hint.query, hint.channel) for hint in hints],
        )  # fmt: skip
        self._waiting.append((event.at, Message(user, encode(event))))
        while len(self._waiting) > MOST:
            self._waiting.popleft()
            IMPRESSIONS_LOST.inc()

    async def flush(self) -> None:
        """Write what waits. Raises LogError when the log is away; then nothing is dropped."""
        while self._waiting:
            part = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
            try:
                await users.append(self._store, self._log, part)
            except (LogError, asyncio.CancelledError):
                self._waiting.extendleft(reversed(part))
                raise
