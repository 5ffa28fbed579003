"""Google Analytics 4, the BigQuery export: JSON lines or Parquet with nested event_params and items.

Rows may come up to three days late: import them into the same folder again, equal events collapse. Times
are the export's event_timestamp (microseconds, UTC). An event with several items is one event per item, and
counts as many rows. Events that say nothing about a query or an item (page_view, session_start, ...) are
rejected with a reason.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aigq.sources.ubi import action_sql
from aigq.sources.workspace import NOT_JSON, Workspace, export_files
from aigq.tables import Provenance

EVENT_NAMES = {
    "search": "search",
    "view_search_results": "search",
    "select_item": "click",
    "view_item": "click",
    "add_to_cart": "cart",
    "purchase": "purchase",
    "ecommerce_purchase": "purchase",
}
_LEVELS = ("item_category", "item_category2", "item_category3", "item_category4", "item_category5")


def load(workspace: Workspace, path: Path | None, columns: Mapping[str, Any] | None = None) -> Provenance:
    """Read one export file or a folder of them."""
    files = export_files("ga4", path)
    workspace.json_rows("ga4_lines", files)
    workspace.need_keys("ga4_lines", files[0], ("event_name", "event_timestamp", "event_params"))
    workspace.db.execute(f"""
        CREATE OR REPLACE TABLE ga4 AS
        SELECT file, _row, line, json, {action_sql("event_name", EVENT_NAMES)} AS action,
               {_parameter("search_term")} AS search_term, {_parameter("ga_session_id")} AS session_id,
               coalesce({_parameter("transaction_id")}, json ->> '$.ecommerce.transaction_id')
                   AS transaction_id,
               CASE WHEN len(items) = 0 THEN [NULL::JSON] ELSE items END AS items
        FROM (SELECT *, json ->> '$.event_name' AS event_name, json -> '$.event_params[*]' AS params,
                     coalesce(json -> '$.items[*]', []::JSON[]) AS items
              FROM ga4_lines)
    """)
    workspace.db.execute(f"""
        CREATE OR REPLACE VIEW raw AS
        SELECT file, _row AS row, line AS content,
               {NOT_JSON} AS reason,
               coalesce(nullif(json ->> '$.user_id', ''), json ->> '$.user_pseudo_id') AS user_id,
               json ->> '$.event_timestamp' AS ts, action, search_term AS query,
               item ->> '$.item_id' AS item_id,
               transaction_id AS request_id,
               coalesce(item ->> '$.item_list_index', item ->> '$.index') AS position, session_id,
               NULL::VARCHAR AS search_ts
        FROM (SELECT *, unnest(CASE WHEN action = 'search' THEN [NULL::JSON] ELSE items END) AS item FROM ga4)
    """)
    levels = ", ".join(f"item ->> '$.{level}'" for level in _LEVELS)
    workspace.db.execute(f"""
        CREATE OR REPLACE VIEW raw_items AS
        SELECT DISTINCT item ->> '$.item_id' AS item_id, item ->> '$.item_name' AS title,
               list_filter([{levels}], lambda name: name NOT IN ('', '(not set)')) AS category,
               nullif(item ->> '$.item_brand', '(not set)') AS brand,
               NULL::MAP(VARCHAR, VARCHAR) AS attributes, try_cast(item ->> '$.price' AS DOUBLE) AS price
        FROM (SELECT unnest(items) AS item FROM ga4)
    """)
    return "typed"


def _parameter(key: str) -> str:
    value = f"(list_filter(params, lambda p: p ->> '$.key' = '{key}')[1] -> '$.value')"
    return f"coalesce({value} ->> '$.string_value', {value} ->> '$.int_value')"
