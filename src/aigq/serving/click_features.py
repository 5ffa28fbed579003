"""What the CTR model reads of one shopper's candidates, on arrays alone.

Formulas are those of training, the same functions (`models/columns.py`). Queries are numbers, positions in
the vocabulary of the log.
"""

from typing import Final, NamedTuple

import numpy as np

from aigq.models.columns import (
    HALF_LIVES,
    Issues,
    age_buckets,
    category_columns,
    own_columns,
    values_at,
)
from aigq.models.compiled import compiled

ISSUE: Final = np.dtype(
    [
        ("query", "<i4"),
        ("decayed", "<f4", (len(HALF_LIVES),)),
        ("times", "<i4"),
        ("last", "<f4"),
        ("first", "<f4"),
    ]
)
SIMILAR: Final = np.dtype([("query", "<i4"), ("value", "<f4")])
BEHAVIOUR: Final = np.dtype([("text", "<i4"), ("age", "<f4"), ("action", "<i1")])
"""Rows of the three arrays of a Taste; ages in days at the end of the day after the log."""


class Similar(NamedTuple):
    """Queries (S,) by increasing number, and how similar they are."""

    query: np.ndarray
    value: np.ndarray


class Shop(NamedTuple):
    """What is the same for every shopper; Q queries."""

    vectors: np.ndarray  # (T + 1, h) of texts, the last is of unknown ones
    text_of_query: np.ndarray  # (Q,) rows of `vectors`
    category: np.ndarray  # (Q,)
    counts: np.ndarray  # (Q, 5): `FeatureMaker.shop`
    popular: np.ndarray  # (Q,) of 0 and 1


class Known(NamedTuple):
    """What is known about a shopper, whatever is asked about; `issues` by query."""

    issues: Issues
    about: np.ndarray  # (4,): behaviours, active days, days since the latest, weekday
    similar: Similar  # to the history
    nearest: float  # the similarity that counts as near
    latest: Similar  # to the latest query
    profile: np.ndarray  # which of the profile's flags are 1


class Features(NamedTuple):
    """What the network reads of a shopper and C candidates."""

    behaviour: np.ndarray  # (L, h) of the latest behaviours, newest first
    age: np.ndarray  # (L,) buckets
    action: np.ndarray  # (L,), 0 beyond the history
    query: np.ndarray  # (C, h)
    plain: np.ndarray  # (C, F) in the order of `ctr_inputs.plain_columns`


@compiled
def aged(old: np.ndarray, days: float) -> Issues:
    """Published issues (G,) of ISSUE, so many days later."""
    decayed = np.empty((len(HALF_LIVES), len(old)))
    key, times = np.empty(len(old), np.int64), np.empty(len(old), np.int64)
    last, first = np.empty(len(old)), np.empty(len(old))
    for row, half_life in enumerate(HALF_LIVES):
        share = 0.5 ** (days / half_life)
        for at in range(len(old)):
            decayed[row, at] = old[at].decayed[row] * share
    for at in range(len(old)):
        key[at], times[at] = old[at].query, old[at].times
        last[at], first[at] = old[at].last + days, old[at].first + days
    return Issues(key, decayed, times, last, first)


@compiled
def features(
    shop: Shop, known: Known, recent: np.ndarray, number: np.ndarray, words: np.ndarray, flags: int
) -> Features:
    """Of a shopper and C candidates.

    Args:
        shop: of the published version.
        known: the shopper.
        recent: (L,) of BEHAVIOUR, newest first; text -1 and action 0 beyond the history.
        number: (C,) of the candidates, -1 for those that have none.
        words: (C, 2): `letters` of the latest query and the candidates.
        flags: of a profile.
    """
    query = np.maximum(number, 0)
    active = np.full(len(query), known.about[1])
    own = own_columns(known.issues, query, active)
    category = category_columns(known.issues, shop.category, np.zeros_like(query), query)
    similar = values_at(known.similar.query, known.similar.value, query)
    latest = values_at(known.latest.query, known.latest.value, query)
    one = own.shape[1]
    two = one + category.shape[1]
    three = two + shop.counts.shape[1]
    fixed = three + len(known.about) + 7
    plain = np.zeros((len(query), fixed + flags), np.float32)
    vectors = np.empty((len(query), shop.vectors.shape[1]), np.float32)
    for c in range(len(query)):
        plain[c, :one], plain[c, one:two] = own[c], category[c]
        plain[c, two:three] = shop.counts[query[c]]
        plain[c, three], plain[c, three + 1] = similar[c], latest[c]
        plain[c, three + 2 : three + 4] = words[c]
        plain[c, three + 4 : fixed - 3] = known.about
        plain[c, fixed - 3] = own[c, 3] > 0
        plain[c, fixed - 2] = shop.popular[query[c]]
        plain[c, fixed - 1] = similar[c] > 0 and similar[c] >= known.nearest
        for flag in known.profile:
            plain[c, fixed + flag] = 1.0
        vectors[c] = shop.vectors[shop.text_of_query[query[c]]]
    behaviour = np.empty((len(recent), shop.vectors.shape[1]), np.float32)
    action = np.empty(len(recent), np.int64)
    days = np.empty(len(recent), np.float32)
    for row in range(len(recent)):
        behaviour[row] = shop.vectors[recent[row].text]
        action[row], days[row] = recent[row].action, recent[row].age
    return Features(behaviour, age_buckets(days).astype(np.int64), action, vectors, plain)
