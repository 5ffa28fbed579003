"""The shopper's own queries, most frequent and recent first."""

from collections.abc import Sequence

import numpy as np

from aigq.errors import StageError
from aigq.prepared import CausalCounts, Moment, Prepared
from aigq.recall.channel import Hint
from aigq.recall.histories import Entries, Servable, batches, entries_of


class Personal:
    """Queries of the moment's own history by decayed frequency, ties by recency.

    Args:
        half_life_days: a query issued this long ago counts half.
        k_users: distinct users that must have issued a query before it is shown.
    """

    name = "personal"

    def __init__(self, half_life_days: float, k_users: int) -> None:
        self._half_life, self._k = half_life_days, k_users
        self._counts: CausalCounts | None = None

    def fit(self, prepared: Prepared) -> None:
        """Keep the daily user counts, which say what may be shown; histories come with the moments."""
        self._counts = CausalCounts(prepared.query_days, None)

    def recommend(self, moments: Sequence[Moment], n: int) -> list[list[Hint]]:
        """At most n of the shopper's own queries; nothing for an empty history."""
        if self._counts is None:
            raise StageError("personal: recommend() before fit()")
        lists: list[list[Hint]] = [[] for _ in moments]
        for start, batch in batches(moments):
            entries = entries_of(batch, self._counts.queries, self._half_life)
            masks, row = Servable(self._counts, self._k).mask([m.day for m in batch])
            allowed = masks[row[entries.moment], entries.query]
            for i in _first_of_each(entries, allowed, n):
                query = str(self._counts.queries[entries.query[i]])
                hint = Hint(query, float(entries.weight[i]), _reason(entries, i))
                lists[start + entries.moment[i]].append(hint)
        return lists


def _first_of_each(entries: Entries, allowed: np.ndarray, n: int) -> np.ndarray:
    """Positions of the entries to show: at most n per moment, moment by moment, best first."""
    order = np.lexsort((entries.query, entries.age, -entries.weight, entries.moment))
    order = order[allowed[order]]
    moment = entries.moment[order]
    starts = np.searchsorted(moment, moment, side="left")
    first: np.ndarray = order[np.arange(len(order)) - starts < n]
    return first


def _reason(entries: Entries, i: int) -> str:
    count, bought, searched = int(entries.count[i]), int(entries.bought[i]), int(entries.searched[i])
    verb = "bought" if bought * 2 > count else "searched" if searched * 2 > count else "looked at"
    times = "once" if count == 1 else f"{count} times"
    return f"you {verb} this {times}"
