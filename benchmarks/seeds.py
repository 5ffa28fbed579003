"""How far the rows of a table move with the seed: the same recipe trained anew with others.

    python benchmarks/seeds.py RECIPE [--seeds 1 2] [--rows popular ranker direct_il_sft]

Each seed has a run of its own, runs/NAME-seedN, that goes on where it stopped; seed 0 is the recipe's
committed table. The seed moves weights, batches and samples drawn for training; test samples are the same.
Differences are to the recipe's `evaluation.compare_to`, paired by user, with 95 % bootstrap intervals.
Results of other recipes and rows stay.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from aigq.config import load
from switches import SHOWN, figures

HERE: Final = Path(__file__).parent / "results"
RESULTS: Final = HERE / "seeds.json"


def table_of(recipe: Path, name: str, seed: int, rows: list[str]) -> dict[str, Any]:
    """metrics.json of this seed."""
    run = Path("runs") / f"{name}-seed{seed}"
    command = [sys.executable, "-m", "aigq.cli", "table", "--config", str(recipe), "--run", str(run)]
    settings = [f"seed={seed}", f"evaluation.rows=[{', '.join(rows)}]"]
    subprocess.run([*command, *(part for s in settings for part in ("--set", s))], check=True)
    metrics: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return metrics


def rows_of(table: dict[str, Any], rows: list[str]) -> list[dict[str, Any]]:
    """What is kept of each row."""
    about = {"dataset": table["dataset"], "seed": table["seed"], "users": table["users"]}
    return [
        about | {"system": row["system"], **{metric: figures(row, metric) for metric in SHOWN}}
        for row in table["rows"]
        if row["system"] in rows
    ]


def earlier() -> list[dict[str, Any]]:
    """The rows of earlier calls."""
    rows: list[dict[str, Any]] = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    return rows


def main() -> None:
    """Train, read, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rows", nargs="+", default=["popular", "ranker", "direct_il_sft"])
    given = parser.parse_args()
    name = load(given.recipe).name
    tables = [json.loads((HERE / f"table-{name}.json").read_text())]
    tables += [table_of(given.recipe, name, seed, given.rows) for seed in given.seeds]
    found = [row for table in tables for row in rows_of(table, given.rows)]
    for row in sorted(found, key=lambda row: (given.rows.index(row["system"]), row["seed"])):
        print(f"{row['system']:16} seed {row['seed']}", *(row[metric] for metric in SHOWN))
    kept = [row for row in earlier() if row["dataset"] != name or row["system"] not in given.rows]
    rows = sorted(kept + found, key=lambda row: (row["dataset"], row["system"], row["seed"]))
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    RESULTS.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
