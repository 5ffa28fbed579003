"""`aigq nearline`: from the event log to u2q lists. Paper section 5; method.md section 6.

read -> apply to live states -> signals -> wait for a pause -> generate for a batch -> guard -> write ->
commit.

An offset is committed only when everything before it is done, lists included. A worker that is killed
anywhere is followed by one that reads from the last commit: applying an event again changes nothing, and a
signal that a stored list has seen already (`Generation.seen`) makes no second list.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from aigq.config import Config
from aigq.prepared import Moment
from aigq.recall.channel import Hint
from aigq.serving import keys, users
from aigq.serving.background import repeat
from aigq.serving.catalog import Catalogs
from aigq.serving.guards import Guards
from aigq.serving.live_history import Histories
from aigq.serving.metrics import (
    APPLIED,
    BACKLOG,
    BACKLOG_AGE,
    DEAD,
    DEFERRED,
    FRESHNESS,
    GENERATED,
    GENERATION_SECONDS,
    GUARDED,
    SHED,
)
from aigq.serving.signals import Pending, add, answered, due, signal_of, too_old
from aigq.serving.state import (
    Base,
    Event,
    Generation,
    Live,
    Suggestion,
    U2q,
    encode,
    intact,
    recent,
)
from aigq.serving.stores import Store, StoreError
from aigq.serving.streams import EventLog, LeaseLost, LogError, Record
from aigq.serving.tracing import traced

Generate = Callable[[Sequence[Moment], int], list[list[Hint]]]
GROUP: Final = "nearline"
_LOGGER: Final = logging.getLogger("aigq.nearline")
_READ: Final = 200  # records of one partition at a time
_IDLE_S: Final = 0.05
_AWAY_S: Final = 1.0  # pause while the log or the store is away
_RENEW_S: Final = 2.0  # at most; a group that changes waits for all its workers
_MOST_PENDING: Final = 10_000  # above, the log is not read on: it holds what waits
_HOUSEKEEPING_S: Final = 5.0
_HOUR: Final = 3600.0


class Worker:
    """One worker of the group.

    Args:
        config: the run's config.
        store: where tables and users are.
        log: what it reads.
        histories: the published histories.
        generate: moments and n -> lists; runs in a thread.
        model: name and version that are written with each list.
        name: of this worker, unique among those that run.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        log: EventLog,
        histories: Histories,
        generate: Generate,
        model: str,
        name: str,
    ) -> None:
        self._serving, self._nearline = config.serving, config.serving.nearline
        self._store, self._log, self._histories = store, log, histories
        self._generate, self._model, self._name = generate, model, name
        self._guards = Guards(config.serving)
        self._catalogs = Catalogs(store, study=self._guards.study)
        self._pending: dict[str, Pending] = {}
        self._position: dict[int, str] = {}  # what was read, by partition held
        self._open: dict[int, deque[str]] = {}  # offsets read and not committed, in order
        self._seen: dict[str, float] = {}  # arrival of the last event applied, of pending users
        self._held: list[int] = []

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; then finish the batch and let go of the partitions."""
        renewal = min(self._nearline.lease_s / 4, _RENEW_S)
        chores = (
            (self.lease, renewal),
            (self._catalogs.refresh, _HOUSEKEEPING_S),
            (self._housekeeping, _HOUSEKEEPING_S),  # also while the store is away
        )
        tasks = [asyncio.ensure_future(repeat(work, every, _LOGGER)) for work, every in chores]
        try:
            await self._first_table(stop)
            while not stop.is_set():
                try:
                    busy = await self.step()
                except (LogError, StoreError) as error:
                    _LOGGER.warning("%s; trying again", error)
                    self._start_again(self._held)
                    await asyncio.sleep(_AWAY_S)
                    continue
                if not busy:
                    await asyncio.sleep(_IDLE_S)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            try:
                await self._log.release(GROUP, self._name)
            except LogError as error:
                _LOGGER.warning("%s; the leases end by themselves", error)

    async def _first_table(self, stop: asyncio.Event) -> None:
        """Wait for a published table: without it no event can be described."""
        said = ""
        while not self._catalogs.now.version and not stop.is_set():
            try:
                await self._catalogs.refresh()
                why = "no table is published yet; run `aigq publish`"
            except StoreError as error:
                why = f"{error}; trying again"
            if self._catalogs.now.version:
                return
            if why != said:
                _LOGGER.warning("%s", why)
                said = why
            await asyncio.sleep(_AWAY_S)

    async def step(self) -> bool:
        """Read, generate for those who are due, commit. True when there was something to do."""
        records: list[Record] = []
        if len(self._pending) < _MOST_PENDING:
            records = await self._log.read(GROUP, self._held, _READ, self._position)
        await self._take(records)
        for old in too_old(self._pending, time.time(), self._nearline.max_age_s):
            SHED.labels("signal").inc()
            self._done(old)
        batch = due(self._pending, time.time(), self._nearline.debounce_s, self._nearline.batch_users)
        if batch:
            await self._write_lists(batch)
        await self._commit()
        return bool(records or batch)

    async def lease(self) -> None:
        """Renew the leases; forget what belongs to partitions that are not held any more."""
        held = await self._log.lease(GROUP, self._name, self._nearline.lease_s)
        self._start_again([part for part in self._held if part not in held])
        self._held = held

    # --- events ---

    async def _take(self, records: Sequence[Record]) -> None:
        """Apply events user by user, in order, and remember who waits for a list."""
        by_user: dict[str, list[tuple[Record, Event]]] = {}
        for record in records:
            try:
                event = msgspec.msgpack.decode(record.body, type=Event)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                await self._set_aside(record, f"not an event: {error}")
                continue
            if event.user:  # "" is a caller that did not say who it is
                by_user.setdefault(event.user, []).append((record, event))
        for user, own in by_user.items():
            await self._apply(user, own)
        for record in records:
            self._position[record.partition] = record.offset
            self._open.setdefault(record.partition, deque()).append(record.offset)

    async def _apply(self, user: str, own: Sequence[tuple[Record, Event]]) -> None:
        timed = [(users.time_of(event, record.received), event) for record, event in own]
        live = await users.apply(
            self._store, self._catalogs.now, user, timed,
            kept=self._serving.behaviours, impressions=self._serving.impressions_kept,
            ttl_s=self._serving.user_days * 86400,
        )  # fmt: skip
        APPLIED.inc(len(own))
        if live is None:
            return
        base_value, u2q_value = await self._store.get(
            [keys.base(self._catalogs.now.version, user), keys.u2q(user)]
        )
        past = recent(intact(Base, base_value) or Base(), live)
        done = answered(intact(U2q, u2q_value) or U2q(), time.time(), self._nearline.lease_s)
        by_id = {p.id: p for p in past}
        for record, event in own:
            behaviour = by_id.get(event.id)
            if behaviour is None or record.received <= done or signal_of(behaviour, past) is None:
                continue
            add(
                self._pending,
                Pending(user, record.partition, record.offset, record.received, record.received),
            )
        if user in self._pending:
            self._seen[user] = max(self._seen.get(user, 0.0), own[-1][0].received)

    async def _set_aside(self, record: Record, reason: str) -> None:
        """Keep a poisoned event; not of a user who was erased since it came."""
        gone = await users.erased_at(self._store, [record.user])
        if record.received > gone.get(record.user, 0.0):
            DEAD.inc()
            await self._log.set_aside(record, reason)

    # --- lists ---

    async def _write_lists(self, batch: Sequence[Pending]) -> None:
        """One batch of the generator; if it fails, each user alone, and who fails again is set aside."""
        try:
            await self._lists(batch)
        except (StoreError, LogError):
            raise
        except Exception as error:
            _LOGGER.exception("the generator failed on %d users", len(batch))
            if len(batch) > 1:
                for one in batch:
                    await self._write_lists([one])
                return
            (one,) = batch
            record = Record(one.partition, one.offset, one.user, b"", one.first)
            await self._set_aside(record, f"no list could be written: {type(error).__name__}: {error}")
        for one in batch:
            self._done(one)

    @traced("nearline.lists")
    async def _lists(self, batch: Sequence[Pending]) -> None:
        now, names = time.time(), [one.user for one in batch]
        gone = await users.erased_at(self._store, names)
        moments, ready = [], []
        for number, one in enumerate(batch):
            erased = gone.get(one.user, 0.0)
            if erased >= one.last:
                continue  # erased since the signal
            base, live, u2q = await self._state(one.user)
            if sum(abs(now - at) < _HOUR for at in u2q.times) >= self._nearline.budget_per_hour:
                DEFERRED.labels("budget").inc()
                continue
            moments.append(
                self._histories.moment(number, one.user, live.past, now, published=base is not None)
            )
            ready.append((one, erased))
        if not ready:
            return
        with GENERATION_SECONDS.time():
            lists = await asyncio.to_thread(self._generate, moments, self._nearline.count)
        for (one, erased), hints in zip(ready, lists, strict=True):
            await self._keep(one, self._guarded(hints), now, erased)

    async def _state(self, user: str) -> tuple[Base | None, Live, U2q]:
        names = [keys.base(self._catalogs.now.version, user), keys.live(user), keys.u2q(user)]
        base, live, u2q = await self._store.get(names)
        return intact(Base, base), intact(Live, live) or Live(), intact(U2q, u2q) or U2q()

    def _guarded(self, hints: Sequence[Hint]) -> list[Suggestion]:
        queries = [hint.query for hint in hints]
        # whose history a query is from is looked at when it is served, so all count as own here
        refused = self._guards.refusals(queries, self._catalogs.now, own=queries)
        for reason in refused.values():
            GUARDED.labels(reason).inc()
        return [Suggestion(h.query, h.reason) for h in hints if h.query not in refused]

    async def _keep(self, one: Pending, hints: list[Suggestion], now: float, erased: float) -> None:
        """Add the list to the user's last M; not if the user was erased meanwhile.

        Nor if the list there has seen as much: then the partition went to another worker while this one
        wrote.
        """
        run = Generation(self._model, now, self._seen.get(one.user, one.last), hints)

        def added(value: bytes | None) -> bytes | None:
            before = intact(U2q, value) or U2q()
            if answered(before, now, self._nearline.lease_s) >= run.seen:
                return value
            times = [at for at in before.times if abs(now - at) < _HOUR][-self._nearline.budget_per_hour :]
            return encode(U2q([run, *before.runs][: self._serving.u2q_runs], [*times, now]))

        await self._store.update(keys.u2q(one.user), added, self._serving.user_days * 86400)
        if (await users.erased_at(self._store, [one.user])).get(one.user, 0.0) > erased:
            await self._store.delete([keys.u2q(one.user)])
        GENERATED.inc()
        FRESHNESS.observe(time.time() - one.last)

    # --- progress ---

    def _done(self, one: Pending) -> None:
        self._pending.pop(one.user, None)
        self._seen.pop(one.user, None)

    async def _commit(self) -> None:
        """Everything before the first signal that still waits, partition by partition."""
        waiting = {(one.partition, one.offset) for one in self._pending.values()}
        ready: dict[int, str] = {}
        for part, offsets in self._open.items():
            while offsets and (part, offsets[0]) not in waiting:
                ready[part] = offsets.popleft()
        if not ready:
            return  # most steps of an idle worker; a commit takes the log's write lock
        try:
            await self._log.commit(GROUP, self._name, ready)
        except LeaseLost:
            self._start_again(list(ready))
            self._held = [part for part in self._held if part not in ready]

    def _start_again(self, partitions: Sequence[int]) -> None:
        """Forget what was read of partitions; it is read again from the last commit, here or elsewhere."""
        for part in partitions:
            self._position.pop(part, None)
            self._open.pop(part, None)
        for one in [p for p in self._pending.values() if p.partition in partitions]:
            self._done(one)

    async def _housekeeping(self) -> None:
        """Tell how far behind the group is, remove old events."""
        backlog = await self._log.backlog(GROUP)
        BACKLOG.set(backlog.messages)
        BACKLOG_AGE.set(backlog.oldest_s)
        await self._log.trim(self._serving.log_days * 86400)
