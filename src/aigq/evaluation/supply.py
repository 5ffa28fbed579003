"""What only AIGQ's channels supply of the blended lists. Paper section 5; method.md section 7.

    queries      of the shown ones, those that no other channel proposed
    categories   of a list's leaf categories, those for which no other channel proposed any query

The paper gives both as shares of what its own channels supply, so both denominators are here.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from aigq.systems import AIGQ_CHANNELS


def shares(supply: pa.Table, k: int) -> dict[str, Any]:
    """Counts and shares at cut-off k of a table SUPPLY.

    `shown` is counted list by list, a leaf category once per list. `aigq` are those that u2q or x2q propose,
    `only_aigq` those that nothing else does. A share is null where there is nothing to divide by.
    """
    shown: list[set[str]] = []  # channels of each shown query
    categories: list[set[str]] = []  # of each leaf category of each list, those of all candidates
    for candidates in _lists(supply):
        shown += [set(row["channels"]) for row in candidates if row["rank"] <= k]
        known = [row for row in candidates if row["category"] is not None]
        channels: dict[str, set[str]] = {}
        for row in known:
            channels.setdefault(row["category"], set()).update(row["channels"])
        visible = dict.fromkeys(row["category"] for row in known if row["rank"] <= k)
        categories += [channels[category] for category in visible]
    every = sorted({channel for channels in shown for channel in channels})
    by_channel = {c: _share(sum(c in channels for channels in shown), len(shown)) for c in every}
    return {"k": k, "queries": _counted(shown), "categories": _counted(categories), "by_channel": by_channel}


def _lists(supply: pa.Table) -> Iterable[list[dict[str, Any]]]:
    """The candidates of each sample."""
    by_sample: dict[int, list[dict[str, Any]]] = {}
    for row in supply.to_pylist():
        by_sample.setdefault(row["sample_id"], []).append(row)
    return by_sample.values()


def _counted(supplied: list[set[str]]) -> Mapping[str, Any]:
    mine = [channels for channels in supplied if not channels.isdisjoint(AIGQ_CHANNELS)]
    only = [channels for channels in mine if channels.issubset(AIGQ_CHANNELS)]
    return {
        "shown": len(supplied),
        "aigq": len(mine),
        "only_aigq": len(only),
        "only_aigq_of_shown": _share(len(only), len(supplied)),
        "only_aigq_of_aigq": _share(len(only), len(mine)),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
