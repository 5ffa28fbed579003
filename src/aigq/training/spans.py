"""Which query a generated token belongs to. method.md section 5: the index j of `token t inside query j`.

A list is text with a separator after each query. Tokens do not respect that border: one token may be a whole
query with its separator, half a Chinese character, or the end of one query, the separator and the beginning
of the next. The rule: a token belongs to the query whose separator it completes, else to the query that it
continues.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from transformers import PreTrainedTokenizerBase

from aigq.history.prompt import SEPARATOR

LIST: Final = -1
"""A token that belongs to no query of the slots: it gets the list's advantage alone (end, extra queries)."""

NOTHING: Final = -2
"""A token without any advantage: padding, and a query that was cut off before its separator."""


class Spans(NamedTuple):
    """The queries of one generated list, and for each of its T tokens the slot, LIST or NOTHING."""

    queries: list[str]
    slot: list[int]


class Output(NamedTuple):
    """The spans of one rollout of either variant.

    Think names behaviours beside the queries: triggers holds those of each interest point, in the order
    written, and the tokens of point k have the slot K + k. faults: how often the output leaves the grammar.
    """

    queries: list[str]
    slot: list[int]
    triggers: Sequence[Sequence[int]] = ()
    faults: int = 0


def query_spans(pieces: Sequence[str], text: str, slots: int) -> Spans:
    """Split one generated list at its separators.

    An empty query (`;;;;`) keeps its slot, so that writing nothing is not free. Queries beyond `slots` are
    extra: their tokens are LIST and their text is left out. Text after the last separator was not finished.

    Args:
        pieces: the text of each token on its own, in order, without the end token and padding. Separators are
            ASCII: they are seen even where a piece is half a character.
        text: the text of all tokens together, in which every character is whole.
        slots: K, how many queries are judged.
    """
    slot: list[int] = []
    ended, rest = 0, ""  # queries so far, and the text since the last separator
    for piece in pieces:
        slot.append(ended)  # the query that the token ends, or else continues
        *parts, rest = (rest + piece).split(SEPARATOR)
        ended += len(parts)
    unfinished = ended if rest.strip() else None
    return Spans(
        [query.strip() for query in text.split(SEPARATOR)[:-1][:slots]],
        [NOTHING if j == unfinished else LIST if j >= slots else j for j in slot],
    )


def spans_of(tokens: Sequence[int], tokenizer: PreTrainedTokenizerBase, slots: int) -> Spans:
    """The spans of the generated tokens of one list; see `query_spans`."""
    pieces = [str(tokenizer.decode([token])) for token in tokens]
    return query_spans(pieces, str(tokenizer.decode(list(tokens))), slots)
