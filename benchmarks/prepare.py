"""How fast `aigq prepare` is, against one hand-written DuckDB script of the same steps.

    python benchmarks/prepare.py 1 10 50        # millions of events

Both run in a fresh process, imports included, on the same Parquet file with the same memory limit, and
write the same tables. The log is generated: skewed users, queries and items, six events a session, 60 days,
ASCII text.
Bars: at most 1.5 times the script at 10 M events, at most 4 GB at 50 M, linear time.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "prepare.json"
MEMORY_LIMIT = "3GB"
START = date(2024, 1, 1)
SPLIT = {"validation_from": date(2024, 2, 16), "test_from": date(2024, 2, 24)}

GENERATE = """
COPY (
  WITH base AS (
    SELECT i, hash(i // 6, 1) / 2.0 ** 64 AS a, hash(i // 6, 2) / 2.0 ** 64 AS b, hash(i, 3) / 2.0 ** 64 AS c,
           hash(i, 4) / 2.0 ** 64 AS d, hash(i // 6, i % 6 // 3, 5) / 2.0 ** 64 AS e
    FROM range({n}) t(i)
  ), named AS (
    SELECT *, floor({queries} * e ** 4)::BIGINT AS q,
           ['search', 'click', 'click', 'search', 'click',
            CASE WHEN d < 0.5 THEN 'purchase' ELSE 'cart' END][i % 6 + 1] AS action
    FROM base
  )
  SELECT 'u' || floor({users} * a ** 2)::BIGINT AS user_id,
         TIMESTAMP '{start}' + to_microseconds((b * 60 * 86400e6)::BIGINT + (i % 6) * 97000000) AS ts, action,
         CASE WHEN action NOT IN ('search', 'click') THEN NULL
              WHEN c < 0.2 THEN ' Brand' || q % 997 || '  Thing ' || q
              ELSE 'brand' || q % 997 || ' thing ' || q END AS query,
         CASE WHEN action <> 'search' THEN 'i' || (q * 7 + floor(4 * c)::BIGINT) % {items} END AS item_id,
         NULL::VARCHAR AS request_id, NULL::INTEGER AS position, NULL::VARCHAR AS session_id
  FROM named
) TO '{folder}/events.parquet' (FORMAT parquet, COMPRESSION zstd);
COPY (SELECT 'i' || i AS item_id, 'item number ' || i AS title, 'maker' || i % 97 AS brand,
             1.0::DOUBLE AS price,
             ['shop', 'part ' || i % 31, 'leaf ' || i % 501] AS category,
             NULL::MAP(VARCHAR, VARCHAR) AS attributes
      FROM range({items}) t(i)) TO '{folder}/items.parquet' (FORMAT parquet);
"""


def generate(events: int, folder: Path) -> None:
    """Write a log of so many events."""
    import duckdb

    folder.mkdir(parents=True, exist_ok=True)
    shares = {"users": 60, "queries": 200, "items": 100}
    sizes = {name: max(events // share, 100) for name, share in shares.items()}
    with duckdb.connect(config={"memory_limit": MEMORY_LIMIT, "temp_directory": str(folder / "spill")}) as db:
        db.execute(GENERATE.format(n=events, start=START, folder=folder, **sizes))


def run_aigq(tables: Path, out: Path) -> dict[str, int]:
    """The stage as it ships."""
    from aigq.config import parse
    from aigq.samples.prepare import prepare

    config = parse({"data": {"tables": tables}, "split": SPLIT, "history": {"memory_limit": MEMORY_LIMIT}})
    return prepare(config, out)["rows"]


def run_sql(tables: Path, out: Path) -> dict[str, int]:
    """The hand-written script."""
    import duckdb

    out.mkdir(parents=True)
    script = (Path(__file__).parent / "prepare.sql").read_text(encoding="utf-8")
    script = script.replace("$tables", str(tables)).replace("$out", str(out))
    for name, day in SPLIT.items():
        script = script.replace(f"${name}", str((day - date(1970, 1, 1)).days))
    settings = {"memory_limit": MEMORY_LIMIT, "temp_directory": str(out / "spill")}
    settings["preserve_insertion_order"] = "false"
    with duckdb.connect(config=settings) as db:
        db.execute(script)
        names = ("behaviours", "queries", "query_days", "samples")
        counts = "SELECT count(*) FROM '{}/{}.parquet'"
        return {name: db.execute(counts.format(out, name)).fetchall()[0][0] for name in names}


def child(way: str, tables: Path, out: Path) -> None:
    """One measured run; prints its result as JSON."""
    start = time.perf_counter()
    rows = {"aigq": run_aigq, "sql": run_sql}[way](tables, out)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(json.dumps({"seconds": seconds, "peak_gb": peak, "rows": rows}))


def measure(way: str, tables: Path) -> dict:
    """Run `child` in a process of its own."""
    with tempfile.TemporaryDirectory(dir=tables) as folder:
        command = [sys.executable, __file__, "--child", way, str(tables), str(Path(folder) / "run")]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main(millions: list[float], folder: Path) -> None:
    """Measure every size, print and write the results."""
    load = f"load {os.getloadavg()[0]:.1f} at the start"
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} shared cores, {load}"
    result = {"machine": machine, "rows": []}
    for size in millions:
        events, tables = int(size * 1e6), folder / f"{size:g}m"
        if not (tables / "events.parquet").exists():
            generate(events, tables)
        sql, ours = measure("sql", tables), measure("aigq", tables)
        for name, count in sql["rows"].items():
            assert ours["rows"][name] == count, f"{name}: {ours['rows'][name]} rows, the script has {count}"
        row = {
            "events": events,
            "events_per_s": round(events / ours["seconds"]),
            "ratio_to_sql": round(ours["seconds"] / sql["seconds"], 2),
            "peak_gb": round(ours["peak_gb"], 2),
            "seconds": round(ours["seconds"], 1),
            "sql_seconds": round(sql["seconds"], 1),
            "sql_peak_gb": round(sql["peak_gb"], 2),
        }
        result["rows"].append(row)
        print(json.dumps(row), flush=True)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        data = Path(os.environ.get("AIGQ_BENCH_DIR", tempfile.gettempdir())) / "aigq-prepare"
        main([float(size) for size in sys.argv[1:]] or [1, 10], data)
