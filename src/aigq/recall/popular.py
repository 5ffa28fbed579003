"""Popular queries with time decay: what everybody else is looking for."""

from collections.abc import Sequence

from aigq.errors import StageError
from aigq.prepared import CausalCounts, Moment, Prepared
from aigq.recall.channel import Hint


class Popular:
    """The same list for everybody on one day, counted on earlier days only.

    Args:
        half_life_days: a query issued this long ago counts half.
        k_users: distinct users that must have issued a query before it is shown.
    """

    name = "popular"

    def __init__(self, half_life_days: float, k_users: int) -> None:
        self._half_life, self._k = half_life_days, k_users
        self._counts: CausalCounts | None = None

    def fit(self, prepared: Prepared) -> None:
        """Keep the daily counts; which of them may be used depends on the moment's day."""
        self._counts = CausalCounts(prepared.query_days, self._half_life)

    def recommend(self, moments: Sequence[Moment], n: int) -> list[list[Hint]]:
        """The day's top queries for every moment of that day."""
        if self._counts is None:
            raise StageError("popular: recommend() before fit()")
        by_day: dict[int, list[Hint]] = {}
        for day in {moment.day for moment in moments}:
            top = self._counts.top(day, n, self._k)
            by_day[day] = [Hint(query, share, "popular in the shop these days") for query, share in top]
        return [list(by_day[moment.day]) for moment in moments]
