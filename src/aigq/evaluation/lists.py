"""The lists of every row: made once, kept in RUN/lists, made again when what they depend on has changed."""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aigq.prepared import Prepared
from aigq.progress import Advance, task
from aigq.recall.channel import Hint, RecallChannel, Supplied
from aigq.tables import LISTS, PREPARED_TABLES, contents


@dataclass(frozen=True)
class Made:
    """One row's lists and what they cost."""

    system: str
    lists: pa.Table
    fit_seconds: float
    recommend_seconds: float
    users: int
    supply: pa.Table | None = None  # of a blend: who proposed what

    @property
    def seconds_per_1k_users(self) -> float:
        """Seconds of `recommend` (not of `fit`) for all moments of 1,000 users."""
        return 1000 * self.recommend_seconds / max(1, self.users)


@dataclass(frozen=True)
class _Sidecar:
    system: str
    fingerprint: str
    fit_seconds: float
    recommend_seconds: float
    users: int


def file_of(run: Path, system: str) -> Path:
    """RUN/lists/SYSTEM.parquet; a colon becomes _, other odd characters are percent-encoded."""
    return run / "lists" / f"{quote(system.replace(':', '_'), safe='-_.')}.parquet"


def prepared_fingerprint(folder: Path) -> str:
    """Hash of the contents of RUN/prepared."""
    return contents(folder / f"{name}.parquet" for name in PREPARED_TABLES)


def fingerprint_of(*parts: str, sample_ids: np.ndarray, n: int) -> str:
    """Hash of everything that one row's lists depend on."""
    digest = hashlib.sha256(json.dumps([*parts, n]).encode())
    digest.update(np.ascontiguousarray(sample_ids).tobytes())
    return digest.hexdigest()[:16]


def read_lists(run: Path, system: str, fingerprint: str) -> Made | None:
    """The kept lists of a row, or None when there are none with this fingerprint."""
    path = file_of(run, system)
    try:
        sidecar = _Sidecar(**json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
        if sidecar.fingerprint != fingerprint:
            return None
        lists = pq.read_table(path)
        supply = pq.read_table(_supply_file(path)) if _supply_file(path).exists() else None
    except (OSError, ValueError, TypeError, pa.ArrowInvalid):
        return None
    seconds = sidecar.fit_seconds, sidecar.recommend_seconds
    return Made(system, lists, *seconds, sidecar.users, supply=supply)


def make_lists(
    system: str,
    channel: RecallChannel,
    prepared: Prepared,
    samples: pa.Table,
    n: int,
    advance: Advance,
    chunk: int = 256,
) -> Made:
    """Fit a channel and ask it for lists, `chunk` samples at a time; `advance` hears how many are done."""
    start = time.perf_counter()
    channel.fit(prepared)
    fit_seconds = time.perf_counter() - start
    moments = prepared.moments(samples)
    tables, seconds = [LISTS.empty_table()], 0.0
    for first in range(0, len(moments), chunk):
        asked = moments[first : first + chunk]
        start = time.perf_counter()
        hints = channel.recommend(asked, n)
        seconds += time.perf_counter() - start
        tables.append(table_of([moment.sample_id for moment in asked], hints))
        advance(len(asked))
    users = len(samples["user_id"].unique())
    supply = channel.supply() if isinstance(channel, Supplied) else None
    return Made(system, pa.concat_tables(tables), fit_seconds, seconds, users, supply=supply)


def write_lists(run: Path, made: Made, fingerprint: str) -> None:
    """Keep a row's lists; a reader never sees half of them."""
    path = file_of(run, made.system)
    path.parent.mkdir(parents=True, exist_ok=True)
    sidecar = _Sidecar(made.system, fingerprint, made.fit_seconds, made.recommend_seconds, made.users)
    path.with_suffix(".json").unlink(missing_ok=True)  # lists without a sidecar are not trusted
    _supply_file(path).unlink(missing_ok=True)
    if made.supply is not None:
        with atomic(_supply_file(path)) as partial:
            pq.write_table(made.supply, partial)
    with atomic(path) as partial:
        pq.write_table(made.lists, partial)
    with atomic(path.with_suffix(".json")) as partial:
        partial.write_text(json.dumps(asdict(sidecar), indent=2) + "\n", encoding="utf-8")


def _supply_file(path: Path) -> Path:
    return path.with_suffix(".supply.parquet")


def table_of(sample_ids: Sequence[int], hints: Sequence[Sequence[Hint]]) -> pa.Table:
    """Lists of hints as a LISTS table. A sample without hints has no rows."""
    flat = [
        (sample_id, rank, hint.query, hint.score, hint.reason)
        for sample_id, listed in zip(sample_ids, hints, strict=True)
        for rank, hint in enumerate(listed, start=1)
    ]
    columns = list(zip(*flat, strict=True)) or [()] * len(LISTS)
    return pa.table([pa.array(c, t) for c, t in zip(columns, LISTS.types, strict=True)], schema=LISTS)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` when the block ends well."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def progress(title: str, total: int) -> AbstractContextManager[Advance]:
    """Says how many lists of a row are done."""
    return task(f"lists of {title}", total)
