"""The whole of `aigq erase-user`, in an order in which it can be killed anywhere and called again."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aigq.erased import Erased
from aigq.erasure import places, rows
from aigq.erasure.scan import SHORTEST, Scanned, Sought, scan_files, scan_log, scan_store
from aigq.errors import UsageError
from aigq.runs import Run
from aigq.serving.keys import is_hashed, user_names, user_of
from aigq.serving.stores import Store, open_store
from aigq.serving.streams import EventLog, open_log
from aigq.serving.users import erase_all
from aigq.sources.importing import alone


def erase(run: Run, user: str, store: str, log: str) -> dict[str, Any]:
    """Remove a user from the tables of `data.tables`, the run, the store and the log, then scan for the id.

    The list of erased users comes first. What the run made from the user's rows is removed before the rows
    of RUN/prepared by which it is known that there is such a thing. Store and log, which may fail, come last.

    Args:
        run: its config names the tables, and `serving.hash_users_with`.
        user: the id, as the log has it.
        store: URL of the store.
        log: URL of the event log.

    Returns:
        `removed`: rows, keys and messages by place; `caches`: files and folders that were removed whole;
        `outdated`: stages whose models were trained with rows of a user who was erased, now or earlier;
        `scanned`: how many files, keys and messages; `found`: where the id still is; `sought_in`: what the
        scan can say of such an id.

    Raises:
        UsageError: the config differs from that of the run; the secret for names is not set, or not named
            though the store or the log has hashed names; an import works in the tables.
        StoreError, LogError: the store or the log does not answer or is full; call it again then.
    """
    run.check("prepare")
    with alone(run.config.data.tables):  # an import that began before would bring the user back
        return _erase(run, user, store, log)


def _erase(run: Run, user: str, store: str, log: str) -> dict[str, Any]:
    """What `erase` does, alone in the run and the tables."""
    name = user_names(run.config.serving.hash_users_with)(user)
    sought, tables, prepared = (
        Sought(frozenset((user, name))),
        run.config.data.tables,
        run.folder / "prepared",
    )
    listed = Erased.load(tables).adding(sought.ids)
    listed.save(tables)
    removed = {f"prepared/{file}": n for file, n in places.prepared_rows(prepared, sought.ids).items()}
    inside, caches = any(removed.values()), []
    if inside:
        run.outdate_models()
        run.forget("table")
        caches = places.remove_caches(run.folder)
    u2q = run.folder / "tables" / "u2q.parquet"
    removed["tables/u2q.parquet"] = rows.remove(u2q, "user_id", rows.of_users(sought.ids))
    of_tables = places.erase_tables(tables, sought.ids)
    removed |= {f"{tables}/{file}": n for file, n in of_tables.items()}
    if inside:
        places.prepare_again(run)
    online, looks = asyncio.run(_online(store, log, name, sought))  # last: it may fail, and needs no rows
    removed |= online
    looks = {"files": scan_files([run.folder, tables, *_files(store), *_files(log)], sought), **looks}
    return {
        "removed": {place: n for place, n in removed.items() if n},
        "caches": caches,
        "outdated": run.outdated_models(),
        "scanned": {what: look.looked_at for what, look in looks.items()},
        "found": [place for look in looks.values() for place in look.found],
        "sought_in": "all bytes" if user in sought.long else f"columns and keys: under {SHORTEST} characters",
    }


async def _online(
    store: str, log: str, name: str, sought: Sought
) -> tuple[dict[str, int], dict[str, Scanned]]:
    opened = open_store(store)
    try:
        stream = open_log(log)
        try:
            if not any(map(is_hashed, sought.ids)) and await _hashed(opened, stream):
                raise UsageError(
                    "store and log know users by hashes: name the secret by serving.hash_users_with, in "
                    "--config or --set, and call it again"
                )
            removed = await erase_all(opened, stream, name)
            keys, messages = await scan_store(opened, sought), await scan_log(stream, sought)
            return removed, {"keys": keys, "messages": messages}
        finally:
            await stream.close()
    finally:
        await opened.close()


async def _hashed(store: Store, log: EventLog) -> bool:
    """Whether all users of the store, or of the log, have hashed names; it ends at the first other one."""

    async def all_of(names: AsyncIterator[str | None]) -> bool:
        known = False
        async for name in names:
            if name and not is_hashed(name):
                return False
            known |= bool(name)
        return known

    of_keys = (user_of(entry.key) async for entry in store.scan("aigq:"))
    return await all_of(of_keys) or await all_of(user async for user, _ in log.dump())


def _files(url: str) -> list[Path]:
    """The files behind the URL of an embedded store or log."""
    parts = urlsplit(url)
    if parts.scheme not in ("lmdb", "sqlite"):
        return []
    path = Path(parts.netloc + parts.path)
    return [path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))]
