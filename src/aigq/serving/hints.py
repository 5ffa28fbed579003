"""One answer: read the channels within the deadline, blend, guard. An answer never fails."""

import asyncio
import logging
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from aigq.config import Config
from aigq.serving import blend, channels, keys
from aigq.serving.blend import Candidate, Proposal, Ranker, ReciprocalRank, Shopper
from aigq.serving.catalog import Catalog, Catalogs
from aigq.serving.guards import Guards
from aigq.serving.metrics import DAMAGED, GUARDED, HINTS, LEFT_OUT, ROTATED, SHED
from aigq.serving.state import Base, Event, Live, Past, Suggestion, U2q, intact, recent
from aigq.serving.stores import Store, StoreError
from aigq.serving.stores.store import Clock
from aigq.serving.tracing import traced
from aigq.serving.users import described

T = TypeVar("T")
_LOGGER: Final = logging.getLogger("aigq.serving")


class Ask(NamedTuple):
    """A request. `user` is the name that the store knows; `events` happened just now, oldest first."""

    user: str | None
    n: int
    surface: str | None = None
    locale: str | None = None
    events: Sequence[Event] = ()


class Answer(NamedTuple):
    """Hints, best first."""

    request_id: str
    hints: list[Candidate]


class Known(NamedTuple):
    """What the store says about a user."""

    base: Base = Base()
    live: Live = Live()
    u2q: U2q = U2q()
    inline: Sequence[Past] = ()


class Hints:
    """The blend of a shop.

    Args:
        config: the run's config.
        store: where tables and users are.
        catalogs: the present table.
        guards: what may be shown.
        ranker: None: reciprocal ranks with the weights of the config.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        catalogs: Catalogs,
        guards: Guards,
        ranker: Ranker | None = None,
        clock: Clock = time.time,
    ) -> None:
        self._config, self._serving, self._clock = config, config.serving, clock
        self._store, self._catalogs, self._guards = store, catalogs, guards
        self._ranker = ranker or ReciprocalRank(self._serving.weights)
        self._in_flight = 0

    async def answer(self, ask: Ask) -> Answer:
        """At most n hints. Above `max_in_flight` requests at a time, the popular list without any reading."""
        if self._guards.surface_off(ask.surface):
            GUARDED.labels("surface_off").inc()
            return Answer(uuid.uuid4().hex, [])
        busy = self._in_flight >= self._serving.max_in_flight
        if busy:
            SHED.labels("hints").inc()
        self._in_flight += 1
        try:
            return await self._answer(ask, read=not busy)
        except Exception:  # whatever went wrong for this shopper, the popular list is still right
            _LOGGER.exception("hints: fell back to the popular list")
            LEFT_OUT.labels("all", "failed").inc()
            return await self._answer(Ask(None, ask.n, ask.surface, ask.locale), read=False)
        finally:
            self._in_flight -= 1

    async def _answer(self, ask: Ask, *, read: bool) -> Answer:
        catalog, now = self._catalogs.now, self._clock()
        end = asyncio.get_running_loop().time() + self._serving.deadline_ms / 1000
        known = await self._known(catalog, ask, end) if read else Known()
        past = recent(known.base, known.live, known.inline)
        half_life = self._config.channels.personal.half_life_days
        own, counts = channels.own_queries(known.base, past, now, half_life)
        tables = await self._tables(catalog, past, own, end) if read else []
        proposals = [
            *channels.from_u2q(known.base, known.u2q, self._serving.u2q_runs),
            *tables,
            *channels.from_personal(own, counts),
            *channels.from_list("popular", catalog.popular, "popular in the shop these days"),
            *channels.from_list(
                "fallback", channels.fallback(self._serving.fallback, ask.locale), "our suggestion"
            ),
        ]
        shown = sorted(known.live.shown, key=lambda s: -s.at)
        shopper = Shopper(ask.user, now, past, own, shown, ask.surface, ask.locale)
        hints = self._blend(shopper, proposals, catalog, ask.n)
        for channel, count in Counter(hint.channel for hint in hints).items():
            HINTS.labels(channel).inc(count)
        return Answer(uuid.uuid4().hex, hints)

    @traced("rank")
    def _blend(
        self, shopper: Shopper, proposals: Sequence[Proposal], catalog: Catalog, n: int
    ) -> list[Candidate]:
        weights = self._serving.weights
        wanted = [p for p in proposals if weights.get(p.channel, 0.0) > 0]
        rest = blend.resting(
            shopper, self._serving.rotate_shown, self._serving.rotate_hours, self._serving.searched_minutes
        )
        allowed = self._allowed(wanted, rest, catalog, shopper.own)
        candidates = blend.merge(allowed, weights, catalog.categories, self._serving.candidates)
        try:
            scores = self._ranker.score(shopper, candidates)
        except Exception:  # whatever a model does, an answer never fails
            LEFT_OUT.labels("ranker", "failed").inc()
            scores = ReciprocalRank(weights).score(shopper, candidates)
        return blend.pick(candidates, scores, n, self._serving.diversity, self._serving.near_duplicate)

    def _allowed(
        self,
        proposals: Sequence[Proposal],
        rest: Mapping[str, str],
        catalog: Catalog,
        own: Mapping[str, float],
    ) -> list[Proposal]:
        """Without what rests and what a guard refuses; each query is judged and counted once."""
        queries = dict.fromkeys(p.query for p in proposals)
        resting = [query for query in queries if query in rest]
        for query in resting:
            ROTATED.labels(rest[query]).inc()
        refused = self._guards.refusals((q for q in queries if q not in rest), catalog, own)
        for reason, count in Counter(refused.values()).items():
            GUARDED.labels(reason).inc(count)
        out = refused.keys() | resting
        return [p for p in proposals if p.query not in out] if out else list(proposals)

    async def _known(self, catalog: Catalog, ask: Ask, end: float) -> Known:
        """The user's keys, and the inline events in the words of the table, side by side."""
        reads: dict[str, Awaitable[Any]] = {}
        if ask.user is not None:
            user, version = ask.user, catalog.version
            reads["u2q"] = self._store.get([keys.base(version, user), keys.live(user), keys.u2q(user)])
        if ask.events:
            reads["inline"] = described(self._store, catalog, ask.events)
        got = await in_time(reads, end)
        values = got.get("u2q") or [None, None, None]
        return Known(
            _read(Base, values[0], "base") or Base(),
            _read(Live, values[1], "live") or Live(),
            _read(U2q, values[2], "u2q") or U2q(),
            got.get("inline") or (),
        )

    async def _tables(
        self, catalog: Catalog, past: Sequence[Past], own: Mapping[str, float], end: float
    ) -> list[Proposal]:
        """x2q by the latest behaviours, co-click by latest and favourite own queries, side by side."""
        if not catalog.version or not past:
            return []
        asked = channels.triggers(catalog.version, past, self._serving.triggers)
        latest = [t.past.query or t.past.text for t in asked]
        favourites = sorted(own, key=lambda query: -own[query])[: self._serving.triggers]
        queries = list(dict.fromkeys([*latest, *favourites]))
        near = [(query, keys.coclick(catalog.version, query)) for query in queries]
        got = await in_time(
            {
                "x2q": self._suggestions([key for trigger in asked for key in trigger.keys]),
                "coclick": self._suggestions([key for _, key in near]),
            },
            end,
        )
        return [
            *channels.from_x2q(asked, got.get("x2q") or {}),
            *channels.from_coclick(near, got.get("coclick") or {}),
        ]

    async def _suggestions(self, names: Sequence[str]) -> dict[str, list[Suggestion]]:
        distinct = list(dict.fromkeys(names))
        values = await self._store.get(distinct)
        found = zip(distinct, values, strict=True)
        return {name: _read(list[Suggestion], value, "x2q") or [] for name, value in found}


async def in_time(reads: Mapping[str, Awaitable[Any]], end: float) -> dict[str, Any]:
    """The results that are there by `end` (loop time). What is late or failed is left out, and counted."""
    tasks = {asyncio.ensure_future(read): name for name, read in reads.items()}
    if not tasks:
        return {}
    left = max(0.0, end - asyncio.get_running_loop().time())
    done, late = await asyncio.wait(tasks, timeout=left)
    for task in late:
        task.cancel()
        LEFT_OUT.labels(tasks[task], "late").inc()
    results: dict[str, Any] = {}
    for task in done:
        error = task.exception()
        if error is None:
            results[tasks[task]] = task.result()
        elif isinstance(error, StoreError):
            LEFT_OUT.labels(tasks[task], "failed").inc()
        else:
            raise error
    return results


def _read(kind: type[T], value: bytes | None, family: str) -> T | None:
    found = intact(kind, value)
    if found is None and value is not None:
        DAMAGED.labels(family).inc()
    return found
