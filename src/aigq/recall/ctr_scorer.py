"""Calibrated click probabilities from the exported model, without torch: for serving, RL and the table.

p_hat(q | u) = sigmoid(a z + b)        z the mean of the heads' logits; a, b fitted on validation days
"""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from aigq.errors import StageError
from aigq.history.prompt import profiles_of
from aigq.models.ctr_arrays import Calibration, pad
from aigq.prepared import Moment, Prepared
from aigq.recall.ctr_inputs import ClickInputs, TextTable, plain_columns
from aigq.recall.features import FeatureMaker, Known

SETTINGS_FILE: Final = "model.json"
NETWORK_FILE: Final = "network.onnx"
PROJECTION_FILE: Final = "projection.npz"
"""The network reads texts that are projected already, by weight (h, d) and bias (h,): that is done once."""

_MOMENTS_AT_ONCE: Final = 64
_CELLS_AT_ONCE: Final = 16_384  # pairs in one run of the network, with those that pad it


class ClickModel:
    """Click probability of any query of the log for any moment. Make it with `load`.

    A query that the log does not hold gets the tenth percentile of the probabilities of validation days.
    """

    def __init__(self, folder: Path, prepared: Prepared) -> None:
        import onnxruntime

        settings = settings_of(folder)
        self._calibration = Calibration(**settings["calibration"])
        self._unknown, self._z = float(settings["unknown"]), float(settings["bound_z"])
        network = folder / NETWORK_FILE
        self._session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
        maker = FeatureMaker(prepared, prepared.training_rows(), settings["k_users"])
        profiles, length, texts = profiles_of(prepared.users), settings["behaviours"], TextTable.load(folder)
        self._inputs = ClickInputs(maker, texts, profiles, settings["profile"], length)
        self._vectors = projected(folder, texts)

    @classmethod
    def load(cls, folder: Path, prepared: Prepared) -> "ClickModel":
        """Read a run folder or a model folder that `aigq train ctr` wrote.

        Args:
            folder: the run, or its `models/ctr`.
            prepared: the log that says what is known about each query and moment.

        Raises:
            StageError: there is no such model, or it is of another version of aigq.
        """
        found = folder_of(folder)
        if not (found / SETTINGS_FILE).exists():
            raise StageError(f"{folder} holds no CTR model; run `aigq train ctr` first")
        return cls(found, prepared)

    def probabilities(self, moments: Sequence[Moment], queries: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """p_hat in [0, 1] of each query (n_i,) of each moment; moments and queries may repeat."""
        return self._each(moments, queries, 0.0)

    def lower_bounds(
        self, moments: Sequence[Moment], queries: Sequence[Sequence[str]], z: float | None = None
    ) -> list[np.ndarray]:
        """The same, z deviations of the heads' logits lower; z defaults to `ctr.bound_z`."""
        return self._each(moments, queries, self._z if z is None else z)

    def candidates(self, moments: Sequence[Moment]) -> list[tuple[list[str], np.ndarray]]:
        """What own history, popularity and similarity propose for each moment, with p_hat (n_i,)."""
        found = []
        for start in range(0, len(moments), _MOMENTS_AT_ONCE):
            part = moments[start : start + _MOMENTS_AT_ONCE]
            known = self._inputs.maker.known(part)
            moment, query = self._inputs.maker.candidates(known)
            probability = self._calibration(self._logits(part, known, moment, query).mean(axis=1))
            bounds = np.searchsorted(moment, np.arange(len(part) + 1))
            names = self._inputs.maker.vocabulary[query].tolist()
            found += [(names[a:b], probability[a:b]) for a, b in itertools.pairwise(bounds.tolist())]
        return found

    def _each(
        self, moments: Sequence[Moment], queries: Sequence[Sequence[str]], z: float
    ) -> list[np.ndarray]:
        """Every distinct (moment, query) pair is computed once."""
        keys = [(m.user_id, m.cut, m.history.num_rows) for m in moments]
        distinct = {key: m for key, m in zip(keys, moments, strict=True)}
        place = {key: i for i, key in enumerate(distinct)}
        sizes = [len(texts) for texts in queries]
        owner = np.repeat(np.array([place[key] for key in keys], dtype=np.int64), sizes)
        code = self._inputs.query_codes(list(itertools.chain.from_iterable(queries)))
        result = np.full(len(code), self._unknown)
        held = np.flatnonzero(code >= 0)
        size = len(self._inputs.maker.vocabulary)
        pairs, back = np.unique(owner[held] * size + code[held], return_inverse=True)
        result[held] = self._scored(list(distinct.values()), pairs // size, pairs % size, z)[back]
        return np.split(result, np.cumsum(sizes)[:-1]) if sizes else []

    def _scored(
        self, moments: Sequence[Moment], moment: np.ndarray, query: np.ndarray, z: float
    ) -> np.ndarray:
        """Probabilities (P,) of pairs sorted by moment."""
        parts = [np.zeros(0)]
        for start in range(0, len(moments), _MOMENTS_AT_ONCE):
            part = moments[start : start + _MOMENTS_AT_ONCE]
            a, b = np.searchsorted(moment, [start, start + len(part)])
            logits = self._logits(part, self._inputs.maker.known(part), moment[a:b] - start, query[a:b])
            parts.append(self._calibration(logits.mean(axis=1) - z * logits.std(axis=1)))
        return np.concatenate(parts)

    def _logits(
        self, moments: Sequence[Moment], known: Known, moment: np.ndarray, query: np.ndarray
    ) -> np.ndarray:
        """(P, E) logits of pairs sorted by moment."""
        if not len(moment):
            return np.zeros((0, 1), np.float32)
        plain = self._inputs.plain(known, moments, moment, query)
        text, recent = self._inputs.text_rows(query), self._inputs.recent(moments)
        starts = np.searchsorted(moment, np.arange(len(moments) + 1))
        widest = int(np.diff(starts).max())
        step, parts = max(1, _CELLS_AT_ONCE // widest), []
        for first in range(0, len(moments), step):
            bounds = starts[first : first + step + 1]
            a, b = int(bounds[0]), int(bounds[-1])
            if a == b:
                continue
            some = recent.take(np.arange(first, first + len(bounds) - 1))
            feed = {
                "behaviour": self._vectors[some.text],
                "age": some.age.astype(np.int64),
                "action": some.action.astype(np.int64),
                "query": self._vectors[pad(text[a:b], bounds - a, fill=-1)],
                "plain": pad(plain[a:b], bounds - a),
            }
            logits = self._session.run(["logits"], feed)[0]  # (M, C, E)
            there = np.arange(logits.shape[1]) < np.diff(bounds)[:, None]
            parts.append(logits[there])
        return np.concatenate(parts)


def settings_of(folder: Path) -> dict[str, Any]:
    """What a model folder says of itself. Raises StageError unless this version of aigq can use the model."""
    settings: dict[str, Any] = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    same = settings["columns"] == plain_columns(settings["profile"])
    if not same or not (folder / NETWORK_FILE).exists():
        raise StageError(f"{folder} is of another version of aigq; run `aigq train ctr --force`")
    return settings


def projected(folder: Path, texts: TextTable) -> np.ndarray:
    """(T + 1, h) texts as the network reads them; the last row is that of all others."""
    with np.load(folder / PROJECTION_FILE) as projection:
        vectors: np.ndarray = texts.vectors @ projection["weight"].T + projection["bias"]
    return vectors


def folder_of(folder: Path) -> Path:
    """The model folder of a run folder, or the folder itself."""
    inner = folder / "models" / "ctr"
    return inner if inner.is_dir() else folder
