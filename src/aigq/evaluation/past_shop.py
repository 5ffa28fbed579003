"""What the shop would have shown at moments of the past: the code that serves, over a store in memory.

    learned   from the training part, like every row: the generators, the x2q table, co-click
    counted   up to the evening before, as a nightly `aigq publish`: catalogue, popular queries
    known     of the shopper, up to the moment: published until the evening before, the day itself live
    u2q       the list that the nearline worker would have written last, from all that is known

The clock of `Hints` stands at the moment. Guards and rotation are those of the service; only its deadline is
lifted, which depends on the machine.
"""

import asyncio
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa

from aigq.config import Config
from aigq.config_serving import ServingConfig
from aigq.errors import StageError
from aigq.prepared import Moment, Prepared
from aigq.recall.channel import Hint, RecallChannel
from aigq.serving import blend, keys
from aigq.serving.catalog import Catalogs
from aigq.serving.guards import Guards
from aigq.serving.hints import Ask, Hints
from aigq.serving.log_time import DAY_S
from aigq.serving.metrics import LEFT_OUT
from aigq.serving.run_tables import RunTables, pasts
from aigq.serving.state import (
    Current,
    Generation,
    Live,
    Shown,
    Suggestion,
    U2q,
    encode,
    latest_shown,
)
from aigq.serving.stores.memory import MemoryStore

_VERSION: Final = "past"
_TABLES: Final = ("catalog", "clicks", "coclick", "x2q")  # items and users are given in the words of the log
_NO_DEADLINE_MS: Final = 600_000.0
_MORNINGS: Final = 32  # kept, for the other rows


class _Day(NamedTuple):
    """A morning: what was published, and where."""

    tables: RunTables
    store: MemoryStore
    catalogs: Catalogs


class PastShop:
    """The shop of a run at past moments. Several rows may share one: lists are written once.

    Args:
        config: the run's config.
        generator: makes the system that writes u2q lists; called when u2q is asked for.
        connect: makes the x2q table of the training part and returns its file, FOLDER/tables/x2q.parquet;
            called when x2q is asked for.
        folder: FOLDER.
        clicks: what `aigq train ctr` wrote, to rank as the service does; without it, by reciprocal ranks.
    """

    def __init__(
        self,
        config: Config,
        generator: Callable[[], RecallChannel],
        connect: Callable[[], Path],
        folder: Path,
        clicks: Path | None = None,
    ) -> None:
        self._config, self._folder, self._clicks = config, folder, clicks
        self._make_generator, self._connect = generator, connect
        self._generator: RecallChannel | None = None
        self._connected = False
        self._prepared: Prepared | None = None
        self._now = 0.0
        self._tables: RunTables | None = None
        self._mornings: dict[int, _Day] = {}

    def fit(self, prepared: Prepared) -> None:
        """Remember the log; what a channel needs is made when the channel is first asked for."""
        if self._prepared is prepared:
            return
        self._prepared, self._tables, self._generator, self._connected = prepared, None, None, False
        self._written: dict[int, list[Hint]] = {}
        self._mornings.clear()
        self._shown = _showings(prepared.exposures)

    def ask(self, moments: Sequence[Moment], n: int, serving: ServingConfig) -> list[list[blend.Hint]]:
        """At most n hints for each moment, best first, each with all channels that proposed it.

        Args:
            moments: any order; fastest by day.
            n: length of a list.
            serving: weights above 0 say which channels take part.
        """
        if self._prepared is None:
            raise StageError("the past shop was asked before fit()")
        on = {channel for channel, weight in serving.weights.items() if weight > 0}
        if "x2q" in on and not self._connected:
            self._connect()
            self._connected = True
            self._mornings.clear()
        if "u2q" in on:
            self._write(moments)
        serving = serving.model_copy(update={"deadline_ms": _NO_DEADLINE_MS})
        config = self._config.model_copy(update={"serving": serving})
        before = _left_out()
        answers = asyncio.run(self._answers(moments, n, config))
        if _left_out() > before:
            raise StageError("an answer went without a channel or the ranker; the log above says why")
        return answers

    def _write(self, moments: Sequence[Moment]) -> None:
        """The lists of moments that have none yet. Nothing happened, no signal, no list: as in the worker."""
        if self._generator is None:
            self._generator = self._make_generator()
            assert self._prepared is not None
            self._generator.fit(self._prepared)
        new = [m for m in moments if m.sample_id not in self._written and m.history.num_rows]
        lists = self._generator.recommend(new, self._config.serving.nearline.count)
        self._written.update((m.sample_id, hints) for m, hints in zip(new, lists, strict=True))

    async def _answers(self, moments: Sequence[Moment], n: int, config: Config) -> list[list[blend.Hint]]:
        answers: list[list[blend.Hint]] = [[] for _ in moments]
        order = sorted(range(len(moments)), key=lambda i: moments[i].day)
        for day, group in groupby(order, key=lambda i: moments[i].day):
            morning = await self._published(day)
            guards = Guards(config.serving)
            hints = Hints(config, morning.store, morning.catalogs, guards, clock=lambda: self._now)
            for i in group:
                moment = moments[i]
                self._now = _seconds(moment.cut)
                values = self._values(moment, morning, guards, config.serving)
                await morning.store.put(values, config.serving.user_days * DAY_S)
                answer = await hints.answer(Ask(moment.user_id, n))
                await morning.store.delete(list(values))
                answers[i] = answer.hints
        return answers

    async def _published(self, day: int) -> _Day:
        """The tables of that morning in a store of their own."""
        if day in self._mornings:
            return self._mornings[day]
        assert self._prepared is not None
        if self._tables is None:
            self._tables = self._learned()
        self._now, store = day * DAY_S, MemoryStore(lambda: self._now)
        tables, ttl = (
            self._tables.as_of(day, self._prepared.behaviours),
            self._config.serving.table_days * DAY_S,
        )
        families = tables.families(_VERSION)
        for family in _TABLES:
            await store.put({key: encode(value) for key, value in families[family]}, ttl)
        await store.put({keys.CURRENT: encode(Current(_VERSION, []))}, ttl)
        catalogs = Catalogs(store, clicks=True)
        await catalogs.refresh()
        while len(self._mornings) >= _MORNINGS:
            self._mornings.pop(next(iter(self._mornings)))
        self._mornings[day] = _Day(tables, store, catalogs)
        return self._mornings[day]

    def _learned(self) -> RunTables:
        """The run's tables, what is learned in them learned from the training part."""
        assert self._prepared is not None
        learned = Prepared(
            self._prepared.training_rows(),
            self._prepared.queries,
            self._prepared.query_days,
            self._prepared.samples,
            self._prepared.users,
        )
        return RunTables(self._config, self._folder, prepared=learned, clicks=self._clicks)

    def _values(
        self, moment: Moment, morning: _Day, guards: Guards, serving: ServingConfig
    ) -> dict[str, bytes]:
        """What the store knew about the shopper at the moment, under the names of its keys."""
        user, dawn = moment.user_id, np.datetime64(moment.day, "D").astype("datetime64[us]")
        earlier = int(np.searchsorted(moment.history["day"].to_numpy(), moment.day))
        known, today = moment.history.slice(0, earlier), moment.history.slice(earlier)
        before = [s for s in self._shown.get(user, ()) if s.at < self._now]
        shown = latest_shown(before, serving.impressions_kept)
        values = {keys.live(user): encode(Live(pasts(today, serving.behaviours, "live"), shown))}
        if earlier:
            evening = Moment(moment.sample_id, user, dawn, moment.day, known)
            (base,) = morning.tables.bases([evening], _seconds(dawn) - 1e-6, {})
            values[keys.base(_VERSION, user)] = encode(base)
        hints = self._written.get(moment.sample_id, [])
        if hints:
            queries = [hint.query for hint in hints]
            refused = guards.refusals(queries, morning.catalogs.now, own=queries)
            kept = [Suggestion(h.query, h.reason) for h in hints if h.query not in refused]
            run = Generation(serving.nearline.system, self._now, self._now, kept)
            values[keys.u2q(user)] = encode(U2q([run]))
        return values


def _seconds(moment: np.datetime64) -> float:
    return float(moment.astype("datetime64[us]").astype(np.int64)) / 1e6


def _showings(exposures: pa.Table) -> dict[str, list[Shown]]:
    """What each shopper was shown and clicked, oldest first."""
    shown: dict[str, list[Shown]] = {}
    columns = ("sample_id", "user_id", "cut", "shown", "clicked")
    rows = exposures.select(columns).sort_by("cut")
    seconds = rows["cut"].cast(pa.int64()).to_numpy() / 1e6
    for at, row in zip(seconds, rows.to_pylist(), strict=True):
        mine = shown.setdefault(row["user_id"], [])
        for place, (query, clicked) in enumerate(zip(row["shown"], row["clicked"], strict=True)):
            once = f"{row['sample_id']}:{place}"
            mine.append(Shown(float(at), f"shown:{once}", "hint_impression", query))
            if clicked:
                mine.append(Shown(float(at), f"clicked:{once}", "hint_click", query))
    return shown


def _left_out() -> float:
    """How often an answer of this process went without something."""
    return sum(s.value for family in LEFT_OUT.collect() for s in family.samples if s.name.endswith("_total"))
