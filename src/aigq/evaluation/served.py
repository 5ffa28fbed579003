"""The rows `u2q`, `x2q` and `blend`: the serving path as channels of the table."""

from collections.abc import Sequence
from typing import Final

import pyarrow as pa

from aigq.config_serving import ServingConfig
from aigq.errors import StageError
from aigq.evaluation.past_shop import PastShop
from aigq.prepared import Moment, Prepared
from aigq.recall.channel import Hint
from aigq.serving import blend
from aigq.tables import SUPPLY

BLEND: Final = "blend"


class Served:
    """A row of what would have been served.

    `blend` has the weights, the diversity and the ranker of the service. A channel alone keeps its own order;
    guards and rotation hold for it, too.

    Args:
        name: of SERVED.
        shop: the shop; rows may share it.
        serving: the section of the config.
    """

    def __init__(self, name: str, shop: PastShop, serving: ServingConfig) -> None:
        alone = {"weights": {name: 1.0}, "diversity": 0.0, "ranker": "ranks"}
        self.name, self._shop = name, shop
        self._serving = serving if name == BLEND else serving.model_copy(update=alone)
        self._supply: list[pa.Table] | None = None

    def fit(self, prepared: Prepared) -> None:
        """Nothing is learned here: the shop is made from what was trained."""
        self._shop.fit(prepared)
        self._supply = []

    def recommend(self, moments: Sequence[Moment], n: int) -> list[list[Hint]]:
        """At most n hints for each moment, as served."""
        if self._supply is None:
            raise StageError(f"{self.name}: recommend() before fit()")
        longest = max(n, self._serving.candidates)  # a longer list begins with the shorter one
        answers = self._shop.ask(moments, longest, self._serving)
        self._supply.append(_supply_of(moments, answers))
        return [
            [Hint(c.query, 1.0 / rank, c.reason) for rank, c in enumerate(answer[:n], start=1)]
            for answer in answers
        ]

    def supply(self) -> pa.Table | None:
        """Who proposed what in the lists since `fit`, the table SUPPLY; None for a channel alone."""
        return pa.concat_tables([SUPPLY.empty_table(), *(self._supply or [])]) if self.name == BLEND else None


def _supply_of(moments: Sequence[Moment], answers: Sequence[Sequence[blend.Hint]]) -> pa.Table:
    rows = [
        {
            "sample_id": moment.sample_id,
            "rank": rank,
            "query": hint.query,
            "category": hint.category,
            "channels": sorted(hint.ranks),
        }
        for moment, answer in zip(moments, answers, strict=True)
        for rank, hint in enumerate(answer, start=1)
    ]
    return pa.Table.from_pylist(rows, schema=SUPPLY)
