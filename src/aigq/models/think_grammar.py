"""What AIGQ-Think writes, and how it is read back. Paper section 3.3; method.md section 4.

    <think>rationale;;rationale;; <interest><1><4>query;;query;; <interest><discovery>query;; <end>

An interest point names the behaviours that it rests on by their indices in the prompt, or is `<discovery>`.
Reasoning comes first and may be missing ("answer only"). The reader accepts nothing else, and keeps of
malformed output what can be read: each fault costs only what it touches, and is named.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from aigq.history.prompt import SEPARATOR, clean
from aigq.models.vocabulary import END, Vocabulary
from aigq.samples.interests import InterestPoint

THINK, INTEREST, DISCOVERY = "<think>", "<interest>", "<discovery>"
THINK_TOKENS = (THINK, INTEREST, DISCOVERY)
_INDEX = re.compile(r"<(\d+)>")


@dataclass(frozen=True)
class Thought:
    """Rationales, then interest points; at most one point has no triggers (discovery)."""

    rationales: tuple[str, ...] = ()
    points: tuple[InterestPoint, ...] = ()


@dataclass(frozen=True)
class Reading:
    """What could be read, and the names of the faults that were met; none for well-formed output."""

    thought: Thought
    faults: tuple[str, ...] = ()


def index_token(index: int) -> str:
    """The token of a behaviour's index, as in the prompt."""
    return f"<{index}>"


def index_of(token: str) -> int | None:
    """The index that a token names; None for any other token."""
    found = _INDEX.fullmatch(token)
    return int(found[1]) if found else None


def pieces(thought: Thought) -> list[str]:
    """The thought as pieces for `Vocabulary.encode`: special tokens, and texts that end with `;;`."""
    written = [THINK, *(clean(text) + SEPARATOR for text in thought.rationales)] if thought.rationales else []
    for point in thought.points:
        written += [*opening(point.triggers), *(clean(query) + SEPARATOR for query in point.queries)]
    return [*written, END]


def opening(triggers: Sequence[int]) -> list[str]:
    """The tokens that a point begins with."""
    return [INTEREST, *([index_token(i) for i in triggers] or [DISCOVERY])]


def segments(ids: Sequence[int], vocabulary: Vocabulary) -> Iterator[tuple[str, bool]]:
    """Token ids as (special token, True) and (text between them, False); the text of a run is decoded whole.

    So it does not matter which token holds a separator, or whether one holds the end of a query as well.
    """
    special, run = vocabulary.special, list[int]()
    for token in ids:
        if token not in special:
            run.append(token)
            continue
        if run:
            yield vocabulary.decode(run), False
            run = []
        yield special[token], True
    if run:
        yield vocabulary.decode(run), False


def read(ids: Sequence[int], vocabulary: Vocabulary, behaviours: int) -> Reading:
    """Read token ids written after a prompt with so many behaviours. Never raises."""
    return parse(segments(ids, vocabulary), behaviours)


def parse(parts: Iterable[tuple[str, bool]], behaviours: int) -> Reading:
    """Read special tokens and texts in between, as `segments` gives them. Never raises.

    Args:
        parts: (token, True) or (text, False); neighbouring texts are separate, unfinished ones are lost.
        behaviours: the prompt's; indices are 1..behaviours.
    """
    reader = _Reader(behaviours)
    for text, is_special in parts:
        if is_special and text == END:
            return reader.finished(ended=True)
        if is_special:
            reader.special(text)
        else:
            reader.text(text)
    return reader.finished(ended=False)


@dataclass
class _Reader:
    """Where reading stands: before everything, in the reasoning, or in a point."""

    behaviours: int
    where: str = "start"
    rationales: list[str] = field(default_factory=list)
    points: list[InterestPoint] = field(default_factory=list)
    triggers: list[int] = field(default_factory=list)
    discovery: bool = False
    queries: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)

    def special(self, token: str) -> None:
        index = index_of(token)
        if token == THINK and self.where == "start":
            self.where = "reasoning"
        elif token == INTEREST:
            self._close()
            self.where = "point"
        elif self.where == "point" and token == DISCOVERY:
            self._name_discovery()
        elif self.where == "point" and index is not None:
            self._name(index)
        else:
            self.faults.append("misplaced token")

    def text(self, text: str) -> None:
        *whole, rest = text.split(SEPARATOR)
        if rest:
            self.faults.append("unfinished text")
        if self.where == "start":
            self.faults.append("text outside")
        elif self.where == "reasoning":
            self.rationales += [cleaned for part in whole if (cleaned := self._cleaned(part))]
        else:
            for part in whole:
                self._add(self._cleaned(part))

    def finished(self, *, ended: bool) -> Reading:
        self._close()
        if not ended:
            self.faults.append("no end")
        return Reading(Thought(tuple(self.rationales), tuple(self.points)), tuple(self.faults))

    def _cleaned(self, part: str) -> str:
        cleaned = clean(part)
        if not cleaned:
            self.faults.append("empty text")
        return cleaned

    def _add(self, query: str) -> None:
        if query in self.seen:
            self.faults.append("repeated query")
        elif query:
            self.seen.add(query)
            self.queries.append(query)

    def _name(self, index: int) -> None:
        if self.queries or self.discovery:
            self.faults.append("misplaced index")
        elif not 1 <= index <= self.behaviours:
            self.faults.append("unknown index")
        elif index in self.triggers:
            self.faults.append("repeated index")
        else:
            self.triggers.append(index)

    def _name_discovery(self) -> None:
        if self.queries or self.triggers or self.discovery:
            self.faults.append("misplaced discovery")
        else:
            self.discovery = True

    def _close(self) -> None:
        """End the open point; queries without a readable trigger are discovery, which is one point."""
        if self.where != "point":
            return
        if not self.triggers and not self.discovery:
            self.faults.append("no trigger")
        known = next((i for i, point in enumerate(self.points) if not point.triggers), None)
        if not self.queries:
            self.faults.append("empty point")
        elif not self.triggers and known is not None:
            self.faults.append("second discovery")
            earlier = self.points[known].queries
            self.points[known] = InterestPoint((), (*earlier, *self.queries))
        else:
            self.points.append(InterestPoint(tuple(self.triggers), tuple(self.queries)))
        self.triggers, self.queries, self.discovery = [], [], False
