"""Non-generative peers with queries as items: SASRec and EASE (rectools), ALS (implicit).

rectools pins numpy below 2, which new releases of pyarrow refuse, so these models run in a Python of their
own (see `bench_python`) and exchange Parquet files of integers with this process.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aigq.errors import StageError
from aigq.prepared import CausalCounts, Moment, Prepared
from aigq.recall.channel import Hint, RowMissing
from aigq.recall.histories import DAY, codes_in, rows_of

PeerName = Literal["sasrec", "ease", "als"]
VARIABLE: Final = "AIGQ_BENCH_PYTHON"
THREADS: Final = 2  # of the worker
INSTALL: Final = (
    "python -m venv .venv-bench && .venv-bench/bin/pip install "
    "'rectools[torch]>=0.19,<0.20' 'implicit>=0.7.3,<0.8' 'pyarrow>=18,<22'"
)
SETTINGS: dict[str, dict[str, Any]] = {
    "ease": {"half_life_days": 90.0, "regularization": 500.0},
    "als": {"half_life_days": 90.0, "factors": 64, "regularization": 0.05, "alpha": 5.0, "iterations": 15},
    "sasrec": {"factors": 64, "epochs": 5, "session_max_len": 64, "keep_last": 400},
}


def bench_python() -> Path:
    """The Python that has rectools and implicit.

    It is the one named by the environment variable VARIABLE, else `.venv-bench/bin/python` in the current
    folder or in one above it.

    Raises:
        RowMissing: neither is there; the message has the install command.
    """
    named = os.environ.get(VARIABLE)
    if named:
        if shutil.which(named) is None:
            raise RowMissing(f"{VARIABLE}={named} is not a program; install it with: {INSTALL}")
        return Path(named)
    here = Path.cwd()
    for folder in (here, *here.parents):
        python = folder / ".venv-bench" / "bin" / "python"
        if python.exists():
            return python
    raise RowMissing(f"rows sasrec, ease and als need a Python of their own; install it with: {INSTALL}")


class Peer:
    """One of the three models behind the channel protocol.

    The items are the queries that may be shown on the first validation day. A moment's row is its own
    history, so shoppers that training never saw are served too.

    Args:
        name: sasrec, ease or als.
        k_users: distinct users that must have issued a query before it is learned or shown.
        seed: of the model.
        folder: where files are exchanged and the fitted model is kept.
        python: the interpreter; default: `bench_python()` at fit.
        settings: replaces single values of SETTINGS[name].
    """

    def __init__(
        self,
        name: PeerName,
        k_users: int,
        seed: int,
        folder: Path,
        python: Path | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.name: str = name
        self._k, self._seed, self._folder, self._python = k_users, seed, folder, python
        self._settings = SETTINGS[name] | (settings or {}) | {"seed": seed, "threads": THREADS}
        self._counts: CausalCounts | None = None
        self._items = np.zeros(0, dtype=object)

    def fit(self, prepared: Prepared) -> None:
        """Fit on who issued which query when, in the training rows."""
        python = self._python or bench_python()
        self._counts = CausalCounts(prepared.query_days, None)
        self._items = np.array(sorted(self._counts.servable(prepared.validation_day, self._k)), dtype=object)
        rows = prepared.training_rows().select(["user_id", "ts", "query"])
        item = codes_in(rows["query"], self._items)
        user = rows["user_id"].combine_chunks().dictionary_encode().indices
        end = np.datetime64(prepared.validation_day, "D").astype("datetime64[us]")
        age = (end - rows["ts"].to_numpy().astype("datetime64[us]")) / DAY
        table = pa.table({"user": user.cast(pa.int64()), "item": item, "age_days": age})
        table = table.filter(pc.greater_equal(table["item"], 0))
        if table.num_rows == 0:
            raise StageError(f"{self.name}: no query of the training rows was issued by {self._k} users")
        self._folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, self._folder / "train.parquet")
        self._python = python
        self._run(self._folder, "fit", 0)

    def recommend(self, moments: Sequence[Moment], n: int) -> list[list[Hint]]:
        """The model's best n servable queries; nothing for a history without any known query."""
        if self._counts is None:
            raise StageError(f"{self.name}: recommend() before fit()")
        lists: list[list[Hint]] = [[] for _ in moments]
        rows = rows_of(moments, self._items)
        known = np.flatnonzero(rows.query >= 0)
        if not len(known) or n <= 0:
            return lists
        histories = {"moment": rows.moment[known], "item": rows.query[known], "age_days": rows.age[known]}
        with tempfile.TemporaryDirectory(dir=self._folder) as temporary:
            folder = Path(temporary)
            shutil.copy(self._folder / "model.pkl", folder)
            pq.write_table(pa.table(histories), folder / "histories.parquet")
            self._run(folder, "recommend", min(n, len(self._items)))
            found = pq.read_table(folder / "lists.parquet").sort_by(
                [("moment", "ascending"), ("rank", "ascending")]
            )
        servable = {day: self._counts.servable(day, self._k) for day in {m.day for m in moments}}
        reason = {"sasrec": "often comes next", "ease": "goes with what you look for"}.get(
            self.name, "shoppers like you look for this"
        )
        for moment, item, score in zip(
            *(found[c].to_pylist() for c in ("moment", "item", "score")), strict=True
        ):
            query = str(self._items[item])
            if query in servable[moments[moment].day]:
                lists[moment].append(Hint(query, float(score), reason))
        return lists

    def _run(self, folder: Path, task: str, n: int) -> None:
        """Run the worker on a folder; its error is this channel's error."""
        job = {"model": self.name, "task": task, "n": n, "items": len(self._items), **self._settings}
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        worker = Path(__file__).with_name("peer_worker.py")
        done = subprocess.run(
            [str(self._python), str(worker), str(folder)],
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": str(THREADS), "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": ""},
        )
        if done.returncode:
            last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no message")
            raise StageError(f"{self.name}: the peer's Python {self._python} failed to {task}: {last}")
