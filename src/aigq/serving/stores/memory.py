"""A store in this process, for tests."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence

from aigq.serving.stores.store import Change, Clock, Entry


class MemoryStore:
    """Values in a dict. Safe within one event loop: no method awaits while it changes something.

    Args:
        clock: seconds; tests give their own.
    """

    def __init__(self, clock: Clock = time.time) -> None:
        self._clock = clock
        self._values: dict[str, tuple[float, bytes]] = {}  # key -> (expires at, value)

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """See Store."""
        return [self._live(key) for key in keys]

    async def put(self, values: Mapping[str, bytes], ttl_s: float) -> None:
        """See Store."""
        expires = self._clock() + ttl_s
        self._values.update({key: (expires, value) for key, value in values.items()})

    async def update(self, key: str, change: Change, ttl_s: float) -> bytes | None:
        """See Store."""
        value = change(self._live(key))
        if value is None:
            self._values.pop(key, None)
        else:
            self._values[key] = (self._clock() + ttl_s, value)
        return value

    async def delete(self, keys: Sequence[str]) -> int:
        """See Store."""
        there = [key for key in dict.fromkeys(keys) if self._live(key) is not None]
        for key in keys:
            self._values.pop(key, None)
        return len(there)

    async def scan(self, prefix: str) -> AsyncIterator[Entry]:
        """See Store."""
        now = self._clock()
        for key, (expires, value) in list(self._values.items()):
            if key.startswith(prefix) and expires > now:
                yield Entry(key, len(value), expires - now)

    async def sweep(self, limit: int = 10_000) -> int:
        """See Store."""
        now = self._clock()
        expired = [key for key, (expires, _) in self._values.items() if expires <= now][:limit]
        for key in expired:
            del self._values[key]
        return len(expired)

    async def scrub(self) -> None:
        """Nothing to do: there is no file."""

    async def dump(self) -> AsyncIterator[tuple[bytes, bytes]]:
        """See Store."""
        for key, (_, value) in list(self._values.items()):
            yield key.encode(), value

    async def close(self) -> None:
        """Forget everything."""
        self._values.clear()

    def _live(self, key: str) -> bytes | None:
        expires, value = self._values.get(key, (0.0, b""))
        return value if expires > self._clock() else None
