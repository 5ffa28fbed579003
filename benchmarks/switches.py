"""Each switch of IL-GRPO beyond the paper, once: what it changes after the same few steps from one IL-SFT.

    python benchmarks/switches.py RUN... [--steps 20] [--learning-rate 1e-4] [--samples 1000]

RUN has a trained direct_il_sft and a CTR model. Every switch is a training of its own in RUN-switches/NAME,
on RUN's tables and models; a finished one is not trained again, an interrupted one goes on. What is kept of
it is the better of start and end, as ever. Lists are then written with ONNX Runtime (extra `onnx`) for
samples of the validation days, never of the test, and compared with those of the baseline `default`:
differences are paired by user, with 95 % bootstrap intervals. Nothing is timed.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from aigq import training_log
from aigq.evaluation.lists import make_lists
from aigq.evaluation.table import evaluate_rows
from aigq.prepared import Prepared
from aigq.runs import Run, resolve
from aigq.stages import channel_of
from aigq.training.materials import subset

RESULTS: Final = Path(__file__).parent / "results" / "switches.json"
SYSTEM: Final = "direct_il_grpo"
START: Final = "direct_il_sft"
DEFAULT: Final = "default"
SWITCHES: Final[dict[str, dict[str, Any]]] = {
    DEFAULT: {},
    "match set": {"match": "set"},
    "credit suffix-DCG": {"credit": "suffix_dcg"},
    "ratio query": {"ratio": "query"},
    "ratio sequence": {"ratio": "sequence"},
    "normalise then sum": {"norm": "normalise_then_sum"},
    "CTR lower bound": {"ctr_bound": "lower"},
    "ROUGE weight 1": {"weights.rouge": 1},
    "no entropy bonus": {"entropy_bonus": 0},
}
SHOWN: Final = ("query_hr", "cate_hr", "unique_cates")
TRAINED: Final = ("reward", "ctr", "rouge", "entropy", "categories")
VALIDATED: Final = "valid_query_hr"


def trained(run: Path, name: str, steps: int, learning_rate: float) -> Path:
    """RUN-switches/NAME with its model."""
    folder = run.with_name(f"{run.name}-switches") / name.replace(" ", "-")
    if not folder.exists():
        (folder / "models").mkdir(parents=True)
        for shared in ("prepared", "channels", "models/ctr", f"models/{START}"):
            (folder / shared).symlink_to((run / shared).resolve())
        for file in ("config.yaml", "versions.json"):
            shutil.copy(run / file, folder / file)
        stages = json.loads((run / "stages.json").read_text())
        kept = {stage: stages[stage] for stage in ("prepare", "ctr", f"sft:{START}")}
        (folder / "stages.json").write_text(json.dumps(kept))
    every = {"steps": steps, "eval_every": steps, "learning_rate": learning_rate, **SWITCHES[name]}
    settings = [part for key, value in every.items() for part in ("--set", f"grpo.{key}={value}")]
    command = [sys.executable, "-m", "aigq.cli", "train", "grpo", "--system", SYSTEM, "--run", str(folder)]
    print(f"== {run.name}: {name}", flush=True)
    subprocess.run([*command, "--resume", *settings], check=True)
    return folder


def compared(run: Path, steps: int, learning_rate: float, samples: int) -> list[dict[str, Any]]:
    """A row for the start and for each switch."""
    folders = {name: trained(run, name, steps, learning_rate) for name in SWITCHES}
    config, _ = resolve(None, run, ["decoding.engine=onnx", f"evaluation.compare_to={DEFAULT}"])
    prepared = Prepared.load(run / "prepared")
    asked = subset(prepared.split("valid"), samples, config.seed)
    where = {START: (run, START)} | {name: (folder, SYSTEM) for name, folder in folders.items()}
    lists = {}
    for name, (folder, system) in where.items():
        channel = channel_of(Run(folder, config), system)
        lists[name] = make_lists(
            name, channel, prepared, asked, config.samples.list_length, lambda done: None
        ).lists
    table = evaluate_rows(lists, prepared, config, samples=asked, encode=None, seconds_per_1k={})
    rows = []
    for row in table["rows"]:
        name = row["system"]
        judged = {"users": row["users"], **{metric: figures(row, metric) for metric in SHOWN}}
        training = {} if name == START else last_step(folders[name])
        settings = SWITCHES.get(name, {})
        rows.append({"run": config.name, "switch": name, "settings": settings, "training": training} | judged)
    return rows


def figures(row: dict[str, Any], metric: str) -> dict[str, Any]:
    """A row's mean of a metric, and its difference from the row that it is compared with, if from any."""
    found = {"mean": round(row[metric], 4)}
    if "difference" not in row:
        return found
    difference = row["difference"][metric]
    return found | {
        "difference": round(difference["mean"], 4),
        "ci95": [round(bound, 4) for bound in difference["ci95"]],
    }


def last_step(folder: Path) -> dict[str, float]:
    """Reward and health of the rollouts of the last step, and the training's last validation Query HR@30."""
    log = training_log.read(folder / "models" / SYSTEM / "training")
    last = [entry for entry in log if "reward" in entry][-1]
    validated = [entry for entry in log if VALIDATED in entry][-1]
    kept = {name: last[name] for name in TRAINED} | {VALIDATED: validated[VALIDATED]}
    return {name: round(float(value), 4) for name, value in kept.items()}


def main() -> None:
    """Train, compare, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--samples", type=int, default=1000)
    given = parser.parse_args()
    rows = [
        row for run in given.runs for row in compared(run, given.steps, given.learning_rate, given.samples)
    ]
    for row in rows:
        print(f"{row['run']:16} {row['switch']:20}", *(row[metric] for metric in SHOWN))
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    settings = {"steps": given.steps, "learning_rate": given.learning_rate, "samples": given.samples}
    RESULTS.write_text(json.dumps({"machine": machine, **settings, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
