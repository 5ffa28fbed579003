"""The published table as one process sees it: an immutable snapshot that is swapped as a whole."""

import asyncio
import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from aigq.serving import keys
from aigq.serving.metrics import PUBLISHED
from aigq.serving.state import CatalogPart, Current, QueryInfo, decode, intact
from aigq.serving.stores import Store, StoreError

if TYPE_CHECKING:
    from aigq.serving.click_model import ClickModel

_COLLECT_AFTER: Final = 50_000  # objects


class Catalog:
    """One version of the table. A request takes one snapshot and asks only for keys of its version.

    Args:
        version: its name; "" when nothing was published.
        queries: all that may be shown.
        popular: the shop's top queries.
        published_at: seconds since 1970.
        clicks: the CTR model that was published with it.
    """

    def __init__(
        self,
        version: str = "",
        queries: Sequence[QueryInfo] = (),
        popular: Sequence[str] = (),
        published_at: float = 0.0,
        clicks: "ClickModel | None" = None,
    ) -> None:
        self.version, self.published_at, self.clicks = version, published_at, clicks
        self.popular = list(popular)
        self.categories = {q.query: q.category for q in queries if q.category is not None}
        self._items = {q.query: q.items for q in queries}
        self._counted = any(self._items.values())

    def __contains__(self, query: str) -> bool:
        return query in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def results(self, query: str) -> int | None:
        """Distinct items that the query led to in the published log; None where it says so of no query."""
        return self._items.get(query, 0) if self._counted else None


async def current(store: Store) -> Current | None:
    """Which version is served. Raises StoreError when the store fails or the pointer is damaged."""
    try:
        return decode(Current, (await store.get([keys.CURRENT]))[0])
    except msgspec.DecodeError as error:
        raise StoreError(f"the pointer {keys.CURRENT} is damaged ({error}); publish again") from error


async def written(store: Store) -> dict[str, float]:
    """Versions that have keys, switched on or not, and when each was written to, in seconds since 1970."""
    return intact(dict[str, float], (await store.get([keys.VERSIONS]))[0]) or {}


async def load(store: Store, version: str, *, clicks: bool = False) -> Catalog:
    """Read a version whole, with its CTR model if `clicks`.

    Raises StoreError when a part of it is missing or damaged.
    """
    try:
        first = decode(CatalogPart, (await store.get([keys.catalog(version, 0)]))[0])
        if first is None:
            raise StoreError(f"the table {version} is not in the store any more; publish again")
        names = [keys.catalog(version, part) for part in range(1, first.parts)]
        rest = [decode(CatalogPart, value) for value in await store.get(names)]
    except msgspec.DecodeError as error:
        raise StoreError(f"the table {version} is damaged ({error}); publish again or roll back") from error
    if any(part is None for part in rest):
        raise StoreError(f"the table {version} lacks a part; publish again or roll back")
    queries = [query for part in (first, *rest) if part is not None for query in part.queries]
    model = None
    if clicks:
        from aigq.serving.click_model import ClickModel  # numba and scipy, for those who rank by clicks

        model = await ClickModel.load(store, version)
    return Catalog(version, queries, first.popular, first.published_at, model)


class Catalogs:
    """Holds the present snapshot and follows the pointer.

    Args:
        store: where tables are published.
        clicks: whether the CTR model is read too.
        study: called in a thread with the queries of a snapshot before it is swapped in.
    """

    def __init__(
        self, store: Store, *, clicks: bool = False, study: Callable[[Iterable[str]], None] | None = None
    ) -> None:
        self._store, self._clicks, self._study, self.now = store, clicks, study, Catalog()

    async def refresh(self) -> bool:
        """Load another version if the pointer names one; True if it did. Swapped when all is read."""
        pointer = await current(self._store)
        if pointer is None or pointer.version == self.now.version:
            return False
        loaded = await load(self._store, pointer.version, clicks=self._clicks)
        if self._study is not None:
            await asyncio.to_thread(self._study, loaded)
        self.now = loaded
        PUBLISHED.set(self.now.published_at)
        return True

    async def follow(self) -> None:
        """Refresh, and settle what is new. Raises StoreError; then the present snapshot stays."""
        if await self.refresh():
            settle()


def settle() -> None:
    """Take all that is loaded out of the collector's walks, 40 ms each: a version lives for hours.

    What an answer makes holds no cycles and is gone by itself, so the collector need not look at every 700th.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 10, 10)
