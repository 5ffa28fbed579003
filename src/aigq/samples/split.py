"""Which samples train, which validate, which test: by time only."""

from datetime import date
from typing import Final

import ibis
import ibis.expr.types as ir

from aigq.config import Config, SplitConfig

EPOCH: Final = date(1970, 1, 1)
TOO_EARLY: Final = "before_train_from"
TOO_SHORT: Final = "history_too_short"


def epoch_day(day: date) -> int:
    """Days since 1970-01-01."""
    return (day - EPOCH).days


def add_split(samples: ir.Table, split: SplitConfig) -> ir.Table:
    """Adds `split` by the day of the sample: train < validation_from <= valid < test_from <= test."""
    name = ibis.cases(
        (samples.day < epoch_day(split.validation_from), "train"),
        (samples.day < epoch_day(split.test_from), "valid"),
        else_="test",
    )
    return samples.mutate(split=name)


def add_drop_reason(samples: ir.Table, config: Config) -> ir.Table:
    """Adds `dropped`: why a sample is not used, null where it is."""
    shortest = (samples.split == "train").ifelse(config.samples.train_min_history, config.samples.min_history)
    first = config.split.train_from
    too_early = ibis.literal(False) if first is None else samples.day < epoch_day(first)
    reason = ibis.cases(
        ((samples.split == "train") & too_early, TOO_EARLY),
        (samples.n_before < shortest, TOO_SHORT),
        else_=ibis.null("string"),
    )
    return samples.mutate(dropped=reason)
