"""Discovery: a channel without what the shopper has issued before. Its rows of the table end in `:new`.

A list of hints can remind or it can discover, and a place that is given to one is lost to the other. Beside
the lists as they are, the table judges every system on lists of new queries alone.
"""

from collections.abc import Sequence

from aigq.prepared import Moment, Prepared
from aigq.recall.channel import Hint, RecallChannel
from aigq.systems import NEW


class OnlyNew:
    """Asks a channel for more and drops the shopper's own queries, so that n new ones remain.

    Args:
        channel: any channel, not fitted.
    """

    def __init__(self, channel: RecallChannel) -> None:
        self._channel = channel
        self.name = channel.name + NEW

    def fit(self, prepared: Prepared) -> None:
        """Fit the channel."""
        self._channel.fit(prepared)

    def recommend(self, moments: Sequence[Moment], n: int) -> list[list[Hint]]:
        """At most n hints for each moment, none of them a query of its history."""
        known = [moment.issued() for moment in moments]
        if n <= 0 or not known:
            return [[] for _ in moments]
        longest = n + max(map(len, known))
        lists = self._channel.recommend(moments, longest)
        return [
            [hint for hint in hints if hint.query not in own][:n]
            for hints, own in zip(lists, known, strict=True)
        ]
