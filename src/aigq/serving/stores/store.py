"""The protocol of every store: byte values under text keys, each with a time to live."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from aigq.errors import StageError

Change = Callable[[bytes | None], bytes | None]
"""A pure function from the present value to the new one; None means that the key goes away."""

Clock = Callable[[], float]
"""Seconds since 1970, `time.time` outside tests."""


class StoreError(StageError):
    """The store cannot be reached, is full, or refused the operation."""


class Entry(NamedTuple):
    """One key as `scan` reports it: what the value takes in bytes, and the seconds until it expires."""

    key: str
    size: int
    ttl_s: float


class Store(Protocol):
    """Keys that expire.

    Every method raises StoreError when the store does not answer. Keys are at most 400 bytes of UTF-8
    (`aigq.serving.keys` shortens longer names). A method that is given many keys is not a transaction: each
    key changes on its own. `update` is atomic for its one key, between processes too.
    """

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """The values in the order of the keys; None where a key is missing or has expired."""
        ...

    async def put(self, values: Mapping[str, bytes], ttl_s: float) -> None:
        """Write values that expire after `ttl_s` seconds (above 0)."""
        ...

    async def update(self, key: str, change: Change, ttl_s: float) -> bytes | None:
        """Replace the value by `change(value)` and return it. `change` may run several times."""
        ...

    async def delete(self, keys: Sequence[str]) -> int:
        """Remove keys; returns how many were there."""
        ...

    def scan(self, prefix: str) -> AsyncIterator[Entry]:
        """Every live key with this prefix, in no order, while others may write."""
        ...

    async def sweep(self, limit: int = 10_000) -> int:
        """Remove expired keys among the next `limit` ones; 0 where the server does that by itself."""
        ...

    async def scrub(self) -> None:
        """Write the file anew, so that nothing is left in it of what was removed; others may go on using it.

        Nothing to do where keys are not in a file of ours: a server's snapshots are the server's business.
        """
        ...

    def dump(self) -> AsyncIterator[tuple[bytes, bytes]]:
        """Every key and value of ours as they are kept, expired ones that are still there included."""
        ...

    async def close(self) -> None:
        """Let go of files and connections."""
        ...
