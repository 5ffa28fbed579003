"""The protocol of everything that proposes queries: recall channels, peers, the generator."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import pyarrow as pa

from aigq.errors import UsageError
from aigq.prepared import Moment, Prepared


class RowMissing(UsageError):
    """What a row asks is not there: a peer's environment, an endpoint. A table goes on without the row."""


class Hint(NamedTuple):
    """One proposed query. `score` orders hints of one channel only; `reason` is shown to people."""

    query: str
    score: float
    reason: str


class RecallChannel(Protocol):
    """Proposes queries for shoppers.

    `fit` sees `prepared.training_rows()` and samples of the split "train" only. `recommend` may use each
    moment's history and counts of days before the moment's day, nothing later; it returns at most n hints
    per moment, best first, without repeats, each query issued by at least `k_users` distinct users before
    the moment's day.
    """

    name: str

    def fit(self, prepared: Prepared) -> None:
        """Learn from the training part of the log."""
        ...

    def recommend(self, moments: Sequence[Moment], n: int) -> list[list[Hint]]:
        """At most n hints for each moment, best first."""
        ...


@runtime_checkable
class Supplied(Protocol):
    """A channel that is made of others and can say which of them proposed what."""

    def supply(self) -> pa.Table | None:
        """The table SUPPLY of all lists since `fit`; None where it has nothing to say."""
        ...
