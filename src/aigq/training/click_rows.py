"""The rows of the CTR model: what was shown, or could have been, and whether it was clicked.

method.md section 3. Exposure mode: hints of every exposure, clicked or not. Bootstrap mode: candidates of the
recall channels at each sample; what the shopper issued next counts as clicked.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aigq.config import Config
from aigq.errors import EmptyLogError
from aigq.history.prompt import check_profiles, profiles_of, shared_values
from aigq.models.text_encoder import TextEncoder
from aigq.prepared import Moment, Prepared
from aigq.progress import note, task
from aigq.recall.ctr_inputs import ClickInputs, Recent, TextTable
from aigq.recall.features import FeatureMaker
from aigq.recall.histories import batches, latest
from aigq.tables import Split

_MOMENTS_AT_ONCE: Final = 512


@dataclass(frozen=True)
class ClickRows:
    """M moments with their pairs one after the other: moment i has pairs starts[i] to starts[i + 1].

    Of moments: `recent`, `user` (M,) as codes. Of pairs (P,): `text` rows of the text table, `plain` (P, F),
    `position` from 0, `clicked` 0 or 1.
    """

    recent: Recent
    user: np.ndarray
    starts: np.ndarray
    text: np.ndarray
    plain: np.ndarray
    position: np.ndarray
    clicked: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    def users_of_pairs(self) -> np.ndarray:
        """User codes (P,)."""
        return np.repeat(self.user, np.diff(self.starts))


@dataclass(frozen=True)
class ClickData:
    """Rows of the three splits, and what is needed to make such rows again."""

    train: ClickRows
    valid: ClickRows
    test: ClickRows
    texts: TextTable
    profile_columns: list[str]


def make_rows(config: Config, prepared: Prepared, profile_columns: list[str] | None = None) -> ClickData:
    """The rows of a run. Similarities in the training rows are learned from days before the first of them.

    Args:
        config: the run.
        prepared: its prepared tables.
        profile_columns: those of the model to train on from; None: made from the training users.

    Raises:
        EmptyLogError: a split has no rows, or nothing of it was clicked, or everything.
        ConfigError: `prompt.profile` or `ctr.profile` names a field that no user has.
    """
    check_profiles(config, prepared.users.to_batches())
    rows, k_users = prepared.training_rows(), config.samples.k_users
    moments = prepared.exposures if config.samples.unit == "exposure" else prepared.samples
    train = latest(_split(moments, "train"), rows, prepared.validation_day, config.ctr.max_samples)
    if not train.num_rows:
        raise EmptyLogError("ctr: no training samples after the first third of the training days")
    profiles = profiles_of(prepared.users)
    columns = profile_columns
    if columns is None:
        users = (profiles.get(user, {}) for user in train["user_id"].unique().to_pylist())
        columns = shared_values(config.ctr.profile, users, k_users)
    texts = _embed(config, prepared)
    before = rows.filter(pc.less(rows["day"], int(train["day"].to_numpy().min())))
    made = {}
    parts: tuple[tuple[Split, pa.Table, pa.Table], ...] = (
        ("train", train, before),
        ("valid", _draw(_split(moments, "valid"), config), rows),
        ("test", _draw(_split(moments, "test"), config), rows),
    )
    for split, table, seen in parts:
        maker = FeatureMaker(prepared, seen, k_users)
        inputs = ClickInputs(maker, texts, profiles, columns, config.ctr.behaviours)
        with task(f"pairs of {split}", table.num_rows) as advance:
            chunks = []
            for start, batch in batches(prepared.moments(table), _MOMENTS_AT_ONCE):
                chunks.append(_rows(inputs, batch, table.slice(start, len(batch))))
                advance(len(batch))
        made[split] = _joined(chunks, table)
        _check_both(made[split], split)
    return ClickData(made["train"], made["valid"], made["test"], texts, columns)


def _check_both(rows: ClickRows, split: Split) -> None:
    """Clicks are told from the rest, so there must be both."""
    if rows.clicked.any() and not rows.clicked.all():
        return
    what = "every hint" if rows.clicked.any() else "nothing"
    raise EmptyLogError(
        f"ctr: {what} was clicked in the {split} split ({len(rows.clicked)} hints that samples.k_users users "
        "had issued): clicks cannot be told from the rest. Log hints that are not clicked, too; use "
        "a longer log, or move split.validation_from and split.test_from"
    )


def _split(moments: pa.Table, split: Split) -> pa.Table:
    return moments.filter(pc.equal(moments["split"], split))


def _draw(table: pa.Table, config: Config) -> pa.Table:
    """A seeded draw of `ctr.eval_samples` rows, in their order."""
    n = min(config.ctr.eval_samples, table.num_rows)
    chosen = np.random.default_rng(config.seed).choice(table.num_rows, n, replace=False)
    return table.take(pa.array(np.sort(chosen)))


def _embed(config: Config, prepared: Prepared) -> TextTable:
    """Embeddings of every text of the log."""
    columns = prepared.behaviours["text"], prepared.query_days["query"]
    found = sorted(set().union(*(column.unique().to_pylist() for column in columns)))
    note(f"embedding {len(found):,} texts")
    return TextTable.of(found, TextEncoder(config.encoder.name).encode(found))


def _rows(inputs: ClickInputs, moments: Sequence[Moment], table: pa.Table) -> ClickRows:
    known = inputs.maker.known(moments)
    if "clicked" in table.column_names:
        moment, query, position, clicked = _shown(inputs, table)
        kept = inputs.maker.servable(known, moment, query)
        moment, query, position, clicked = (a[kept] for a in (moment, query, position, clicked))
    else:
        moment, query = inputs.maker.candidates(known)
        position, clicked = np.zeros(len(moment), np.int64), _issued(inputs, moment, query, table["targets"])
    return ClickRows(
        inputs.recent(moments),
        np.zeros(len(moments), np.int64),
        np.searchsorted(moment, np.arange(len(moments) + 1)),
        inputs.text_rows(query),
        inputs.plain(known, moments, moment, query),
        position,
        clicked.astype(np.float32),
    )


def _shown(inputs: ClickInputs, table: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """moment, query, position, clicked (P,) of the hints of exposures, as far as the log knows them."""
    shown, clicked = table["shown"].to_pylist(), table["clicked"].to_pylist()
    sizes = [len(hints) for hints in shown]
    moment = np.repeat(np.arange(len(shown)), sizes)
    query = inputs.query_codes(list(itertools.chain.from_iterable(shown)))
    position = np.concatenate([np.arange(n) for n in sizes]) if sizes else np.zeros(0, np.int64)
    flags = np.array(list(itertools.chain.from_iterable(clicked)), dtype=bool)
    kept = query >= 0
    return moment[kept], query[kept], position[kept], flags[kept]


def _issued(
    inputs: ClickInputs, moment: np.ndarray, query: np.ndarray, targets: pa.ChunkedArray
) -> np.ndarray:
    """(P,): whether the query of a pair is a target of its moment."""
    lists = targets.to_pylist()
    wanted = inputs.query_codes(list(itertools.chain.from_iterable(lists)))
    owner = np.repeat(np.arange(len(lists)), [len(queries) for queries in lists])
    size = len(inputs.maker.vocabulary)
    return np.isin(moment * size + query, (owner * size + wanted)[wanted >= 0])


def _joined(chunks: Sequence[ClickRows], table: pa.Table) -> ClickRows:
    if not chunks:
        raise EmptyLogError("ctr: a split has no samples")
    offsets = np.cumsum([0, *(len(c.text) for c in chunks)])
    starts = [c.starts[:-1] + offset for c, offset in zip(chunks, offsets, strict=False)]
    users = pc.index_in(table["user_id"], table["user_id"].unique()).to_numpy()
    return ClickRows(
        Recent(*(np.concatenate([getattr(c.recent, n) for c in chunks]) for n in ("text", "age", "action"))),
        users.astype(np.int64),
        np.concatenate([*starts, offsets[-1:]]),
        *(np.concatenate([getattr(c, n) for c in chunks]) for n in ("text", "plain", "position", "clicked")),
    )
