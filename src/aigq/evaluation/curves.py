"""The curves of each training in the report, from the log.jsonl that it leaves (training/checkpoints.py)."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from aigq import training_log
from aigq.evaluation import charts
from aigq.systems import GRPO, SFT

Log = list[dict[str, Any]]


class Curve(NamedTuple):
    """One chart: its title, and what the log calls each line -> what a reader calls it."""

    title: str
    lines: Mapping[str, str]


_VALIDATION: Final = Curve("Query HR on validation", {"valid_query_hr": "Query HR"})
_SUPERVISED: Final = (Curve("training loss", {"loss": "loss"}), _VALIDATION)
_REINFORCED: Final = (
    _VALIDATION,
    Curve("reward of a query", {"reward": "reward"}),
    Curve("reward by part", {"ctr": "CTR", "rouge": "ROUGE-L", "trigger": "triggers"}),
    Curve("distinct per list", {"queries": "queries", "categories": "categories"}),
    Curve("entropy of a token", {"entropy": "entropy"}),
    Curve("groups without signal", {"no_signal": "share"}),
)
_ADVICE: Final = (
    "<p>A CTR reward that rises while ROUGE-L falls is reward hacking; falling entropy with fewer queries or "
    "categories per list is collapse. A group teaches nothing where all its lists have the same rewards.</p>"
)


def trainings(run: Path) -> str:
    """Charts of every generator of the run whose training left a log, as HTML; empty where none did."""
    folders = {system: run / "models" / system / "training" for system in (*SFT, *GRPO)}
    parts = []
    for system in SFT:
        imitation = training_log.read(folders[system] / "imitation")
        parts.append(_charts(f"{system}: imitation of the ranker", _SUPERVISED, imitation))
        parts.append(_charts(system, _SUPERVISED, training_log.read(folders[system])))
    rewarded = [_charts(system, _REINFORCED, training_log.read(folders[system])) for system in GRPO]
    return "".join(parts) + (_ADVICE if any(rewarded) else "") + "".join(rewarded)


def figure(svg: str, text: str) -> str:
    """A chart that a screen reader reads as `text`."""
    return f'<figure role="img" aria-label="{escape(text)}">{svg}</figure>'


def _charts(training: str, curves: Sequence[Curve], log: Log) -> str:
    """A heading and the charts of one training."""
    drawn = [_over_steps(curve, log) for curve in curves] + [_by_slot(log)]
    if not any(drawn):
        return ""
    return f'<h3>{escape(training)}</h3><div class="grid four">{"".join(drawn)}</div>'


def _over_steps(curve: Curve, log: Log) -> str:
    points = [
        {"at": entry["step"], "value": entry[key], "line": name}
        for key, name in curve.lines.items()
        for entry in log
        if isinstance(entry.get(key), int | float) and np.isfinite(entry[key])
    ]
    return _drawn(curve.title, points, "optimiser step")


def _by_slot(log: Log) -> str:
    """The reward of each place of the list, at the first step and at the last."""
    entries = [entry for entry in log if isinstance(entry.get("reward_by_slot"), list)]
    points = [
        {"at": slot, "value": reward, "line": f"step {entry['step']:,}"}
        for entry in (entries[:1] + entries[-1:] if len(entries) > 1 else entries)
        for slot, reward in enumerate(entry["reward_by_slot"], start=1)
    ]
    return _drawn("reward by place in the list", points, "place")


def _drawn(title: str, points: Sequence[dict[str, Any]], axis: str) -> str:
    if not points:
        return ""
    values: dict[str, list[float]] = {}
    for point in points:
        values.setdefault(point["line"], []).append(point["value"])
    said = ", ".join(f"{name} from {each[0]:.4f} to {each[-1]:.4f}" for name, each in values.items())
    return figure(charts.lines(points, title, axis), f"{title}: {said}")
