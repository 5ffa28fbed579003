"""The moment of a live user: what was published and what happened since, as the generator reads it."""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from aigq.prepared import Moment, Prepared, day_after, latest_moments, log_end
from aigq.serving.log_time import DAY_S, days_back
from aigq.serving.state import Past
from aigq.tables import BEHAVIOURS


class Histories:
    """Published histories by name of the user.

    Args:
        prepared: of the run that was published.
        name: from a user id to the name in store and log.
    """

    def __init__(self, prepared: Prepared, name: Callable[[str], str] = str) -> None:
        self._day = day_after(prepared)
        self._end = log_end(prepared)
        self._none = prepared.behaviours.slice(0, 0)
        moments = latest_moments(prepared, self._day)
        self._by_name = {name(moment.user_id): moment for moment in moments}

    def moment(self, number: int, user: str, live: Sequence[Past], now: float, *, published: bool) -> Moment:
        """The user now, or in the log's own time where the log is stale.

        Args:
            number: tells the moments of a batch apart.
            user: name in the store.
            live: behaviours in any order; those before the end of the log are left out.
            now: seconds since 1970.
            published: whether the store has the user's published history; without it the log's rows of the
                user are not read, since the user may have been erased.
        """
        known = self._by_name.get(user) if published else None
        history = known.history if known is not None else self._none
        shift = days_back(now, self._day)
        after = sorted((p for p in live if p.at > self._end), key=lambda p: (p.at, p.id))
        session = history["session"][-1].as_py() + 1 if history.num_rows else 0
        rows = [_row(user, p, shift, session) for p in after]
        if rows:
            live_rows = pa.Table.from_pylist(rows, schema=BEHAVIOURS).cast(self._none.schema)
            history = pa.concat_tables([history, live_rows])
        moment = np.datetime64(int((now - shift) * 1e6), "us")
        real = known.user_id if known is not None else user  # profiles go by the log's own id
        return Moment(-1 - number, real, moment, int((now - shift) // DAY_S), history)


def _row(user: str, past: Past, shift: float, session: int) -> dict[str, object]:
    at = past.at - shift
    return {
        "user_id": user,
        "ts": np.datetime64(int(at * 1e6), "us"),
        "day": int(at // DAY_S),
        "session": session,
        "action": past.action,
        "text": past.text,
        "query": past.query,
        "item_id": past.item,
        "category": past.category,
    }
