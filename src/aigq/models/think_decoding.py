"""Drawing thoughts from the model: every row stays inside the grammar of `think_grammar`.

Reasoning is free text, bounded in tokens. A point names only behaviours that its prompt holds and that no
earlier point named, as interests that share a behaviour are one (`samples.interests`); discovery is one.
Queries are written in the prefix tree, no query twice in the whole output, so text that fewer than k users
issued cannot be a hint (method.md section 3).
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from aigq.config_training import ThinkConfig
from aigq.history.prompt import SEPARATOR
from aigq.models.decoding import Asked, Choices, ListRow, Node, QueryTree, Write, longest_list
from aigq.models.think_grammar import DISCOVERY, INTEREST, THINK, Reading, Thought, index_token, read
from aigq.models.vocabulary import END, Vocabulary
from aigq.samples.interests import InterestPoint


class ThinkRow:
    """Where one thought stands. Begins with reasoning, or, where none is asked for, with a point.

    Args:
        marks: the special tokens and the free text of the vocabulary.
        queries: the prefix tree walk of the query part.
        behaviours: of the prompt; 0 leaves only discovery, and nothing to reason about.
        limits: how much of everything.
        reasoning: False: answer only.
    """

    def __init__(
        self, marks: "Marks", queries: ListRow, behaviours: int, limits: ThinkConfig, *, reasoning: bool
    ) -> None:
        self._marks, self.queries, self._limits = marks, queries, limits
        self._indices = marks.indices[:behaviours]
        self._reasoning = reasoning and bool(self._indices)
        self._where = "start"
        self._reasoned, self._tail = 0, SEPARATOR  # tokens of the reasoning, and its last two characters
        self._points, self._discovered = 0, False
        self._free = list(self._indices)  # index tokens that no point has named
        self._triggers = 0  # of the open point
        self._asked = 0  # finished queries before the open point

    def advance(self, token: int) -> None:
        """Take a token: one of `choices`."""
        if token == self._marks.think:
            self._where = "reasoning"
        elif token == self._marks.interest:
            self._where, self._triggers, self._asked = "triggers", 0, len(self.queries.found)
            self._points += 1
        elif self._where == "reasoning":
            self._reasoned += 1
            self._tail = (self._tail + self._marks.text_of(token))[-2:]
        elif token == self._marks.discovery:
            self._where, self._discovered = "queries", True
        elif self._where == "triggers" and token in self._free:
            self._free.remove(token)
            self._triggers += 1
        else:
            self._where = "queries"
            self.queries.advance(token)

    def finished(self) -> bool:
        """The list is full, or nothing is left to say."""
        return self.queries.finished()

    def choices(self) -> Choices:
        """What the grammar allows next."""
        marks = self._marks
        if self._where == "start":
            return Choices(None, marks=[marks.think if self._reasoning else marks.interest])
        if self._where == "reasoning":
            whole = self._tail == SEPARATOR and self._reasoned > 0
            full = self._reasoned >= self._limits.rationale_tokens
            return Choices(None if full else marks.text, marks=[marks.interest] if whole or full else [])
        walk = self.queries.choices()
        if self._where == "triggers":
            if not self._triggers:
                return Choices(None, marks=[*self._free, *([] if self._discovered else [marks.discovery])])
            more = self._triggers < self._limits.max_triggers
            return Choices(walk.node, walk.spent, list(self._free) if more else [])
        between = walk.node is self.queries.tree.root and len(self.queries.found) > self._asked
        return Choices(walk.node, walk.spent, [marks.interest] if between and self._may_open() else [])

    def _may_open(self) -> bool:
        """Whether another point may begin: there is room for it, and something for it to name."""
        return self._points < self._limits.max_points and (bool(self._free) or not self._discovered)


@dataclass(frozen=True)
class Marks:
    """Token ids of the grammar. `text` is a node whose children are all tokens that are no special ones."""

    vocabulary: Vocabulary
    think: int
    interest: int
    discovery: int
    indices: list[int]
    text: Node

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> "Marks":
        """The marks of a vocabulary that has them, see `aigq.models.generator.add_tokens`."""
        ids = {token: i for i, token in vocabulary.special.items()}
        names = itertools.takewhile(ids.__contains__, map(index_token, itertools.count(1)))
        indices = [ids[name] for name in names]
        plain = {i: Node() for i in range(len(vocabulary.tokenizer)) if i not in vocabulary.special}
        return cls(vocabulary, ids[THINK], ids[INTEREST], ids[DISCOVERY], indices, Node(plain))

    def text_of(self, token: int) -> str:
        """The characters of a token, those of a byte-level one as the tokenizer shows them."""
        return str(self.vocabulary.tokenizer.convert_ids_to_tokens(token))


def generate_thoughts(
    write: Write,
    marks: Marks,
    prompts: Sequence[Sequence[int]],
    behaviours: Sequence[int],
    trees: Sequence[QueryTree],
    length: int,
    limits: ThinkConfig,
    *,
    reasoning: bool,
    without: Sequence[Iterable[str]] | None = None,
    temperature: float = 0.0,
    top_k: int = 100,
) -> list[Thought]:
    """Thoughts of at most `length` distinct queries in all for one batch of prompts.

    Args:
        write: what writes with the model.
        prompts: token ids per row.
        behaviours: per row, how many behaviours the prompt holds.
        trees: per row, what may be written as a query.
        reasoning: False leaves the rationale out of decoding.
        without: per row, queries of the tree that may not be written.
    """
    barred = without or [()] * len(trees)

    def row(tree: QueryTree, texts: Iterable[str], known: int) -> ThinkRow:
        return ThinkRow(marks, ListRow(tree, length, texts), known, limits, reasoning=reasoning)

    rows = [partial(row, *each) for each in zip(trees, barred, behaviours, strict=True)]
    outputs = write(Asked(prompts, rows, longest(limits, trees, length), temperature, top_k))
    end = marks.vocabulary.encode(END)
    readings = [read([*out, *end], marks.vocabulary, n) for out, n in zip(outputs, behaviours, strict=True)]
    return [_in_the_shops_words(reading, tree) for reading, tree in zip(readings, trees, strict=True)]


def longest(limits: ThinkConfig, trees: Iterable[QueryTree], length: int) -> int:
    """Room for a thought of `length` queries of any of the trees, in tokens."""
    named = limits.max_points * (limits.max_triggers + 1)
    return limits.rationale_tokens + named + longest_list(trees, length) + 1


def _in_the_shops_words(reading: Reading, tree: QueryTree) -> Thought:
    """Queries as the shop knows them: the text that is written may lack marks that shoppers typed."""
    points = [
        InterestPoint(triggers, tuple(tree.by_text[query] for query in queries if query in tree.by_text))
        for triggers, queries in reading.thought.points
    ]
    return replace(reading.thought, points=tuple(points))
