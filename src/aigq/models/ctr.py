"""The CTR model: a deep interest network (DIN, arXiv 1706.06978) with a few heads. method.md sections 3, 5.

A candidate query looks at each recent behaviour and decides how much of it to take: target attention without
softmax, so that many fitting behaviours weigh more than one. Plain features enter piecewise-linearly between
their quantiles (arXiv 2203.05556), which lets a small network read counts and ages as well as trees do.

Dimensions: M moments, C candidates of each, L behaviours, d width of a text embedding, F plain features,
E heads. Position is a bias of the logit in training, and that of the first place afterwards.
"""

import logging
import warnings
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from aigq.config_training import CtrConfig
from aigq.models.columns import ACTIONS, AGE_EDGES

POSITIONS: Final = 16
"""Places of a hint that are told apart; later ones share the last."""
BINS: Final = 12
_HEAD: Final = 16
_UNITS: Final = 8  # A, hidden units of the attention
_INPUTS: Final = ("behaviour", "age", "action", "query", "plain")


class Inputs(NamedTuple):
    """One batch: behaviour (M, L, d), age (M, L), action (M, L), query (M, C, d), plain (M, C, F)."""

    behaviour: Tensor
    age: Tensor
    action: Tensor
    query: Tensor
    plain: Tensor


class ClickNet(nn.Module):
    """Logits of a click.

    Args:
        config: sizes.
        text_dim: d.
        edges: (F, BINS + 1) increasing quantiles of each plain feature.
    """

    low: Tensor
    width: Tensor

    def __init__(self, config: CtrConfig, text_dim: int, edges: np.ndarray) -> None:
        super().__init__()
        dim, heads = config.dim, config.heads
        self.register_buffer("low", torch.from_numpy(edges[:, :-1].astype(np.float32)))
        self.register_buffer("width", torch.from_numpy(np.diff(edges, axis=1).astype(np.float32)))
        n_plain = edges.shape[0] * (edges.shape[1] - 1)
        self.scale = config.behaviours**0.5
        self.project = nn.Linear(text_dim, dim)
        self.age = nn.Embedding(len(AGE_EDGES) + 1, dim)
        self.action = nn.Embedding(len(ACTIONS) + 1, dim)
        self.of_query, self.of_behaviour = nn.Linear(dim, _UNITS), nn.Linear(dim, _UNITS, bias=False)
        self.of_both = nn.Parameter(torch.randn(_UNITS, dim) * dim**-0.5)
        self.attention = nn.Parameter(torch.randn(_UNITS) * _UNITS**-0.5)
        self.rest = nn.Parameter(torch.zeros(()))  # how much of any behaviour is taken
        self.trunk = nn.Linear(n_plain + 3 * dim, config.hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.wide = nn.Linear(n_plain, 1)
        self.inner = nn.Linear(config.hidden, heads * _HEAD)
        self.outer = nn.Parameter(torch.randn(heads, _HEAD) * _HEAD**-0.5)
        self.position = nn.Embedding(POSITIONS, 1)
        for table in (self.age, self.action):
            nn.init.normal_(table.weight, std=0.1)
        nn.init.zeros_(self.position.weight)
        nn.init.zeros_(self.wide.weight)

    def forward(self, batch: Inputs, position: Tensor | None = None) -> Tensor:
        """Logits (M, C, E); `position` (M, C) from 0 in training, the first place where it is left out."""
        steps = self.steps(batch.plain)
        query = self.project(batch.query)  # (M, C, h)
        interest = self.interest(batch, query)
        x = torch.cat([steps, query, interest, query * interest], dim=-1)
        x = self.dropout(torch.relu(self.trunk(x)))
        x = torch.relu(self.inner(x)).unflatten(-1, self.outer.shape)  # (M, C, E, 16)
        logits = (x * self.outer).sum(-1) + self.wide(steps)
        place = self.position.weight[0] if position is None else self.position(position)
        result: Tensor = logits + place
        return result

    def steps(self, plain: Tensor) -> Tensor:
        """Piecewise-linear features (M, C, F * BINS): how far the value has come through each bin."""
        return ((plain.unsqueeze(-1) - self.low) / self.width).clamp(0, 1).flatten(-2)

    def interest(self, batch: Inputs, query: Tensor) -> Tensor:
        """Target attention (M, C, h): the behaviours, each as far as the candidate wants it."""
        behaviour = self.project(batch.behaviour) + self.age(batch.age) + self.action(batch.action)
        weighted = (query.unsqueeze(2) * self.of_both).flatten(1, 2)  # (M, C * A, h)
        both = (weighted @ behaviour.transpose(1, 2)).unflatten(1, (-1, _UNITS))  # (M, C, A, L)
        unit = both + self.of_query(query).unsqueeze(-1)
        unit = torch.relu(unit + self.of_behaviour(behaviour).transpose(1, 2).unsqueeze(1))
        weight = torch.sigmoid((unit * self.attention.unsqueeze(-1)).sum(2) + self.rest)  # (M, C, L)
        taken: Tensor = (weight * (batch.action > 0).unsqueeze(1)) @ behaviour
        interest: Tensor = taken / self.scale
        return interest


def quantile_edges(plain: np.ndarray) -> np.ndarray:
    """(F, BINS + 1) increasing edges of the piecewise-linear features of plain (P, F).

    Quantiles, each distinct value weighted by the root of its count: most pairs have 0 own issues, and the
    bins are needed for the others. Bins that are left over lie beyond the largest value.
    """
    return np.stack([_edges(column) for column in plain.astype(np.float64).T])


def _edges(values: np.ndarray) -> np.ndarray:
    distinct, counts = np.unique(values, return_counts=True)
    share = np.cumsum(counts**0.5) / (counts**0.5).sum()
    place = np.searchsorted(share, np.linspace(0, 1, BINS + 1))
    edges = np.unique(distinct[np.minimum(place, len(distinct) - 1)])
    beyond = edges[-1] + np.arange(1, BINS + 2 - len(edges))
    return np.concatenate([edges, beyond])


def export(model: ClickNet, path: Path, behaviours: int) -> None:
    """Write the model as ONNX: inputs `Inputs` by name, output `logits` (M, C, E); M and C are free."""
    model.eval()
    dim, features = model.project.in_features, model.low.shape[0]
    shapes = ((2, behaviours, dim), (2, behaviours), (2, behaviours), (2, 3, dim), (2, 3, features))
    kinds = (torch.float32, torch.int64, torch.int64, torch.float32, torch.float32)
    example = tuple(torch.zeros(s, dtype=kind) for s, kind in zip(shapes, kinds, strict=True))
    moments, candidates = torch.export.Dim("moments"), torch.export.Dim("candidates")
    free = tuple({0: moments} if i < 3 else {0: moments, 1: candidates} for i in range(len(_INPUTS)))
    part = path.with_suffix(".part")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of packages that are not needed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names of axes that inputs share, which is meant so
        program = torch.onnx.export(
            _Flat(model).eval(),
            example,
            input_names=_INPUTS,
            output_names=["logits"],
            dynamic_shapes=(free,),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(part, external_data=False)
    part.replace(path)


class _Flat(nn.Module):
    """The model with its batch as separate arguments, as an ONNX graph has them."""

    def __init__(self, model: ClickNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, *batch: Tensor) -> Tensor:
        logits: Tensor = self.model(Inputs(*batch))
        return logits
