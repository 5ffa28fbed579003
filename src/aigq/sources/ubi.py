"""User Behavior Insights 1.3.0: the events and queries of a search engine's UBI plugin and its clients.

PATH is one file or a folder of files: JSON lines (also OpenSearch's bulk format, whose index lines carry no
data) or Parquet. A line with action_name is an event, a line with user_query alone is a query, which
becomes a search. An event without user_query has the text of its query_id, unless hints alone were shown with
that. Several records of one search (query, "search", "view_search_results") share their query_id and become
one event at the earliest of their times, in whatever zones and spellings; one without a time is rejected.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from aigq.action_names import ACTION_NAMES
from aigq.errors import SourceError
from aigq.sources.checks import id_sql, text_sql, timestamp_sql
from aigq.sources.workspace import NOT_JSON, Workspace, export_files, sql
from aigq.tables import ACTIONS, Provenance

_ITEM_ID: Final = """coalesce(nullif(json ->> '$.event_attributes.object.object_id', ''),
    json ->> '$.event_attributes.object.internal_id')"""


def action_sql(name: str, spellings: Mapping[str, str] = ACTION_NAMES) -> str:
    """SQL for the aigq action of a spelling; unknown spellings stay as they are and fail the check."""
    cases = " ".join(f"WHEN {sql(spelling)} THEN {sql(action)}" for spelling, action in spellings.items())
    return f"CASE lower(trim({name})) {cases} ELSE {name} END"


def load(workspace: Workspace, path: Path | None, columns: Mapping[str, Any] | None = None) -> Provenance:
    """Read UBI queries and events, in one file or several."""
    files = export_files("ubi", path)
    workspace.json_rows("ubi_lines", files)
    workspace.db.execute("""
        CREATE OR REPLACE TABLE ubi AS
        SELECT file, _row, line, json, json ->> '$.action_name' AS action_name,
               nullif(json ->> '$.query_id', '') AS query_id,
               coalesce(nullif(json ->> '$.user_id', ''), nullif(json ->> '$.client_id', '')) AS user_id,
               coalesce(json ->> '$.timestamp', json ->> '$."@timestamp"') AS ts,
               nullif(json ->> '$.user_query', '') AS user_query,
               CASE WHEN json ->> '$.message_type' = 'QUERY' THEN json ->> '$.message' END AS message
        FROM ubi_lines
        WHERE json IS NULL OR NOT (len(json_keys(json)) = 1
                                   AND json_keys(json)[1] IN ('index', 'create', 'update', 'delete'))
    """)
    if workspace.rows("SELECT count(*) > 0 AND count(coalesce(action_name, user_query)) = 0 FROM ubi")[0][0]:
        raise SourceError(f"{files[0]}: expected UBI objects with action_name or user_query; found neither")
    _raw(workspace)
    workspace.db.execute(f"""
        CREATE OR REPLACE VIEW raw_items AS
        SELECT DISTINCT {_ITEM_ID} AS item_id,
               coalesce(json ->> '$.event_attributes.object.description',
                        json ->> '$.event_attributes.object.title')
                   AS title,
               NULL::VARCHAR[] AS category,
               json ->> '$.event_attributes.object.object_detail.brand' AS brand,
               NULL::MAP(VARCHAR, VARCHAR) AS attributes,
               try_cast(json ->> '$.event_attributes.object.object_detail.price' AS DOUBLE) AS price
        FROM ubi WHERE action_name IS NOT NULL
    """)
    return "typed"


def _raw(workspace: Workspace) -> None:
    actions = dict.fromkeys(ACTIONS) | ACTION_NAMES
    known = {spelling: action or spelling for spelling, action in actions.items()}
    one_search = "action = 'search' AND query_id IS NOT NULL"
    query = "CASE WHEN action = 'search' THEN coalesce(known_query, message) ELSE known_query END"
    workspace.db.execute(f"""
        CREATE OR REPLACE VIEW raw AS
        WITH texts AS (
            SELECT query_id AS id, min(user_query) AS text FROM ubi
            WHERE query_id IS NOT NULL AND user_query IS NOT NULL
                  AND {action_sql("coalesce(action_name, '')", known)} <> 'hint_impression'
            GROUP BY 1
        ), named AS (
            SELECT ubi.*,
                   CASE WHEN action_name IS NULL THEN 'search' ELSE {action_sql("action_name", known)} END
                       AS action,
                   coalesce(user_query, text) AS known_query
            FROM ubi LEFT JOIN texts ON id = query_id
        ), timed AS (
            SELECT *, {timestamp_sql("ts", "VARCHAR")} AS parsed,
                   {text_sql(query)} AS query
            FROM named
        ), judged AS (
            SELECT *, coalesce(parsed >= TIMESTAMP '1990-01-01', false) AS good FROM timed
        )
        SELECT file, _row AS row, line AS content,
               {NOT_JSON} AS reason, user_id,
               CASE WHEN NOT good THEN ts
                    WHEN {one_search} THEN (min(parsed) OVER search)::VARCHAR ELSE parsed::VARCHAR END AS ts,
               action,
               CASE WHEN good AND {one_search} THEN min(query) OVER search ELSE query END AS query,
               CASE WHEN action <> 'search' THEN {_ITEM_ID} END AS item_id,
               query_id AS request_id,
               CASE WHEN action <> 'search' THEN json ->> '$.event_attributes.position.ordinal' END
                   AS position,
               coalesce(json ->> '$.session_id', json ->> '$.event_attributes.session_id') AS session_id,
               NULL::VARCHAR AS search_ts
        FROM judged
        WINDOW search AS (PARTITION BY good, {id_sql("user_id")}, {id_sql("query_id")}, action, lower(query))
    """)
