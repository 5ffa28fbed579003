"""The lists of x2q and co-click, read from the store and kept: a published version never changes."""

import sys
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from aigq.serving.channels import Scores
from aigq.serving.metrics import DAMAGED
from aigq.serving.state import Neighbours, intact
from aigq.serving.stores import Store

KEPT: Final = 20_000
"""Lists in the memory of one process, at most: some 70 MB. The names hold the version, so a new one drives
out the old."""

_NONE: Final[Scores] = {}


class Lists:
    """Lists by key.

    Args:
        store: where tables are published.
        kept: so many stay in memory, the latest that were asked for.
    """

    def __init__(self, store: Store, kept: int = KEPT) -> None:
        self._store, self._most = store, kept
        self._kept: OrderedDict[str, Scores] = OrderedDict()

    async def get(self, names: Sequence[str]) -> dict[str, Scores]:
        """The list of each key, empty where there is none; in one reading of the store, or in none.

        Raises StoreError when the store does not answer for what is not kept.
        """
        kept, found = self._kept, dict[str, Scores]()
        missing = []
        for name in names:
            known = kept.get(name)
            if known is None:
                missing.append(name)
            else:
                kept.move_to_end(name)
                found[name] = known
        if missing:
            for name, value in zip(missing, await self._store.get(missing), strict=True):
                found[name] = kept[name] = _read(name, value)
            while len(kept) > self._most:
                kept.popitem(last=False)
        return found


def _read(name: str, value: bytes | None) -> Scores:
    found = intact(Neighbours, value)
    if found is None and value is not None:
        DAMAGED.labels(name.split(":", 2)[1]).inc()
    if found is None:
        return _NONE
    # one string for a query wherever it is listed: less memory, and found by its address
    return dict(zip(map(sys.intern, found.queries), found.scores, strict=True))
