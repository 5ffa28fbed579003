"""What the tests of sources share."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from aigq.sources import ImportSummary
from aigq.tables import IMPORTED_TABLES

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def rows(out: Path, table: str = "events") -> list[dict[str, Any]]:
    found = pq.read_table(out / f"{table}.parquet")
    assert found.schema == IMPORTED_TABLES[table]
    return found.to_pylist()


def add_up(summary: ImportSummary) -> bool:
    return summary.rows == summary.new_events + summary.duplicates + sum(summary.rejected.values())


def write_json_lines(path: Path, objects: Iterable[Any]) -> Path:
    lines = [each if isinstance(each, str) else json.dumps(each, ensure_ascii=False) for each in objects]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path
