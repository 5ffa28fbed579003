"""The label lists of samples: what SFT imitates and IL-GRPO refers to, the same. method.md section 3."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from aigq.config import Config
from aigq.prepared import Moment, Prepared
from aigq.recall import build_channel
from aigq.samples.labels import Label, fuse, log_order_labels, ranked_labels
from aigq.training.thoughts import searches_later

_RANKED = 200  # queries that each channel scores for the ranker


def rankings(config: Config, run: Path, prepared: Prepared, moments: Sequence[Moment]) -> list[list[str]]:
    """The order of `sft.ranker` for each moment, best first."""
    weights = config.sft.ranker
    proposals = {}
    for name in weights:
        channel = build_channel(name, config, run)
        channel.fit(prepared)
        proposals[name] = channel.recommend(moments, _RANKED)
    return [
        fuse({name: {h.query: h.score for h in lists[i]} for name, lists in proposals.items()}, weights)
        for i in range(len(moments))
    ]


def may_name(config: Config, allowed: set[str], moment: Moment) -> set[str]:
    """What lists of a moment may name: `allowed`, where they discover without the shopper's own queries."""
    return allowed - moment.issued() if config.samples.only_new else allowed


def training_samples(config: Config, prepared: Prepared, *, think: bool) -> pa.Table:
    """What is trained on. Exposures train Direct one by one, and Think by user-day. method.md section 3."""
    train = prepared.split("train")
    return user_days(train) if think and config.samples.unit == "exposure" else train


def user_days(samples: pa.Table) -> pa.Table:
    """Of each user-day the first sample, with the targets of all: every hint clicked from its cut on.

    Args:
        samples: a SAMPLES table of clicked exposures, in its order.
    """
    firsts: dict[tuple[str, int], int] = {}
    wanted: dict[tuple[str, int], dict[str, bool]] = {}
    columns = (samples[name].to_pylist() for name in ("user_id", "day", "targets", "novel"))
    for row, (user, day, targets, novel) in enumerate(zip(*columns, strict=True)):
        firsts.setdefault((user, day), row)
        clicked = wanted.setdefault((user, day), {})
        for query, is_novel in zip(targets, novel, strict=True):
            clicked.setdefault(query, is_novel)
    merged = samples.take(pa.array(list(firsts.values()), pa.int64()))
    lists = {
        "targets": [list(clicked) for clicked in wanted.values()],
        "novel": [list(clicked.values()) for clicked in wanted.values()],
    }
    for name, values in lists.items():
        place, field = merged.schema.get_field_index(name), merged.schema.field(name)
        merged = merged.set_column(place, field, pa.array(values, field.type))
    return merged


def label_lists(
    config: Config,
    run: Path,
    prepared: Prepared,
    samples: pa.Table,
    orders: Sequence[Sequence[str]],
    allowed: set[str],
    *,
    think: bool,
) -> list[list[Label]]:
    """The labels of each sample, in the order that `sft.labels` says.

    What an exposure showed stands before the rest of the ranker's order, in its own: production's rank is
    the prior. With `think` the searches of the day join, and what `think.generated_by` proposes.

    Args:
        samples: rows of SAMPLES.
        orders: the ranker's order at each of them, see `rankings`; not read for labels in log order.
        allowed: text that k users issued; nothing else becomes a label.
    """
    sft, length = config.sft, config.samples.list_length
    targets = samples["targets"].to_pylist()
    later = searches_later(prepared, samples) if think else [[]] * len(targets)
    may = [may_name(config, allowed, moment) for moment in prepared.moments(samples)]
    if sft.labels == "log_order":
        rows = zip(targets, may, later, strict=True)
        return [log_order_labels(t, texts, length, searches=s) for t, texts, s in rows]
    written = _generated(config, run, prepared, samples) if think else [[]] * len(targets)
    ids, shown = samples["sample_id"].to_pylist(), samples["shown"].to_pylist()
    lists = zip(ids, targets, shown, orders, may, later, written, strict=True)
    return [
        ranked_labels(
            clicked,
            list(dict.fromkeys([*(seen or ()), *order])),
            texts,
            length,
            sft.tail,
            # of the sample's own, so that its labels are the same wherever they are asked for
            np.random.default_rng((config.seed, number)) if sft.clicked_order == "random" else None,
            searches=searches,
            generated=generated,
        )
        for number, clicked, seen, order, texts, searches, generated in lists
    ]


def _generated(config: Config, run: Path, prepared: Prepared, samples: pa.Table) -> list[list[str]]:
    """What a language model proposes at each sample, where one is configured."""
    if config.think.generated_by is None:
        return [[]] * samples.num_rows
    channel = build_channel(f"zero_shot:{config.think.generated_by}", config, run)
    channel.fit(prepared)
    lists = channel.recommend(prepared.moments(samples), config.samples.list_length)
    return [[hint.query for hint in hints] for hints in lists]
