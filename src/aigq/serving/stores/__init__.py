"""Where hints, states and tables are kept. `open_store` opens one by URL.

memory:                             this process only; tests
lmdb:PATH[?map_gb=16]               embedded, several processes on one machine; the default
redis://[:PASSWORD@]HOST[:PORT]/DB  Redis or Valkey; rediss:// with TLS; redis+cluster:// a cluster
"""

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from aigq.errors import UsageError
from aigq.serving.stores.store import Change, Clock, Entry, Store, StoreError

__all__ = ["Change", "Clock", "Entry", "Store", "StoreError", "need_store", "open_store"]

_REDIS = ("redis", "rediss", "valkey", "valkeys", "redis+cluster", "rediss+cluster")


def open_store(url: str) -> Store:
    """The store behind a URL. Raises UsageError for a wrong URL, StoreError when it cannot be opened."""
    parts = urlsplit(url)
    if parts.scheme == "memory":
        from aigq.serving.stores.memory import MemoryStore

        return MemoryStore()
    if parts.scheme == "lmdb":
        from aigq.serving.stores.embedded import LmdbStore

        path = parts.netloc + parts.path
        if not path:
            raise UsageError("an LMDB store needs a folder: lmdb:runs/store")
        options = parse_qs(parts.query)
        if unknown := options.keys() - {"map_gb"}:
            raise UsageError(f"an LMDB URL has no parameter {min(unknown)!r}; known: map_gb")
        return LmdbStore(path, map_gb=_number(options.get("map_gb", ["16"])[0], "map_gb"))
    if parts.scheme in _REDIS:
        from aigq.serving.stores.networked import RedisStore

        return RedisStore(url)
    raise UsageError(
        f"no store is called {shown(url)!r}; known: memory:, lmdb:PATH, {'://, '.join(_REDIS)}://"
    )


def need_store(url: str) -> None:
    """Raise UsageError where an LMDB store is not there; `open_store` would make an empty one."""
    parts = urlsplit(url)
    path = parts.netloc + parts.path
    if parts.scheme == "lmdb" and path and not Path(path).is_dir():
        raise UsageError(f"no store at {path}; give the URL that `aigq serve --store` has")


def shown(url: str) -> str:
    """A URL without its password, for messages and logs."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{parts.username or ''}:***@{host}").geturl()


def _number(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if value <= 0:
        raise UsageError(f"{name} must be a number above 0, not {text!r}")
    return value
