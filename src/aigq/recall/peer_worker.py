"""Fits one peer model and scores histories, in a Python of its own: `python peer_worker.py FOLDER`.

rectools pins numpy below 2, so this file imports nothing of aigq and is run by `aigq.recall.peers` as a
script. FOLDER holds `job.json` and the Parquet files named there; integers everywhere, no texts of shoppers.

    fit         train.parquet (user, item, age_days)                  -> model.pkl
    recommend   histories.parquet (moment, item, age_days), model.pkl
                                                  -> lists.parquet (moment, rank, item, score)
"""

import json
import pickle
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

EPOCH = np.datetime64("2020-01-01T00:00:00", "s")


def main(folder: Path) -> None:
    """Do what job.json says."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    if job["model"] == "sasrec":
        import torch

        torch.set_num_threads(job["threads"])
    model = MODELS[job["model"]](job)
    if job["task"] == "fit":
        model.fit(pq.read_table(folder / "train.parquet"))
        model.save(folder)
        return
    model.load(folder)
    histories = pq.read_table(folder / "histories.parquet")
    pq.write_table(model.recommend(histories), folder / "lists.parquet")


def matrix(table: pa.Table, owner: str, job: dict[str, Any]) -> sparse.csr_matrix:
    """Decayed frequencies (owners, items) of the rows of a table."""
    weight = 0.5 ** (table["age_days"].to_numpy() / job["half_life_days"])
    owners, items = table[owner].to_numpy(), table["item"].to_numpy()
    shape = (int(owners.max()) + 1 if len(owners) else 0, job["items"])
    out = sparse.csr_matrix((weight.astype(np.float32), (owners, items)), shape=shape)
    out.sum_duplicates()
    return out


def to_lists(moments: np.ndarray, scores: np.ndarray, n: int) -> pa.Table:
    """The n best items of each row of scores (M, items), ties by item."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :n]
    return pa.table(
        {
            "moment": np.repeat(moments, order.shape[1]).astype(np.int64),
            "rank": np.tile(np.arange(1, order.shape[1] + 1), len(moments)).astype(np.int32),
            "item": order.ravel().astype(np.int64),
            "score": np.take_along_axis(scores, order, axis=1).ravel().astype(np.float32),
        }
    )


class Linear(ABC):
    """EASE (rectools) and ALS (implicit): scores of all items from a row of decayed frequencies."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.weights: Any = None

    def save(self, folder: Path) -> None:
        """Keep the fitted weights."""
        (folder / "model.pkl").write_bytes(pickle.dumps(self.weights))

    def load(self, folder: Path) -> None:
        """Read what `save` kept."""
        self.weights = pickle.loads((folder / "model.pkl").read_bytes())

    def recommend(self, histories: pa.Table) -> pa.Table:
        """Lists for every moment that has a history."""
        moments = np.unique(histories["moment"].to_numpy())
        known = matrix(histories, "moment", self.job)[moments]
        return pa.concat_tables(
            to_lists(moments[i : i + 512], self.scores(known[i : i + 512]), self.job["n"])
            for i in range(0, max(1, len(moments)), 512)
        )

    @abstractmethod
    def scores(self, known: sparse.csr_matrix) -> np.ndarray:
        """Scores (M, items)."""


class Ease(Linear):
    """Shallow linear autoencoder."""

    def fit(self, train: pa.Table) -> None:
        """Closed form, by rectools."""
        from rectools.dataset import Dataset
        from rectools.models import EASEModel

        rows = matrix(train, "user", self.job).tocoo()
        frame = _frame(rows.row, rows.col, np.full(rows.nnz, EPOCH), np.log1p(rows.data))
        dataset = Dataset.construct(frame)
        model = EASEModel(regularization=self.job["regularization"])
        model.fit(dataset)
        inner = dataset.item_id_map.convert_to_external(np.arange(model.weight.shape[0]))
        self.weights = np.zeros((self.job["items"], self.job["items"]), dtype=np.float32)
        self.weights[np.ix_(inner, inner)] = model.weight

    def scores(self, known: sparse.csr_matrix) -> np.ndarray:
        """Frequencies times weights."""
        logs = known.copy()
        logs.data = np.log1p(logs.data)
        return np.asarray(logs @ self.weights)


class Als(Linear):
    """Implicit-feedback matrix factorisation; a moment's factors are solved from its own history."""

    def fit(self, train: pa.Table) -> None:
        """Alternating least squares, by implicit."""
        from implicit.cpu.als import AlternatingLeastSquares

        job = self.job
        model = AlternatingLeastSquares(
            factors=job["factors"],
            regularization=job["regularization"],
            alpha=job["alpha"],
            iterations=job["iterations"],
            num_threads=1,  # with more threads the sums, and so the lists, differ from run to run
            random_state=job["seed"],
        )
        model.fit(matrix(train, "user", job), show_progress=False)
        self.weights = model

    def scores(self, known: sparse.csr_matrix) -> np.ndarray:
        """Factors of these histories against the items' factors."""
        factors = self.weights.recalculate_user(np.arange(known.shape[0]), known)
        return np.asarray(factors @ self.weights.item_factors.T)


class SasRec:
    """Self-attention over the sequence of queries, by rectools; every moment is a user of its own."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.model: Any = None

    def fit(self, train: pa.Table) -> None:
        """Train on every user's sequence."""
        from pytorch_lightning import seed_everything
        from rectools.dataset import Dataset
        from rectools.models import SASRecModel

        job = self.job
        seed_everything(job["seed"], verbose=False)
        self.model = SASRecModel(
            n_factors=job["factors"],
            n_blocks=2,
            n_heads=2,
            session_max_len=job["session_max_len"],
            loss="softmax",
            lr=1e-3,
            batch_size=64,
            epochs=job["epochs"],
            deterministic=True,
            dataloader_num_workers=0,
            train_min_user_interactions=2,
        )
        self.model.fit(Dataset.construct(self._sequences(train, "user")))

    def save(self, folder: Path) -> None:
        """Keep the fitted model."""
        self.model.save(folder / "model.pkl")

    def load(self, folder: Path) -> None:
        """Read what `save` kept."""
        from rectools.models import load_model

        self.model = load_model(folder / "model.pkl")

    def recommend(self, histories: pa.Table) -> pa.Table:
        """Lists for every moment with at least one item that the model knows."""
        from rectools.dataset import Dataset

        frame = self._sequences(histories, "moment")
        found = self.model.recommend(
            users=frame["user_id"].unique(),
            dataset=Dataset.construct(frame),
            k=self.job["n"],
            filter_viewed=False,
            on_unsupported_targets="ignore",
        )
        return pa.table(
            {
                "moment": found["user_id"].to_numpy().astype(np.int64),
                "rank": found["rank"].to_numpy().astype(np.int32),
                "item": found["item_id"].to_numpy().astype(np.int64),
                "score": found["score"].to_numpy().astype(np.float32),
            }
        )

    def _sequences(self, table: pa.Table, owner: str) -> Any:
        """The last interactions of each owner, in time order."""
        seconds = (table["age_days"].to_numpy() * 86400).astype("timedelta64[s]")
        frame = _frame(
            table[owner].to_numpy(), table["item"].to_numpy(), EPOCH - seconds, np.ones(len(table))
        )
        frame = frame.sort_values(["user_id", "datetime"], kind="stable")
        return frame.groupby("user_id").tail(self.job["keep_last"]).reset_index(drop=True)


def _frame(user: np.ndarray, item: np.ndarray, when: np.ndarray, weight: np.ndarray) -> Any:
    import pandas as pd

    return pd.DataFrame(
        {"user_id": user, "item_id": item, "weight": weight, "datetime": when.astype("datetime64[ns]")}
    )


MODELS: dict[str, Any] = {"ease": Ease, "als": Als, "sasrec": SasRec}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
