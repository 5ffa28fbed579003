"""How far the rows of a table move with the seed: the same recipe trained anew with others.

    python benchmarks/seeds.py RECIPE [--seeds 1 2] [--rows popular ranker direct_il_sft] [--set key=value]

Each seed has a run of its own, runs/NAME-seedN, that goes on where it stopped. Where a recipe's table is
committed, it is seed 0; `--set` then has to be what that table was made with. The seed moves weights,
batches, samples drawn for training and, under `evaluation.max_users`, which shoppers are asked. Differences
are to the recipe's `evaluation.compare_to`, and between steps of the paper, paired by user, with 95 %
bootstrap intervals. Results of other recipes and rows stay.
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
ORDER: Final = ("dataset", "system", "above", "seed")


def table_of(recipe: Path, name: str, seed: int, rows: list[str], changed: list[str]) -> dict[str, Any]:
    """metrics.json of this seed."""
    run = Path("runs") / f"{name}-seed{seed}"
    command = [sys.executable, "-m", "aigq.cli", "table", "--config", str(recipe), "--run", str(run)]
    settings = [f"seed={seed}", f"evaluation.rows=[{', '.join(rows)}]", *changed]
    subprocess.run([*command, *(part for s in settings for part in ("--set", s))], check=True)
    metrics: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return metrics


def about(table: dict[str, Any]) -> dict[str, Any]:
    """Which table a figure is of."""
    return {key: table[key] for key in ("dataset", "seed", "users")}


def rows_of(table: dict[str, Any], rows: list[str]) -> list[dict[str, Any]]:
    """What is kept of each row."""
    return [
        about(table) | {"system": row["system"], **{metric: figures(row, metric) for metric in SHOWN}}
        for row in table["rows"]
        if row["system"] in rows
    ]


def steps_of(table: dict[str, Any], rows: list[str]) -> list[dict[str, Any]]:
    """Each of the paper's steps between two of these rows: the later row above the one before it."""
    return [
        about(table)
        | {"system": step["row"], "above": step["above"]}
        | {metric: step["difference"][metric] for metric in SHOWN if metric in step["difference"]}
        for step in table["steps"]
        if {step["row"], step["above"]} <= {*rows}
    ]


def together(kind: str, found: list[dict[str, Any]], name: str, rows: list[str]) -> list[dict[str, Any]]:
    """What was found, beside what earlier calls found of other recipes and rows."""
    earlier = json.loads(RESULTS.read_text()).get(kind, []) if RESULTS.exists() else []
    kept = [one for one in earlier if one["dataset"] != name or one["system"] not in rows]
    return sorted(kept + found, key=lambda one: [str(one.get(key)) for key in ORDER])


def main() -> None:
    """Train, read, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rows", nargs="+", default=["popular", "ranker", "direct_il_sft"])
    parser.add_argument("--set", action="append", default=[], dest="changed", metavar="key=value")
    given = parser.parse_args()
    name = load(given.recipe).name
    committed = HERE / f"table-{name}.json"
    tables = [json.loads(committed.read_text())] if committed.exists() else []
    tables += [table_of(given.recipe, name, seed, given.rows, given.changed) for seed in given.seeds]
    rows = [row for table in tables for row in rows_of(table, given.rows)]
    steps = [step for table in tables for step in steps_of(table, given.rows)]
    for one in sorted(rows + steps, key=lambda one: (given.rows.index(one["system"]), one["seed"])):
        above = f" above {one['above']}" if "above" in one else ""
        print(f"{one['system']}{above} seed {one['seed']}", *(one.get(metric) for metric in SHOWN))
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    results = {
        kind: together(kind, found, name, given.rows) for kind, found in (("rows", rows), ("steps", steps))
    }
    RESULTS.write_text(json.dumps({"machine": machine, **results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
