"""From checked rows to tables: collapse duplicates, merge with what is there, replace the files at once."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from aigq.erased import REASON, Erased
from aigq.errors import EmptyLogError, SourceError
from aigq.sources.checks import UNKNOWN_ACTION
from aigq.sources.summary import FOR_THE_CALLER, NAME_LENGTH, ImportSummary, names_of
from aigq.sources.workspace import Workspace, sql
from aigq.tables import EVENT_KEY, EVENTS, IMPORTED_TABLES, Provenance

_KEY = ", ".join(EVENT_KEY)
_COLUMNS = ", ".join(EVENTS.names)
_BATCH = 100_000
_ORDER = {
    "events": _KEY,
    "items": "item_id",
    "users": "user_id",
    "rejected": "file, row, reason, content",
}
_ITEM_FIELDS = {
    "title": "title <> ''",
    "category": "len(category) > 0",
    "brand": "brand <> ''",
    "attributes": "cardinality(attributes) > 0",
    "price": "isfinite(price)",
}
"""When a row says something about a field; a later log that is silent leaves what an earlier one said."""
_USER_FIELDS = {"profile": "cardinality(profile) > 0"}
_OTHERS = """(SELECT file, row, reason, content FROM checked_items WHERE file IS NOT NULL
    UNION ALL SELECT file, row, reason, content FROM checked_users WHERE file IS NOT NULL)"""
"""Rows of files of items and users."""
_NAMES = 5
"""So many unknown actions are named."""
_LAST = "events"
"""Put in place after all others: with it the tables are whole, and other commands look for it."""


def write_tables(
    workspace: Workspace, out: Path, source: str, provenance: Provenance, erased: Erased
) -> ImportSummary:
    """Merge `checked`, `checked_items` and `checked_users` into the tables of `out`.

    Raises:
        EmptyLogError: no event is left; nothing is written.
    """
    old = _read_old(workspace, out)
    counts = _merge_events(workspace, old)
    _merge_entities(workspace, old)
    _merge_rejected(workspace, old, erased)
    rejected, others = _by_reason(workspace, "checked"), _by_reason(workspace, _OTHERS)
    unknown = _unknown_actions(workspace, erased)
    state = state_of(workspace)
    if not state["events"]:
        named = {UNKNOWN_ACTION: f": {names_of(unknown)}"} if unknown else {}
        reasons = (f"{reason} {count:,}{named.get(reason, '')}" for reason, count in rejected.items())
        why = ", ".join(reasons) or "it has no rows"
        raise EmptyLogError(f"{source}: no events are left of the log ({why}); nothing was written")
    summary = ImportSummary(
        source=source,
        provenance=provenance,
        rejected=rejected,
        rejected_entities=others,
        unknown_actions=unknown,
        rejected_file=str(out / "rejected.parquet") if {*rejected, *others} - {REASON} else None,
        **state,
        **counts,
    )
    if not (old and _nothing_new(workspace, out, summary)):
        _replace_files(workspace, out, summary)
    return summary


def _by_reason(workspace: Workspace, relation: str) -> dict[str, int]:
    return dict(
        workspace.rows(
            f"SELECT reason, count(*) FROM {relation} WHERE reason IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1"
        )
    )


def _unknown_actions(workspace: Workspace, erased: Erased) -> dict[str, int]:
    """The most common names of unknown actions, without those that name an erased user."""
    return dict(
        workspace.rows(
            f"SELECT left(coalesce(action, ''), {NAME_LENGTH}), count(*) FROM checked "
            f"WHERE reason = '{UNKNOWN_ACTION}' AND NOT {erased.is_mentioned('action')} "
            f"GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {_NAMES}"
        )
    )


def state_of(workspace: Workspace) -> dict[str, Any]:
    """What an ImportSummary says of the tables events, items and users as they are now."""
    events, users, first, last = workspace.rows(
        "SELECT count(*), count(DISTINCT user_id), min(ts), max(ts) FROM events"
    )[0]
    return {
        "events": events,
        "users": users,
        "items": workspace.rows("SELECT count(*) FROM items")[0][0],
        "first_ts": first,
        "last_ts": last,
        "actions": dict(workspace.rows("SELECT action, count(*) FROM events GROUP BY 1 ORDER BY 2 DESC, 1")),
        "fingerprint": _fingerprint(workspace),
    }


def _nothing_new(workspace: Workspace, out: Path, summary: ImportSummary) -> bool:
    """Whether the folder holds the same already. Then import.json, which says how that came, stays too:

    what was made from these tables, trained models included, is still made from what is there.
    """
    try:
        before = json.loads((out / "import.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    same = before.get("provenance") == summary.provenance
    same = same and _fingerprint(workspace, "old_") == summary.fingerprint
    changed = "(SELECT * FROM rejected EXCEPT SELECT * FROM old_rejected)"  # merging only adds to them
    return same and workspace.rows(f"SELECT count(*) FROM {changed}")[0][0] == 0


def _read_old(workspace: Workspace, out: Path) -> bool:
    """Make the views old_events, old_items, ... of the tables that are there; false when there are none."""
    there = [name for name in IMPORTED_TABLES if (out / f"{name}.parquet").is_file()]
    for name in there:
        path = out / f"{name}.parquet"
        if not _is_ours(path, name):
            raise SourceError(f"{path}: is not a table that aigq import wrote: import into a new folder")
    if _LAST not in there:
        return False  # a first import that was cut off: what it left is written again
    if len(there) < len(IMPORTED_TABLES):
        missing = ", ".join(name for name in IMPORTED_TABLES if name not in there)
        raise SourceError(
            f"{out}: expected all four imported tables; {missing} is missing: import into a new folder"
        )
    if (out / "simulation.parquet").exists():
        raise SourceError(
            f"{out}: holds simulated clicks of `aigq replay`, which real ones must not join; import into the "
            "tables that were replayed"
        )
    for name in there:
        path = out / f"{name}.parquet"
        workspace.db.execute(f"CREATE OR REPLACE VIEW old_{name} AS SELECT * FROM read_parquet({sql(path)})")
    return True


def _is_ours(path: Path, name: str) -> bool:
    try:
        return bool(pq.read_schema(path) == IMPORTED_TABLES[name])
    except pa.ArrowInvalid:
        return False


def _merge_events(workspace: Workspace, old: bool) -> dict[str, Any]:
    """One event per key; of equal events the smallest position and session, whatever the input's order."""
    before = f"SELECT {_COLUMNS}, 0 AS origin FROM old_events UNION ALL" if old else ""
    workspace.db.execute(f"""
        CREATE OR REPLACE TABLE events AS
        SELECT {_KEY}, min(position) AS position, min(session_id) AS session_id, min(origin) AS origin
        FROM ({before}
            SELECT {_COLUMNS}, 1 AS origin FROM checked WHERE reason IS NULL
            UNION ALL
            SELECT user_id, search_ts, 'search', query, NULL, request_id, NULL, session_id, 2
            FROM checked WHERE search_ts IS NOT NULL)
        GROUP BY {_KEY}
    """)
    rows, good = workspace.rows("SELECT count(*), count(*) FILTER (reason IS NULL) FROM checked")[0]
    new, derived = workspace.rows(
        "SELECT count(*) FILTER (origin = 1), count(*) FILTER (origin = 2) FROM events"
    )[0]
    return {"rows": rows, "new_events": new, "searches_derived": derived, "duplicates": good - new}


def _merge_entities(workspace: Workspace, old: bool) -> None:
    """Items and users: one row per id; what this import says wins over what was there, field by field."""
    before = "UNION ALL SELECT *, 0 AS origin FROM old_items" if old else ""
    workspace.db.execute(f"""
        CREATE OR REPLACE TABLE items AS SELECT item_id, {_merged(_ITEM_FIELDS)}
        FROM (SELECT *, row(-origin, title IS NULL, title, price, category::VARCHAR, attributes::VARCHAR,
                            brand) AS place
              FROM (SELECT item_id, {", ".join(_ITEM_FIELDS)}, 1 AS origin FROM checked_items
                    WHERE reason IS NULL {before}))
        GROUP BY item_id
    """)
    before = "UNION ALL SELECT *, 0 AS origin FROM old_users" if old else ""
    workspace.db.execute(f"""
        CREATE OR REPLACE TABLE users AS SELECT user_id, {_merged(_USER_FIELDS)}
        FROM (SELECT *, row(-origin, profile::VARCHAR) AS place
              FROM (SELECT user_id, profile, 1 AS origin FROM checked_users
                    WHERE reason IS NULL {before}))
        GROUP BY user_id
    """)


def _merged(fields: Mapping[str, str]) -> str:
    """SQL that takes of each field the first value that says something, in order of `place`."""
    return ", ".join(f"arg_min({name}, place) FILTER ({told}) AS {name}" for name, told in fields.items())


def _merge_rejected(workspace: Workspace, old: bool, erased: Erased) -> None:
    """Rows of erased users are counted and not kept, nor lines that name them."""
    before = "UNION SELECT file, row, reason, content FROM old_rejected" if old else ""
    workspace.db.execute(
        "CREATE OR REPLACE TABLE rejected AS "
        "SELECT DISTINCT file, row, reason, content "
        f"FROM (SELECT file, row, reason, content FROM checked UNION ALL FROM {_OTHERS}) "
        f"WHERE reason <> '{REASON}' AND NOT {erased.is_mentioned('content')} {before}"
    )


def _fingerprint(workspace: Workspace, prefix: str = "") -> str:
    """A hash of the content of events, items and users, independent of row order and file layout."""
    digest = hashlib.sha256()
    for name in ("events", "items", "users"):
        columns = ", ".join(f"{column}::VARCHAR" for column in IMPORTED_TABLES[name].names)
        row = f"md5(to_json([{columns}])::VARCHAR)"
        total = workspace.rows(
            f"SELECT count(*), sum(('0x' || left({row}, 15))::BIGINT::HUGEINT), "
            f"sum(('0x' || right({row}, 15))::BIGINT::HUGEINT) FROM {prefix}{name}"
        )[0]
        digest.update(f"{name} {total[0]} {total[1]} {total[2]}\n".encode())
    return digest.hexdigest()


def _replace_files(workspace: Workspace, out: Path, summary: ImportSummary) -> None:
    """Write everything beside its final place first: a crash while writing leaves the old tables."""
    out.mkdir(parents=True, exist_ok=True)
    for name in (*IMPORTED_TABLES, "import"):
        for leftover in out.glob(f".{name}.*.part"):  # of an import that was killed
            leftover.unlink()
    ready: list[tuple[Path, Path]] = []
    try:
        temporary = out / f".import.json.{os.getpid()}.part"
        ready.append((temporary, out / "import.json"))
        about = {key: value for key, value in summary.to_dict().items() if key not in FOR_THE_CALLER}
        temporary.write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        for name in sorted(IMPORTED_TABLES, key=lambda name: name == _LAST):
            schema = IMPORTED_TABLES[name]
            temporary = out / f".{name}.parquet.{os.getpid()}.part"
            ready.append((temporary, out / f"{name}.parquet"))
            columns = ", ".join(schema.names)
            relation = workspace.db.sql(f"SELECT {columns} FROM {name} ORDER BY {_ORDER[name]}")
            with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
                for batch in relation.to_arrow_reader(_BATCH):
                    writer.write_table(pa.Table.from_batches([batch]).cast(schema))
        for temporary, final in ready:
            os.replace(temporary, final)
    finally:
        for temporary, _ in ready:
            temporary.unlink(missing_ok=True)
