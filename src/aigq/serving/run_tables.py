"""From a run folder to the values of a published version.

What may be shown is decided here: queries of k users whose words the guards accept.
"""

import copy
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy import sparse

from aigq.config import Config
from aigq.errors import StageError
from aigq.prepared import CausalCounts, Moment, Prepared, day_after, latest_moments, log_end
from aigq.recall.coclick import similarities
from aigq.recall.ctr_scorer import SETTINGS_FILE
from aigq.recall.histories import batches, entries_of
from aigq.serving import keys
from aigq.serving.click_tables import ClickTables
from aigq.serving.guards import Guards
from aigq.serving.state import (
    Base,
    CatalogPart,
    Generation,
    ItemInfo,
    Neighbours,
    Own,
    Past,
    QueryInfo,
    Suggestion,
)
from aigq.tables import U2Q, X2Q

Values = Iterator[tuple[str, Any]]
POPULAR: Final = 100
NEIGHBOURS: Final = 20
"""Co-click neighbours of a query that are published."""

TRIGGERED: Final = 20
"""Queries of a trigger that are published."""

OWN: Final = 30
_PART: Final = 20_000  # queries in one value
_USERS_AT_ONCE: Final = 256


class RunTables:
    """What a run knows, ready to be published.

    Args:
        config: the run's config.
        run: the run folder.
        name: from a user id to the name in the store.
        prepared: the log; default: the run's.

    Raises:
        StageError: `aigq prepare` has not finished, or a table in RUN/tables has other columns.
    """

    def __init__(
        self,
        config: Config,
        run: Path,
        name: Callable[[str], str] = str,
        prepared: Prepared | None = None,
        clicks: Path | None = None,
    ) -> None:
        self._config, self._run, self._name = config, run, name
        self._prepared = prepared or Prepared.load(run / "prepared")
        self._led = self._prepared.behaviours
        self._day = day_after(self._prepared)
        self._counts = CausalCounts(self._prepared.query_days, None)
        self._guards = Guards(config.serving)
        self._allowed = self._shown(self._day)
        folder = clicks or run / "models" / "ctr"
        trained = (folder / SETTINGS_FILE).exists()
        self._clicks = ClickTables(folder, self._prepared, self._day) if trained else None

    def as_of(self, day: int, behaviours: pa.Table) -> "RunTables":
        """The tables of that morning: what may be shown, its results and what is popular, by the days before.

        `behaviours` are those of all days, `prepared` holds only what may be learned from.
        """
        then = copy.copy(self)
        then._led = behaviours.filter(pc.less(behaviours["day"], day))
        then._day, then._similar = day, self._similar
        then._allowed = self._shown(day)
        then._clicks = self._clicks.as_of(day) if self._clicks else None
        return then

    def _shown(self, day: int) -> set[str]:
        """The queries that may be shown on a day."""
        return self._guards.fit(self._counts.servable(day, self._config.samples.k_users))

    @cached_property
    def _similar(self) -> sparse.csr_matrix:
        """Co-click similarities (Q, Q)."""
        neighbours = self._config.channels.coclick.neighbours
        return similarities(self._prepared.behaviours, self._counts.queries, neighbours)

    def users(self) -> list[str]:
        """The names of all users with behaviours."""
        return [self._name(str(user)) for user in pc.unique(self._prepared.behaviours["user_id"]).to_pylist()]

    def families(self, version: str, without: Container[str] = ()) -> Mapping[str, Values]:
        """(key, value) pairs by family; each is made as it is written. Users in `without` are left out."""
        return {
            "item": self._items(version),
            "coclick": self._coclick(version),
            "x2q": self._x2q(version),
            "base": self._users(version, without),
            "clicks": self._clicks.model(version, sorted(self._allowed)) if self._clicks else iter(()),
            "catalog": self._catalog(version),
        }

    def _catalog(self, version: str) -> Values:
        half_life = self._config.channels.popular.half_life_days
        decayed = CausalCounts(self._prepared.query_days, half_life)
        top = decayed.top(self._day, POPULAR, self._config.samples.k_users)
        category, items = self._prepared.category_of, _items_per_query(self._led)
        infos = [QueryInfo(q, category.get(q), items.get(q, 0)) for q in sorted(self._allowed)]
        parts = [infos[start : start + _PART] for start in range(0, len(infos), _PART)] or [[]]
        popular = [query for query, _ in top if query in self._allowed]
        yield keys.catalog(version, 0), CatalogPart(parts[0], len(parts), popular, time.time())
        for number, part in enumerate(parts[1:], start=1):
            yield keys.catalog(version, number), CatalogPart(part)

    def _items(self, version: str) -> Values:
        """Others read the text of an item, so a click's own query is one only if it may be shown."""
        rows = self._prepared.behaviours
        rows = rows.filter(pc.and_(pc.is_valid(rows["item_id"]), pc.not_equal(rows["action"], "search")))
        typed = pc.fill_null(pc.equal(rows["text"], rows["query"]), False)
        hidden = pc.and_not(typed, pc.is_in(rows["text"], pa.array(sorted(self._allowed), pa.string())))
        text = pc.if_else(hidden, pa.scalar(None, pa.string()), rows["text"])
        rows = rows.select(["item_id", "category"]).append_column("text", text)
        grouped = rows.group_by("item_id").aggregate([("text", "min"), ("category", "min")])
        columns = (grouped[c].to_pylist() for c in ("item_id", "text_min", "category_min"))
        for item, text, category in zip(*columns, strict=True):
            yield keys.item(version, item), ItemInfo(text, category)

    def _coclick(self, version: str) -> Values:
        queries, similar = self._counts.queries, self._similar
        allowed = np.isin(queries, list(self._allowed))
        for row in np.flatnonzero(allowed):
            near = similar.indices[similar.indptr[row] : similar.indptr[row + 1]]
            values = similar.data[similar.indptr[row] : similar.indptr[row + 1]]
            order = [i for i in np.argsort(-values, kind="stable") if allowed[near[i]]][:NEIGHBOURS]
            if order:
                found = Neighbours([str(queries[near[i]]) for i in order], [float(values[i]) for i in order])
                yield keys.coclick(version, str(queries[row])), found

    def _x2q(self, version: str) -> Values:
        table = read_table(self._run / "tables" / "x2q.parquet", X2Q)
        if table is None:
            return
        rows = table.filter(pc.is_in(table["query"], pa.array(sorted(self._allowed), pa.string())))
        rows = rows.sort_by([("kind", "ascending"), ("trigger", "ascending"), ("rank", "ascending")])
        for (kind, trigger), group in _groups(rows, ("kind", "trigger")):
            queries, scores = (group[c].to_pylist()[:TRIGGERED] for c in ("query", "score"))
            ranked = [1.0 / rank if s is None else s for rank, s in enumerate(scores, start=1)]
            yield keys.x2q(version, kind, trigger), Neighbours(queries, ranked)

    def _users(self, version: str, without: Container[str]) -> Values:
        generations, until = self._generations(), log_end(self._prepared)
        moments = [
            moment
            for moment in latest_moments(self._prepared, self._day)
            if self._name(moment.user_id) not in without
        ]
        for _, batch in batches(moments, _USERS_AT_ONCE):
            for moment, value in zip(batch, self.bases(batch, until, generations), strict=True):
                yield keys.base(version, self._name(moment.user_id)), value

    def bases(
        self, batch: Sequence[Moment], until: float, generations: Mapping[str, Generation]
    ) -> list[Base]:
        """What is published about users; their histories end at `until`, in seconds since 1970."""
        kept, own = self._config.serving.behaviours, self._own(batch)
        tastes = self._clicks.tastes(batch) if self._clicks else [None] * len(batch)
        return [
            Base(until, pasts(moment.history, kept), mine, generations.get(moment.user_id), taste)
            for moment, mine, taste in zip(batch, own, tastes, strict=True)
        ]

    def _own(self, batch: Sequence[Moment]) -> list[list[Own]]:
        """The favourite queries of each user; only such that may be shown."""
        half_life = self._config.channels.personal.half_life_days
        entries = entries_of(batch, self._counts.queries, half_life)
        lists: list[list[Own]] = [[] for _ in batch]
        for i in np.lexsort((entries.query, -entries.weight, entries.moment)):
            query, mine = str(self._counts.queries[entries.query[i]]), lists[entries.moment[i]]
            if len(mine) < OWN and query in self._allowed:
                mine.append(Own(query, round(float(entries.weight[i]), 4), int(entries.count[i])))
        return lists

    def _generations(self) -> dict[str, Generation]:
        table = read_table(self._run / "tables" / "u2q.parquet", U2Q)
        if table is None:
            return {}
        found: dict[str, Generation] = {}
        until = log_end(self._prepared)
        rows = table.sort_by([("user_id", "ascending"), ("rank", "ascending")])
        for (user,), group in _groups(rows, ("user_id",)):
            queries, reasons = group["query"].to_pylist(), group["reason"].to_pylist()
            hints = [
                Suggestion(query, reason or "")
                for query, reason in zip(queries, reasons, strict=True)
                if query in self._allowed
            ]
            at = group["generated_at"][0].cast(pa.int64()).as_py() / 1e6
            found[user] = Generation(group["model"][0].as_py(), at, until, hints)
        return found


def read_table(path: Path, schema: pa.Schema) -> pa.Table | None:
    """A table of RUN/tables, or None when it was not made. Raises StageError when it has other columns."""
    if not path.exists():
        return None
    try:
        return pq.read_table(path).select(schema.names).cast(schema)
    except (KeyError, ValueError, OSError) as error:
        raise StageError(f"{path} is not the table that this version of aigq writes: {error}") from None


def pasts(history: pa.Table, kept: int, prefix: str = "p") -> list[Past]:
    """The latest `kept` rows of a history, oldest first; their ids begin with `prefix`."""
    history = history.slice(max(0, history.num_rows - kept))
    columns = ("ts", "action", "text", "query", "item_id", "category")
    rows = zip(*(history[c].to_pylist() for c in columns), strict=True)
    seconds = history["ts"].cast(pa.int64()).to_numpy() / 1e6
    return [
        Past(float(at), f"{prefix}{number}", action, text, query, item, category)
        for number, (at, (_, action, text, query, item, category)) in enumerate(
            zip(seconds, rows, strict=True)
        )
    ]


def _items_per_query(behaviours: pa.Table) -> dict[str, int]:
    """Distinct items that each query led to: of a row with both, else by the last query in the session."""
    if behaviours.num_rows == 0:
        return {}
    row = np.arange(behaviours.num_rows)
    user = behaviours["user_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    session = behaviours["session"].to_numpy()
    begins = np.r_[True, (np.diff(user) != 0) | (np.diff(session) != 0)]
    asked = behaviours["query"].is_valid().to_numpy()
    latest = np.maximum.accumulate(np.where(asked, row, -1))
    none = latest < np.maximum.accumulate(np.where(begins, row, 0))
    query = behaviours["query"].take(pa.array(latest, mask=none))
    rows = pa.table({"query": query, "item_id": behaviours["item_id"]})
    rows = rows.filter(pc.and_(pc.is_valid(rows["query"]), pc.is_valid(rows["item_id"])))
    counts = rows.group_by("query").aggregate([("item_id", "count_distinct")])
    return dict(zip(counts["query"].to_pylist(), counts["item_id_count_distinct"].to_pylist(), strict=True))


def _groups(rows: pa.Table, by: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], pa.Table]]:
    """Runs of equal keys of a sorted table."""
    if rows.num_rows == 0:
        return
    columns = [rows[c].combine_chunks().dictionary_encode() for c in by]
    changed = np.zeros(rows.num_rows, dtype=bool)
    changed[0] = True
    for column in columns:
        changed[1:] |= np.diff(column.indices.to_numpy()) != 0
    starts = np.flatnonzero(changed)
    for start, end in zip(starts, np.r_[starts[1:], rows.num_rows], strict=True):
        yield tuple(c[int(start)].as_py() for c in columns), rows.slice(start, end - start)
