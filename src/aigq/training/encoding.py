"""From samples to token arrays: what the training loop reads, free of tables and channels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from aigq.models.think_grammar import THINK, Thought, opening
from aigq.models.vocabulary import Vocabulary
from aigq.samples.labels import Label


@dataclass(frozen=True)
class EncodedLists:
    """Prompts and label lists as one flat array.

    tokens (T,) int32: prompt then list of sample 0, of sample 1, ...; targets (T,) int32: what should have
    stood at each place, the token itself unless the list was disordered; weights (T,) float32: the loss
    weight of each target, 0 in prompts; starts (N+1,) int64; prompt_lengths (N,) int32.
    """

    tokens: np.ndarray
    targets: np.ndarray
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
    renamed, targets = data.tokens.copy(), data.targets.copy()
    names = np.arange(max(int(targets.max(initial=0)), int(tokens.max(initial=0))) + 1, dtype=renamed.dtype)
    for i in np.flatnonzero(rng.random(len(data)) < share):
        part = slice(data.starts[i], data.starts[i + 1])
        names[tokens] = rng.permutation(tokens)
        renamed[part], targets[part] = names[renamed[part]], names[targets[part]]
    return replace(data, tokens=renamed, targets=targets)


def disorder(n: int, noise: float, rng: np.random.Generator) -> list[int]:
    """A random order of n places: each is moved by a normal number of places with deviation `noise`."""
    return (
        np.argsort(np.arange(n) + rng.normal(0.0, noise, n), kind="stable").tolist() if noise else [*range(n)]
    )


def next_targets(
    queries: Sequence[Sequence[int]], order: Sequence[int]
) -> tuple[list[int], list[int], list[int]]:
    """Tokens of a list in the given order, the target at each token, and whose weight it has.

    Where a query begins, the target is the first one of the true order that is not written yet; inside a
    query it is the query itself. So the model learns what to write after any beginning, also after its own
    mistakes: a query that it passed over is still the next one.

    Args:
        queries: token ids of each query, in the true order.
        order: a permutation of the positions of `queries`.
    """
    tokens: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    waiting = list(range(len(queries)))
    for place in order:
        best = waiting[0]
        tokens += queries[place]
        targets += [queries[best][0], *queries[place][1:]]
        owners += [best, *[place] * (len(queries[place]) - 1)]
        waiting.remove(place)
    return tokens, targets, owners


@dataclass(frozen=True)
class Continuation:
    """What follows one prompt: tokens, what should have stood at each place, and its loss weight."""

    tokens: list[int]
    targets: list[int]
    weights: list[float]

    def __add__(self, other: "Continuation") -> "Continuation":
        return Continuation(
            self.tokens + other.tokens, self.targets + other.targets, self.weights + other.weights
        )


def encode_lists(
    prompts: Sequence[list[int]],
    labels: Sequence[Sequence[Label]],
    vocabulary: Vocabulary,
    tail_weight: float,
    noise: float = 0.0,
    seed: int = 0,
) -> EncodedLists:
    """Token ids, targets and loss weights. A clicked query and the end weigh 1, the ranker's `tail_weight`.

    Samples without labels are left out. With `noise` above 0 lists are disordered, see `next_targets`.
    """
    rng = np.random.default_rng(seed)
    rows: list[Continuation | None] = []
    for label_list in labels:
        own = [weight_of(label, tail_weight) for label in label_list]
        row = _queries([label.query for label in label_list], own, vocabulary, noise, rng)
        rows.append(row if label_list else None)
    return pack(prompts, rows, vocabulary)


def encode_thoughts(
    prompts: Sequence[list[int]],
    thoughts: Sequence[Thought],
    weights: Sequence[Mapping[str, float]],
    vocabulary: Vocabulary,
    rationale_tokens: int,
    noise: float = 0.0,
    seed: int = 0,
) -> EncodedLists:
    """Thoughts in the form of `think_grammar`; reasoning, marks and the end weigh 1.

    Thoughts without a point are left out, and rationales from the one on that exceeds `rationale_tokens`.
    With `noise` above 0 the queries of each point are disordered, see `next_targets`.

    Args:
        prompts: token ids per sample.
        thoughts: per sample.
        weights: per sample, the loss weight of each query's tokens.
    """
    rng = np.random.default_rng(seed)
    rows: list[Continuation | None] = []
    for thought, weight in zip(thoughts, weights, strict=True):
        row = _certain(_reasoning(thought.rationales, vocabulary, rationale_tokens))
        for point in thought.points:
            row += _certain([i for piece in opening(point.triggers) for i in vocabulary.encode(piece)])
            own = [weight[query] for query in point.queries]
            row += _queries(point.queries, own, vocabulary, noise, rng)
        rows.append(row if thought.points else None)
    return pack(prompts, rows, vocabulary)


def pack(
    prompts: Sequence[list[int]], rows: Sequence[Continuation | None], vocabulary: Vocabulary
) -> EncodedLists:
    """Prompts and what follows them, each ended, as one flat array; samples without a row are left out."""
    tokens: list[int] = []
    targets: list[int] = []
    weights: list[float] = []
    starts, prompt_lengths = [0], []
    for prompt, row in zip(prompts, rows, strict=True):
        if row is None:
            continue
        tokens += [*prompt, *row.tokens, vocabulary.end]
        targets += [*prompt, *row.targets, vocabulary.end]
        weights += [*[0.0] * len(prompt), *row.weights, 1.0]
        starts.append(len(tokens))
        prompt_lengths.append(len(prompt))
    return EncodedLists(
        np.asarray(tokens, np.int32),
        np.asarray(targets, np.int32),
        np.asarray(weights, np.float32),
        np.asarray(starts, np.int64),
        np.asarray(prompt_lengths, np.int32),
    )


def weight_of(label: Label, tail_weight: float) -> float:
    """Loss weight of a label's tokens: 1 for what the shopper did, `tail_weight` for what was proposed."""
    return 1.0 if label.source in ("clicked", "search") else tail_weight


def _queries(
    texts: Sequence[str],
    weights: Sequence[float],
    vocabulary: Vocabulary,
    noise: float,
    rng: np.random.Generator,
) -> Continuation:
    """Queries in a more or less disordered order, each token with the weight of the query that was due."""
    queries = [vocabulary.encode_query(text) for text in texts]
    written, wanted, owners = next_targets(queries, disorder(len(queries), noise, rng))
    return Continuation(written, wanted, [weights[owner] for owner in owners])


def _certain(tokens: list[int]) -> Continuation:
    """Tokens that nothing else may stand for."""
    return Continuation(tokens, tokens, [1.0] * len(tokens))


def _reasoning(rationales: Sequence[str], vocabulary: Vocabulary, most: int) -> list[int]:
    """`<think>` and as many rationales as fit into `most` tokens; nothing where none fits."""
    kept: list[int] = []
    for text in rationales:
        ids = vocabulary.encode_query(text)
        if len(kept) + len(ids) > most:
            break
        kept += ids
    return [*vocabulary.encode(THINK), *kept] if kept else []
