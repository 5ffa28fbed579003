"""Item-to-text, generated: an item in, the query that would lead shoppers to it out. Paper section 3.1.

Decoding is greedy on the prefix tree of the queries of k users, as for hints. So the model cannot write what
fewer users issued, contact data included, nor a text that no shopper ever typed.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from aigq.errors import StageError
from aigq.history.item_prompt import ATTRIBUTES, ITEM_TOKENS, LEVELS
from aigq.models import generator
from aigq.models.decoding import QueryTree, generate_lists, writer
from aigq.models.vocabulary import Vocabulary
from aigq.spelling import is_private

TEXT_TOKENS: Final = 48
"""Of one field in the prompt; what is longer is cut."""

QUERY_TOKENS: Final = 24
"""Longest query that the model writes, its separator included."""


def longest_prompt(asked: int) -> int:
    """Tokens of the longest prompt that shows so many queries."""
    return len(ITEM_TOKENS) + TEXT_TOKENS * (2 + LEVELS + ATTRIBUTES + asked)


def encode_item(vocabulary: Vocabulary, pieces: Sequence[str]) -> list[int]:
    """Token ids of an item's prompt, see `history.item_prompt`."""
    return [
        i
        for piece in pieces
        for i in vocabulary.tokenizer.encode(piece, add_special_tokens=False)[:TEXT_TOKENS]
    ]


def writable(queries: Iterable[str], vocabulary: Vocabulary) -> list[str]:
    """Those queries that the model may write: short enough, and no contact data."""
    return [q for q in queries if not is_private(q) and len(vocabulary.encode_query(q)) <= QUERY_TOKENS]


class ItemWriter:
    """Writes with a trained model.

    Args:
        folder: the model folder, RUN/models/item_text.
        servable: the queries of k users: all that may be written.
        batch_size: prompts written for together.

    Raises:
        StageError: there is no trained model.
    """

    def __init__(self, folder: Path, servable: Iterable[str], batch_size: int) -> None:
        if not (folder / "config.json").exists():
            raise StageError(f"no trained model at {folder}; run `aigq train item-text` first")
        self._vocabulary = Vocabulary.load(folder)
        self._write = writer(generator.load(folder), self._vocabulary)
        self._tree = QueryTree(writable(servable, self._vocabulary), self._vocabulary)
        self._batch_size = batch_size

    def write(self, prompts: Sequence[Sequence[str]]) -> list[str | None]:
        """One query for each prompt, None for an empty one; prompts of similar length share a batch."""
        encoded = [encode_item(self._vocabulary, pieces) for pieces in prompts]
        texts: list[str | None] = [None] * len(prompts)
        order = [i for i in np.argsort([len(ids) for ids in encoded], kind="stable").tolist() if encoded[i]]
        for start in range(0, len(order), self._batch_size):
            rows = order[start : start + self._batch_size]
            written = generate_lists(
                self._write,
                [encoded[i] for i in rows],
                [self._tree] * len(rows),
                1,
            )
            for i, queries in zip(rows, written, strict=True):
                texts[i] = queries[0] if queries else None
        return texts
