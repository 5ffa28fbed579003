"""What every channel promises, checked on the tiny shop."""

from dataclasses import replace

import numpy as np
import pyarrow.compute as pc

from aigq.prepared import CausalCounts, Moment, Prepared
from aigq.recall.channel import RecallChannel

K_USERS = 3


def check(channel: RecallChannel, prepared: Prepared) -> None:
    """Fit, then length, order, repeats, k rule, determinism, causality, empty and unknown shoppers."""
    channel.fit(prepared)
    moments = prepared.moments(prepared.split("test"))
    stranger = Moment(
        10**6, "nobody", np.datetime64("2026-02-06"), moments[0].day, prepared.behaviours.slice(0, 0)
    )
    lists = channel.recommend([*moments, stranger], 4)
    assert len(lists) == len(moments) + 1
    assert any(lists)
    assert channel.recommend([], 4) == []
    assert all(not hints for hints in channel.recommend(moments[:1], 0))
    counts = CausalCounts(prepared.query_days, None)
    for moment, hints in zip([*moments, stranger], lists, strict=True):
        queries = [hint.query for hint in hints]
        assert len(queries) <= 4
        assert len(set(queries)) == len(queries)
        assert set(queries) <= counts.servable(moment.day, K_USERS)
        assert [h.score for h in hints] == sorted((h.score for h in hints), reverse=True)
        assert all(hint.reason for hint in hints)
    assert channel.recommend([*moments, stranger], 4) == lists
    _future_is_invisible(channel, prepared, moments, lists)


def _future_is_invisible(
    channel: RecallChannel, prepared: Prepared, moments: list[Moment], lists: list[list]
) -> None:
    """Dropping every count of the moments' last day and later changes no list of that day."""
    last = max(m.day for m in moments)
    keep = pc.less(prepared.query_days["day"], last)
    channel.fit(replace(prepared, query_days=prepared.query_days.filter(keep)))
    late = [(m, hints) for m, hints in zip(moments, lists[: len(moments)], strict=True) if m.day == last]
    again = channel.recommend([m for m, _ in late], 4)
    assert [[h.query for h in hints] for hints in again] == [[h.query for h in hints] for _, hints in late]
