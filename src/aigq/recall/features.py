"""What the ranker knows about a (moment, query) pair, all of it earlier than the moment.

The own-history, category and similarity features are computed for many moments at once; a pair is addressed
by key = moment * Q + query, with Q the size of the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from scipy import sparse

from aigq.models.columns import (
    NEVER,
    OWN_HALF_LIVES,
    Issues,
    category_columns,
    issues_of,
    own_columns,
)
from aigq.models.letters import letters
from aigq.prepared import CausalCounts, Moment, Prepared
from aigq.recall.histories import Rows, Servable, best_columns, rows_of
from aigq.recall.similar import Similarities

SHOP_HALF_LIVES: Final = (1.0, 4.0, 16.0, 64.0)
NEIGHBOURS: Final = 200
FEATURES: Final = (
    *(f"own_{h:g}d" for h in OWN_HALF_LIVES),  # the shopper's own issues of the query, decayed
    "own_count",
    "own_age",  # days since the last own issue
    "own_first",  # days since the first
    "own_gap",  # mean days between own issues
    "own_due",  # age / gap
    "own_rate",  # issues per active day
    "category_60d",  # the shopper's decayed issues in the query's category
    "category_age",
    *(f"shop_{h:g}d" for h in SHOP_HALF_LIVES),  # log share of the shop's issues on earlier days
    "users",  # log distinct users so far
    "similar",  # to the shopper's history, issued by the same users or leading to the same items
    "similar_to_last",  # to the latest query alone
    "same_words",  # rapidfuzz ratios with the latest query, 0..100
    "spelled_alike",
    "behaviours",
    "active_days",
    "idle_days",  # since the latest behaviour
    "weekday",
)

CHANNELS: Final = ("from_own", "from_popular", "from_similar")
"""Who proposes a pair; for models that score any query, whoever proposed it."""


@dataclass(frozen=True)
class Pairs:
    """P (moment, query) pairs sorted by moment: positions, codes, and values (P, len(FEATURES)).

    `popular` (P,): whether the query was among the shop's top ones of the days before.
    """

    moment: np.ndarray
    query: np.ndarray
    values: np.ndarray
    popular: np.ndarray


@dataclass(frozen=True)
class Known:
    """What is known about M moments, whichever queries are then asked about.

    `about` (M, 4): behaviours, active days, idle days, weekday; `latest` (M,): the latest query, -1: none.
    `similar` (M, Q) is each query's similarity to the history; `top` has the shop's top queries of each day,
    `near` those most similar to each history.
    """

    days: np.ndarray
    issues: Issues
    about: np.ndarray
    latest: np.ndarray
    similar: np.ndarray
    top: dict[int, np.ndarray]
    near: list[np.ndarray]


class FeatureMaker:
    """Candidates and features for moments.

    Args:
        prepared: the prepared tables.
        rows: the behaviours from which similarities are learned, for moments among them from earlier ones.
        k_users: distinct users that must have issued a query before it is a candidate.
        popular: candidates from the shop's top queries of the last days.
        near: candidates most similar to the history.
        regression: how similarities are learned, see `Similarities`.
        only_new: the shopper's own queries are no candidates.
    """

    def __init__(
        self,
        prepared: Prepared,
        rows: pa.Table,
        k_users: int,
        *,
        popular: int = 120,
        near: int = 60,
        regression: bool = False,
        only_new: bool = False,
    ) -> None:
        self._top, self.near, self._only_new = popular, near, only_new
        self._shop = [CausalCounts(prepared.query_days, h) for h in SHOP_HALF_LIVES]
        self.vocabulary = self._shop[0].queries
        self._servable = Servable(self._shop[0], k_users)
        self.similarities = Similarities(rows, self.vocabulary, NEIGHBOURS, regression=regression)
        names = sorted(set(prepared.category_of.values()))
        numbers = {name: i for i, name in enumerate(names)}
        of = prepared.category_of
        self.category = np.array([numbers.get(of.get(q, ""), len(names)) for q in self.vocabulary.tolist()])

    def pairs(self, moments: Sequence[Moment]) -> Pairs:
        """All candidates of the moments with their features."""
        known = self.known(moments)
        moment, query = self.candidates(known)
        popular = np.isin(moment * len(self.vocabulary) + query, self._popular(known))
        return Pairs(moment, query, self.values(known, moment, query), popular)

    def known(self, moments: Sequence[Moment]) -> Known:
        """What `values` and `channels` need of the moments."""
        rows, size = rows_of(moments, self.vocabulary), len(self.vocabulary)
        issued = rows.query >= 0
        rows = Rows(*(column[issued] for column in (rows.moment, rows.query, rows.age, rows.action)))
        history = sparse.csr_matrix(
            (0.5 ** (rows.age / OWN_HALF_LIVES[-1]), (rows.moment, rows.query)), shape=(len(moments), size)
        )
        days = np.array([m.day for m in moments], dtype=np.int64)
        similar = self.similarities.to_history(days, history)
        top = {int(day): self.top(int(day)) for day in np.unique(days)}
        latest = np.full(len(moments), -1)
        order = np.argsort(-rows.age, kind="stable")
        latest[rows.moment[order]] = rows.query[order]
        return Known(
            days,
            issues_of(rows.moment * size + rows.query, rows.age),
            _about(rows, days),
            latest,
            similar,
            top,
            best_columns(similar, self.near),
        )

    def values(self, known: Known, moment: np.ndarray, query: np.ndarray) -> np.ndarray:
        """(P, len(FEATURES)): `moment` (P,) are positions in `known`, `query` (P,) in the vocabulary."""
        size, about = len(self.vocabulary), known.about
        last = known.latest[moment]
        to_last = self.similarities.to_latest(known.days[moment], last, query)
        spoken, texts = np.where(last >= 0, self.vocabulary[last], ""), self.vocabulary[query]
        alike = letters(spoken.tolist(), texts.tolist())
        values = np.hstack(
            [
                own_columns(known.issues, moment * size + query, about[moment, 1]),
                category_columns(known.issues, self.category, moment, query),
                self._in_shop(known.days, moment, query),
                np.column_stack([known.similar[moment, query], to_last, alike]),
                about[moment],
            ]
        )
        return values.astype(np.float32)

    def channels(self, known: Known, moment: np.ndarray, query: np.ndarray) -> np.ndarray:
        """(P, len(CHANNELS)) of 0 and 1: which channels propose each pair."""
        size = len(self.vocabulary)
        key = moment * size + query
        near = [columns + i * size for i, columns in enumerate(known.near)]
        proposed = (known.issues.key, self._popular(known), np.concatenate([key[:0], *near]))
        return np.stack([np.isin(key, part) for part in proposed], axis=1).astype(np.float32)

    def servable(self, known: Known, moment: np.ndarray, query: np.ndarray) -> np.ndarray:
        """(P,): whether k users had issued the query of a pair on earlier days."""
        masks, row = self._servable.mask(known.days.tolist())
        allowed: np.ndarray = masks[row[moment], query]
        return allowed

    def top(self, day: int) -> np.ndarray:
        """Positions of the shop's top queries of the days before."""
        issues = [counts.before(day)[0] for counts in self._shop]
        shares = np.max([n / max(n.sum(), 1e-300) for n in issues], axis=0)
        return np.argsort(-shares, kind="stable")[: self._top]

    def candidates(self, known: Known) -> tuple[np.ndarray, np.ndarray]:
        """Pairs (moment, query) of own, popular and similar queries that may be shown, in that order."""
        size = len(self.vocabulary)
        near = [columns + i * size for i, columns in enumerate(known.near)]
        key = np.unique(np.concatenate([known.issues.key, self._popular(known), *near]))
        key = np.setdiff1d(key, known.issues.key) if self._only_new else key
        allowed = self.servable(known, key // size, key % size)
        return key[allowed] // size, key[allowed] % size

    def _popular(self, known: Known) -> np.ndarray:
        """Keys of the pairs of each moment with the shop's top queries."""
        size = len(self.vocabulary)
        top = [known.top[int(day)] + i * size for i, day in enumerate(known.days)]
        return np.concatenate([np.zeros(0, np.int64), *top])

    def _in_shop(self, days: np.ndarray, moment: np.ndarray, query: np.ndarray) -> np.ndarray:
        """(P, 5): log shares of the shop's issues, log distinct users, of days before the moment's."""
        result = np.zeros((len(moment), len(SHOP_HALF_LIVES) + 1))
        for day in np.unique(days):
            rows = np.flatnonzero(days[moment] == day)
            result[rows] = self.shop(int(day), query[rows])
        return result

    def shop(self, day: int, query: np.ndarray) -> np.ndarray:
        """(P, 5): log shares of the shop's issues, log distinct users, of days before this one."""
        columns = []
        for counts in self._shop:
            issues, users = counts.before(day)
            columns.append(np.log((issues[query] + 0.01) / (issues.sum() + 1)))
        return np.stack([*columns, np.log1p(users[query])], axis=1)


def _about(rows: Rows, days: np.ndarray) -> np.ndarray:
    """(M, 4): behaviours, active days, days since the latest, weekday (0 is Thursday)."""
    n = len(days)
    idle = np.full(n, NEVER)
    np.minimum.at(idle, rows.moment, rows.age)
    return np.stack([np.bincount(rows.moment, minlength=n), _active_days(rows, n), idle, days % 7], axis=1)


def _active_days(rows: Rows, n: int) -> np.ndarray:
    """(M,): stretches of 24 hours before the moment with behaviours; days, where it is midnight."""
    days = np.unique(rows.moment * 100_000 + rows.age.astype(np.int64))
    return np.bincount(days // 100_000, minlength=n)
