"""Chooses how `serving` blends on validation days: `python tools/tune_blend.py --config FILE --run RUN`.

For each ranker one setting after the other (coordinate ascent): each weight is multiplied by a few factors,
then the diversity is varied; what gives the best Query HR@K of the row `blend` stays. The test days are not
looked at.
Prints each better setting, then YAML for the recipe.
"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import yaml

from aigq.config_serving import ServingConfig
from aigq.evaluation import intervals, metrics
from aigq.evaluation.served import BLEND, Served
from aigq.evaluation.table import subset
from aigq.prepared import Moment, Prepared
from aigq.runs import Run, resolve
from aigq.stages import behind, need, past_shop
from aigq.systems import stage_of

FACTORS = (0.0, 0.3, 3.0, 10.0)
DIVERSITIES = (0.0, 0.05, 0.15)
ROUNDS = 2


class Tuning:
    """Query HR@K of the blend on a seeded draw of validation users."""

    def __init__(self, run: Run, users: int) -> None:
        config = run.config
        self._prepared = Prepared.load(run.folder / "prepared")
        samples = subset(self._prepared.split("valid"), users, config.seed)
        self._moments: Sequence[Moment] = self._prepared.moments(samples)
        self._ids, self._k = samples["sample_id"].to_numpy(), max(config.evaluation.ks)
        self._vocabulary = metrics.Vocabulary()
        self._targets = metrics.Targets.of(samples, self._vocabulary)
        owners = samples["user_id"].to_numpy(zero_copy_only=False)
        self._names, self._owners = np.unique(owners, return_inverse=True)
        self._shop = past_shop(run)

    def value(self, serving: ServingConfig, row: str = BLEND) -> float:
        """The mean over users."""
        served = Served(row, self._shop, serving)
        served.fit(self._prepared)
        lists = served.recommend(self._moments, self._k)
        codes = np.full((len(lists), self._k), -1, dtype=np.int64)
        for place, hints in enumerate(lists):
            codes[place, : len(hints)] = self._vocabulary.add(hint.query for hint in hints)
        rates = metrics.query_hr(codes, self._targets)[:, -1:]
        users = intervals.user_means(rates, self._owners, len(self._names))
        return float(intervals.mean_over_users(users)[0])


def main() -> None:
    """Tune and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--users", type=int, default=300)
    arguments = parser.parse_args()
    config, folder = resolve(arguments.config, arguments.run, arguments.set)
    run = Run.open(folder, config)
    for stage in ["prepare", *(stage_of(system) for system in sorted(behind(config, [BLEND])))]:
        need(run, stage)
    tuning, serving = Tuning(run, arguments.users), config.serving
    channels = [channel for channel, weight in serving.weights.items() if weight > 0]
    for channel in channels:
        print(f"{channel} alone: {tuning.value(serving, channel):.4f}", flush=True)
    found = [
        ascended(tuning, serving.model_copy(update={"ranker": ranker}), channels)
        for ranker in get_args(ServingConfig.model_fields["ranker"].annotation)
    ]
    _, best = max(found, key=lambda one: one[0])
    chosen = best.model_dump(include={"ranker", "weights", "diversity"})
    print(yaml.safe_dump({"serving": chosen}, sort_keys=False), end="")


def ascended(tuning: Tuning, serving: ServingConfig, channels: Sequence[str]) -> tuple[float, ServingConfig]:
    """The best value found with this ranker, and the setting that gives it."""
    best = tuning.value(serving)
    print(f"{serving.ranker}, as configured: {best:.4f}", flush=True)

    def accept(candidate: ServingConfig) -> None:
        nonlocal best, serving
        if (value := tuning.value(candidate)) > best:
            best, serving = value, candidate
            print(f"{best:.4f} {serving.weights} diversity {serving.diversity}", flush=True)

    for _ in range(ROUNDS):
        before = best
        for channel, factor in itertools.product(channels, FACTORS):
            changed = {**serving.weights, channel: serving.weights[channel] * factor}
            if any(changed.values()):
                accept(serving.model_copy(update={"weights": changed}))
        for diversity in DIVERSITIES:
            accept(serving.model_copy(update={"diversity": diversity}))
        if best == before:
            break
    return best, serving


if __name__ == "__main__":
    main()
