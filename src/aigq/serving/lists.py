"""The lists of x2q and co-click, read from the store and kept: a published version never changes."""

import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from aigq.serving import keys
from aigq.serving.metrics import DAMAGED
from aigq.serving.state import Neighbours, Past, intact
from aigq.serving.stores import Store

KEPT: Final = 20_000
"""Lists in the memory of one process, at most: some 70 MB. What is asked for holds the version, so a new one
drives out the old."""

Scores = Mapping[str, float]
"""A published list: queries with their scores, best first."""

_NONE: Final[Scores] = {}


class Trigger(NamedTuple):
    """What x2q may know a behaviour by, most special first: the first that has a list answers (back-off)."""

    version: str
    item: str | None
    query: str
    category: str | None

    @classmethod
    def of(cls, version: str, past: Past) -> "Trigger":
        """The trigger that a behaviour is."""
        return cls(version, past.item, past.query or past.text, past.category)

    def names(self) -> list[str]:
        """Where the store may have its list."""
        item = [keys.x2q(self.version, "item", self.item)] if self.item else []
        category = [keys.x2q(self.version, "category", self.category)] if self.category else []
        return [*item, keys.x2q(self.version, "query", self.query), *category]


class Beside(NamedTuple):
    """The neighbours of a query."""

    version: str
    query: str

    def names(self) -> list[str]:
        """As of a trigger."""
        return [keys.coclick(self.version, self.query)]


class Lists:
    """Lists by what they are of.

    Args:
        store: where tables are published.
        kept: so many stay in memory, the latest that were asked for.
    """

    def __init__(self, store: Store, kept: int = KEPT) -> None:
        self._store, self._most = store, kept
        self._kept: OrderedDict[Trigger | Beside, Scores] = OrderedDict()

    async def get(self, asked: Sequence[Trigger | Beside]) -> dict[Trigger | Beside, Scores]:
        """The list of each, empty where there is none; in one reading of the store, or in none.

        Raises StoreError when the store does not answer for what is not kept.
        """
        kept, found = self._kept, dict[Trigger | Beside, Scores]()
        missing = []
        for one in asked:
            known = kept.get(one)
            if known is None:
                missing.append(one)
            else:
                kept.move_to_end(one)
                found[one] = known
        if missing:
            read = await self._read(missing)
            kept.update(read)
            found.update(read)
            while len(kept) > self._most:
                kept.popitem(last=False)
        return found

    async def _read(self, asked: Sequence[Trigger | Beside]) -> dict[Trigger | Beside, Scores]:
        names = list(dict.fromkeys(name for one in asked for name in one.names()))
        values = await self._store.get(names)
        lists = {name: _scores(name, value) for name, value in zip(names, values, strict=True)}
        return {one: next((lists[name] for name in one.names() if lists[name]), _NONE) for one in asked}


def _scores(name: str, value: bytes | None) -> Scores:
    found = intact(Neighbours, value)
    if found is None and value is not None:
        DAMAGED.labels(name.split(":", 2)[1]).inc()
    if found is None:
        return _NONE
    # one string for a query wherever it is listed: less memory, and found by its address
    return dict(zip(map(sys.intern, found.queries), found.scores, strict=True))
