"""Generated item texts against the template, on items and on days that the model has not learned from.

An item's references are what shoppers typed before they clicked it, each as often as users typed it. Per
item: ROUGE-L of the text with its references, and the share of them that it equals; 0 without a text. Then
the mean over items, with a 95 % interval by bootstrap over items.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from aigq.config import Config
from aigq.evaluation.intervals import bootstrap95
from aigq.history.item_prompt import item_prompt
from aigq.samples.item_pairs import ItemLog, Users, part_of
from aigq.training.rewards import query_rouge

Write = Callable[[Sequence[Sequence[str]]], list[str | None]]
"""One text for each prompt."""

METRICS = ("rouge_l", "query_hit")


def compare(config: Config, log: ItemLog, write: Write) -> dict[str, Any]:
    """Both kinds of text on two sets of items.

    held_out_items: items of which no pair was trained on, as if they were new: neither the model nor the
    template sees a query that led to them. References: the training days.
    held_out_days: every item that was clicked on the test days; both see the training days.
    """
    asked, by_id = config.item_text.asked, {item.item_id: item for item in log.items}
    new = [
        item_id
        for item_id in sorted(log.led)
        if part_of(item_id, config.item_text.held_out, config.seed) == "test"
    ]
    later = sorted(log.later)
    cold = [item_prompt(by_id[i], []) for i in new]
    warm = [item_prompt(by_id[i], log.asked(i, asked)) if i in by_id else [] for i in later]
    sets = {
        "held_out_items": (new, log.led, log.described, write(cold)),
        "held_out_days": (later, log.later, log.templates, write(warm)),
    }
    return {
        name: _rows(config, ids, led, {"template": [texts.get(i) for i in ids], "generated": written})
        for name, (ids, led, texts, written) in sets.items()
    }


def scores(text: str | None, led: Users) -> tuple[float, float]:
    """ROUGE-L and query hit of an item's text, mean over the users that its queries led there."""
    if text is None:
        return 0.0, 0.0
    total = sum(led.values())
    rouge = sum(n * query_rouge(text, query) for query, n in led.items()) / total
    return rouge, led.get(text, 0) / total


def _rows(
    config: Config, ids: Sequence[str], led: Mapping[str, Users], systems: Mapping[str, Sequence[str | None]]
) -> dict[str, Any]:
    """The metrics of each system on the same items, and generated minus template."""
    if not ids:
        return {"items": 0}
    values = {
        name: np.array([scores(text, led[i]) for i, text in zip(ids, texts, strict=True)])
        for name, texts in systems.items()
    }  # each (items, 2)
    values["generated minus template"] = values["generated"] - values["template"]
    table = np.concatenate(list(values.values()), axis=1)
    intervals = bootstrap95(table, config.evaluation.bootstrap, config.seed)  # (columns, 2)
    columns = [(name, metric) for name in values for metric in METRICS]
    rows: dict[str, Any] = {name: {} for name in values}
    for (name, metric), mean, (low, high) in zip(columns, table.mean(axis=0), intervals, strict=True):
        rows[name][metric] = round(float(mean), 4)
        rows[name][f"{metric}_ci95"] = [round(float(low), 4), round(float(high), 4)]
    for name, texts in systems.items():
        rows[name]["items_with_text"] = sum(text is not None for text in texts)
    return {"items": len(ids), **rows}
