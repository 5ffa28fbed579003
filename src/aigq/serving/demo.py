"""`aigq serve --demo`: a storefront under /demo that shows a shopper's history beside the search box.

It shows the histories of published users to whoever opens it. So it is for one's own machine only.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from litestar import Request, Response, Router, get
from litestar.datastructures import CacheControlHeader
from litestar.di import Provide
from litestar.params import Dependency
from litestar.static_files import create_static_files_router
from rapidfuzz import fuzz, process

from aigq.serving import keys
from aigq.serving.service import Service
from aigq.serving.state import Base, ItemInfo, Live, Past, U2q, intact, recent

PATH: Final = "/demo"
_HERE: Final = Path(__file__).parent
_POLICY: Final = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'"
_SHOPPERS: Final = 5
_LOOKED_AT: Final = 300
"""Published users among whom the shoppers of the demo are chosen."""

_ITEMS: Final = 20_000
"""Published items that the demo's search knows, at most."""

_FOUND: Final = 12
_ALIKE: Final = 70.0
_HISTORY: Final = 15
_USER: Final = re.compile(r"\{u:(.+)\}$")


class Shopper(msgspec.Struct):
    """A published user to try, and the query that the user issued most."""

    user: str
    favourite: str


class Behaviour(msgspec.Struct):
    """One line of a history; `at` is seconds since 1970."""

    at: float
    action: str
    text: str


class Writing(msgspec.Struct):
    """One list of the nearline worker."""

    model: str
    at: float
    queries: list[str]


class History(msgspec.Struct):
    """What the service knows about a shopper, newest first."""

    past: list[Behaviour]
    u2q: list[Writing]


class Item(msgspec.Struct):
    """A search result."""

    id: str
    text: str
    category: str | None


class Shelf:
    """The published shoppers and items, read once per table.

    Args:
        service: whose store is read.
    """

    def __init__(self, service: Service) -> None:
        self._service, self._version = service, ""
        self._shoppers: list[Shopper] = []
        self._items: list[Item] = []

    async def shoppers(self) -> list[Shopper]:
        """A handful of published users: many own queries, and each another favourite."""
        await self._follow()
        return self._shoppers

    async def search(self, query: str) -> list[Item]:
        """Items with about these words, then items of the query's leaf category."""
        await self._follow()
        texts = [item.text for item in self._items]
        alike = process.extract(query, texts, scorer=fuzz.token_set_ratio, limit=_FOUND, score_cutoff=_ALIKE)
        category = self._service.catalogs.now.categories.get(query)
        found = [self._items[place] for _, _, place in alike]
        same = [item for item in self._items if category is not None and item.category == category]
        return list({item.id: item for item in (*found, *same)}.values())[:_FOUND]

    async def _follow(self) -> None:
        version = self._service.catalogs.now.version
        if version and version != self._version:
            self._shoppers, self._items = await self._read_shoppers(version), await self._read_items(version)
            self._version = version

    async def _read_shoppers(self, version: str) -> list[Shopper]:
        names = await self._names(f"aigq:base:{version}:", _LOOKED_AT)
        values = await self._service.store.get(names)
        bases = [(name, intact(Base, value)) for name, value in zip(names, values, strict=True)]
        known = [(name, base) for name, base in bases if base is not None and base.own]
        known.sort(key=lambda pair: (-len(pair[1].own), pair[0]))
        users = [(_USER.search(name), base.own[0].query) for name, base in known]
        found = [Shopper(user[1], query) for user, query in users if user is not None]
        varied = {shopper.favourite: shopper for shopper in reversed(found)}
        return [shopper for shopper in found if varied[shopper.favourite] is shopper][:_SHOPPERS]

    async def _read_items(self, version: str) -> list[Item]:
        prefix = f"aigq:item:{version}:"
        names = await self._names(prefix, _ITEMS)
        values = await self._service.store.get(names)
        infos = [(name, intact(ItemInfo, value)) for name, value in zip(names, values, strict=True)]
        items = [Item(name.removeprefix(prefix), i.text, i.category) for name, i in infos if i and i.text]
        return list({item.text: item for item in items}.values())  # many items are called the same

    async def _names(self, prefix: str, most: int) -> list[str]:
        names: list[str] = []
        async for entry in self._service.store.scan(prefix):
            names.append(entry.key)
            if len(names) == most:
                break
        return names


Known = Annotated[Shelf, Dependency(skip_validation=True)]


@get("/api/shoppers")
async def get_shoppers(shelf: Known) -> list[Shopper]:
    """Whom the visitor can be."""
    return await shelf.shoppers()


@get("/api/history")
async def get_history(request: Request[Any, Any, Any], user: str) -> History:
    """A shopper's latest behaviours and the worker's lists; unlike a request for hints, it is no showing."""
    service: Service = request.app.state.service
    version = service.catalogs.now.version
    values = await service.store.get([keys.base(version, user), keys.live(user), keys.u2q(user)])
    base, live = intact(Base, values[0]) or Base(), intact(Live, values[1]) or Live()
    runs = (intact(U2q, values[2]) or U2q()).runs
    return History(
        [_behaviour(past) for past in recent(base, live)[:_HISTORY]],
        [Writing(run.model, run.at, [hint.query for hint in run.hints]) for run in runs],
    )


@get("/api/items")
async def get_items(shelf: Known, words: str) -> list[Item]:
    """Search results."""
    return await shelf.search(words)


def routes(service: Service) -> list[Router]:
    """The storefront, its data and the web component, to be served beside the API of `service`."""
    files = create_static_files_router(
        PATH,
        [_HERE / "demo", _HERE / "widget"],
        html_mode=True,
        after_request=_with_policy,
        cache_control=CacheControlHeader(no_cache=True),
    )
    shelf = Shelf(service)
    api = Router(
        PATH,
        route_handlers=[get_shoppers, get_history, get_items],
        dependencies={"shelf": Provide(lambda: shelf, sync_to_thread=False)},
        include_in_schema=False,
    )
    return [files, api]


def _behaviour(past: Past) -> Behaviour:
    return Behaviour(past.at, past.action, past.text)


def _with_policy(response: Response[Any]) -> Response[Any]:
    response.headers["content-security-policy"] = _POLICY
    return response
