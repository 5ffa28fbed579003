"""The same Ibis code on Spark gives the same tables.

Needs Java and `pip install -c constraints.txt -e '.[dev,spark]'`.
"""

import json
import shutil
from datetime import timedelta

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_logs import START, event

from aigq.config import parse
from aigq.erased import Erased
from aigq.samples.prepare import _write_tables, database
from aigq.tables import EVENTS, ITEMS, USERS

pytest.importorskip("pyspark")
if shutil.which("java") is None:
    pytest.skip("Spark needs Java", allow_module_level=True)

pytestmark = pytest.mark.slow

DAY = 24 * 60
TEXTS = ["red shoe", "Blue  Hat", "青い 帽子", "sock 😀", "x" * 300, "call 555-123-4567", "tent", "lamp"]


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """A fortnight of searches, clicks on half described items, and hints, in every script."""
    folder, rng = tmp_path_factory.mktemp("log"), np.random.default_rng(0)
    rows = []
    for user in map("u{}".format, range(20)):
        for at in np.cumsum(rng.exponential(6 * 60, 50)).astype(int).tolist():
            action = str(rng.choice(["search", "click", "purchase"], p=[0.5, 0.3, 0.2]))
            query = str(rng.choice(TEXTS)) if action == "search" or rng.random() < 0.3 else None
            rows.append(event(user, at, action, query, None if action == "search" else f"i{at % 12}"))
        for day in range(0, 12, 2):
            at, request = day * DAY + int(rng.integers(600)), f"{user}-{day}"
            shown = [event(user, at, "hint_impression", TEXTS[p], None, request, p + 1) for p in range(3)]
            rows += [*shown, event(user, at + 1, "hint_click", TEXTS[1], None, request, 2)]
    items = [
        {
            "item_id": f"i{i}",
            "title": f"thing {i}" if i % 3 else None,
            "category": ["home", "garden"][: i % 3],
        }
        for i in range(12)
    ]
    users = [{"user_id": f"u{i}", "profile": {"age": "45-54"}} for i in range(20)]
    for name, schema, content in (("events", EVENTS, rows), ("items", ITEMS, items), ("users", USERS, users)):
        pq.write_table(pa.Table.from_pylist(content, schema=schema), folder / f"{name}.parquet")
    (folder / "import.json").write_text(json.dumps({"provenance": "constructed"}))
    Erased("salt").adding(["u3"]).save(folder)
    return folder


@pytest.fixture(scope="module")
def spark():
    from pyspark.sql import SparkSession

    settings = {"shuffle.partitions": "2", "session.timeZone": "UTC"}
    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    for key, value in settings.items():
        builder = builder.config(f"spark.sql.{key}", value)
    session = builder.getOrCreate()
    yield ibis.pyspark.connect(session)
    session.stop()


@pytest.mark.parametrize("unit", ["user_day", "next_query", "exposure"])
def test_prepared_tables_are_those_of_duckdb(tables, spark, tmp_path, unit):
    split = {name: START.date() + timedelta(days=n) for name, n in (("validation_from", 5), ("test_from", 8))}
    config = parse({"data": {"tables": tables}, "split": split, "samples": {"unit": unit, "k_users": 3}})
    here, there = tmp_path / "duckdb", tmp_path / "spark"
    here.mkdir()
    there.mkdir()
    with database(config, tmp_path / "spill") as con:
        summary = _write_tables(config, con, here, None)
    assert _write_tables(config, spark, there, None) == summary
    files = sorted(path.name for path in here.iterdir())
    assert len(files) == (6 if unit == "exposure" else 5)
    for name in files:
        one, other = pq.read_table(here / name), pq.read_table(there / name)
        assert one.num_rows > 0
        assert one.equals(other, check_metadata=True), name
