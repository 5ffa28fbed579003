"""One process of the service, without HTTP: what it holds, what it does in the background."""

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import compress
from typing import Final

from aigq.config import Config
from aigq.serving import keys, users
from aigq.serving.access import Access, ApiKey
from aigq.serving.background import repeat
from aigq.serving.blend import Ranker
from aigq.serving.catalog import Catalogs
from aigq.serving.guards import Guards
from aigq.serving.hints import Hints
from aigq.serving.impressions import EVERY_S, Impressions
from aigq.serving.metrics import EVENTS
from aigq.serving.state import Event, encode
from aigq.serving.stores import Store, StoreError
from aigq.serving.streams import EventLog, LogError, Message

SWEEP_EVERY_S: Final = 60.0
TRIM_EVERY_S: Final = 600.0
"""Workers trim the log more often; this is for a shop that runs none."""

_LOGGER: Final = logging.getLogger("aigq.serving")
_SWITCH_S: Final = 0.0002
"""After so long the event loop lets another thread of the process go on. Those that hand over a request, run
the CTR model and write the log need Python for microseconds; by default each would wait for 5 ms of a busy
loop."""


class Service:
    """What the handlers share; made when the process starts, closed when it ends.

    Args:
        config: the run's config.
        store: tables and users.
        log: where events go.
        api_keys: None: no key is needed.
        ranker: None: what `serving.ranker` says.
        profane: a classifier of texts for the guards.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        log: EventLog,
        api_keys: list[ApiKey] | None = None,
        ranker: Ranker | None = None,
        profane: Callable[[str], bool] | None = None,
    ) -> None:
        self.config, self.store, self.log = config, store, log
        self.name = keys.user_names(config.serving.hash_users_with)
        self.access = Access(api_keys)
        guards = Guards(config.serving, profane)
        self.catalogs = Catalogs(store, clicks=config.serving.ranker == "ctr", study=guards.study)
        self.hints = Hints(config, store, self.catalogs, guards, ranker)
        self.impressions = Impressions(store, log)
        self.taking = 0
        """Calls of `take` that wait for the log or the store."""

    @asynccontextmanager
    async def running(self, _app: object = None) -> AsyncIterator[None]:
        """Background work of the process: follow the table, write impressions, sweep, trim."""
        sys.setswitchinterval(_SWITCH_S)
        with contextlib.suppress(StoreError):  # a store that is away at the start is found later
            await self.catalogs.follow()
        chores = (
            (self.catalogs.follow, self.config.serving.refresh_s),
            (self.impressions.flush, EVERY_S),
            (self.store.sweep, SWEEP_EVERY_S),
            (partial(self.log.trim, self.config.serving.log_days * 86400), TRIM_EVERY_S),
        )
        tasks = [asyncio.ensure_future(repeat(work, every, _LOGGER)) for work, every in chores]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with contextlib.suppress(LogError):
                await self.impressions.flush()
            await self.store.close()
            await self.log.close()

    async def take(self, events: Sequence[Event]) -> list[bool]:
        """Write events to the log, then to the live states, so that the next request sees them.

        The log is what counts: the nearline worker applies each event again, which changes nothing.

        Returns:
            which of them were taken; not those from before the erasure of their user.

        Raises LogError when the log does not take them.
        """
        self.taking += 1
        try:
            return await self._take(events)
        finally:
            self.taking -= 1

    async def _take(self, events: Sequence[Event]) -> list[bool]:
        now = time.time()
        timed = [(users.time_of(event, now), event) for event in events]
        messages = [(at, Message(event.user, encode(event))) for at, event in timed]
        taken = await users.append(self.store, self.log, messages)
        by_user: dict[str, list[tuple[float, Event]]] = {}
        for at, event in compress(timed, taken):
            EVENTS.labels(event.action).inc()
            by_user.setdefault(event.user, []).append((at, event))
        serving = self.config.serving
        with contextlib.suppress(StoreError):  # not one time-out per user: the worker applies the rest
            for user, own in by_user.items():
                await users.apply(
                    self.store, self.catalogs.now, user, own,
                    kept=serving.behaviours, impressions=serving.impressions_kept,
                    ttl_s=serving.user_days * 86400,
                )  # fmt: skip
        return taken
