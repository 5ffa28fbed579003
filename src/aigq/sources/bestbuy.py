"""Best Buy 2011 ("ACM SF hackathon, small"): searches.csv, typed queries with the click that followed.

One row is a search (at query_time) and a click (at click_time). Rows whose query nobody typed are rejected:
lists of SKUs and campaign names, which links of newsletters and banners put into the search box.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from aigq.errors import SourceError
from aigq.sources.workspace import Workspace, sql
from aigq.tables import Provenance

COLUMNS = ("user", "sku", "category", "query", "click_time", "query_time")
SKU_LIST = r"(?i:sku:?\s*\d+)|(?:\D*\b\d{6,}\b.*\b\d{6,}\b.*)|(?:\s*\d{6,}\s*)"
"""Two numbers of six digits or more, nothing but one, or "SKU: 123"."""
CAMPAIGN = r".*\S_\S.*"
"""Words joined by underscores, such as LaborDay_VideoGames_20110902."""


def load(workspace: Workspace, path: Path | None, columns: Mapping[str, Any] | None = None) -> Provenance:
    """Read `path`, a searches.csv or its folder; categories.json beside it names the categories."""
    if path is None:
        raise SourceError("bestbuy: expected the path of searches.csv; found none")
    file = path / "searches.csv" if path.is_dir() else path
    workspace.csv("bestbuy", file, COLUMNS)
    _categories(workspace, file.parent / "categories.json")
    workspace.db.execute(f"""
        CREATE OR REPLACE VIEW raw AS
        SELECT {sql(file.name)} AS file, _row AS row,
               concat_ws(',', "user", sku, category, query, click_time, query_time) AS content,
               CASE WHEN regexp_full_match(query, {sql(SKU_LIST)}) THEN 'query is a list of SKUs'
                    WHEN regexp_full_match(query, {sql(CAMPAIGN)}) THEN 'query is a campaign name'
                    WHEN try_cast(query_time AS TIMESTAMP) IS NULL THEN 'time not understood'
               END AS reason,
               "user" AS user_id, click_time AS ts, 'click' AS action, query, sku AS item_id,
               NULL::VARCHAR AS request_id, NULL::VARCHAR AS position, NULL::VARCHAR AS session_id,
               query_time AS search_ts
        FROM bestbuy
        UNION ALL
        SELECT file, row, content, reason, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM malformed
    """)
    workspace.db.execute("""
        CREATE OR REPLACE VIEW raw_items AS
        SELECT sku AS item_id, NULL::VARCHAR AS title,
               coalesce(any_value(names), [min(category)]) AS category, NULL::VARCHAR AS brand,
               NULL::MAP(VARCHAR, VARCHAR) AS attributes, NULL::DOUBLE AS price
        FROM bestbuy LEFT JOIN categories ON id = category
        WHERE regexp_full_match(sku, '\\d+')
        GROUP BY sku
    """)
    return "typed"


def _categories(workspace: Workspace, path: Path) -> None:
    """The table `categories`: id, names from the root; empty when the file is not there."""
    ids: list[str] = []
    names: list[list[str]] = []
    if path.is_file():
        try:
            for category in json.loads(path.read_text(encoding="utf-8")):
                ids.append(str(category["id"]))
                names.append([str(step["name"]) for step in category["path"] if step["name"] is not None])
        except (ValueError, KeyError, TypeError):
            raise SourceError(f"{path}: expected a JSON list of categories with id and path") from None
    table = pa.table({"id": pa.array(ids, pa.string()), "names": pa.array(names, pa.list_(pa.string()))})
    workspace.db.register("category_table", table)
    workspace.db.execute("CREATE OR REPLACE TABLE categories AS SELECT * FROM category_table")
    workspace.db.unregister("category_table")
