"""`aigq generate`: hints for named users, lists for every known one, and queries for every trigger."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aigq.prepared import CausalCounts, Moment, Prepared, day_after, latest_moments
from aigq.progress import task
from aigq.recall.channel import Hint
from aigq.runs import Run
from aigq.serving.guards import Guards
from aigq.systems import CTR, GENERATORS, base, stage_of
from aigq.tables import U2Q, contents, write_whole

if TYPE_CHECKING:
    from aigq.recall.channel import RecallChannel
    from aigq.recall.think import ThinkGenerator

CHUNK: Final = 512
"""Users between two files; what an interruption costs at most."""


def version_of(run: Run, system: str) -> str:
    """The name of a system and of its training, or of the data that it counts; written with every list."""
    trained = base(system) in (*GENERATORS, CTR)
    return f"{system}@{run.begun(stage_of(base(system)) if trained else 'prepare')}"


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
    lists = _fit(Guards(run.config.serving), channel.recommend(moments, n))
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
            for moment, hints in zip(moments, lists, strict=True)
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

    Interrupted, it goes on where it stopped, see `_chunks`.
    """
    prepared = Prepared.load(run.folder / "prepared")
    model, path = version_of(run, system), run.folder / "tables" / "u2q.parquet"
    guards = Guards(run.config.serving)

    def write(moments: list[Moment]) -> pa.Table:
        return _rows(moments, _fit(guards, channel.recommend(moments, n)), model)

    moments = latest_moments(prepared, day_after(prepared))
    parts = _chunks(run, moments, path, [model, n], lambda: channel.fit(prepared), write)
    part, rows, with_hints = path.with_suffix(".part"), 0, 0
    with pq.ParquetWriter(part, U2Q) as writer:
        for chunk in parts:
            table = pq.read_table(chunk)
            writer.write_table(table)
            rows += table.num_rows
            with_hints += pa.compute.sum(pa.compute.equal(table["rank"], 1)).as_py() or 0
    part.replace(path)
    shutil.rmtree(path.with_suffix(".parts"))
    users = pa.compute.count_distinct(prepared.behaviours["user_id"]).as_py()
    return {"table": str(path), "model": model, "users": users, "users_with_hints": with_hints, "rows": rows}


def connect(run: Run, thinker: "ThinkGenerator", system: str, n: int) -> dict[str, Any]:
    """Write RUN/tables/x2q.parquet: Think over every user, then queries for each trigger, best first.

    Interrupted, it goes on where it stopped, see `_chunks`. Where the run has a CTR model, its probability
    for a stranger counts too.
    """
    prepared = Prepared.load(run.folder / "prepared")
    path, moments = run.folder / "tables" / "x2q.parquet", latest_moments(prepared, day_after(prepared))
    table = _connected(run, lambda: thinker, path, [version_of(run, system), n], prepared, moments, n)
    first = pa.compute.value_counts(table.filter(pa.compute.equal(table["rank"], 1))["kind"]).to_pylist()
    counts = {row["values"]: row["counts"] for row in first}
    return {"table": str(path), "model": version_of(run, system), "triggers": counts, "rows": table.num_rows}


def connect_training(run: Run, thinker: Callable[[], "ThinkGenerator"]) -> Path:
    """Write RUN/served/tables/x2q.parquet: the same of the training part alone, for the rows that look it up.

    Made once for a training, these samples and these settings; `thinker` is called only when it is made.
    """
    config, path = run.config, run.folder / "served" / "tables" / "x2q.parquet"
    clicks = run.begun(CTR) if run.finished(CTR) else None
    settings = [config.x2q.model_dump(mode="json"), config.decoding.model_dump(mode="json"), clicks]
    made_with = [version_of(run, config.x2q.system), run.begun("prepare"), settings]
    if not path.exists() or pq.read_schema(path).metadata != _mark(made_with):
        prepared = Prepared.load(run.folder / "prepared")
        past = replace(prepared, behaviours=prepared.training_rows())
        moments = latest_moments(past, prepared.validation_day)
        _connected(run, thinker, path, made_with, prepared, moments, config.samples.list_length)
    return path


def _connected(
    run: Run,
    load: Callable[[], "ThinkGenerator"],
    path: Path,
    made_with: list[Any],
    prepared: Prepared,
    moments: list[Moment],
    n: int,
) -> pa.Table:
    """Write the table X2Q that Think gives for these moments, all of one day, at most n queries each."""
    from aigq.recall.x2q import LINKS, links_of, trigger_table

    moments, day = _latest_active(moments, run.config.x2q.max_users), moments[0].day
    thinker: ThinkGenerator | None = None
    counts = CausalCounts(prepared.query_days, None)
    servable = counts.servable(day, run.config.samples.k_users)
    shown = Guards(run.config.serving).fit(servable)  # as triggers and as their queries

    def begin() -> None:
        nonlocal thinker
        thinker = load()
        thinker.fit(prepared)

    def write(moments: list[Moment]) -> pa.Table:
        assert thinker is not None
        thoughts = thinker.think(moments, n)
        both = zip(moments, thoughts, strict=True)
        links = (link for moment, thought in both for link in links_of(moment.user_id, thought, shown))
        return pa.Table.from_pylist([link for link in links if link["query"] in shown], schema=LINKS)

    parts = _chunks(run, moments, path, [*made_with, day], begin, write)
    links = pa.concat_tables([pq.read_table(chunk, schema=LINKS) for chunk in parts])
    issues = dict(zip(counts.queries.tolist(), counts.before(day)[0].tolist(), strict=True))
    table = trigger_table(links, issues, _stranger_clicks(run, prepared, links, day), run.config.x2q)
    write_whole(table.replace_schema_metadata(_mark(made_with)), path)
    shutil.rmtree(path.with_suffix(".parts"))
    return table


def _mark(made_with: list[Any]) -> dict[bytes, bytes]:
    """What a table was made with, as it is written into its file."""
    return {b"made_with": json.dumps(made_with).encode()}


def _latest_active(moments: list[Moment], n: int | None) -> list[Moment]:
    """The n users whose last behaviour is the latest, in the order given."""
    if n is None or len(moments) <= n:
        return moments
    last = np.array([moment.history["ts"][-1].value for moment in moments])
    return [moments[i] for i in sorted(np.argsort(-last, kind="stable")[:n])]


def _stranger_clicks(run: Run, prepared: Prepared, links: pa.Table, day: int) -> dict[str, float]:
    if not run.finished(CTR):
        return {}
    from aigq.recall.ctr_scorer import ClickModel

    queries = sorted(set(links["query"].to_pylist()))
    cut = np.datetime64(day, "D").astype("datetime64[us]")
    stranger = Moment(-1, "", cut, day, prepared.behaviours.slice(0, 0))
    (chances,) = ClickModel.load(run.folder, prepared).probabilities([stranger], [queries])
    return dict(zip(queries, chances.tolist(), strict=True))


def _chunks(
    run: Run,
    moments: list[Moment],
    path: Path,
    made_with: list[Any],
    begin: Callable[[], None],
    write: Callable[[list[Moment]], pa.Table],
) -> list[Path]:
    """What `write` makes of all moments, a file per chunk, in PATH without its ending + .parts.

    The files stay until the caller has joined them. A second call goes on after the last whole chunk made
    with the same things, settings, word files and prepared tables; anything else starts anew. `begin` is
    called before the first chunk that is missing.
    """
    same = [*made_with, _settings(run), run.begun("prepare"), len(moments), CHUNK]
    folder = _parts(path.with_suffix(".parts"), same)
    begun = False
    paths = []
    with task(f"generate {path.stem}", len(moments)) as advance:
        for start in range(0, len(moments), CHUNK):
            chunk, file = moments[start : start + CHUNK], folder / f"{start:09}.parquet"
            if not file.exists():
                if not begun:
                    begin()
                    begun = True
                write_whole(write(chunk), file)
            paths.append(file)
            advance(len(chunk))
    return paths


def _settings(run: Run) -> list[Any]:
    """What lists depend on besides the model and the log."""
    config, serving = run.config, run.config.serving
    words = [path for path in (serving.blocklist, serving.allowlist) if path is not None]
    sections = (config.channels, config.decoding, serving, config.x2q)
    return [contents(words), *(section.model_dump(mode="json") for section in sections)]


def _parts(parent: Path, made_with: list[Any]) -> Path:
    """The folder of these chunks; those of an earlier generation are removed."""
    digest = hashlib.sha256(json.dumps(made_with).encode()).hexdigest()[:16]
    folder = parent / digest
    if parent.exists() and not folder.exists():
        shutil.rmtree(parent)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _fit(guards: Guards, lists: list[list[Hint]]) -> list[list[Hint]]:
    """The lists without what the guards refuse for its words."""
    fit = guards.fit({hint.query for hints in lists for hint in hints})
    return [[hint for hint in hints if hint.query in fit] for hints in lists]


def _rows(moments: list[Moment], lists: list[list[Hint]], model: str) -> pa.Table:
    now = datetime.now(UTC).replace(tzinfo=None)
    rows = [
        {"user_id": moment.user_id, "rank": rank, "model": model, "generated_at": now, **hint._asdict()}
        for moment, hints in zip(moments, lists, strict=True)
        for rank, hint in enumerate(hints, start=1)
    ]
    return pa.Table.from_pylist(rows, schema=U2Q)
