"""From prompt pieces to token ids: the domain BPE, the special tokens, and a cache over pieces.

The BPE sees one whole text with its separator at a time and may merge across spaces, so a frequent query
with its `;;` becomes one token while any other text stays expressible in bytes.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from aigq.history.prompt import SEPARATOR, Pieces, clean, fit_to_budget

PAD, END = "<pad>", "<end>"
_LONGEST: Final = "longest_prompt"  # in tokenizer_config.json


def train_tokenizer(
    texts: Iterable[tuple[str, int]], vocab_size: int, special: Sequence[str], *, words: bool = False
) -> PreTrainedTokenizerFast:
    """Byte-level BPE over (text, count) pairs; pre-tokens are whole texts up to and with their separator.

    With `words`, pre-tokens are words, the first one like the others, and separators: then a word of a title
    and the same word of a query are the same tokens, and can be copied.
    """
    split = [pre_tokenizers.Split(SEPARATOR, behavior="isolated" if words else "merged_with_previous")]
    split += [pre_tokenizers.Split(" ", behavior="merged_with_next")] if words else []
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*split, pre_tokenizers.ByteLevel(add_prefix_space=words, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size + len(special) + 2,
        special_tokens=[PAD, END, *special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text + SEPARATOR for text, n in texts for _ in range(n)), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, padding_side="left"
    )


_KEPT: Final = 100_000  # pieces of at most _SHORT characters: some 65 MB
_SHORT: Final = 200


class Vocabulary:
    """A tokenizer with a cache: a piece is rarely tokenised twice."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._cache: dict[str, list[int]] = {}

    @classmethod
    def load(cls, folder: Path) -> "Vocabulary":
        """From a saved model folder."""
        return cls(AutoTokenizer.from_pretrained(folder, local_files_only=True))

    @property
    def longest_prompt(self) -> int | None:
        """Tokens that prompts had in training at most, saved with the tokenizer; None: any length is read.

        A small model from scratch writes noise after prompts that are longer than nearly all of those.
        """
        longest: int | None = self.tokenizer.init_kwargs.get(_LONGEST)
        return longest

    @longest_prompt.setter
    def longest_prompt(self, tokens: int | None) -> None:
        self.tokenizer.init_kwargs[_LONGEST] = tokens

    def encode(self, piece: str) -> list[int]:
        """Token ids of one piece: one special token, or one text with its separator."""
        ids = self._cache.get(piece)
        if ids is None:
            ids = self.tokenizer.encode(piece, add_special_tokens=False)
            if len(self._cache) == _KEPT:  # a worker reads new texts for months
                self._cache.clear()
            if len(piece) <= _SHORT:
                self._cache[piece] = ids
        return ids

    def encode_query(self, query: str) -> list[int]:
        """Token ids of one query of a generated list, its separator included.

        As in a prompt, the text of a query is never a separator or a special token, even where a shopper
        typed one: `a;;b` is no list of two, and `<end>` ends none.
        """
        return self.encode(clean(query) + SEPARATOR)

    def encode_prompt(self, pieces: Pieces, budget: int) -> list[int]:
        """Token ids of a whole prompt of at most `budget` tokens, and of no more than `longest_prompt`.

        The oldest behaviours go first. Where the rest alone is too long (favourites of a thousand
        characters), its longest texts go too.
        """
        return self.encode_and_count(pieces, budget)[0]

    def encode_and_count(self, pieces: Pieces, budget: int) -> tuple[list[int], int]:
        """Token ids of a whole prompt, and how many of its behaviours they hold: indices 1..count."""
        budget = min(budget, self.longest_prompt or budget)
        head, tail = ([self.encode(piece) for piece in part] for part in (pieces.head, pieces.tail))
        while len(head) + len(tail) > 2 and sum(map(len, head + tail)) > budget:
            longest = max(head + tail, key=len)
            (head if longest in head else tail).remove(longest)
        records = [[i for piece in record for i in self.encode(piece)] for record in pieces.records]
        fixed = sum(map(len, head)), sum(map(len, tail))
        dropped = fit_to_budget(fixed[0], [len(r) for r in records], fixed[1], budget)
        ids = [i for text in (*head, *records[dropped:], *tail) for i in text]
        return ids, len(records) - dropped

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, as it was encoded."""
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    @cached_property
    def special(self) -> dict[int, str]:
        """Special tokens: id -> token. No text is ever encoded to one of them."""
        return {i: str(token) for i, token in self.tokenizer.added_tokens_decoder.items()}

    @property
    def end(self) -> int:
        """Id of the token that ends a list."""
        return int(self.tokenizer.eos_token_id)  # type: ignore[arg-type]

    @property
    def pad(self) -> int:
        """Id of the padding token."""
        return int(self.tokenizer.pad_token_id)  # type: ignore[arg-type]
