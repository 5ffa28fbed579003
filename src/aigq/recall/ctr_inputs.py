"""What the CTR model reads, made without torch: serving, RL and training share it. method.md section 3.

Of a moment: its latest behaviours as (text, age bucket, action). Of a (moment, query) pair: the query's text,
and the plain features: those of the ranker, which channels propose the pair, and the profile.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from aigq.models.columns import age_buckets
from aigq.models.ctr_arrays import hashed
from aigq.prepared import Moment
from aigq.recall.features import CHANNELS, FEATURES, FeatureMaker, Known
from aigq.recall.histories import recent_behaviours

TEXTS_FILE: Final = "texts.npz"


class TextTable:
    """Text embeddings (T + 1, d) by a hash of the text; the last row is zero, for texts that it lacks.

    Only hashes are kept, so that a model folder holds no text that a single shopper typed.
    """

    def __init__(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        self.keys = keys
        self.vectors = np.vstack([vectors, np.zeros_like(vectors[:1])])
        self._place = {int(key): place for place, key in enumerate(keys)}
        self._known: dict[str, int] = {}

    @classmethod
    def of(cls, texts: Sequence[str], vectors: np.ndarray) -> "TextTable":
        """A table of these texts, rounded to the float16 that `save` writes."""
        rounded = vectors.astype(np.float16).astype(np.float32)
        return cls(np.array([hashed(text) for text in texts], dtype=np.uint64), rounded)

    @classmethod
    def load(cls, folder: Path) -> "TextTable":
        """Read what `save` wrote."""
        with np.load(folder / TEXTS_FILE) as file:
            return cls(file["keys"], file["vectors"].astype(np.float32))

    def save(self, folder: Path) -> None:
        """Write folder/texts.npz."""
        with (folder / TEXTS_FILE).open("wb") as file:
            np.savez(file, keys=self.keys, vectors=self.vectors[:-1].astype(np.float16))

    def codes(self, texts: Sequence[str]) -> np.ndarray:
        """Rows (n,) of `vectors`; -1, the zero row, where the table lacks the text."""
        for text in texts:
            if text not in self._known:
                self._known[text] = self._place.get(hashed(text), -1)
        return np.array([self._known[text] for text in texts], dtype=np.int64)

    def codes_of(self, column: pa.ChunkedArray) -> np.ndarray:
        """The same for a column of many repeated texts."""
        encoded = column.combine_chunks().dictionary_encode()
        rows: np.ndarray = self.codes(encoded.dictionary.to_pylist())[encoded.indices.to_numpy()]
        return rows


@dataclass(frozen=True)
class Recent:
    """The latest behaviours of M moments, newest first: text rows, age buckets, actions, each (M, L)."""

    text: np.ndarray
    age: np.ndarray
    action: np.ndarray

    def take(self, rows: np.ndarray) -> "Recent":
        """Those of some of the moments."""
        return Recent(self.text[rows], self.age[rows], self.action[rows])

    def trimmed(self) -> "Recent":
        """Without the places beyond the longest history."""
        length = max(1, int((self.action > 0).sum(axis=1).max(initial=0)))
        return Recent(self.text[:, :length], self.age[:, :length], self.action[:, :length])


class ClickInputs:
    """Turns moments and pairs into arrays.

    Args:
        maker: plain features and candidates.
        texts: embeddings of behaviours and queries.
        profiles: user_id -> profile.
        profile_columns: `field=value` pairs that are plain features of 0 and 1.
        behaviours: L, how many recent ones are read.
    """

    def __init__(
        self,
        maker: FeatureMaker,
        texts: TextTable,
        profiles: Mapping[str, Mapping[str, str]],
        profile_columns: Sequence[str],
        behaviours: int,
    ) -> None:
        self.maker, self.texts, self._length = maker, texts, behaviours
        self._profiles, self._profile_columns = profiles, list(profile_columns)
        self._text_of_query = texts.codes(maker.vocabulary.tolist())
        self._query = {query: code for code, query in enumerate(maker.vocabulary.tolist())}

    def recent(self, moments: Sequence[Moment]) -> Recent:
        """The latest behaviours of the moments."""
        text, days, action = self.recent_rows(moments)
        return Recent(text, age_buckets(days), action)

    def recent_rows(self, moments: Sequence[Moment]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Text rows, ages in days and actions (M, L), newest first; action 0 beyond the history."""
        return recent_behaviours(moments, self._length, self.texts.codes_of)

    def plain(
        self, known: Known, moments: Sequence[Moment], moment: np.ndarray, query: np.ndarray
    ) -> np.ndarray:
        """(P, F) of the pairs (moment, query) in the order of `plain_columns`."""
        values = self.maker.values(known, moment, query)
        return np.hstack([values, self.maker.channels(known, moment, query), self.profile(moments)[moment]])

    def text_rows(self, query: np.ndarray) -> np.ndarray:
        """Rows (P,) of the text table, of positions (P,) in the vocabulary."""
        rows: np.ndarray = self._text_of_query[query]
        return rows

    def query_codes(self, queries: Sequence[str]) -> np.ndarray:
        """Positions (n,) in the vocabulary, -1 for what the log does not hold."""
        return np.array([self._query.get(query, -1) for query in queries], dtype=np.int64)

    def profile(self, moments: Sequence[Moment]) -> np.ndarray:
        """(M, profile columns) of 0 and 1."""
        flags = np.zeros((len(moments), len(self._profile_columns)), np.float32)
        place = {column: i for i, column in enumerate(self._profile_columns)}
        for row, moment in enumerate(moments):
            for name, value in self._profiles.get(moment.user_id, {}).items():
                column = place.get(f"{name}={value}")
                if column is not None:
                    flags[row, column] = 1.0
        return flags


def plain_columns(profile_columns: Sequence[str]) -> list[str]:
    """Names of the F plain features."""
    return [*FEATURES, *CHANNELS, *profile_columns]
