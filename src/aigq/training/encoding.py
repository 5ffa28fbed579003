"""From samples to token arrays: what the training loop reads, free of tables and channels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from aigq.models.vocabulary import Vocabulary
from aigq.samples.labels import Label


@dataclass(frozen=True)
class EncodedLists:
    """Prompts and label lists as one flat array.

    tokens (T,) int32: prompt then labels of sample 0, of sample 1, ...; weights (T,) float32: the loss weight
    of each token as a target, 0 in prompts; starts (N+1,) int64; prompt_lengths (N,) int32.
    """

    tokens: np.ndarray
    weights: np.ndarray
    starts: np.ndarray
    prompt_lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.prompt_lengths)

    def lengths(self) -> np.ndarray:
        """Tokens per sample (N,)."""
        return np.diff(self.starts)

    def prompt(self, i: int) -> np.ndarray:
        """Token ids of the prompt of sample i."""
        return self.tokens[self.starts[i] : self.starts[i] + self.prompt_lengths[i]]

    def save(self, path: Path) -> None:
        """One compressed npz, written whole or not at all."""
        part = path.with_suffix(".part.npz")
        np.savez_compressed(part, **self.__dict__)
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> "EncodedLists":
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            return cls(**{name: arrays[name] for name in arrays.files})


def rename(data: EncodedLists, tokens: np.ndarray, share: float, seed: int) -> EncodedLists:
    """In a random share of the samples, give each of `tokens` another one's name, in prompt and list alike.

    What a renamed list says can only be learned by copying from its prompt, never by knowing the query. So a
    query that the log has hardly seen yet, when it trends tomorrow, is copied as well as any other.

    Args:
        data: encoded samples.
        tokens: (Q,) the ids that are whole queries.
        share: of the samples that are renamed, 0..1.
        seed: of the choice and of each sample's own permutation.
    """
    rng = np.random.default_rng(seed)
    renamed = data.tokens.copy()
    names = np.arange(max(int(renamed.max(initial=0)), int(tokens.max(initial=0))) + 1, dtype=renamed.dtype)
    for i in np.flatnonzero(rng.random(len(data)) < share):
        part = slice(data.starts[i], data.starts[i + 1])
        names[tokens] = rng.permutation(tokens)
        renamed[part] = names[renamed[part]]
    return replace(data, tokens=renamed)


def encode_lists(
    prompts: Sequence[list[int]],
    labels: Sequence[Sequence[Label]],
    vocabulary: Vocabulary,
    tail_weight: float,
    tick: Callable[[int], None] = lambda n: None,
) -> EncodedLists:
    """Token ids and loss weights. A clicked query's tokens and the end weigh 1, the ranker's tail_weight.

    Samples without labels are left out.
    """
    tokens: list[int] = []
    weights: list[float] = []
    starts, prompt_lengths = [0], []
    for prompt, label_list in zip(prompts, labels, strict=True):
        tick(1)
        if not label_list:
            continue
        tokens += prompt
        weights += [0.0] * len(prompt)
        for label in label_list:
            ids = vocabulary.encode_query(label.query)
            tokens += ids
            weights += [1.0 if label.source == "clicked" else tail_weight] * len(ids)
        tokens.append(vocabulary.end)
        weights.append(1.0)
        starts.append(len(tokens))
        prompt_lengths.append(len(prompt))
    return EncodedLists(
        np.asarray(tokens, np.int32),
        np.asarray(weights, np.float32),
        np.asarray(starts, np.int64),
        np.asarray(prompt_lengths, np.int32),
    )
