"""The published CTR model in a process of the service: p_hat of the candidates of many requests at once.

p_hat(q | u) = sigmoid(a z + b): method.md section 5. The published history of a shopper is aged to now, what
happened since is added to it. Features are those of `recall/features.py`, from the same functions.
"""

import asyncio
import json
import math
from collections.abc import Sequence
from itertools import chain
from typing import Final, NamedTuple

import msgspec
import numpy as np
from scipy import sparse

from aigq.models.columns import (
    ACTIONS,
    HALF_LIVES,
    NEVER,
    OWN_HALF_LIVES,
    Issues,
    age_buckets,
    alike,
    category_columns,
    find,
    own_columns,
)
from aigq.models.ctr_arrays import Calibration, hashed, pad
from aigq.serving import keys
from aigq.serving.log_time import DAY_S, days_back
from aigq.serving.state import Past, Taste
from aigq.serving.stores import Store, StoreError

ISSUE: Final = np.dtype(
    [
        ("query", "<i4"),
        ("decayed", "<f4", (len(HALF_LIVES),)),
        ("count", "<i4"),
        ("last", "<f4"),
        ("first", "<f4"),
    ]
)
SIMILAR: Final = np.dtype([("query", "<i4"), ("value", "<f4")])
BEHAVIOUR: Final = np.dtype([("text", "<i4"), ("age", "<f4"), ("action", "<i1")])
"""Rows of the three arrays of a Taste; ages in days at the end of the day after the log."""

_ACTION: Final = {action: number for number, action in enumerate(ACTIONS, start=1)}
_NOBODY: Final = Taste(0, 0, NEVER, -1, [], b"", b"", b"")
_PART: Final = msgspec.msgpack.Decoder(tuple[int, bytes])


class Reader(NamedTuple):
    """A shopper as the model reads one: the published part up to `until`, then `since`, newest first."""

    taste: Taste
    since: Sequence[Past]
    latest: str | None  # the latest query of both


class Pairs(NamedTuple):
    """Values of some pairs by key = moment * Q + query; keys increase. The others are 0."""

    key: np.ndarray
    value: np.ndarray

    def at(self, wanted: np.ndarray) -> np.ndarray:
        """The values of these pairs."""
        place, found = find(self.key, wanted)
        return np.where(found, self.value[place], 0.0) if len(self.key) else np.zeros(len(wanted))

    def plus(self, others: "Pairs") -> "Pairs":
        """The sums of both; the keys of `others` may be in any order."""
        key, place = np.unique(np.concatenate([self.key, others.key]), return_inverse=True)
        return Pairs(key, np.bincount(place, np.concatenate([self.value, others.value])))


class ClickModel:
    """Click probabilities from a published version.

    Args:
        tensors: what `ClickTables` wrote.
    """

    def __init__(self, tensors: dict[str, np.ndarray]) -> None:
        import onnxruntime

        settings = json.loads(tensors["settings"].tobytes())
        self._day, self._near, self._behaviours = (settings[k] for k in ("day", "near", "behaviours"))
        self._n_profile, self._unknown = settings["profile"], settings["unknown"]
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
        self._vectors = tensors["vectors"].astype(np.float32)  # (T + 1, h), the last is of unknown texts
        self._text_of_query, self._category = tensors["text_of_query"], tensors["category"]
        self._shop, self._popular = tensors["shop"], tensors["popular"]
        size = len(self._category)
        similar = tuple(tensors[f"similar_{part}"] for part in ("data", "indices", "indptr"))
        self._similar = sparse.csr_matrix(similar, shape=(size, size))
        self._similar.sort_indices()
        self._similar_rows = (
            self._similar.data, self._similar.indices.astype(np.int64), self._similar.indptr.tolist()
        )  # fmt: skip

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
            return await asyncio.to_thread(lambda: cls(load(b"".join(parts))))
        except (msgspec.DecodeError, SafetensorError, KeyError, ValueError) as error:
            raise StoreError(f"the CTR model of {version} is damaged ({error}); publish again") from error

    def reader(self, taste: Taste | None, until: float, past: Sequence[Past]) -> Reader:
        """A shopper; `past` are all behaviours, newest first, `until` where the published part ends."""
        since = [p for p in past if p.at > until]
        return Reader(taste or _NOBODY, since, next((p.query for p in past if p.query), None))

    def feed(
        self, readers: Sequence[Reader], queries: Sequence[Sequence[str]], now: float
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Inputs of the network for M shoppers, and which of their C candidates it knows (M, C)."""
        sizes = np.array([len(part) for part in queries])
        starts = np.concatenate([[0], np.cumsum(sizes)])
        texts = [text for part in queries for text in part]
        code = np.array([self._code.get(text, -1) for text in texts], dtype=np.int64)
        moment = np.repeat(np.arange(len(readers)), sizes)
        query = np.maximum(code, 0)
        text, age, action = self._recent(readers, now)
        feed = {
            "behaviour": self._vectors[text],
            "age": age_buckets(age).astype(np.int64),
            "action": action,
            "query": self._vectors[pad(self._text_of_query[query], starts, fill=-1)],
            "plain": pad(self._plain(readers, moment, query, queries, now), starts),
        }
        return feed, pad(code >= 0, starts, fill=False)

    def run(self, feed: dict[str, np.ndarray]) -> np.ndarray:
        """Logits (M, C, E). Lets other threads go on while it computes, and does nothing else."""
        logits: np.ndarray = self._session.run(["logits"], feed)[0]
        return logits

    def probabilities(
        self, readers: Sequence[Reader], queries: Sequence[Sequence[str]], now: float
    ) -> list[np.ndarray]:
        """p_hat (n_i,) of the candidates of each shopper."""
        feed, known = self.feed(readers, queries, now)
        return self.lists(self.run(feed), known, [len(texts) for texts in queries])

    def lists(self, logits: np.ndarray, known: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
        """Rows of p_hat (n_i,), a published constant where the model does not know the query."""
        filled = np.where(known, self._calibration(logits.mean(axis=2)), self._unknown)
        return [row[:size] for row, size in zip(filled, sizes, strict=True)]

    def _plain(
        self,
        readers: Sequence[Reader],
        moment: np.ndarray,
        query: np.ndarray,
        texts: Sequence[Sequence[str]],
        now: float,
    ) -> np.ndarray:
        """(P, F) in the order of `ctr_inputs.plain_columns`."""
        size, days = len(self._category), self._days_since(now)
        issues, live = self._issues(readers, days, now)
        about = self._about(readers, live, days)
        similar, nearest = self._similar_to_history(readers, live, days)
        pair = moment * size + query
        like = similar.at(pair)
        own = own_columns(issues, pair, about[moment, 1])
        flags = np.zeros((len(readers), self._n_profile), np.float32)
        for row, reader in enumerate(readers):
            flags[row, reader.taste.profile] = 1.0
        words = [alike(r.latest or "", text) for r, part in zip(readers, texts, strict=True) for text in part]
        columns = (
            own,
            category_columns(issues, self._category, moment, query),
            self._shop[query],
            like,
            self._similar_to_latest(readers).at(pair),
            np.fromiter(chain.from_iterable(words), np.float32).reshape(-1, 2),
            about[moment],
            own[:, 3] > 0,
            self._popular[query],
            (like > 0) & (like >= nearest[moment]),
            flags[moment],
        )
        return _side_by_side(columns, len(query))

    def _days_since(self, now: float) -> float:
        """Days from the day after the published log to now, in the log's own time where it is stale.

        A clock that stands before the log's last day counts as that day.
        """
        return max(-1.0, float((now - days_back(now, self._day)) / DAY_S - self._day))

    def _issues(self, readers: Sequence[Reader], days: float, now: float) -> tuple[Issues, Issues]:
        """Issues by moment * Q + query: all of them, and those since the log was published."""
        size = len(self._category)
        live = [
            (row * size + code, (now - p.at) / DAY_S)
            for row, reader in enumerate(readers)
            for p in reader.since
            if p.query and (code := self._code.get(p.query, -1)) >= 0
        ]
        key, age = (np.array(column) for column in zip(*live, strict=True)) if live else _NOTHING
        since = Issues.of(key.astype(np.int64), np.maximum(age, 0.0))
        owner, old = _rows([reader.taste.issues for reader in readers], ISSUE)
        aged = 0.5 ** (days / np.array(HALF_LIVES)[:, None])
        both = Issues(
            np.concatenate([owner * size + old["query"], since.key]),
            np.hstack([old["decayed"].T * aged, since.decayed]),
            np.concatenate([old["count"], since.count]),
            np.concatenate([old["last"] + days, since.last]),
            np.concatenate([old["first"] + days, since.first]),
        )
        return (both.grouped() if len(since.key) else both), since

    def _about(self, readers: Sequence[Reader], live: Issues, days: float) -> np.ndarray:
        """(M, 4): behaviours, active days, days since the latest, weekday (0 is Thursday)."""
        size, m = len(self._category), len(readers)
        tastes = [reader.taste for reader in readers]
        owner = live.key // size
        active = {(o, int(age)) for o, age in zip(owner.tolist(), live.last.tolist(), strict=True)}
        more = np.bincount([o for o, _ in active], minlength=m) if active else np.zeros(m)
        idle = np.array([t.idle_days + days if t.behaviours else NEVER for t in tastes])
        np.minimum.at(idle, owner, live.last)
        return np.stack(
            [
                np.array([t.behaviours for t in tastes]) + np.bincount(owner, live.count, m),
                np.array([t.active_days for t in tastes]) + more,
                idle,
                np.full(m, (self._day + math.floor(days)) % 7),
            ],
            axis=1,
        )

    def _similar_to_history(
        self, readers: Sequence[Reader], live: Issues, days: float
    ) -> tuple[Pairs, np.ndarray]:
        """Similarities to the histories, and (M,) that of the last query that counts as near."""
        size, m = len(self._category), len(readers)
        owner, old = _rows([reader.taste.similar for reader in readers], SIMILAR)
        aged = old["value"].astype(np.float64) * 0.5 ** (days / OWN_HALF_LIVES[-1])
        similar = Pairs(owner * size + old["query"], aged)
        if len(live.key):
            decayed = live.decayed[len(OWN_HALF_LIVES) - 1]
            history = sparse.csr_matrix((decayed, (live.key // size, live.key % size)), shape=(m, size))
            more = (history @ self._similar).tocoo()
            similar = similar.plus(Pairs(more.row.astype(np.int64) * size + more.col, more.data))
        nearest = np.zeros(m)
        bounds = np.searchsorted(similar.key, np.arange(m + 1) * size)
        for row in np.flatnonzero(np.diff(bounds) > self._near):
            values = similar.value[bounds[row] : bounds[row + 1]]
            nearest[row] = np.partition(values, -self._near)[-self._near]
        return similar, nearest

    def _similar_to_latest(self, readers: Sequence[Reader]) -> Pairs:
        """Similarities to the latest queries."""
        size, data, indices, indptr = len(self._category), *self._similar_rows
        parts = [
            (row * size, slice(indptr[latest], indptr[latest + 1]))
            for row, latest in enumerate(map(self._latest, readers))
            if latest >= 0
        ]
        if not parts:
            return Pairs(np.zeros(0, np.int64), np.zeros(0))
        return Pairs(
            np.concatenate([start + indices[part] for start, part in parts]),
            np.concatenate([data[part] for _, part in parts]),
        )

    def _latest(self, reader: Reader) -> int:
        """The number of the latest query, -1 where there is none or it is not published."""
        if any(p.query for p in reader.since):
            return self._code.get(reader.latest or "", -1)
        return reader.taste.latest

    def _recent(self, readers: Sequence[Reader], now: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Text rows, ages in days, actions (M, L), newest first; text -1 and action 0 beyond the history."""
        rows = np.zeros((len(readers), self._behaviours), BEHAVIOUR)
        rows["text"] = -1
        days = self._days_since(now)
        for row, reader in enumerate(readers):
            since = reader.since[: self._behaviours]
            for place, p in enumerate(since):
                # days are added to all below
                rows[row, place] = (self._text(p.text), (now - p.at) / DAY_S - days, _ACTION[p.action])
            old = np.frombuffer(reader.taste.recent, BEHAVIOUR)[: self._behaviours - len(since)]
            rows[row, len(since) : len(since) + len(old)] = old
        return rows["text"], rows["age"] + days, rows["action"].astype(np.int64)

    def _text(self, text: str) -> int:
        key = np.uint64(hashed(text))
        at = int(np.searchsorted(self._text_keys, key))
        return int(self._text_rows[at]) if at < len(self._text_keys) and self._text_keys[at] == key else -1


def _side_by_side(columns: Sequence[np.ndarray], length: int) -> np.ndarray:
    """(P, F) float32 of columns (P,) and blocks of them (P, n). P is the length."""
    widths = [1 if column.ndim == 1 else column.shape[1] for column in columns]
    table = np.empty((length, sum(widths)), np.float32)
    start = 0
    for column, width in zip(columns, widths, strict=True):
        table[:, start : start + width] = column.reshape(length, width)
        start += width
    return table


def _rows(parts: Sequence[bytes], kind: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """The rows of all parts as one array, and the part of each. Numpy would promote each part's fields."""
    sizes = [len(part) // kind.itemsize for part in parts]
    return np.repeat(np.arange(len(parts)), sizes), np.frombuffer(b"".join(parts), kind)


_NOTHING: Final[tuple[np.ndarray, np.ndarray]] = (np.zeros(0, np.int64), np.zeros(0))
