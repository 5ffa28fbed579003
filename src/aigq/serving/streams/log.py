"""The protocol of every event log: at least once, in order per user, shared by workers.

A log is cut into PARTITIONS by user, so all events of a user are in one partition, in the order of arrival.
A worker holds *leases* on partitions, reads each from the group's committed offset, and commits after the
effects are done. A worker that dies loses its leases after their time; the next holder reads again from the
last commit. So an event may be seen twice, never skipped, and effects must be idempotent: they go by event
id and time.
"""

import zlib
from collections.abc import AsyncIterator, Sequence
from typing import Final, NamedTuple, Protocol

from aigq.errors import StageError

PARTITIONS: Final = 16
FAR_S: Final = 300.0
"""A lease that ends later than this from now was taken before the clock was set back: it counts as expired.

So leases are at most half of it, since the clocks of a group agree to within a lease.
"""


class LogError(StageError):
    """The log cannot be reached, is full, or refused the operation."""


class LeaseLost(LogError):
    """Another worker holds the partition now, and reads again what was not committed."""


class Message(NamedTuple):
    """What is appended: who it is about, and the event as bytes."""

    user: str
    body: bytes


class Record(NamedTuple):
    """A message as it is read. `offset` grows within a partition; `received` is in seconds since 1970.

    It grows, too, where the clocks of those who write differ: in SQLite by less than FAR_S, in Kafka not.
    """

    partition: int
    offset: str
    user: str
    body: bytes
    received: float


class DeadLetter(NamedTuple):
    """An event that could not be used, and why."""

    user: str
    body: bytes
    reason: str
    at: float


class Backlog(NamedTuple):
    """What a group has not committed yet: messages, and the age of the oldest in seconds (0 when none)."""

    messages: int
    oldest_s: float


class Erased(NamedTuple):
    """What erasing a user did: messages removed, and whether some that cannot be removed singly stay until
    `trim` gets to them."""

    messages: int
    kept: bool


class EventLog(Protocol):
    """Messages by partition. Every method raises LogError when the log does not answer."""

    async def append(self, messages: Sequence[Message]) -> None:
        """Write messages; they are kept when this returns."""
        ...

    async def lease(self, group: str, worker: str, seconds: float) -> list[int]:
        """Take or renew a fair share of the partitions for so long; returns those that are held now.

        A worker with more than its share lets go of some, so that a new worker finds work.
        """
        ...

    async def release(self, group: str, worker: str) -> None:
        """Let go of all partitions, at the end of a worker."""
        ...

    async def read(
        self, group: str, partitions: Sequence[int], n: int, after: dict[int, str]
    ) -> list[Record]:
        """At most n records of each partition, in order, after its commit or after `after` where given."""
        ...

    async def commit(self, group: str, worker: str, offsets: dict[int, str]) -> None:
        """All up to these offsets is done. Raises LeaseLost when the worker does not hold a partition."""
        ...

    async def set_aside(self, record: Record, reason: str) -> None:
        """Keep a poisoned event with its reason; the worker then goes on after it."""
        ...

    async def dead_letters(self, n: int) -> list[DeadLetter]:
        """The latest n events that were set aside, newest first."""
        ...

    async def backlog(self, group: str) -> Backlog:
        """How far the group is behind."""
        ...

    async def trim(self, older_than_s: float) -> int:
        """Remove messages and dead letters older than this; returns how many messages went."""
        ...

    async def erase(self, user: str) -> Erased:
        """Remove every message and dead letter of a user."""
        ...

    async def scrub(self) -> None:
        """Write the file anew, so that nothing is left in it of what was removed, as of a Store."""
        ...

    def dump(self) -> AsyncIterator[Message]:
        """Every message and dead letter, with its user."""
        ...

    async def close(self) -> None:
        """Let go of files and connections."""
        ...


def partition_of(user: str) -> int:
    """The partition of a user: the same on every machine and in every version."""
    return zlib.crc32(user.encode()) % PARTITIONS


def share(workers: int) -> int:
    """How many partitions each of so many workers may hold."""
    return -(-PARTITIONS // max(1, workers))
