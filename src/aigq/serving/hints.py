"""One answer: read the channels within the deadline, blend, guard. An answer never fails."""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import cache, partial
from itertools import islice
from math import isfinite
from typing import Final, NamedTuple, TypeVar

from aigq.config import Config
from aigq.serving import blend, channels, keys
from aigq.serving.blend import Candidate, Hint, Proposals, Ranker, Shopper
from aigq.serving.catalog import Catalog, Catalogs
from aigq.serving.click_batches import ClickBatches
from aigq.serving.guards import Guards
from aigq.serving.lists import Beside, Lists, Trigger
from aigq.serving.metrics import DAMAGED, GUARDED, HINTS, LEFT_OUT, ROTATED, SHED
from aigq.serving.state import Base, Event, Live, Past, U2q, intact, recent
from aigq.serving.stores import Store, StoreError
from aigq.serving.stores.store import Clock
from aigq.serving.tracing import traced
from aigq.serving.users import described

T = TypeVar("T")
_LOGGER: Final = logging.getLogger("aigq.serving")
_shown_by: Final = cache(HINTS.labels)


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
    hints: list[Hint]


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
        ranker: None: what `serving.ranker` says.
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
        self._lists = Lists(store)
        self._ranker, self._clicks = ranker, ClickBatches(clock)
        self._in_flight = 0

    async def answer(self, ask: Ask) -> Answer:
        """At most n hints. Above `max_in_flight` requests at a time, the popular list without any reading."""
        if self._guards.surface_off(ask.surface):
            GUARDED.labels("surface_off").inc()
            return Answer(_new_id(), [])
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
        personal = channels.from_personal(own, counts)
        tables = await self._tables(catalog, past, personal.queries, end) if read else []
        proposals = [
            channels.from_u2q(known.base, known.u2q, self._serving.u2q_runs),
            *tables,
            personal,
            channels.from_list("popular", catalog.popular, "popular in the shop these days"),
            channels.from_list(
                "fallback", channels.fallback(self._serving.fallback, ask.locale), "our suggestion"
            ),
        ]
        shown = sorted(known.live.shown, key=lambda s: -s.at)
        shopper = Shopper(now, past, own, shown)
        base = known.base if read else None
        hints = await self._blend(shopper, base, proposals, catalog, ask.n, end)
        for channel, count in Counter([hint.channel for hint in hints]).items():
            _shown_by(channel).inc(count)
        return Answer(_new_id(), hints)

    @traced("rank")
    async def _blend(
        self,
        shopper: Shopper,
        base: Base | None,
        proposals: Sequence[Proposals],
        catalog: Catalog,
        n: int,
        end: float,
    ) -> list[Hint]:
        """One list; by reciprocal ranks where no model ranks by `end` (loop time), or without a base."""
        serving = self._serving
        wanted = [p for p in proposals if p.queries and serving.weights.get(p.channel, 0.0) > 0]
        queries = self._allowed(blend.in_turn(wanted, serving.weights), shopper, catalog)
        candidates = partial(blend.candidates_of, proposals=wanted, categories=catalog.categories)
        scores = None
        if base and queries:
            scores = await self._ranked(shopper, base, catalog, queries, candidates, end)
        if scores is None:
            scores = blend.reciprocal_ranks(candidates(queries), serving.weights)
        chosen = blend.pick(queries, scores, catalog.categories, n, serving.diversity, serving.near_duplicate)
        return self._guards.reworded(blend.explained(candidates(chosen), wanted, serving.weights))

    async def _ranked(
        self,
        shopper: Shopper,
        base: Base,
        catalog: Catalog,
        queries: Sequence[str],
        candidates: Callable[[Sequence[str]], list[Candidate]],
        end: float,
    ) -> Sequence[float] | None:
        try:
            work: Awaitable[Sequence[float]]
            if self._ranker is not None:
                work = self._ranker.score(shopper, candidates(queries))
            elif catalog.clicks is None or self._serving.ranker == "ranks":
                return None
            else:
                reader = catalog.clicks.reader(base.taste, base.until, shopper.past)
                work = self._clicks.score(catalog.clicks, reader, queries)
            scores = await in_time(["ranker"], work, end)
            if scores is not None and not (len(scores) == len(queries) and all(map(isfinite, scores))):
                raise ValueError(f"not one finite score for each of {len(queries)} candidates")
            return scores
        except Exception:  # whatever a model does, an answer never fails
            _LOGGER.exception("the ranker failed; hints are ordered by reciprocal ranks")
            LEFT_OUT.labels("ranker", "failed").inc()
            return None

    def _allowed(self, queries: Iterator[str], shopper: Shopper, catalog: Catalog) -> list[str]:
        """The first queries, as many as are ranked, that neither rest nor are refused by a guard.

        Each query that is looked at is judged and counted once.
        """
        serving, kept = self._serving, list[str]()
        rest = blend.resting(shopper, serving.rotate_shown, serving.rotate_hours, serving.searched_minutes)
        while some := list(islice(queries, serving.candidates - len(kept))):
            if not rest.keys().isdisjoint(some):
                for query in rest.keys() & some:
                    ROTATED.labels(rest[query]).inc()
                some = [query for query in some if query not in rest]
            if refused := self._guards.refusals(some, catalog, shopper.own):
                for reason, count in Counter(refused.values()).items():
                    GUARDED.labels(reason).inc(count)
                some = [query for query in some if query not in refused]
            kept += some
        return kept

    async def _known(self, catalog: Catalog, ask: Ask, end: float) -> Known:
        """The user's keys, and the inline events in the words of the table, side by side."""
        user = in_time(["u2q"], self._user(catalog, ask.user), end)
        if not ask.events:
            return await user or Known()
        inline = in_time(["inline"], described(self._store, catalog, ask.events), end)
        known, past = await asyncio.gather(user, inline)
        return (known or Known())._replace(inline=past or ())

    async def _user(self, catalog: Catalog, user: str | None) -> Known:
        if user is None:
            return Known()
        base, live, u2q = await self._store.get(
            [keys.base(catalog.version, user), keys.live(user), keys.u2q(user)]
        )
        return Known(
            _read(Base, base, "base") or Base(), _read(Live, live, "live") or Live(),
            _read(U2q, u2q, "u2q") or U2q(),
        )  # fmt: skip

    async def _tables(
        self, catalog: Catalog, past: Sequence[Past], own: Sequence[str], end: float
    ) -> list[Proposals]:
        """x2q by the latest behaviours, co-click by latest and favourite `own` queries, in one reading."""
        if not catalog.version or not past:
            return []
        latest = channels.triggers(past, self._serving.triggers)
        queries = dict.fromkeys([*(p.query or p.text for p in latest), *own[: self._serving.triggers]])
        found = [(p, Trigger.of(catalog.version, p)) for p in latest]
        near = [(query, Beside(catalog.version, query)) for query in queries]
        asked: list[Trigger | Beside] = [*(one for _, one in found), *(one for _, one in near)]
        lists = await in_time(["x2q", "coclick"], self._lists.get(asked), end)
        if lists is None:
            return []
        return [
            channels.from_x2q([(p, lists[one]) for p, one in found if lists[one]]),
            channels.from_coclick([(query, lists[one]) for query, one in near if lists[one]]),
        ]


async def in_time(names: Sequence[str], work: Awaitable[T], end: float) -> T | None:
    """The result if it is there by `end` (loop time). What is late or away is left out, and counted."""
    try:
        async with asyncio.timeout_at(end):
            return await work
    except TimeoutError:
        why = "late"
    except StoreError:
        why = "failed"
    for name in names:
        LEFT_OUT.labels(name, why).inc()
    return None


def _new_id() -> str:
    return f"{random.getrandbits(128):032x}"  # no secret; the operating system's would be a call of its own


def _read(kind: type[T], value: bytes | None, family: str) -> T | None:
    found = intact(kind, value)
    if found is None and value is not None:
        DAMAGED.labels(family).inc()
    return found
