"""`aigq generate u2q`: hints for named users, or a list for every known one in chunks that survive a kill."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aigq.prepared import Moment, Prepared
from aigq.progress import task
from aigq.recall.channel import Hint
from aigq.runs import Run
from aigq.serving.run_tables import day_after, latest_moments
from aigq.systems import base, stage_of
from aigq.tables import U2Q

if TYPE_CHECKING:
    from aigq.recall.channel import RecallChannel

CHUNK: Final = 512
"""Users between two files; what an interruption costs at most."""


def version_of(run: Run, system: str) -> str:
    """The name of a system and of its training, written with every list."""
    return f"{system}@{run.begun(stage_of(base(system)))}"


def hints_for(
    run: Run, channel: "RecallChannel", system: str, users: Sequence[str], n: int
) -> dict[str, Any]:
    """At most n hints for each of these users as of the day after the log; strangers have no history."""
    prepared = Prepared.load(run.folder / "prepared")
    day = day_after(prepared)
    cut = np.datetime64(day, "D").astype("datetime64[us]")
    known = {moment.user_id: moment for moment in latest_moments(prepared, day)}
    nothing = prepared.behaviours.slice(0, 0)
    moments = [
        known.get(user) or Moment(-1 - number, user, cut, day, nothing) for number, user in enumerate(users)
    ]
    channel.fit(prepared)
    return {
        "system": system,
        "users": [
            {
                "user_id": moment.user_id,
                "as_of": str(moment.cut.astype("datetime64[D]")),
                "behaviours": moment.history.num_rows,
                "latest": moment.history["text"].to_pylist()[-5:],
                "hints": [
                    {"query": h.query, "score": round(float(h.score), 6), "reason": h.reason} for h in hints
                ],
            }
            for moment, hints in zip(moments, channel.recommend(moments, n), strict=True)
        ],
    }


def example_users(run: Run) -> list[str]:
    """Three users of the test: with a short, a usual and a long history."""
    samples = Prepared.load(run.folder / "prepared").split("test").sort_by([("n_before", "ascending")])
    lengths = dict(zip(samples["user_id"].to_pylist(), samples["n_before"].to_pylist(), strict=True))
    users = sorted(lengths, key=lambda user: (lengths[user], user))
    return list(dict.fromkeys(users[int(share * (len(users) - 1))] for share in (0.1, 0.5, 0.9)))


def backfill(run: Run, channel: "RecallChannel", system: str, n: int) -> dict[str, Any]:
    """Write RUN/tables/u2q.parquet: at most n hints for every user, as of the day after the log.

    Chunks are kept in RUN/tables/u2q.parts until all are there. A second call goes on after the last whole
    chunk of the same system, training, prepared tables and n; anything else starts anew.
    """
    prepared = Prepared.load(run.folder / "prepared")
    moments = latest_moments(prepared, day_after(prepared))
    model = version_of(run, system)
    folder = _parts(run.folder, [model, n, run.begun("prepare"), len(moments), CHUNK])
    fitted = False
    paths = []
    with task(f"generate u2q with {system}", len(moments)) as advance:
        for start in range(0, len(moments), CHUNK):
            chunk, path = moments[start : start + CHUNK], folder / f"{start:09}.parquet"
            if not path.exists():
                if not fitted:
                    channel.fit(prepared)
                    fitted = True
                part = path.with_suffix(".part")
                pq.write_table(_rows(chunk, channel.recommend(chunk, n), model), part)
                part.replace(path)
            paths.append(path)
            advance(len(chunk))
    return _joined(run.folder / "tables" / "u2q.parquet", paths, model, len(moments))


def _parts(run: Path, made_with: list[Any]) -> Path:
    """The folder of this backfill's chunks; those of another one are removed."""
    digest = hashlib.sha256(json.dumps(made_with).encode()).hexdigest()[:16]
    parent = run / "tables" / "u2q.parts"
    folder = parent / digest
    if parent.exists() and not folder.exists():
        shutil.rmtree(parent)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _joined(path: Path, parts: list[Path], model: str, users: int) -> dict[str, Any]:
    """One file of all chunks, put in place whole; then the chunks go."""
    part, rows, with_hints = path.with_suffix(".part"), 0, 0
    with pq.ParquetWriter(part, U2Q) as writer:
        for chunk in parts:
            table = pq.read_table(chunk)
            writer.write_table(table)
            rows += table.num_rows
            with_hints += pa.compute.sum(pa.compute.equal(table["rank"], 1)).as_py() or 0
    part.replace(path)
    shutil.rmtree(path.with_suffix(".parts"))
    return {"table": str(path), "model": model, "users": users, "users_with_hints": with_hints, "rows": rows}


def _rows(moments: list[Moment], lists: list[list[Hint]], model: str) -> pa.Table:
    now = datetime.now(UTC).replace(tzinfo=None)
    rows = [
        {"user_id": moment.user_id, "rank": rank, "model": model, "generated_at": now, **hint._asdict()}
        for moment, hints in zip(moments, lists, strict=True)
        for rank, hint in enumerate(hints, start=1)
    ]
    return pa.Table.from_pylist(rows, schema=U2Q)
