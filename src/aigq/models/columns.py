"""Columns of features by their formulas, on arrays alone: the service computes them without the log's tables.

A pair of a moment and a query is addressed by key = moment * Q + query, Q the size of the vocabulary.
Training calls the functions of single columns for many moments at once, the service `features` for a shopper.

All is machine code, and stands in one file: what is kept of it for later processes is made anew when its own
file has changed, whatever it calls in others.
"""

import math
from typing import Final, NamedTuple

import numpy as np

from aigq.models.compiled import compiled

OWN_HALF_LIVES: Final = (7.0, 30.0, 90.0)
CATEGORY_HALF_LIFE: Final = 60.0
HALF_LIVES: Final = (*OWN_HALF_LIVES, CATEGORY_HALF_LIFE)
"""Days, of the rows of `Issues.decayed`."""
NEVER: Final = 1e4  # days since something that has not happened
AGE_EDGES: Final = (0.02, 0.5, 1.5, 3.5, 7.5, 14.5, 30.5, 60.5, 120.5, 240.5)
"""Days between the buckets of a behaviour's age."""

_AGE_EDGES: Final = np.array(AGE_EDGES)

ACTIONS: Final = ("search", "click", "cart", "purchase")


class Issues(NamedTuple):
    """Behaviours grouped by an integer key; arrays (G,), `decayed` (len(HALF_LIVES), G). Ages in days."""

    key: np.ndarray
    decayed: np.ndarray
    times: np.ndarray
    last: np.ndarray
    first: np.ndarray


@compiled
def issues_of(key: np.ndarray, age: np.ndarray) -> Issues:
    """One group per key, of single behaviours (R,)."""
    decayed = np.empty((len(HALF_LIVES), len(key)))
    for row, half_life in enumerate(HALF_LIVES):
        decayed[row] = 0.5 ** (age / half_life)
    return grouped(Issues(key, decayed, np.ones(len(key), np.int64), age, age))


@compiled
def grouped(issues: Issues) -> Issues:
    """Groups of the same key as one; keys increase."""
    order = np.argsort(issues.key, kind="mergesort")
    key = issues.key[order]
    starts = np.flatnonzero(np.concatenate((np.ones(min(1, len(key)), np.bool_), key[1:] != key[:-1])))
    ends = np.append(starts[1:], len(key))
    decayed, times = np.zeros((len(HALF_LIVES), len(starts))), np.zeros(len(starts), np.int64)
    last, first = np.empty(len(starts)), np.empty(len(starts))
    for group in range(len(starts)):
        last[group], first[group] = np.inf, -np.inf
        for at in order[starts[group] : ends[group]]:
            for row in range(len(HALF_LIVES)):
                decayed[row, group] += issues.decayed[row, at]
            times[group] += issues.times[at]
            last[group] = min(last[group], issues.last[at])
            first[group] = max(first[group], issues.first[at])
    return Issues(key[starts], decayed, times, last, first)


@compiled
def own_columns(issues: Issues, key: np.ndarray, active: np.ndarray) -> np.ndarray:
    """(P, 9): the shopper's own issues of each query.

    Args:
        issues: by key = moment * Q + query.
        key: (P,).
        active: (P,) active days of the shopper.
    """
    half_lives = len(OWN_HALF_LIVES)
    rows = np.zeros((len(key), half_lives + 6))
    for p in range(len(key)):
        at = place(issues.key, key[p])
        n, latest, earliest, gap = 0.0, NEVER, NEVER, NEVER
        if at >= 0:
            rows[p, :half_lives] = issues.decayed[:half_lives, at]
            n, latest, earliest = float(issues.times[at]), issues.last[at], issues.first[at]
            if n > 1:
                gap = (earliest - latest) / (n - 1)
        due, rate = latest / max(gap, 0.5), n / max(active[p], 1.0)
        for column, value in enumerate((n, latest, earliest, gap, due, rate)):
            rows[p, half_lives + column] = value
    return rows


@compiled
def category_columns(
    issues: Issues, category: np.ndarray, moment: np.ndarray, query: np.ndarray
) -> np.ndarray:
    """(P, 2): decayed issues in the query's category, days since the last.

    Quick where the pairs of a moment stand together.

    Args:
        issues: by key = moment * Q + query.
        category: (Q,) number of each query's category, from 0.
        moment: (P,).
        query: (P,).
    """
    size = len(category)
    sums, latest = np.zeros(category.max() + 1), np.full(category.max() + 1, NEVER)
    rows = np.empty((len(query), 2))
    start = end = 0  # the issues of the moment whose sums stand in `sums`
    for p in range(len(query)):
        if p == 0 or moment[p] != moment[p - 1]:
            for at in range(start, end):
                of = category[issues.key[at] % size]
                sums[of], latest[of] = 0.0, NEVER
            start = np.searchsorted(issues.key, moment[p] * size)
            end = np.searchsorted(issues.key, (moment[p] + 1) * size)
            for at in range(start, end):
                of = category[issues.key[at] % size]
                sums[of] += issues.decayed[-1, at]
                latest[of] = min(latest[of], issues.last[at])
        rows[p, 0], rows[p, 1] = sums[category[query[p]]], latest[category[query[p]]]
    return rows


@compiled
def values_at(key: np.ndarray, value: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(P,): the values (G,) of wanted keys (P,), 0 where they are not among the sorted keys (G,)."""
    found = np.zeros(len(wanted))
    for p in range(len(wanted)):
        at = place(key, wanted[p])
        if at >= 0:
            found[p] = value[at]
    return found


@compiled
def age_buckets(days: np.ndarray) -> np.ndarray:
    """Buckets (int8) of AGE_EDGES, of ages in days of any shape."""
    return np.searchsorted(_AGE_EDGES, days).astype(np.int8)


@compiled
def place(sorted_keys: np.ndarray, wanted: int) -> int:
    """Position of a key, -1 where it is not there."""
    at = int(np.searchsorted(sorted_keys, wanted))
    return at if at < len(sorted_keys) and sorted_keys[at] == wanted else -1


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


class Neighbours(NamedTuple):
    """Those of query q stand from `start[q]` to `start[q + 1]`, by increasing number."""

    start: np.ndarray  # (Q + 1,)
    query: np.ndarray  # (N,)
    value: np.ndarray  # (N,) how similar they are


class Shop(NamedTuple):
    """What is the same for every shopper; Q queries."""

    day: int  # after the log, in days since 1970
    near: int  # so many of the queries that are similar to a history count as near
    vectors: np.ndarray  # (T + 1, h) of texts, the last is of unknown ones
    text_of_query: np.ndarray  # (Q,) rows of `vectors`
    category: np.ndarray  # (Q,)
    counts: np.ndarray  # (Q, 5): `FeatureMaker.shop`
    popular: np.ndarray  # (Q,) of 0 and 1
    similar: Neighbours
    flags: int  # of a profile


class History(NamedTuple):
    """A shopper: the published part, and what happened since."""

    behaviours: int
    active_days: int
    idle_days: float
    profile: np.ndarray  # which of the flags are 1
    issues: np.ndarray  # of ISSUE
    similar: np.ndarray  # of SIMILAR, by increasing number
    since: np.ndarray  # (R,) issued since then
    age: np.ndarray  # (R,) days
    latest: int  # the latest query, -1 where there is none
    recent: np.ndarray  # (L,) of BEHAVIOUR, newest first; text -1 and action 0 beyond the history


class Features(NamedTuple):
    """What the network reads of a shopper and C candidates."""

    behaviour: np.ndarray  # (L, h) of the latest behaviours, newest first
    age: np.ndarray  # (L,) buckets
    action: np.ndarray  # (L,), 0 beyond the history
    query: np.ndarray  # (C, h)
    plain: np.ndarray  # (C, F) in the order of `ctr_inputs.plain_columns`


@compiled
def features(shop: Shop, history: History, days: float, number: np.ndarray, words: np.ndarray) -> Features:
    """Of a shopper and C candidates.

    Args:
        shop: of the published version.
        history: the shopper.
        days: since the day after the published log.
        number: (C,) of the candidates, -1 for those that have none.
        words: (C, 2): `letters` of the latest query and the candidates.
    """
    query = np.maximum(number, 0)
    live = issues_of(history.since, history.age)
    issues = _all_issues(history.issues, live, days)
    about = _about(shop, history, live, days)
    like, value = _similar_to_history(shop.similar, history.similar, live, days)
    nearest = np.sort(value)[-shop.near] if len(value) > shop.near else 0.0
    own = own_columns(issues, query, np.full(len(query), about[1]))
    category = category_columns(issues, shop.category, np.zeros_like(query), query)
    similar = values_at(like, value, query)
    beside = shop.similar.start[max(history.latest, 0)], shop.similar.start[history.latest + 1]
    latest = values_at(
        shop.similar.query[beside[0] : beside[1]], shop.similar.value[beside[0] : beside[1]], query
    )
    one = own.shape[1]
    two = one + category.shape[1]
    three = two + shop.counts.shape[1]
    fixed = three + len(about) + 7
    plain = np.zeros((len(query), fixed + shop.flags), np.float32)
    for c in range(len(query)):
        plain[c, :one], plain[c, one:two] = own[c], category[c]
        plain[c, two:three] = shop.counts[query[c]]
        plain[c, three], plain[c, three + 1] = similar[c], latest[c]
        plain[c, three + 2 : three + 4] = words[c]
        plain[c, three + 4 : fixed - 3] = about
        plain[c, fixed - 3] = own[c, 3] > 0
        plain[c, fixed - 2] = shop.popular[query[c]]
        plain[c, fixed - 1] = similar[c] > 0 and similar[c] >= nearest
        for flag in history.profile:
            plain[c, fixed + flag] = 1.0
    behaviour, age, action = _behaviours(shop.vectors, history.recent, days)
    texts = np.empty((len(query), shop.vectors.shape[1]), np.float32)
    for c in range(len(query)):
        texts[c] = shop.vectors[shop.text_of_query[query[c]]]
    return Features(behaviour, age, action, texts, plain)


@compiled
def _all_issues(old: np.ndarray, live: Issues, days: float) -> Issues:
    """The published issues, so many days later, with those since."""
    size = len(old) + len(live.key)
    decayed = np.empty((len(HALF_LIVES), size))
    key, times = np.empty(size, np.int64), np.empty(size, np.int64)
    last, first = np.empty(size), np.empty(size)
    for row, half_life in enumerate(HALF_LIVES):
        share = 0.5 ** (days / half_life)
        for at in range(len(old)):
            decayed[row, at] = old[at].decayed[row] * share
        decayed[row, len(old) :] = live.decayed[row]
    for at in range(len(old)):
        key[at], times[at] = old[at].query, old[at].times
        last[at], first[at] = old[at].last + days, old[at].first + days
    key[len(old) :], times[len(old) :] = live.key, live.times
    last[len(old) :], first[len(old) :] = live.last, live.first
    issues = Issues(key, decayed, times, last, first)
    return grouped(issues) if len(live.key) else issues


@compiled
def _about(shop: Shop, history: History, live: Issues, days: float) -> np.ndarray:
    """(4,): behaviours, active days, days since the latest, weekday (0 is Thursday)."""
    idle = history.idle_days + days if history.behaviours else NEVER
    for age in live.last:
        idle = min(idle, age)
    active = history.active_days + len(np.unique(live.last.astype(np.int64)))
    weekday = (shop.day + math.floor(days)) % 7
    return np.array([float(history.behaviours + live.times.sum()), float(active), idle, float(weekday)])


@compiled
def _similar_to_history(
    neighbours: Neighbours, old: np.ndarray, live: Issues, days: float
) -> tuple[np.ndarray, np.ndarray]:
    """Queries similar to the history, by increasing number, and how much."""
    ends, starts = neighbours.start[1:][live.key], neighbours.start[live.key]
    size = len(old) + (ends - starts).sum()
    query, value = np.empty(size, np.int64), np.empty(size)
    share = 0.5 ** (days / OWN_HALF_LIVES[-1])
    for at in range(len(old)):
        query[at], value[at] = old[at].query, old[at].value * share
    if not len(live.key):
        return query, value
    at = len(old)
    for issued in range(len(live.key)):
        for near in range(starts[issued], ends[issued]):
            query[at] = neighbours.query[near]
            value[at] = neighbours.value[near] * live.decayed[len(OWN_HALF_LIVES) - 1, issued]
            at += 1
    every = np.unique(query)
    sums = np.zeros(len(every))
    for at in range(size):
        sums[place(every, query[at])] += value[at]
    return every, sums


@compiled
def _behaviours(
    vectors: np.ndarray, recent: np.ndarray, days: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(L, h), (L,) and (L,) of `Features`."""
    behaviour, age = np.empty((len(recent), vectors.shape[1]), np.float32), np.empty(len(recent))
    action = np.empty(len(recent), np.int64)
    for row in range(len(recent)):
        behaviour[row] = vectors[recent[row].text]
        age[row], action[row] = recent[row].age + days, recent[row].action
    return behaviour, age_buckets(age).astype(np.int64), action
