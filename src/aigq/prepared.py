"""Read access to RUN/prepared: what training, recall channels and evaluation work on."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aigq.errors import StageError
from aigq.tables import EXPOSURES, PREPARED_TABLES, Split


@dataclass(frozen=True)
class Moment:
    """One shopper at one point in time, and everything that may be known then.

    `history` holds rows of `behaviours` strictly earlier than `cut`, oldest first.
    """

    sample_id: int
    user_id: str
    cut: np.datetime64
    day: int
    history: pa.Table

    def issued(self) -> set[str]:
        """All queries of the history: what a list of new queries may not name."""
        return {*self.history["query"].unique().to_pylist()} - {None}


@dataclass(frozen=True)
class Prepared:
    """The prepared tables in memory. `behaviours` is sorted by (user_id, ts).

    `exposures` is empty in bootstrap mode.
    """

    behaviours: pa.Table
    queries: pa.Table
    query_days: pa.Table
    samples: pa.Table
    users: pa.Table
    exposures: pa.Table = field(default_factory=EXPOSURES.empty_table)

    @classmethod
    def load(cls, folder: Path) -> "Prepared":
        """Read RUN/prepared. Raises StageError when that is not what `aigq prepare` leaves there."""
        tables = {name: _read(folder / f"{name}.parquet", schema) for name, schema in PREPARED_TABLES.items()}
        if (folder / "exposures.parquet").exists():
            tables["exposures"] = pq.read_table(folder / "exposures.parquet")
        return cls(**tables)

    def split(self, split: Split) -> pa.Table:
        """The samples of one split, in sample order."""
        return self.samples.filter(pc.equal(self.samples["split"], split))

    def moments(self, samples: pa.Table) -> list[Moment]:
        """One Moment per sample row; histories are zero-copy slices of `behaviours`."""
        cuts = samples["cut"].to_numpy()
        columns = (samples[c].to_pylist() for c in ("sample_id", "user_id", "day", "first_row", "n_before"))
        return [
            Moment(sample_id, user_id, cut, day, self.behaviours.slice(first, n))
            for cut, (sample_id, user_id, day, first, n) in zip(cuts, zip(*columns, strict=True), strict=True)
        ]

    def training_rows(self) -> pa.Table:
        """Behaviours strictly before the first validation day: all that a fit may see."""
        held_out = self.samples.filter(pc.not_equal(self.samples["split"], "train"))
        if held_out.num_rows == 0:
            return self.behaviours
        return self.behaviours.filter(pc.less(self.behaviours["day"], self.validation_day))

    def shared_queries(self, k_users: int) -> pa.Table:
        """Rows of `queries` that at least k users had issued in training: no other text may be learned."""
        return self.queries.filter(pc.greater_equal(self.queries["users"], k_users))

    @cached_property
    def validation_day(self) -> int:
        """First day that belongs to validation, from the metadata that `prepare` wrote into `samples`."""
        metadata = self.samples.schema.metadata or {}
        return int(metadata[b"validation_day"])

    @property
    def clicks(self) -> str:
        """Where clicks on hints come from: "logged", or "simulated" by `aigq replay`."""
        metadata: dict[bytes, bytes] = self.samples.schema.metadata or {}
        return metadata.get(b"clicks", b"logged").decode()

    @cached_property
    def category_of(self) -> dict[str, str]:
        """Normalised query -> leaf category, for queries that have one."""
        pairs = zip(self.queries["query"].to_pylist(), self.queries["category"].to_pylist(), strict=True)
        return {query: category for query, category in pairs if category is not None}


def _read(path: Path, schema: pa.Schema) -> pa.Table:
    """A table with all columns of the schema. Raises StageError where there is none."""
    try:
        table = pq.read_table(path)
    except (FileNotFoundError, pa.ArrowInvalid):
        table = pa.table({})
    if not {*schema.names} <= {*table.column_names}:
        raise StageError(f"{path} is missing, damaged or of another version; run `aigq prepare --force`")
    return table


def day_after(prepared: Prepared) -> int:
    """The first day after the log, in days since 1970. Raises StageError when there are no behaviours."""
    if prepared.behaviours.num_rows == 0:
        raise StageError("the run has no behaviours; there is nothing to recommend from")
    return int(pc.max(prepared.behaviours["day"]).as_py()) + 1


def log_end(prepared: Prepared) -> float:
    """The time of the last behaviour, in seconds since 1970."""
    return float(pc.max(prepared.behaviours["ts"]).cast(pa.int64()).as_py()) / 1e6


def latest_moments(prepared: Prepared, day: int) -> list[Moment]:
    """Every user on that day, everything that they ever did as history. `behaviours` is sorted by user."""
    users = prepared.behaviours["user_id"].combine_chunks().dictionary_encode()
    codes, names = users.indices.to_numpy(), users.dictionary.to_pylist()
    starts = np.flatnonzero(np.r_[True, np.diff(codes) != 0])
    ends = np.r_[starts[1:], len(codes)]
    cut = np.datetime64(day, "D").astype("datetime64[us]")
    return [
        Moment(-1 - number, names[codes[start]], cut, day, prepared.behaviours.slice(start, end - start))
        for number, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]


class CausalCounts:
    """Query counts as they stood on the evening before a given day.

    Args:
        query_days: the table QUERY_DAYS.
        half_life_days: a query issued this long ago counts half; None: no decay.
    """

    def __init__(self, query_days: pa.Table, half_life_days: float | None) -> None:
        self._queries, codes = np.unique(
            query_days["query"].to_numpy(zero_copy_only=False), return_inverse=True
        )
        self._half_life = half_life_days
        days = query_days["day"].to_numpy()
        order = np.argsort(days, kind="stable")
        self._codes, self._days = codes[order], days[order]
        self._issues = query_days["issues"].to_numpy()[order]
        self._new_users = query_days["new_users"].to_numpy()[order]
        self._cache: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    @property
    def queries(self) -> np.ndarray:
        """All queries, sorted; positions are the codes of `before`."""
        return self._queries

    def before(self, day: int) -> tuple[np.ndarray, np.ndarray]:
        """Decayed issues (Q,) and distinct users so far (Q,), both from days strictly earlier than `day`."""
        if day not in self._cache:
            n = int(np.searchsorted(self._days, day, side="left"))
            weights = self._issues[:n].astype(np.float64)
            if self._half_life is not None:
                weights = weights * 0.5 ** ((day - self._days[:n]) / self._half_life)
            size = len(self._queries)
            counts = np.bincount(self._codes[:n], weights, size)
            users = np.bincount(self._codes[:n], self._new_users[:n], size)
            self._cache[day] = counts, users
        return self._cache[day]

    def top(self, day: int, n: int, k_users: int) -> list[tuple[str, float]]:
        """The n queries with the largest shares of decayed issues that k users had issued before `day`."""
        counts, users = self.before(day)
        counts = counts / max(counts.sum(), 1e-300)
        counts = np.where(users >= k_users, counts, 0.0)
        best = np.lexsort((self._queries, -counts))[:n]
        return [(str(self._queries[i]), float(counts[i])) for i in best if counts[i] > 0]

    def servable(self, day: int, k_users: int) -> set[str]:
        """Queries that at least k distinct users had issued before `day`: all that may be shown then."""
        return set(self._queries[self.before(day)[1] >= k_users].tolist())
