"""Metrics of recommended lists, for all samples at once.

Notation for one sample: L is the list, L[:K] its first K queries, Y the set of held-out target queries,
norm() makes texts comparable, cate() gives leaf categories. Everything here is a pure function on integer
codes: a query is the number of its normalised text, -1 is padding or "unknown". Functions that end in a
rate return an array (samples, K) whose column K-1 is the metric at cut-off K. NaN means "this sample does
not count for this metric" (for example no novel target); `intervals` leaves it out.
"""

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from rapidfuzz import fuzz, process

from aigq.prepared import CausalCounts

Encode = Callable[[Sequence[str]], np.ndarray]
"""Texts -> unit vectors, shape (texts, dimensions)."""

NEAR_DUPLICATE = 90.0
"""rapidfuzz ratio (0..100) from which two queries of one list are near-duplicates."""

_PAIRS = 1024  # target and list pairs compared at a time
_MATRIX_CELLS = 50_000_000  # largest table of cosines held in memory

COLD_BEHAVIOURS = 3
"""A sample with at most this many earlier behaviours is cold."""


def normalise(text: str) -> str:
    """norm(): Unicode NFKC, case folded, runs of white space become one space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


class Vocabulary:
    """Numbers for normalised texts, in order of first appearance."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._codes)

    @property
    def texts(self) -> list[str]:
        """Normalised texts; position = code."""
        return list(self._codes)

    def add(self, texts: Iterable[str]) -> np.ndarray:
        """The codes of texts; unseen ones get the next free number."""
        known = self._codes
        return np.array([known.setdefault(normalise(t), len(known)) for t in texts], dtype=np.int64)

    def add_column(self, column: pa.ChunkedArray) -> np.ndarray:
        """The codes of a text column; every distinct text is normalised once."""
        encoded = column.combine_chunks().dictionary_encode()
        if isinstance(encoded, pa.ChunkedArray):  # zero chunks stay chunked
            encoded = encoded.unify_dictionaries().combine_chunks()
        codes = self.add(encoded.dictionary.to_pylist())
        return codes[encoded.indices.to_numpy(zero_copy_only=False)] if len(encoded) else codes[:0]


@dataclass(frozen=True)
class Targets:
    """Y of n samples, flat: entry t says that query `code[t]` belongs to sample row `row[t]`; no repeats."""

    n: int
    row: np.ndarray
    code: np.ndarray
    novel: np.ndarray

    @classmethod
    def of(cls, samples: pa.Table, vocabulary: Vocabulary) -> "Targets":
        """Targets of a SAMPLES table. Targets that are equal after norm() count once."""
        column = samples["targets"].combine_chunks()
        lengths = np.array(column.value_lengths(), dtype=np.int64)
        row = np.repeat(np.arange(len(lengths)), lengths)
        code = vocabulary.add_column(pa.chunked_array([column.flatten()]))
        novel = np.array(samples["novel"].combine_chunks().flatten(), dtype=bool)
        kept = np.sort(np.unique(row * max(1, len(vocabulary)) + code, return_index=True)[1])
        return cls(len(lengths), row[kept], code[kept], novel[kept])

    def where(self, mask: np.ndarray) -> "Targets":
        """Only the targets that the mask keeps."""
        return Targets(self.n, self.row[mask], self.code[mask], self.novel[mask])

    def categories(self, category: np.ndarray) -> "Targets":
        """cate(Y): the distinct known categories of the targets, as Targets. Unknown ones are left out."""
        codes = category[self.code]
        row, codes, novel = self.row[codes >= 0], codes[codes >= 0], self.novel[codes >= 0]
        kept = np.sort(np.unique(row * (category.max(initial=0) + 1) + codes, return_index=True)[1])
        return Targets(self.n, row[kept], codes[kept], novel[kept])

    @property
    def sizes(self) -> np.ndarray:
        """|Y| of each sample."""
        return np.bincount(self.row, minlength=self.n)


def padded(lists: pa.Table, sample_ids: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """A LISTS table as codes (samples, longest list), -1 where it has ended; other samples are ignored."""
    ids = lists["sample_id"].to_numpy()
    code = vocabulary.add_column(lists["query"])
    if not len(ids) or not len(sample_ids):
        return np.full((len(sample_ids), 0), -1, dtype=np.int64)
    by_id = np.argsort(sample_ids)
    found = by_id[np.clip(np.searchsorted(sample_ids, ids, sorter=by_id), 0, len(by_id) - 1)]
    known = sample_ids[found] == ids
    row, code, rank = found[known], code[known], lists["rank"].to_numpy()[known]
    order = np.lexsort((rank, row))
    row, code = row[order], code[order]
    lengths = np.bincount(row, minlength=len(sample_ids))
    position = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    codes = np.full((len(sample_ids), int(lengths.max(initial=0))), -1, dtype=np.int64)
    codes[row, position] = code
    return codes


def widen(codes: np.ndarray, k: int) -> np.ndarray:
    """L[:k], padded with -1 to exactly k columns."""
    missing = max(0, k - codes.shape[1])
    return np.pad(codes[:, :k], ((0, 0), (0, missing)), constant_values=-1)


def first_occurrences(codes: np.ndarray) -> np.ndarray:
    """True where a list names something (not -1) for the first time."""
    order = np.argsort(codes, axis=1, kind="stable")
    ordered = np.take_along_axis(codes, order, axis=1)
    new = np.ones(codes.shape, dtype=bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.empty_like(new)
    np.put_along_axis(first, order, new, axis=1)
    named: np.ndarray = first & (codes >= 0)
    return named


def hits(codes: np.ndarray, targets: Targets) -> np.ndarray:
    """True where the list names a target of its sample for the first time."""
    size = int(max(codes.max(initial=0), targets.code.max(initial=0))) + 1
    keys = np.arange(len(codes))[:, None] * size + codes
    found: np.ndarray = np.isin(keys, targets.row * size + targets.code) & first_occurrences(codes)
    return found


def query_hr(codes: np.ndarray, targets: Targets) -> np.ndarray:
    """QueryHR@K = |norm(L[:K]) ∩ norm(Y)| / |norm(Y)|; NaN where Y is empty.

    With `targets.where(novel)` it is the novel metric, with the others the repeat metric.
    """
    sizes = targets.sizes[:, None]
    found = np.cumsum(hits(codes, targets), axis=1)
    rate = np.full(found.shape, np.nan)
    np.divide(found, sizes, out=rate, where=sizes > 0)
    return rate


def query_hr_any(codes: np.ndarray, targets: Targets) -> np.ndarray:
    """QueryHRany@K = 1 if norm(L[:K]) ∩ norm(Y) is not empty, else 0; NaN where Y is empty."""
    found = np.cumsum(hits(codes, targets), axis=1) > 0
    return np.where(targets.sizes[:, None] > 0, found, np.nan)


def cate_hr(codes: np.ndarray, targets: Targets, category: np.ndarray) -> np.ndarray:
    """CateHR@K = |cate(L[:K]) ∩ cate(Y)| / |cate(Y)| on leaf categories.

    Unknown categories: a target without a category is not in cate(Y), a listed query without one never
    hits, and a sample none of whose targets has a category is NaN.

    Args:
        codes: lists, (samples, K).
        targets: Y.
        category: leaf category of each query code, -1 where unknown.
    """
    return query_hr(categories_of(codes, category), targets.categories(category))


def unique_cates(codes: np.ndarray, category: np.ndarray) -> np.ndarray:
    """UniqueCates@K = |cate(L[:K])|; queries without a category add nothing. NaN if no query has one."""
    counts = np.cumsum(first_occurrences(categories_of(codes, category)), axis=1).astype(float)
    return counts if (category >= 0).any() else np.full(counts.shape, np.nan)


def categories_of(codes: np.ndarray, category: np.ndarray) -> np.ndarray:
    """cate(L) position by position; -1 where the category is unknown or the list has ended."""
    if not len(category):
        return np.full(codes.shape, -1)
    return np.where(codes >= 0, category[codes], -1)


def sem_sim(codes: np.ndarray, targets: Targets, vectors: np.ndarray, ks: Sequence[int]) -> np.ndarray:
    """SemSim@K = mean over y in Y of max over q in L[:K] of cos(e(q), e(y)), shape (samples, len(ks)).

    An empty list scores 0; NaN where Y is empty.

    Args:
        codes: lists, (samples, K).
        targets: Y.
        vectors: unit vector of each query code.
        ks: cut-offs.
    """
    at_k = [k - 1 for k in ks]
    best = np.zeros((len(targets.row), len(ks)))
    similar = _similarities(targets.code, codes, vectors)
    for start in range(0, len(targets.row), _PAIRS):
        some = slice(start, start + _PAIRS)
        listed = codes[targets.row[some]]
        cosines = np.where(listed >= 0, similar(targets.code[some], listed), -np.inf)
        best[some] = np.maximum.accumulate(cosines, axis=1)[:, at_k]
    best[np.isneginf(best)] = 0.0  # nothing was listed
    sums = np.stack([np.bincount(targets.row, column, targets.n) for column in best.T], axis=1)
    means = np.full(sums.shape, np.nan)
    np.divide(sums, targets.sizes[:, None], out=means, where=targets.sizes[:, None] > 0)
    return means


def _similarities(
    wanted: np.ndarray, codes: np.ndarray, vectors: np.ndarray
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A function (targets (P,), their lists (P, K)) -> cosines (P, K).

    All distinct pairs are multiplied once when they fit in memory; else each pair when it is asked for.
    """
    rows, columns = np.unique(wanted), np.unique(codes)
    if len(rows) * len(columns) > _MATRIX_CELLS:
        return lambda y, listed: np.matmul(vectors[listed], vectors[y][:, :, None])[:, :, 0]
    matrix = vectors[rows] @ vectors[columns].T
    row_of, column_of = np.zeros(len(vectors), dtype=np.int64), np.zeros(len(vectors) + 1, dtype=np.int64)
    row_of[rows], column_of[columns] = np.arange(len(rows)), np.arange(len(columns))
    return lambda y, listed: matrix[row_of[y][:, None], column_of[listed]]


def near_duplicates(codes: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """Share of a list's queries that resemble one above them: rapidfuzz ratio >= 90. NaN for empty lists."""
    distinct, inverse = np.unique(codes, axis=0, return_inverse=True)
    shares = np.full(len(distinct), np.nan)
    above = np.tri(codes.shape[1], k=-1, dtype=bool)
    for row, listed in enumerate(distinct):
        queries = [texts[code] for code in listed if code >= 0]
        if queries:
            ratios = process.cdist(
                queries, queries, scorer=fuzz.ratio, score_cutoff=NEAR_DUPLICATE, dtype=np.uint8
            )
            shares[row] = (ratios.astype(bool) & above[: len(queries), : len(queries)]).any(axis=1).mean()
    return shares[inverse.reshape(-1)]


@dataclass(frozen=True)
class Validity:
    """Per sample, True where the list breaks a rule of serving."""

    empty: np.ndarray
    too_long: np.ndarray
    repeats: np.ndarray
    unservable: np.ndarray

    @property
    def valid(self) -> np.ndarray:
        """True where no rule is broken."""
        broken: np.ndarray = self.empty | self.too_long | self.repeats | self.unservable
        return ~broken

    def shares(self) -> dict[str, float]:
        """Share of lists that are valid, and that break each rule."""
        names = ("valid", "empty", "too_long", "repeats", "unservable")
        return {
            name: float(np.mean(getattr(self, name))) if len(self.empty) else float("nan") for name in names
        }


def validity(codes: np.ndarray, k: int, servable: np.ndarray) -> Validity:
    """Check lists as given, not yet cut to K: non-empty, at most K, no repeats, each query servable.

    Args:
        codes: lists, (samples, longest list).
        k: the longest list allowed.
        servable: the same shape; True where the query may be shown on the sample's day.
    """
    listed = codes >= 0
    return Validity(
        empty=listed.sum(axis=1) == 0,
        too_long=listed.sum(axis=1) > k,
        repeats=(first_occurrences(codes) != listed).any(axis=1),
        unservable=(listed & ~servable).any(axis=1),
    )


def servable_entries(
    codes: np.ndarray, days: np.ndarray, counts: CausalCounts, k_users: int, vocabulary: Vocabulary
) -> np.ndarray:
    """True where k_users distinct users had issued the query before the sample's day; the shape of codes."""
    known = vocabulary.add(counts.queries.tolist())
    allowed = np.zeros(codes.shape, dtype=bool)
    for day in np.unique(days):
        users = np.bincount(known, counts.before(int(day))[1], minlength=len(vocabulary))
        rows = days == day
        allowed[rows] = (users >= k_users)[
            codes[rows]
        ]  # padding (-1) reads the last entry and is masked later
    listed: np.ndarray = allowed & (codes >= 0)
    return listed
