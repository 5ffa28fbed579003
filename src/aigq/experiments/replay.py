"""`aigq replay`: hints for the shoppers of a log, and *simulated* clicks on them.

A log without hints says what shoppers issued, not what they would have clicked. The replay shows hints on
every shopping day from `split.validation_from` on:

1. Logging channels, fitted on the days before `validation_from`, propose queries, causally; a first ranker
   adds up 1 / (offset + rank).
2. Hints are drawn without replacement with probabilities softmax(score / exploration) (Plackett-Luce); how
   likely each draw was is kept.
3. A simulated shopper looks at place p with probability examination[p], and then clicks a hint with a
   probability that depends on what the log says she issues later that day; she stops at her first click.

The events are ordinary `hint_impression` and `hint_click` rows. Nothing here is a real click: `import.json`
says `clicks: simulated`, and so do the tables made from it.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aigq.config import Config, ReplayConfig
from aigq.errors import ConfigError, EmptyLogError, SourceError
from aigq.prepared import Moment, Prepared
from aigq.progress import task
from aigq.recall import RecallChannel, build_channel
from aigq.recall.histories import batches
from aigq.tables import EVENT_KEY, EVENTS, IMPORTED_TABLES

SIMULATION: Final = pa.schema(
    [
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("position", pa.int32(), nullable=False),
        pa.field("query", pa.string(), nullable=False),
        pa.field("propensity", pa.float64(), nullable=False),  # of this draw, given the earlier places
        pa.field("examination", pa.float64(), nullable=False),
        pa.field("appeal", pa.float64(), nullable=False),  # probability of a click once seen
        pa.field("clicked", pa.bool_(), nullable=False),
    ]
)
"""What the simulation knows about every hint, OUT/simulation.parquet; no stage reads it."""

_MOMENTS_AT_ONCE: Final = 4096
_SECOND: Final = np.timedelta64(1_000_000, "us")


@dataclass(frozen=True)
class Shown:
    """One exposure: when it was seen, when the day's first behaviour came, and the hints by place.

    `propensity` and `appeal` are those of each hint; `click` is the place clicked, if any.
    """

    user_id: str
    request_id: str
    seen: np.datetime64
    first: np.datetime64
    queries: list[str]
    propensity: np.ndarray
    appeal: np.ndarray
    click: int | None


def replay(config: Config, run: Path, out: Path) -> dict[str, Any]:
    """Write the log of `data.tables` with simulated hint events to `out`; at once when that is there already.

    Args:
        config: `replay` has the constants; `split.validation_from` is the first day with hints.
        run: a run folder whose `prepared` tables are of the same log, by user and day.
        out: the folder of the new tables.

    Raises:
        ConfigError: samples are not user-days, or there are fewer examination rates than hints.
        SourceError: `out` holds tables that no replay wrote.
        EmptyLogError: no exposure could be made.
    """
    settings, source = config.replay, config.data.tables
    _check(config, out)
    mark = _fingerprint(config, run)
    done = _read(out)
    if done.get("replay", {}).get("fingerprint") == mark and (out / "events.parquet").exists():
        return done
    prepared = Prepared.load(run / "prepared")
    days = prepared.samples.filter(pc.not_equal(prepared.samples["split"], "train"))
    events: list[dict[str, Any]] = []
    simulation: list[dict[str, Any]] = []
    for exposure in _exposures(config, prepared, days, _fitted(config, run, prepared)):
        events += _events(exposure)
        simulation += _simulation(exposure, settings)
    if not events:
        raise EmptyLogError("replay: no day after split.validation_from gave an exposure")
    exposures = sum(row["position"] == 0 for row in simulation)
    about = {
        "fingerprint": mark,
        "exposures": exposures,
        "clicks": sum(row["clicked"] for row in simulation),
        "skipped": days.num_rows - exposures,
        "seed": config.seed,
        "constants": settings.model_dump(mode="json"),
    }
    return _write(source, out, events, simulation, about)


def _exposures(
    config: Config, prepared: Prepared, days: pa.Table, channels: Sequence[RecallChannel]
) -> Iterator[Shown]:
    """One exposure for each shopping day, unless it would lie before midnight or there is nothing to show."""
    settings, first_of_day = config.replay, _first_of_each(prepared, days)
    with task("replayed days", days.num_rows) as advance:
        for start, moments in batches(prepared.moments(days), _MOMENTS_AT_ONCE):
            targets = days["targets"].slice(start, len(moments)).to_pylist()
            proposed = propose(channels, moments, settings)
            firsts = first_of_day[start : start + len(moments)]
            for moment, scores, wanted, first in zip(moments, proposed, targets, firsts, strict=True):
                seen = first - settings.lead_seconds * _SECOND
                if seen >= moment.cut and scores:
                    rng = np.random.default_rng((config.seed, moment.sample_id))
                    yield _show(moment, (seen, first), scores, wanted, prepared.category_of, settings, rng)
            advance(len(moments))


def propose(
    channels: Sequence[RecallChannel], moments: Sequence[Moment], settings: ReplayConfig
) -> list[dict[str, float]]:
    """The first ranker: query -> sum over channels of 1 / (offset + rank), ranks from 1."""
    scores: list[dict[str, float]] = [{} for _ in moments]
    for channel in channels:
        for found, hints in zip(scores, channel.recommend(moments, settings.proposals), strict=True):
            for rank, hint in enumerate(hints, start=1):
                found[hint.query] = found.get(hint.query, 0.0) + 1 / (settings.rank_offset + rank)
    return scores


def draw(
    scores: np.ndarray, n: int, temperature: float, rng: np.random.Generator
) -> tuple[list[int], np.ndarray]:
    """n positions of scores (Q,) drawn without replacement, and the probability of each draw."""
    left = np.exp((scores - scores.max()) / temperature)
    drawn: list[int] = []
    propensity: list[float] = []
    for _ in range(min(n, len(scores))):
        share = left / left.sum()
        drawn.append(int(rng.choice(len(scores), p=share)))
        propensity.append(float(share[drawn[-1]]))
        left[drawn[-1]] = 0.0
        if not left.any():
            break
    return drawn, np.array(propensity)


def appeal(
    queries: Sequence[str], wanted: Sequence[str], category_of: dict[str, str], settings: ReplayConfig
) -> np.ndarray:
    """Probability (n,) of a click on each hint once it is seen; `wanted` is what the shopper issues."""
    issued = set(wanted)
    related = {category_of[query] for query in wanted if query in category_of}
    return np.array(
        [
            settings.click_wanted
            if query in issued
            else settings.click_related
            if category_of.get(query) in related
            else settings.click_noise
            for query in queries
        ]
    )


def look(appealing: np.ndarray, examination: Sequence[float], rng: np.random.Generator) -> int | None:
    """The place that is clicked, if any: she looks down the list, and stops at a click.

    One draw says how far she looks: who looks at a place has looked at all places that are examined more.
    """
    patience = rng.random()
    for place, (chance, examined) in enumerate(zip(appealing, examination, strict=False)):
        if patience < examined and rng.random() < chance:
            return place
    return None


def _show(
    moment: Moment,
    times: tuple[np.datetime64, np.datetime64],
    scores: dict[str, float],
    wanted: Sequence[str],
    category_of: dict[str, str],
    settings: ReplayConfig,
    rng: np.random.Generator,
) -> Shown:
    names = sorted(scores)
    values = np.array([scores[name] for name in names])
    drawn, propensity = draw(values, settings.shown, settings.exploration, rng)
    queries = [names[i] for i in drawn]
    appealing = appeal(queries, wanted, category_of, settings)
    click = look(appealing, settings.examination, rng)
    return Shown(moment.user_id, f"replay-{moment.sample_id}", *times, queries, propensity, appealing, click)


def _events(shown: Shown) -> Iterator[dict[str, Any]]:
    """The exposure as rows of EVENTS; the click lies halfway to the day's first behaviour."""
    base = {"user_id": shown.user_id, "request_id": shown.request_id, "item_id": None, "session_id": None}
    for place, query in enumerate(shown.queries):
        ts = shown.seen.item()
        yield {**base, "ts": ts, "action": "hint_impression", "query": query, "position": place}
    if shown.click is not None:
        ts = (shown.seen + (shown.first - shown.seen) // 2).item()
        query = shown.queries[shown.click]
        yield {**base, "ts": ts, "action": "hint_click", "query": query, "position": shown.click}


def _simulation(shown: Shown, settings: ReplayConfig) -> Iterator[dict[str, Any]]:
    for place, query in enumerate(shown.queries):
        yield {
            "request_id": shown.request_id,
            "position": place,
            "query": query,
            "propensity": float(shown.propensity[place]),
            "examination": settings.examination[place],
            "appeal": float(shown.appeal[place]),
            "clicked": place == shown.click,
        }


def _first_of_each(prepared: Prepared, days: pa.Table) -> np.ndarray:
    """Time (M,) of the first behaviour at or after each moment: the row that follows its history."""
    rows = pc.add(days["first_row"], days["n_before"])
    times: np.ndarray = prepared.behaviours["ts"].take(rows).to_numpy().astype("datetime64[us]")
    return times


def _fitted(config: Config, run: Path, prepared: Prepared) -> list[RecallChannel]:
    channels = [build_channel(name, config, run) for name in config.replay.channels]
    with task("logging channels", len(channels)) as advance:
        for channel in channels:
            channel.fit(prepared)
            advance(1)
    return channels


def _check(config: Config, out: Path) -> None:
    if config.samples.unit != "user_day":
        raise ConfigError("replay shows hints on shopping days: it needs samples.unit: user_day")
    if len(config.replay.examination) < config.replay.shown:
        raise ConfigError(
            f"replay.examination has {len(config.replay.examination)} rates for {config.replay.shown} hints"
        )
    if (out / "events.parquet").exists() and _read(out).get("clicks") != "simulated":
        raise SourceError(f"{out} holds tables that `aigq replay` did not write; give --out a new folder")


def _fingerprint(config: Config, run: Path) -> str:
    """Hash of all that the replay reads: prepared tables, channels, encoder, constants, seed."""
    parts: list[Any] = [config.seed, config.samples.k_users]
    parts += [part.model_dump(mode="json") for part in (config.replay, config.channels, config.encoder)]
    parts.append(json.loads((run / "prepared" / "summary.json").read_text(encoding="utf-8"))["fingerprint"])
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "import.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _write(
    source: Path,
    out: Path,
    events: list[dict[str, Any]],
    simulation: list[dict[str, Any]],
    about: dict[str, Any],
) -> dict[str, Any]:
    """All tables beside their final places first, then into place; import.json is whole only after them."""
    log = pq.read_table(source / "events.parquet")
    if pc.any(pc.starts_with(log["action"], "hint_")).as_py():
        raise SourceError(f"{source} has hint events already; a replay is for logs without them")
    merged = pa.concat_tables([log.cast(EVENTS), pa.Table.from_pylist(events, schema=EVENTS)])
    merged = merged.sort_by([(column, "ascending") for column in EVENT_KEY])
    tables = {
        "simulation": pa.Table.from_pylist(simulation, schema=SIMULATION),
        **{n: pq.read_table(source / f"{n}.parquet") for n in IMPORTED_TABLES if n != "events"},
        "events": merged,
    }
    counts = merged["action"].value_counts().to_pylist()
    summary = {
        **_read(source),
        "source": f"replay of {_read(source).get('source', source.name)}",
        "clicks": "simulated",
        "events": merged.num_rows,
        "actions": {row["values"]: row["counts"] for row in sorted(counts, key=lambda r: -r["counts"])},
        "fingerprint": about["fingerprint"],
        "replay": about,
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        pq.write_table(table, out / f".{name}.part", compression="zstd")
    _describe(out, {"clicks": "simulated"})  # what a killed replay leaves is simulated, and never done
    for name in tables:
        (out / f".{name}.part").replace(out / f"{name}.parquet")
    _describe(out, summary)
    return summary


def _describe(out: Path, about: dict[str, Any]) -> None:
    """Replace import.json."""
    part = out / ".import.part"
    part.write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(out / "import.json")
