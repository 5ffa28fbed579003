"""The CTR model as values of a published version: once for the shop, and what it reads of each user.

Everything that depends on the log alone is computed here, so that a request only looks up and adds: texts are
projected to the model's width, counts are those of the day after the log, and a user's issues are grouped
by query. Queries are numbers, positions in the vocabulary of the log, so no text leaves it this way.
"""

import copy
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from aigq.history.prompt import profiles_of
from aigq.models.columns import BEHAVIOUR, ISSUE, SIMILAR
from aigq.prepared import Moment, Prepared
from aigq.recall.coclick import strongest
from aigq.recall.ctr_inputs import ClickInputs, TextTable
from aigq.recall.ctr_scorer import NETWORK_FILE, projected, settings_of
from aigq.recall.features import FeatureMaker
from aigq.serving import keys
from aigq.serving.state import Taste

NEIGHBOURS: Final = 60
"""Similar queries of a query that are published."""

_ISSUES_KEPT: Final = 100  # queries of a user
_SIMILAR_KEPT: Final = 200  # queries like a user's
_PART: Final = 4_000_000  # bytes of one value


class ClickTables:
    """What a request needs of a trained CTR model.

    Args:
        folder: what `aigq train ctr` wrote.
        prepared: the log that is published.
        day: the day after the log, in days since 1970.

    Raises:
        StageError: the model is of another version of aigq.
    """

    def __init__(self, folder: Path, prepared: Prepared, day: int) -> None:
        settings = settings_of(folder)
        self._folder, self._settings, self._day = folder, settings, day
        self._maker = FeatureMaker(prepared, prepared.behaviours, settings["k_users"])
        texts, profiles = TextTable.load(folder), profiles_of(prepared.users)
        self._inputs = ClickInputs(self._maker, texts, profiles, settings["profile"], settings["behaviours"])

    def as_of(self, day: int) -> "ClickTables":
        """The same model and similarities with the counts of that morning."""
        then = copy.copy(self)
        then._day = day
        return then

    def model(self, version: str, allowed: Sequence[str]) -> Iterator[tuple[str, Any]]:
        """The values of the shop: parts of one safetensors file."""
        from safetensors.numpy import save

        file = save(self._tensors(allowed))
        parts = [file[start : start + _PART] for start in range(0, len(file), _PART)]
        for number, part in enumerate(parts):
            yield keys.click_model(version, number), (len(parts), part)

    def tastes(self, moments: Sequence[Moment]) -> list[Taste]:
        """What the model reads of each user; the moments are of the day after the log."""
        known, size = self._maker.known(moments), len(self._maker.vocabulary)
        recent, flags = self._inputs.recent_rows(moments), self._inputs.profile(moments)
        bounds = np.searchsorted(known.issues.key, np.arange(len(moments) + 1) * size)
        tastes = []
        for i in range(len(moments)):
            own = slice(bounds[i], bounds[i + 1])
            issues = np.zeros(own.stop - own.start, ISSUE)
            issues["query"] = known.issues.key[own] - i * size
            issues["decayed"] = known.issues.decayed[:, own].T
            for name in ("times", "last", "first"):
                issues[name] = getattr(known.issues, name)[own]
            if len(issues) > _ISSUES_KEPT:
                issues = np.sort(issues[np.argsort(issues["last"])[:_ISSUES_KEPT]], order="query")
            row = known.similar[i]
            best = np.argsort(-row, kind="stable")[:_SIMILAR_KEPT]
            best = np.sort(best[row[best] > 0])
            similar = np.zeros(len(best), SIMILAR)
            similar["query"], similar["value"] = best, row[best]
            behaviours, active, idle, _ = known.about[i].tolist()
            tastes.append(
                Taste(
                    int(behaviours),
                    int(active),
                    idle,
                    int(known.latest[i]),
                    np.flatnonzero(flags[i]).tolist(),
                    issues.tobytes(),
                    similar.tobytes(),
                    _behaviours(*(column[i] for column in recent)),
                )
            )
        return tastes

    def _tensors(self, allowed: Sequence[str]) -> dict[str, np.ndarray]:
        maker, texts = self._maker, self._inputs.texts
        every = np.arange(len(maker.vocabulary))
        popular = np.zeros(len(every), np.uint8)
        popular[maker.top(self._day)] = 1
        similar = strongest(maker.similarities.all.tocsr(), NEIGHBOURS)
        names = json.dumps(list(allowed), ensure_ascii=False).encode()
        settings = {key: self._settings[key] for key in ("calibration", "unknown", "behaviours")}
        settings |= {"day": self._day, "near": maker.near, "profile": len(self._settings["profile"])}
        return {
            "onnx": np.frombuffer((self._folder / NETWORK_FILE).read_bytes(), np.uint8),
            "settings": np.frombuffer(json.dumps(settings).encode(), np.uint8),
            "names": np.frombuffer(names, np.uint8),
            "codes": np.searchsorted(maker.vocabulary, np.array(list(allowed), dtype=object)).astype(
                np.int32
            ),
            "text_keys": texts.keys,
            "vectors": projected(self._folder, texts).astype(np.float16),
            "text_of_query": self._inputs.text_rows(every).astype(np.int32),
            "shop": maker.shop(self._day, every).astype(np.float32),
            "popular": popular,
            "category": maker.category.astype(np.int32),
            "similar_indptr": similar.indptr.astype(np.int64),
            "similar_indices": similar.indices.astype(np.int32),
            "similar_data": similar.data.astype(np.float32),
        }


def _behaviours(text: np.ndarray, age: np.ndarray, action: np.ndarray) -> bytes:
    """The latest behaviours of one user, newest first; places beyond the history are left out."""
    there = action > 0
    rows = np.zeros(int(there.sum()), BEHAVIOUR)
    rows["text"], rows["age"], rows["action"] = text[there], age[there], action[there]
    return rows.tobytes()
