"""`aigq import log`: what `POST /v1/events` took and the impressions of `aigq serve` as rows of the tables.

Each event becomes a line of UBI 1.3.0, and an answer's impression one line per hint; `ubi` reads the lines,
so what their fields mean is said in one place. The whole log is read each time, dead letters too; what was
imported before collapses.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from aigq.serving.keys import user_names
from aigq.serving.state import Event
from aigq.serving.streams import Message, need_log, open_log
from aigq.sources import ubi
from aigq.sources.checks import id_sql
from aigq.sources.importing import import_rows
from aigq.sources.summary import ImportSummary
from aigq.sources.workspace import MEMORY_LIMIT, Workspace, sql
from aigq.tables import Provenance

_HINTS: Final = ("hint_impression", "hint_click")
_DAMAGED: Final = "(damaged)"
_decode: Final = msgspec.msgpack.Decoder(Event).decode
_encode: Final = msgspec.json.Encoder().encode


def import_log(
    url: str,
    out: Path,
    *,
    hash_users_with: str | None = None,
    hints_only: bool = False,
    now: datetime | None = None,
    memory_limit: str = MEMORY_LIMIT,
) -> ImportSummary:
    """Read an event log and write or update the tables of `out`, as `import_source` does.

    Args:
        url: of the log, see serving.streams.
        out: the folder of the tables. What they say of an item stays as it is.
        hash_users_with: as the service has it. Users whom the tables know by their id get that; others keep
            the hashed name that the log has.
        hints_only: only hints that were shown and clicked, where another log tells the rest.
        now: the moment against which times in the future are judged.
        memory_limit: DuckDB's; what does not fit spills to disk.

    Raises:
        UsageError: no log has such a URL, or no file is there; the secret for names is not set.
        LogError: the log does not answer; nothing was written.
        EmptyLogError: no event is there, and none was; nothing was written.
    """
    name = user_names(hash_users_with)
    need_log(url)

    def fill(workspace: Workspace) -> Provenance:
        lines = workspace.folder / "log"
        known = {} if hash_users_with is None else _known_as(workspace, out, name)
        if asyncio.run(_write_lines(url, lines, known, hints_only)):
            ubi.load(workspace, lines)
            _adjust(workspace, out)
        return _provenance(out)

    return import_rows("log", fill, out, now=now, memory_limit=memory_limit, name="the event log")


def _known_as(workspace: Workspace, out: Path, name: Callable[[str], str]) -> dict[str, str]:
    """Hashed name -> id of the users of the tables."""
    events = out / "events.parquet"
    if not events.exists():
        return {}
    users = workspace.rows(f"SELECT DISTINCT user_id FROM read_parquet({sql(events)})")
    return {name(user): user for (user,) in users}


async def _write_lines(url: str, path: Path, known: dict[str, str], hints_only: bool) -> int:
    """The events of a log as UBI lines; returns how many lines."""
    log, written = open_log(url), 0
    try:
        with path.open("wb") as file:
            async for line in _lines(log.dump(), known, hints_only):
                file.write(_encode(line) + b"\n")
                written += 1
    finally:
        await log.close()
    return written


async def _lines(
    messages: AsyncIterator[Message], known: dict[str, str], hints_only: bool
) -> AsyncIterator[dict[str, Any]]:
    async for message in messages:
        if not message.body:
            continue  # a dead letter about a list that could not be written
        try:
            event = _decode(message.body)
            told = list(_told(event, known.get(event.user, event.user)))
        except (msgspec.DecodeError, ValueError, OverflowError, OSError):
            yield {"action_name": _DAMAGED, "body": repr(message.body[:900])}
            continue
        if not hints_only or event.action in _HINTS:
            for line in told:
                yield line


def _told(event: Event, user: str) -> Iterator[dict[str, Any]]:
    """An event as UBI. Raises ValueError, OverflowError or OSError where its time is none."""
    at = datetime.fromtimestamp(event.at, UTC).isoformat(timespec="microseconds")
    shown = enumerate((query for query, _ in event.hints or ()), start=1)
    # an answer to nobody in particular is one row, however many hints it had
    own = [(event.position, event.query)]
    each: Iterable[tuple[int | None, str | None]] = shown if event.hints and user else own
    for position, query in each:
        yield {
            "action_name": event.action,
            "user_id": user,
            "timestamp": at,
            "event_id": event.id,
            "query_id": event.request,
            "user_query": query,
            "event_attributes": {
                "object": {"object_id": event.item, "description": event.text},
                "position": {"ordinal": position},
            },
        }


def _adjust(workspace: Workspace, out: Path) -> None:
    """What differs from a log in files: rows have no lasting number, and an event that came twice, which its
    id tells, happened once, at the earlier time. A client's name of an item is no news to a catalogue.
    """
    workspace.db.execute("ALTER VIEW raw RENAME TO told")
    workspace.db.execute(f"""
        CREATE VIEW raw AS SELECT * REPLACE (
            NULL::BIGINT AS row,
            CASE WHEN action = {sql(_DAMAGED)} THEN 'not an event' END AS reason,
            min(ts) OVER (PARTITION BY user_id, action, query, item_id, content ->> '$.event_id') AS ts)
        FROM told
    """)
    workspace.db.execute("ALTER VIEW raw_items RENAME TO told_items")
    items = out / "items.parquet"
    named = f"SELECT item_id FROM read_parquet({sql(items)}) WHERE title IS NOT NULL OR category IS NOT NULL"
    unnamed = f"WHERE {id_sql('item_id')} NOT IN ({named})" if items.exists() else ""
    workspace.db.execute(f"CREATE VIEW raw_items AS SELECT * FROM told_items {unnamed}")


def _provenance(out: Path) -> Provenance:
    """Shoppers type what the service logs; in tables with constructed queries the whole stays that."""
    try:
        about = json.loads((out / "import.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return "typed"
    return "constructed" if about.get("provenance") == "constructed" else "typed"
