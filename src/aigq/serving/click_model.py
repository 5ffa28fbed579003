"""The published CTR model in a process of the service: p_hat of the candidates of many requests at once.

p_hat(q | u) = sigmoid(a z + b): method.md section 5. The published history of a shopper is aged to now, what
happened since is added to it.
"""

import asyncio
import json
from collections.abc import Sequence
from itertools import islice
from typing import Final, NamedTuple

import msgspec
import numpy as np
from scipy import sparse

from aigq.models.columns import (
    ACTIONS,
    BEHAVIOUR,
    ISSUE,
    NEVER,
    SIMILAR,
    Features,
    History,
    Neighbours,
    Shop,
    features,
)
from aigq.models.ctr_arrays import Calibration, hashed
from aigq.serving import keys
from aigq.serving.click_words import Words
from aigq.serving.log_time import DAY_S, days_back
from aigq.serving.state import Past, Taste
from aigq.serving.stores import Store, StoreError

_ACTION: Final = {action: number for number, action in enumerate(ACTIONS, start=1)}
_NOBODY: Final = Taste(0, 0, NEVER, -1, [], b"", b"", b"")
_PART: Final = msgspec.msgpack.Decoder(tuple[int, bytes])


class Reader(NamedTuple):
    """A shopper as the model reads one: the published part up to `until`, then `since`, newest first."""

    taste: Taste
    since: Sequence[Past]
    latest: str | None  # the latest query of both


class Asked(NamedTuple):
    """A shopper's candidates: numbers (C,), -1 where the model does not know the query, and features."""

    number: np.ndarray
    features: Features


class ClickModel:
    """Click probabilities from a published version.

    Args:
        tensors: what `ClickTables` wrote.
    """

    def __init__(self, tensors: dict[str, np.ndarray]) -> None:
        import onnxruntime

        settings = json.loads(tensors["settings"].tobytes())
        self._behaviours, self._unknown = settings["behaviours"], settings["unknown"]
        self._calibration = Calibration(**settings["calibration"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # requests are what runs in parallel
        self._session = onnxruntime.InferenceSession(
            tensors["onnx"].tobytes(), options, providers=["CPUExecutionProvider"]
        )
        names = json.loads(tensors["names"].tobytes())
        self._code: dict[str, int] = dict(zip(names, tensors["codes"].tolist(), strict=True))
        order = np.argsort(tensors["text_keys"])
        self._text_keys, self._text_rows = tensors["text_keys"][order], order
        indptr, indices, data = (tensors[f"similar_{part}"] for part in ("indptr", "indices", "data"))
        similar = sparse.csr_matrix((data.astype(np.float64), indices, indptr), (len(indptr) - 1,) * 2)
        similar.sort_indices()
        self._shop = Shop(
            settings["day"],
            settings["near"],
            tensors["vectors"].astype(np.float32),
            tensors["text_of_query"],
            tensors["category"],
            tensors["shop"],
            tensors["popular"],
            Neighbours(similar.indptr.astype(np.int64), similar.indices.astype(np.int64), similar.data),
            settings["profile"],
        )
        self._words = Words(len(self._shop.category))

    @classmethod
    async def load(cls, store: Store, version: str) -> "ClickModel | None":
        """Read a version's model; None where it was published without one.

        Raises:
            StoreError: a part is missing or damaged, or the store does not answer.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            first = (await store.get([keys.click_model(version, 0)]))[0]
            if first is None:
                return None
            count, part = _PART.decode(first)
            rest = await store.get([keys.click_model(version, number) for number in range(1, count)])
            parts = [part, *(_PART.decode(value)[1] for value in rest if value is not None)]
            if len(parts) != count:
                raise StoreError(f"the CTR model of {version} lacks a part; publish again or roll back")
            return await asyncio.to_thread(lambda: cls(load(b"".join(parts))).tried())
        except (msgspec.DecodeError, SafetensorError, LookupError, ValueError) as error:
            raise StoreError(f"the CTR model of {version} is damaged ({error}); publish again") from error

    def reader(self, taste: Taste | None, until: float, past: Sequence[Past]) -> Reader:
        """A shopper; `past` are all behaviours, newest first, `until` where the published part ends."""
        since = [p for p in past if p.at > until]
        return Reader(taste or _NOBODY, since, next((p.query for p in past if p.query), None))

    def asked(self, reader: Reader, queries: Sequence[str], now: float) -> Asked:
        """A shopper and C candidates as they are now."""
        days = self._days_since(now)
        number = np.array([self._code.get(text, -1) for text in queries], dtype=np.int64)
        spoken = reader.latest or ""
        words = self._words.alike(spoken, self._code.get(spoken, -1), queries, number)
        return Asked(number, features(self._shop, self._history(reader, now, days), days, number, words))

    def feed(self, batch: Sequence[Asked]) -> dict[str, np.ndarray]:
        """Inputs of the network for M shoppers."""
        columns = zip(*(one.features for one in batch), strict=True)
        return {name: _stacked(parts) for name, parts in zip(Features._fields, columns, strict=True)}

    def run(self, feed: dict[str, np.ndarray]) -> np.ndarray:
        """Logits (M, C, E). Lets other threads go on while it computes, and does nothing else."""
        logits: np.ndarray = self._session.run(["logits"], feed)[0]
        return logits

    def lists(self, logits: np.ndarray, batch: Sequence[Asked]) -> list[np.ndarray]:
        """Rows of p_hat (C,), a published constant where the model does not know the query."""
        every = self._calibration(logits.mean(axis=2))
        return [
            np.where(one.number >= 0, row[: len(one.number)], self._unknown)
            for row, one in zip(every, batch, strict=True)
        ]

    def probabilities(
        self, readers: Sequence[Reader], queries: Sequence[Sequence[str]], now: float
    ) -> list[np.ndarray]:
        """p_hat (C,) of the candidates of each shopper."""
        batch = [self.asked(*one, now) for one in zip(readers, queries, strict=True)]
        return self.lists(self.run(self.feed(batch)), batch)

    def tried(self) -> "ClickModel":
        """The same; machine code that this process lacks is made now, and not while a shopper waits."""
        for query in islice(self._code, 1):
            self.probabilities(
                [self.reader(None, -1.0, [Past(0.0, "", "search", query, query)])], [[query]], 0.0
            )
        return self

    def _history(self, reader: Reader, now: float, days: float) -> History:
        taste = reader.taste
        since = [
            (code, max(0.0, (now - p.at) / DAY_S))
            for p in reader.since
            if p.query and (code := self._code.get(p.query, -1)) >= 0
        ]
        return History(
            taste.behaviours,
            taste.active_days,
            taste.idle_days,
            np.array(taste.profile, np.int64),
            np.frombuffer(taste.issues, ISSUE),
            np.frombuffer(taste.similar, SIMILAR),
            np.array([code for code, _ in since], np.int64),
            np.array([age for _, age in since], np.float64),
            self._latest(reader),
            self._recent(reader, now, days),
        )

    def _days_since(self, now: float) -> float:
        """Days from the day after the published log to now, in the log's own time where it is stale.

        A clock that stands before the log's last day counts as that day.
        """
        return max(-1.0, float((now - days_back(now, self._shop.day)) / DAY_S - self._shop.day))

    def _latest(self, reader: Reader) -> int:
        """The number of the latest query, -1 where there is none or it is not published."""
        if any(p.query for p in reader.since):
            return self._code.get(reader.latest or "", -1)
        return reader.taste.latest

    def _recent(self, reader: Reader, now: float, days: float) -> np.ndarray:
        """(L,) of BEHAVIOUR."""
        rows = np.zeros(self._behaviours, BEHAVIOUR)
        rows["text"] = -1
        since = reader.since[: self._behaviours]
        old = np.frombuffer(reader.taste.recent, BEHAVIOUR)[: self._behaviours - len(since)]
        rows[len(since) : len(since) + len(old)] = old
        for place, p in enumerate(since):
            age = (now - p.at) / DAY_S - days  # `days` are added to all
            rows[place] = (self._text(p.text), age, _ACTION[p.action])
        return rows

    def _text(self, text: str) -> int:
        key = np.uint64(hashed(text))
        at = int(np.searchsorted(self._text_keys, key))
        return int(self._text_rows[at]) if at < len(self._text_keys) and self._text_keys[at] == key else -1


def _stacked(parts: Sequence[np.ndarray]) -> np.ndarray:
    """(M, C, ...) of M parts, C the longest one; zeros beyond the shorter ones."""
    longest = max(map(len, parts))
    if all(len(part) == longest for part in parts):
        return np.array(parts)
    filled = np.zeros((len(parts), longest, *parts[0].shape[1:]), parts[0].dtype)
    for row, part in zip(filled, parts, strict=True):
        row[: len(part)] = part
    return filled
