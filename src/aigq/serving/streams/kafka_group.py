"""A worker as a member of a Kafka consumer group: the group's assignment is what it holds."""

import asyncio
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError

from aigq.serving.stores.store import Clock
from aigq.serving.streams.log import LeaseLost

_SESSION_S: Final = (6.0, 300.0)  # what brokers take unless they were told otherwise
_HEARTBEAT_MS: Final = 1000
_JOIN_S: Final = 2.0  # a lease waits so long for the group; the next one sees what came of it


class Member(ConsumerRebalanceListener):
    """One member. It fetches nothing: its partitions are paused, a Reader reads them.

    When the group changes, it goes on only after the worker was told that it holds nothing. Else the worker
    would go on with what another one has already.

    Args:
        topic: what is shared out.
        group: the group's name on the cluster.
        seconds: of a lease. aiokafka leaves the group when it is not renewed for so long, at least 6.
        options: of the connection.
        clock: seconds.
    """

    def __init__(
        self, topic: str, group: str, seconds: float, options: Mapping[str, Any], clock: Clock
    ) -> None:
        self.held: set[TopicPartition] = set()
        self._clock, self._until = clock, clock() + seconds
        low, high = _SESSION_S
        self._session_s = min(max(seconds, low), high)
        self._asked, self._told = False, asyncio.Event()
        self._consumer = AIOKafkaConsumer(
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=int(self._session_s * 1000),
            rebalance_timeout_ms=int(self._session_s * 1000),
            heartbeat_interval_ms=_HEARTBEAT_MS,
            max_poll_interval_ms=int(self._session_s * 1000),
            **options,
        )
        self._consumer.subscribe([topic], listener=self)
        self._busy: asyncio.Future[Any] = asyncio.ensure_future(self._consumer.start())

    @property
    def expired(self) -> bool:
        """The lease was not renewed in time."""
        return self._clock() >= self._until

    async def renew(self, seconds: float) -> set[TopicPartition]:
        """Go on for so long; returns what is held now."""
        if self._asked:
            self._let_go()
        else:
            await self._sign_of_life()
        self._until = self._clock() + seconds
        return self.held

    async def commit(self, places: Mapping[TopicPartition, int]) -> None:
        """The group goes on from these offsets. Raises LeaseLost when it went on without this member."""
        lost = [part.partition for part in places if part not in self.held]
        if lost or self.expired:
            raise LeaseLost(f"partition {min([*lost, *(p.partition for p in places)])} is not held any more")
        try:
            await self._consumer.commit(dict(places))
        except (CommitFailedError, IllegalStateError) as error:
            raise LeaseLost(f"the group went on without this worker: {error}") from None

    async def leave(self) -> None:
        """Let go of everything at once."""
        self._let_go()
        self._busy.cancel()
        await asyncio.wait({self._busy})
        await self._consumer.stop()

    async def _sign_of_life(self) -> None:
        """Tell aiokafka that we live, and hear of its errors. It answers when the group is not changing.

        Not cancelled when it takes long: aiokafka would count it as going on for ever.
        """
        if self._busy.done():
            self._busy.result()
            self._busy = asyncio.ensure_future(self._consumer.getmany(timeout_ms=0))
        await asyncio.wait({self._busy}, timeout=_JOIN_S)
        if self._busy.done():
            self._busy.result()

    def _let_go(self) -> None:
        self.held = set()
        self._told.set()

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """The group changes: wait for the worker's next renewal, but not so long that the group drops us."""
        if self.held:
            self._told.clear()
            self._asked = True
            with suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), self._session_s / 2)
            self._asked = False
            self.held = set()

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """The group goes on."""
        self._consumer.pause(*assigned)
        self.held = set(assigned)
