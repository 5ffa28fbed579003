"""Item -> query that led to the click: the pairs of the item-to-text model, and what they are measured on.

Pairs come from events before the first validation day only. A query that fewer than k users issued is never
a training target; it stays in the pairs as something that shoppers said, for the comparison.
"""

import hashlib
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import ibis.expr.types as ir
import numpy as np

from aigq.config import Config
from aigq.history import queries, surrogates
from aigq.history.engine import read
from aigq.history.item_prompt import Item, item_prompt
from aigq.samples.clean import actions_of, clean
from aigq.samples.prepare import database, open_log, with_leaf
from aigq.samples.split import epoch_day

Part = Literal["train", "valid", "test"]
Users = Mapping[str, int]
"""Query -> distinct users whom it led to an item."""

_HASHES: Final = 2**32


@dataclass(frozen=True)
class ItemLog:
    """Every item of a log, and the queries that led to it.

    led: in training; later: on the test days; both item_id -> query -> users.
    servable: the queries of k users, in training.
    templates: item_id -> its text without this model, see `surrogates.template`; described: the same for an
    item that nobody has clicked yet.
    """

    items: Sequence[Item]
    led: Mapping[str, Users]
    later: Mapping[str, Users]
    servable: frozenset[str]
    templates: Mapping[str, str]
    described: Mapping[str, str] = field(default_factory=dict)

    def asked(self, item_id: str, n: int, without: str | None = None) -> list[str]:
        """At most n servable queries that led to an item, by falling number of users.

        Args:
            without: leave out one user of this query: what is known when she is the one to predict.
        """
        counts = {q: users - (q == without) for q, users in self.led.get(item_id, {}).items()}
        known = [q for q, users in counts.items() if users > 0 and q in self.servable]
        return sorted(known, key=lambda q: (-counts[q], q))[:n]


@dataclass(frozen=True)
class Pair:
    """One item, the queries that its prompt shows, and the query to write."""

    item: Item
    asked: Sequence[str]
    query: str


def read_item_log(config: Config) -> ItemLog:
    """Read the imported tables.

    Raises:
        SourceError: `data.tables` has no events.
    """
    with tempfile.TemporaryDirectory() as spill, database(config, Path(spill)) as con:
        log = open_log(con, config.data.tables)
        parts = list(clean(log.events, config, actions_of(log.events)))
        k, split = config.samples.k_users, config.split
        training = [p.events.filter(p.events.day < epoch_day(split.validation_from)) for p in parts]
        testing = [p.events.filter(p.events.day >= epoch_day(split.test_from)) for p in parts]
        led = queries.total_led([queries.count_led(events) for events in training])
        items = with_leaf(log.items, queries.leaf_categories(log.items))
        known = _items(log.items)
        clicked = {row["item_id"] for row in read(led.pairs.select("item_id").distinct())}
        return ItemLog(
            items=[known.get(i) or Item(i) for i in sorted(known.keys() | clicked)],
            led=_users(training),
            later=_users(testing),
            servable=frozenset(row["query"] for row in read(surrogates.common_queries(led, k))),
            templates=_texts(surrogates.template(items, led, k)),
            described=_texts(surrogates.template(items, queries.count_led(training[0].limit(0)), k)),
        )


def part_of(item_id: str, held_out: float, seed: int) -> Part:
    """Which items train the model, choose its best weights, and measure it: by a hash of the id."""
    digest = hashlib.blake2b(f"{seed}:{item_id}".encode("utf-8", "surrogatepass"), digest_size=4).digest()
    place = int.from_bytes(digest) / _HASHES
    return "test" if place < held_out else "valid" if place < 2 * held_out else "train"


def pairs(log: ItemLog, config: Config, part: Part) -> list[Pair]:
    """The pairs of the items of one part, those of popular items drawn at random; equal for equal seeds.

    What a prompt shows besides the item is what other users asked for, and nothing in a share `cold` of the
    pairs, as of an item that is new in the shop; without a title, that would leave nothing to read.
    """
    settings = config.item_text
    made = []
    for item in log.items:
        if part_of(item.item_id, settings.held_out, config.seed) != part:
            continue
        users = {q: n for q, n in sorted(log.led.get(item.item_id, {}).items()) if q in log.servable}
        said = [query for query, n in users.items() for _ in range(n)]
        rng = np.random.default_rng((config.seed, *item.item_id.encode("utf-8", "surrogatepass")))
        for place in rng.permutation(len(said))[: settings.pairs_per_item].tolist():
            cold = rng.random() < settings.cold and item_prompt(item, [])
            asked = [] if cold else log.asked(item.item_id, settings.asked, without=said[place])
            made.append(Pair(item, asked, said[place]))
    return made


def _items(items: ir.Table) -> dict[str, Item]:
    rows = read(items.select("item_id", "title", "brand", "category", "attributes"))
    return {row["item_id"]: _item(row) for row in rows}


def _item(row: dict[str, Any]) -> Item:
    names = [name for name in row["category"] or [] if name]
    return Item(
        row["item_id"], row["title"], row["brand"], names, sorted(dict(row["attributes"] or []).items())
    )


def _users(parts: Sequence[ir.Table]) -> dict[str, dict[str, int]]:
    """item_id -> query -> distinct users, by name."""
    found: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for events in parts:
        counts = queries.led_to(events).group_by("item_id", "query").agg(users=lambda t: t.user_id.nunique())
        for row in read(counts):
            found[row["item_id"]][row["query"]] += row["users"]
    return {item: dict(sorted(asked.items())) for item, asked in sorted(found.items())}


def _texts(texts: ir.Table) -> dict[str, str]:
    return {row["item_id"]: row["text"] for row in read(texts)}
