"""Two towers over a frozen text encoder: what a shopper did recently, and a query, into one space."""

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from aigq.models.columns import ACTIONS, AGE_EDGES

TARGETS_PER_SAMPLE: Final = 4  # drawn per history and epoch
SCALE: Final = 10.0  # of a user's vector at first
OWN_STD: Final = 0.02
PATIENCE: Final = 15  # validations without a better one


@dataclass(frozen=True)
class HistoryArrays:
    """Recent behaviours of N shoppers, at most L each, most recent first.

    `text` (N, L) positions in the text table, -1 beyond the end; `age` (N, L) buckets; `action` (N, L) codes.
    """

    text: np.ndarray
    age: np.ndarray
    action: np.ndarray

    def take(self, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """The three arrays of these shoppers as tensors."""
        return tuple(torch.from_numpy(a[rows].astype(np.int64)) for a in (self.text, self.age, self.action))  # type: ignore[return-value]


class TwoTower(nn.Module):
    """User tower: attention-pooled behaviours, and what an MLP adds. Query tower: a vector and a bias.

    Both read one table of texts, so a query is near the histories that hold it before anything is learned.

    Args:
        texts: frozen text embeddings (T, d) that both towers read.
        dim: width of both outputs.
        popularity: (T,) how often each text is a target. Its logarithm is where biases start, as a query that
            is never drawn is never pushed down either.
    """

    texts: Tensor

    def __init__(self, texts: np.ndarray, dim: int, popularity: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("texts", torch.from_numpy(texts), persistent=False)
        self.project = nn.Linear(texts.shape[1], dim)
        self.own = nn.Embedding(len(texts), dim)  # what the text does not say, learned from co-occurrence
        self.age = nn.Embedding(len(AGE_EDGES) + 1, dim)
        self.action = nn.Embedding(len(ACTIONS) + 1, dim)
        self.attention = nn.Linear(dim, 1)
        self.decay = nn.Embedding(len(AGE_EDGES) + 1, 1)
        self.add = nn.Sequential(nn.Linear(2 * dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.log_scale = nn.Parameter(torch.tensor(SCALE).log())
        share = (popularity + 0.5) / max(popularity.sum(), 1)
        self.bias = nn.Embedding.from_pretrained(
            torch.from_numpy(np.log(share)).float()[:, None], freeze=False
        )
        nn.init.normal_(self.own.weight, 0, OWN_STD)
        for table in (self.age, self.action, self.decay, self.add[2]):
            nn.init.zeros_(table.weight)  # type: ignore[arg-type]

    def users(self, text: Tensor, age: Tensor, action: Tensor) -> Tensor:
        """Vectors (B, dim + 1) of histories (B, L); the last column is 1, for the queries' biases."""
        known, index = text >= 0, text.clamp(min=0)
        distinct, place = torch.unique(index, return_inverse=True)
        vectors = self._vectors(distinct)[place]  # (B, L, dim)
        marked = torch.tanh(vectors + self.age(age) + self.action(action))
        logits = (self.attention(marked) + self.decay(age)).squeeze(-1).masked_fill(~known, -1e9)
        weights = torch.softmax(logits, dim=1) * known
        attended = (weights.unsqueeze(-1) * vectors).sum(1)
        mean = (marked * known.unsqueeze(-1)).sum(1) / known.sum(1, keepdim=True).clamp(min=1)
        out = (attended + self.add(torch.cat([attended, mean], dim=1))) * self.log_scale.exp()
        return torch.cat([out, torch.ones_like(out[:, :1])], dim=1)

    def queries(self, index: Tensor) -> Tensor:
        """Vectors (Q, dim + 1) of queries given by their position in the text table; the last is a bias."""
        return torch.cat([self._vectors(index), self.bias(index)], dim=1)

    def _vectors(self, index: Tensor) -> Tensor:
        vectors: Tensor = self.project(self.texts[index]) + self.own(index)
        return vectors


def sampled_softmax(
    users: Tensor, queries: Tensor, positive: Tensor, target: Tensor, log_popularity: Tensor
) -> Tensor:
    """In-batch softmax over the distinct targets of a batch, corrected for how often they are drawn.

    Args:
        users: (B, d).
        queries: (C, d), the candidates of the batch.
        positive: (B, C) booleans, all targets of each user; never counted as negatives of that user.
        target: (P, 2), pairs (user, candidate) to predict.
        log_popularity: (C,), log of the share of draws that are this candidate.
    """
    logits = users @ queries.T - log_popularity
    row, column = target[:, 0], target[:, 1]
    others = logits[row].masked_fill(positive[row], -1e9)
    own = logits[row, column].unsqueeze(1)
    loss = functional.cross_entropy(torch.cat([own, others], dim=1), torch.zeros_like(row))
    return loss


def train(
    model: TwoTower,
    histories: HistoryArrays,
    targets: Sequence[np.ndarray],
    popularity: np.ndarray,
    *,
    max_steps: int,
    eval_every: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    validate: Callable[[], float] | None,
) -> None:
    """Fit in place with Adam and a linear decay; the weights that validate best are kept.

    Args:
        model: the towers.
        histories: N histories.
        targets: per history the text positions of what came next, at least one each.
        popularity: (T,) how often each text is a target.
        max_steps: steps at most; it stops after PATIENCE validations without a better one.
        eval_every: steps between validations.
        batch_size: histories per step.
        learning_rate: first value; falls linearly to 0.
        seed: of the order and of the drawn targets.
        validate: how good the model is, more is better; None: nobody can say, and the last weights are kept.
    """
    rng = np.random.default_rng(seed)
    log_share = torch.from_numpy(np.log(np.maximum(popularity, 1) / max(popularity.sum(), 1))).float()
    optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: max(0.0, 1 - step / max_steps))
    found, best, stale = validate() if validate else 0.0, copy.deepcopy(model.state_dict()), 0
    for step, rows in enumerate(itertools.islice(_batches(len(targets), batch_size, rng), max_steps), 1):
        loss = _loss(model, histories, targets, log_share, rows, rng)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if validate is None or (step % eval_every and step < max_steps):
            continue
        now = validate()
        if now > found:
            found, best, stale = now, copy.deepcopy(model.state_dict()), 0
        else:
            stale += 1
        if stale == PATIENCE:
            break
    if validate is not None:
        model.load_state_dict(best)


def _batches(count: int, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Rows of one batch after another, each pass in a new order, without an end."""
    while True:
        order = rng.permutation(count)
        yield from (order[start : start + size] for start in range(0, count, size))


def _loss(
    model: TwoTower,
    histories: HistoryArrays,
    targets: Sequence[np.ndarray],
    log_share: Tensor,
    rows: np.ndarray,
    rng: np.random.Generator,
) -> Tensor:
    """Of one batch: these rows' histories, and a few targets drawn of each; `log_share` (T,)."""
    drawn = [_draw(targets[row], rng) for row in rows]
    candidates, columns = np.unique(np.concatenate(drawn), return_inverse=True)
    owner = np.repeat(np.arange(len(rows)), [len(d) for d in drawn])
    positive = np.stack([np.isin(candidates, targets[row]) for row in rows])
    index = torch.from_numpy(candidates)
    return sampled_softmax(
        model.users(*histories.take(rows)),
        model.queries(index),
        torch.from_numpy(positive),
        torch.from_numpy(np.stack([owner, columns], axis=1)),
        log_share[index],
    )


def _draw(targets: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    few = len(targets) <= TARGETS_PER_SAMPLE
    return targets if few else rng.choice(targets, TARGETS_PER_SAMPLE, replace=False)
