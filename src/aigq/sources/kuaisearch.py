"""KuaiSearch: raw Chinese queries of a short-video shop with impressions, clicks and purchases.

A folder with rank.jsonl (one impression a line) and recall.jsonl (one search a line), users.jsonl and
items.jsonl. `time_index` orders the searches but is no time: it becomes START plus as many minutes, so
order is real and distances are not; the dataset's session_id is kept. A line counts once for each thing it
tells: the search, and each click and purchase.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aigq.errors import SourceError
from aigq.sources.workspace import NOT_JSON, Workspace
from aigq.tables import Provenance

START = "2000-01-01"
MAX_INDEX = 1_000_000_000
"""No search has a later place: what is above it is a clock's time or a mistake."""
_KEYS = ("user_id", "session_id", "time_index", "query")


def load(workspace: Workspace, path: Path | None, columns: Mapping[str, Any] | None = None) -> Provenance:
    """Read the folder; rank.jsonl or recall.jsonl must be there."""
    if path is None or not path.is_dir():
        raise SourceError(f"{path}: expected the KuaiSearch folder with rank.jsonl or recall.jsonl")
    logs = [path / name for name in ("rank.jsonl", "recall.jsonl") if (path / name).is_file()]
    if not logs:
        raise SourceError(f"{path}: expected rank.jsonl or recall.jsonl in the folder; found neither")
    workspace.json_rows("kuai", logs)
    workspace.need_keys("kuai", logs[0], _KEYS)
    told = """
        SELECT file, _row, line, json, 'search' AS action, NULL AS item_id, NULL AS position FROM kuai
        UNION ALL
        SELECT file, _row, line, json, 'click', json ->> '$.target_item_id', NULL FROM kuai
        WHERE json ->> '$.is_clicked' = '1'
        UNION ALL
        SELECT file, _row, line, json, 'purchase', json ->> '$.target_item_id', NULL FROM kuai
        WHERE json ->> '$.is_purchased' = '1'
        UNION ALL
        SELECT file, _row, line, json, 'click', item, list_position(json ->> '$.impressed_item_ids[*]', item)
        FROM (SELECT *, unnest(json ->> '$.clicked_item_ids[*]') AS item FROM kuai)
        UNION ALL
        SELECT file, _row, line, json, 'purchase', item,
               list_position(json ->> '$.impressed_item_ids[*]', item)
        FROM (SELECT *, unnest(json ->> '$.purchased_item_ids[*]') AS item FROM kuai)
    """
    index = "try_cast(json ->> '$.time_index' AS BIGINT)"
    minutes = f"CASE WHEN {index} BETWEEN -{MAX_INDEX} AND {MAX_INDEX} THEN {index} END"
    workspace.db.execute(f"""
        CREATE OR REPLACE VIEW raw AS
        SELECT file, _row AS row, line AS content,
               coalesce({NOT_JSON}, CASE WHEN json ->> '$.time_index' IS NOT NULL AND {minutes} IS NULL
                                         THEN 'time not understood' END) AS reason,
               json ->> '$.user_id' AS user_id,
               TIMESTAMP '{START}' + to_minutes({minutes}) AS ts,
               action, json ->> '$.query' AS query, item_id,
               concat_ws('-', json ->> '$.session_id', json ->> '$.time_index') AS request_id,
               position::VARCHAR AS position, json ->> '$.session_id' AS session_id,
               NULL::TIMESTAMP AS search_ts
        FROM ({told})
    """)
    _users(workspace, path / "users.jsonl")
    _items(workspace, path / "items.jsonl")
    return "typed"


def _users(workspace: Workspace, path: Path) -> None:
    if not path.is_file():
        return
    workspace.json_rows("kuai_users", [path])
    fields = ("gender", "age_bucket", "fre_country", "fre_province", "fre_city")
    entries = ", ".join(
        f"{{'k': '{name.removeprefix('fre_')}', 'v': json ->> '$.{name}'}}" for name in fields
    )
    workspace.db.execute(f"""
        CREATE OR REPLACE VIEW raw_users AS
        SELECT file, _row AS row, line AS content, {NOT_JSON} AS reason, json ->> '$.user_id' AS user_id,
               map_from_entries(list_filter([{entries}], lambda entry: entry.v <> 'UNKNOWN')) AS profile
        FROM kuai_users
    """)


def _items(workspace: Workspace, path: Path) -> None:
    if not path.is_file():
        return
    workspace.json_rows("kuai_items", [path])
    levels = ", ".join(f"json ->> '$.category_level{level}_name'" for level in (1, 2, 3))
    workspace.db.execute(f"""
        CREATE OR REPLACE VIEW raw_items AS
        SELECT file, _row AS row, line AS content, {NOT_JSON} AS reason,
               json ->> '$.item_id' AS item_id, json ->> '$.item_title' AS title,
               list_filter([{levels}], lambda name: name <> 'UNKNOWN') AS category,
               json ->> '$.brand_name' AS brand,
               CASE WHEN json ->> '$.seller_name' IS NOT NULL
                   THEN MAP {{'seller': json ->> '$.seller_name'}} END
                   AS attributes,
               NULL::DOUBLE AS price
        FROM kuai_items
    """)
