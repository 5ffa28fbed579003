"""Which query or which trigger a token of a thought belongs to. Paper section 3.4; method.md section 5.

    <think>rationale;; <interest><1><4>query;;query;; <interest><discovery>query;; <end>
    LIST   LIST ...    LIST     K  K  0       1       LIST     K+1        2        LIST

Queries are numbered through all interest points, trigger sequences beside them, so that either gets credit
for its own reward alone.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from aigq.config_training import ThinkConfig
from aigq.models.decoding import ListRow, QueryTree
from aigq.models.think_decoding import Marks, ThinkRow, longest
from aigq.models.think_grammar import DISCOVERY, INTEREST, index_of, read
from aigq.models.vocabulary import Vocabulary
from aigq.samples.interests import InterestPoint
from aigq.training.spans import LIST, Output, spans_of

DISCOVERED: Final = 0
"""Stands for `<discovery>` in a trigger sequence: behaviours have the indices 1, 2, ..."""


@dataclass(frozen=True)
class ThoughtForm:
    """How the rollouts of Think are written and read.

    Args:
        marks: of the vocabulary.
        behaviours: for each prompt, how many it holds.
        limits: how much of everything.
    """

    marks: Marks
    behaviours: Sequence[int]
    limits: ThinkConfig

    def row(self, prompt: int, queries: ListRow) -> ThinkRow:
        """What one rollout may write: with reasoning, unless none is trained."""
        reasoning = self.limits.without_rationale < 1
        return ThinkRow(self.marks, queries, self.behaviours[prompt], self.limits, reasoning=reasoning)

    def room(self, trees: Iterable[QueryTree], slots: int) -> int:
        """The longest rollout in tokens."""
        return longest(self.limits, trees, slots)

    def read(self, prompt: int, tokens: Sequence[int], slots: int) -> Output:
        """The spans of one thought, its end token included if it has one."""
        vocabulary = self.marks.vocabulary
        found = thought_spans(tokens, vocabulary, slots, self.limits.max_points)
        return found._replace(faults=len(read(tokens, vocabulary, self.behaviours[prompt]).faults))


def thought_spans(tokens: Sequence[int], vocabulary: Vocabulary, slots: int, points: int) -> Output:
    """Split one thought, well-formed or not, into queries and triggers.

    Trigger tokens are the indices, or `<discovery>`, that follow `<interest>`. Everything else that is no
    query is LIST: reasoning, `<interest>`, misplaced tokens, and what exceeds `slots` or `points`.

    Args:
        tokens: without padding.
        slots: K, how many queries are judged.
        points: N, how many trigger sequences are judged.
    """
    queries: list[str] = []
    slot: list[int] = []
    triggers: list[list[int]] = []
    naming = False  # since `<interest>` nothing but triggers
    for token, group in itertools.groupby(tokens, vocabulary.special.get):
        run = list(group)
        index = DISCOVERED if token == DISCOVERY else index_of(token or "")
        if token is None and triggers:
            spans = spans_of(run, vocabulary.tokenizer, slots - len(queries))
            slot += [j if j < 0 else j + len(queries) for j in spans.slot]
            queries += spans.queries
        elif naming and index is not None:
            triggers[-1] += [index] * len(run)
            slot += [slots + len(triggers) - 1 if len(triggers) <= points else LIST] * len(run)
        else:
            slot += [LIST] * len(run)
            triggers += [[] for _ in run if token == INTEREST]
        naming = token == INTEREST or (naming and index is not None)
    return Output(queries, slot, triggers[:points])


def references(points: Sequence[InterestPoint]) -> tuple[list[str], list[tuple[int, ...]]]:
    """What rollouts are compared with: the queries of a label in Think's order, and its trigger sequences."""
    queries = [query for point in points for query in point.queries]
    return queries, [point.triggers or (DISCOVERED,) for point in points]
