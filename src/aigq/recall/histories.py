"""Many histories at once: (moment, query) entries with decayed weights; top-n lists under the k-user rule."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aigq.models.columns import ACTIONS
from aigq.prepared import CausalCounts, Moment, Prepared

MOMENTS_AT_ONCE = 4096
CELLS_AT_ONCE = 1 << 24
DAY = np.timedelta64(1, "D")


@dataclass(frozen=True)
class Entries:
    """The distinct queries of each history. All arrays are (E,), sorted by (moment, query).

    `moment` is a position in the sequence of moments, `query` a position in the vocabulary, `weight` the
    decayed frequency, `age` the days since the last time, `count` how often, of it `searched` and `bought`.
    """

    moment: np.ndarray
    query: np.ndarray
    weight: np.ndarray
    age: np.ndarray
    count: np.ndarray
    searched: np.ndarray
    bought: np.ndarray


@dataclass(frozen=True)
class Rows:
    """The rows of all histories, one after the other. All arrays are (R,); `query` is -1 where unknown."""

    moment: np.ndarray
    query: np.ndarray
    age: np.ndarray
    action: np.ndarray


def batches(moments: Sequence[Moment], size: int = MOMENTS_AT_ONCE) -> Iterator[tuple[int, Sequence[Moment]]]:
    """Slices of at most `size` moments with the position of their first."""
    for start in range(0, len(moments), max(1, size)):
        yield start, moments[start : start + max(1, size)]


def codes_in(column: pa.ChunkedArray | pa.Array, vocabulary: np.ndarray) -> np.ndarray:
    """Positions (R,) of the column's strings in the vocabulary; -1 for nulls and unknown strings."""
    if len(column) == 0:
        return np.zeros(0, dtype=np.int64)
    found = pc.index_in(column, value_set=pa.array(vocabulary.tolist(), pa.string()), skip_nulls=True)
    return np.asarray(pc.fill_null(found, -1).to_numpy(), dtype=np.int64)


def rows_of(
    moments: Sequence[Moment], vocabulary: np.ndarray, query_of_item: dict[str, str] | None = None
) -> Rows:
    """Every row of every history. Pure item events take the query that `query_of_item` gives their item."""
    empty = np.zeros(0, dtype=np.int64)
    filled = [(position, m) for position, m in enumerate(moments) if m.history.num_rows]
    if not filled:
        return Rows(empty, empty, empty.astype(float), empty.astype(object))
    lengths = [m.history.num_rows for _, m in filled]
    table = pa.concat_tables([m.history.select(["query", "ts", "action", "item_id"]) for _, m in filled])
    query = table["query"]
    if query_of_item and query.null_count:
        known = pa.array(list(query_of_item), pa.string())
        queries = pa.array(list(query_of_item.values()), pa.string())
        led = pc.take(queries, pc.index_in(table["item_id"], known))
        query = pc.coalesce(query, led)
    cuts = np.repeat(np.array([m.cut for _, m in filled], dtype="datetime64[us]"), lengths)
    age = (cuts - table["ts"].to_numpy().astype("datetime64[us]")) / DAY
    action = table["action"].to_numpy()
    return Rows(np.repeat([p for p, _ in filled], lengths), codes_in(query, vocabulary), age, action)


def entries_of(
    moments: Sequence[Moment],
    vocabulary: np.ndarray,
    half_life_days: float,
    query_of_item: dict[str, str] | None = None,
) -> Entries:
    """Group the histories by query with weights 0.5 ** (age / half life)."""
    rows = rows_of(moments, vocabulary, query_of_item)
    known = np.flatnonzero(rows.query >= 0)
    key = rows.moment[known] * len(vocabulary) + rows.query[known]
    order = known[np.argsort(key, kind="stable")]
    if not len(order):
        none, nothing = np.zeros(0, dtype=np.int64), np.zeros(0)
        return Entries(none, none, nothing, nothing, none, none, none)
    moment, query, age, action = rows.moment[order], rows.query[order], rows.age[order], rows.action[order]
    starts = np.flatnonzero(np.r_[True, (np.diff(moment) != 0) | (np.diff(query) != 0)])
    return Entries(
        moment[starts],
        query[starts],
        np.add.reduceat(0.5 ** (age / half_life_days), starts),
        np.minimum.reduceat(age, starts),
        np.diff(np.r_[starts, len(order)]),
        np.add.reduceat((action == "search").astype(np.int64), starts),
        np.add.reduceat((action == "purchase").astype(np.int64), starts),
    )


class Servable:
    """Which queries may be shown on which day: the k-user rule as a mask.

    Args:
        counts: causal counts of all days.
        k_users: distinct users that must have issued a query on earlier days.
    """

    def __init__(self, counts: CausalCounts, k_users: int) -> None:
        self._counts, self._k = counts, k_users

    def mask(self, days: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Masks (D, Q) of the D distinct days, and the row of that mask (M,) for each given day."""
        distinct, row = np.unique(np.asarray(days, dtype=np.int64), return_inverse=True)
        masks = [self._counts.before(int(day))[1] >= self._k for day in distinct]
        return np.array(masks).reshape(len(distinct), len(self._counts.queries)), row


def best_columns(scores: np.ndarray, n: int) -> list[np.ndarray]:
    """Per row of scores (M, Q): the at most n columns above 0, highest first, ties by column."""
    if scores.size == 0 or n <= 0:
        return [np.zeros(0, dtype=np.int64) for _ in range(len(scores))]
    lists = []
    for row in scores:
        if n < len(row):
            threshold = max(float(np.partition(row, -n)[-n]), 0.0)
            candidates = np.flatnonzero((row >= threshold) & (row > 0))
        else:
            candidates = np.flatnonzero(row > 0)
        lists.append(candidates[np.lexsort((candidates, -row[candidates]))[:n]])
    return lists


def training_samples(prepared: Prepared, *, only_new: bool = False) -> pa.Table:
    """Moments to learn from and the queries that came then, in order of day: the training samples.

    In exposure mode the targets of those are clicks on the few hints that were shown. So there it is what was
    searched for on every training day of every user: columns of SAMPLES but `split`, `novel` and `shown`.

    Args:
        prepared: the tables of the run.
        only_new: leave out queries that the user issued before, as the samples do already.
    """
    if prepared.exposures.num_rows == 0:
        return prepared.split("train")
    rows = prepared.behaviours
    users = rows["user_id"].dictionary_encode().combine_chunks().indices.to_numpy()
    asked = rows["query"].dictionary_encode().combine_chunks()
    query, day = pc.fill_null(asked.indices, -1).to_numpy(), rows["day"].to_numpy()
    other_user = np.r_[True, np.diff(users) != 0]
    starts = np.flatnonzero(other_user | np.r_[True, np.diff(day) != 0])  # (D,) rows where a user-day begins
    user_day = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(day)]))  # (R,)
    known = np.flatnonzero((query >= 0) & (day < prepared.validation_day))
    pair = (users if only_new else user_day)[known] * np.int64(len(asked.dictionary)) + query[known]
    targets = known[np.sort(np.unique(pair, return_index=True)[1])]  # the first row of each
    days, places = np.unique(user_day[targets], return_index=True)
    first = np.flatnonzero(other_user)[np.cumsum(other_user)[starts[days]] - 1]  # of each day's user
    lists = pa.ListArray.from_arrays(
        pa.array(np.r_[places, len(targets)], pa.int32()), asked.dictionary.take(pa.array(query[targets]))
    )
    table = rows.select(["user_id", "ts", "day"]).take(pa.array(starts[days])).rename_columns({"ts": "cut"})
    table = table.append_column("first_row", pa.array(first))
    table = table.append_column("n_before", pa.array(starts[days] - first)).append_column("targets", lists)
    table = table.take(pa.array(np.argsort(day[starts[days]], kind="stable")))
    return table.add_column(0, "sample_id", pa.array(np.arange(table.num_rows)))


def latest(samples: pa.Table, rows: pa.Table, end_day: int, n: int) -> pa.Table:
    """The n latest training samples, none of the first third of the days of `rows`, which end at `end_day`.

    What is learned about pairs needs some history of the shop before the first pair.
    """
    first = pc.min(rows["day"]).as_py() or 0
    late = samples.filter(pc.greater_equal(samples["day"], first + (end_day - first) // 3))
    return late.slice(max(0, late.num_rows - n))


def recent_behaviours(
    moments: Sequence[Moment], length: int, code: Callable[[pa.ChunkedArray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The most recent behaviours of each moment, newest first: three arrays (N, length).

    Text (int32, -1 beyond the end), age (float32, days), and action (int8, from 1; 0 beyond the end).

    Args:
        moments: N moments.
        length: behaviours kept.
        code: texts (R,) -> positions (R,) in the caller's table of texts, -1 where unknown.
    """
    shape = (len(moments), length)
    text, age, action = np.full(shape, -1, np.int32), np.zeros(shape, np.float32), np.zeros(shape, np.int8)
    actions = np.array(ACTIONS)
    for start, batch in batches(moments):
        recent = [m.history.slice(max(0, m.history.num_rows - length)) for m in batch]
        lengths = np.array([table.num_rows for table in recent])
        if not lengths.sum():
            continue
        rows = pa.concat_tables([table.select(["text", "ts", "action"]) for table in recent])
        moment = np.repeat(np.arange(len(batch)), lengths)
        place = np.repeat(np.cumsum(lengths), lengths) - 1 - np.arange(len(moment))
        cuts = np.array([m.cut for m in batch], dtype="datetime64[us]")[moment]
        text[start + moment, place] = code(rows["text"])
        age[start + moment, place] = (cuts - rows["ts"].to_numpy().astype("datetime64[us]")) / DAY
        action[start + moment, place] = codes_in(rows["action"], actions) + 1
    return text, age, action
