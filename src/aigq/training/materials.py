"""What a training folder is made of: the model to start from, and prompts with label lists as token arrays.

init/            the start: weights and tokenizer
train.npz        prompts and label lists
imitation.npz    prompts and the ranker's own lists, where `sft.imitation_epochs` asks for them
valid.npz/.json  prompts of validation moments, and what came next there
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aigq.config import Config
from aigq.errors import EmptyLogError
from aigq.history.prompt import PromptWriter, clean, profiles_of, special_tokens
from aigq.models import generator
from aigq.models.direct import prompt_writer
from aigq.models.vocabulary import Vocabulary, train_tokenizer
from aigq.prepared import CausalCounts, Moment, Prepared
from aigq.progress import note
from aigq.recall import build_channel
from aigq.samples.labels import Label, fuse, log_order_labels, ranked_labels
from aigq.training.encoding import EncodedLists, encode_lists, rename

_RANKED = 200  # queries that each channel scores for the ranker
_LIST_TOKENS = 6  # room a query may take in the context
_MOMENTS_AT_ONCE = 2048


@dataclass(frozen=True)
class _Maker:
    """All that turns moments into prompts and lists."""

    config: Config
    run: Path
    prepared: Prepared
    allowed: set[str]
    vocabulary: Vocabulary
    writer: PromptWriter
    folder: Path

    def prompts(self, moments: Sequence[Moment]) -> list[list[int]]:
        """Token ids of the prompt of each moment."""
        budget = self.config.prompt.budget_tokens
        prompts: list[list[int]] = []
        for start in range(0, len(moments), _MOMENTS_AT_ONCE):
            pieces = self.writer.pieces(moments[start : start + _MOMENTS_AT_ONCE])
            prompts += [self.vocabulary.encode_prompt(p, budget) for p in pieces]
        return prompts

    def encode(self, prompts: Sequence[list[int]], labels: Sequence[Sequence[Label]]) -> EncodedLists:
        """Prompts and their labels as arrays."""
        sft, seed = self.config.sft, self.config.seed
        noise = 0.0 if sft.labels == "log_order" else sft.order_noise
        return encode_lists(prompts, labels, self.vocabulary, sft.tail_weight, noise, seed)

    def whole_queries(self) -> np.ndarray:
        """The ids of the tokens that are one whole query."""
        paths = [self.vocabulary.encode_query(query) for query in sorted(self.allowed)]
        return np.unique([path[0] for path in paths if len(path) == 1]).astype(np.int64)


def rankings(config: Config, run: Path, prepared: Prepared, moments: Sequence[Moment]) -> list[list[str]]:
    """The order of `sft.ranker` for each moment, best first."""
    weights = config.sft.ranker
    proposals = {}
    for name in weights:
        channel = build_channel(name, config, run)
        channel.fit(prepared)
        proposals[name] = channel.recommend(moments, _RANKED)
    return [
        fuse({name: {h.query: h.score for h in lists[i]} for name, lists in proposals.items()}, weights)
        for i in range(len(moments))
    ]


def make_materials(config: Config, run: Path, folder: Path) -> dict[str, int]:
    """Write everything that training reads into `folder`; returns how many lists there are.

    Raises:
        EmptyLogError: no samples, or no query of k users.
    """
    prepared = Prepared.load(run / "prepared")
    queries = prepared.queries.filter(pc.greater_equal(prepared.queries["users"], config.samples.k_users))
    train = subset(prepared.split("train"), config.sft.max_samples, config.seed)
    valid = subset(prepared.split("valid"), config.sft.eval_samples, config.seed)
    if train.num_rows == 0 or valid.num_rows == 0 or queries.num_rows == 0:
        raise EmptyLogError(
            f"{train.num_rows} training and {valid.num_rows} validation samples, {queries.num_rows} queries "
            f"issued by {config.samples.k_users} users: nothing to learn from; see split and samples.k_users"
        )
    vocabulary = _start(config, prepared, queries, folder / "init")
    writer = prompt_writer(config, run, prepared)
    allowed = set(queries["query"].to_pylist())
    maker = _Maker(config, run, prepared, allowed, vocabulary, writer, folder)
    note(f"writing prompts and label lists of {train.num_rows:,} samples")
    _write_train(maker, train)
    # prompts only: validation compares generated lists
    nothing = [[Label("", "clicked")]] * valid.num_rows
    maker.encode(maker.prompts(prepared.moments(valid)), nothing).save(folder / "valid.npz")
    counts = CausalCounts(prepared.query_days, None)
    days = valid["day"].to_pylist()
    truth = {
        "targets": valid["targets"].to_pylist(),
        "novel": valid["novel"].to_pylist(),
        "days": days,
        "servable": {day: sorted(counts.servable(day, config.samples.k_users)) for day in sorted(set(days))},
        "length": config.samples.list_length,
    }
    (folder / "valid.json").write_text(json.dumps(truth, ensure_ascii=False), encoding="utf-8")
    return {"train": train.num_rows, "valid": valid.num_rows}


def _write_train(maker: _Maker, train: pa.Table) -> None:
    """The label lists of METHOD section 3 and, where asked for, the ranker's own lists."""
    sft, length = maker.config.sft, maker.config.samples.list_length
    moments, targets = maker.prepared.moments(train), train["targets"].to_pylist()
    if sft.labels == "log_order":
        in_order = [log_order_labels(t, maker.allowed, length) for t in targets]
        maker.encode(maker.prompts(moments), in_order).save(maker.folder / "train.npz")
        return
    extra = between(maker.prepared, train, sft.imitation_extra, maker.config.seed)
    orders = rankings(maker.config, maker.run, maker.prepared, [*moments, *extra])
    prompts = maker.prompts([*moments, *extra])
    rng = np.random.default_rng(maker.config.seed) if sft.clicked_order == "random" else None
    labels = [
        ranked_labels(t, r, maker.allowed, length, sft.tail, rng)
        for t, r in zip(targets, orders, strict=False)
    ]
    maker.encode(prompts[: len(moments)], labels).save(maker.folder / "train.npz")
    if sft.imitation_epochs:
        own = [ranked_labels([], r, maker.allowed, length, length) for r in orders]
        lists = maker.encode(prompts, own)
        lists = rename(lists, maker.whole_queries(), sft.imitation_renamed, maker.config.seed)
        lists.save(maker.folder / "imitation.npz")


def between(prepared: Prepared, train: pa.Table, n: int, seed: int) -> list[Moment]:
    """Moments without a target: n random behaviours of the training days, some time after each.

    The time is drawn from the waiting times before the samples of `train` that have a history. A log with few
    returning shoppers thus still shows many histories to the imitation.
    """
    if not n:
        return []
    waits = [
        moment.cut - moment.history["ts"][-1].as_py()
        for moment in prepared.moments(train.filter(pc.greater(train["n_before"], 0)))
    ]
    rows = prepared.training_rows()
    if not waits or not rows.num_rows:
        return []
    rng = np.random.default_rng(seed)
    users, times = prepared.behaviours["user_id"].to_pylist(), prepared.behaviours["ts"].to_numpy()
    days = prepared.behaviours["day"].to_numpy()
    first = {user: row for row, user in reversed(list(enumerate(users)))}
    drawn = rng.choice(np.flatnonzero(days < prepared.validation_day), size=n)
    moments = []
    for number, (row, wait) in enumerate(zip(drawn.tolist(), rng.choice(len(waits), size=n), strict=True)):
        cut = times[row].astype("datetime64[us]") + np.timedelta64(waits[wait])
        day = int(cut.astype("datetime64[D]").astype(int))
        if day < prepared.validation_day:
            history = prepared.behaviours.slice(first[users[row]], row - first[users[row]] + 1)
            moments.append(Moment(-1 - number, users[row], cut, day, history))
    return moments


def _start(config: Config, prepared: Prepared, queries: pa.Table, folder: Path) -> Vocabulary:
    special = special_tokens(config.prompt, profiles_of(prepared.users).values())
    context = config.prompt.budget_tokens + config.samples.list_length * _LIST_TOKENS + 1
    if config.generator.start is not None:
        model, vocabulary = generator.load(config.generator.start), Vocabulary.load(config.generator.start)
    elif config.generator.base is not None:
        model, vocabulary = generator.extend_pretrained(config.generator.base, special)
    else:
        counts = zip(queries["query"].to_pylist(), queries["issues"].to_pylist(), strict=True)
        # the root flattens the counts, so that rare whole queries become tokens too
        texts = [(clean(query), int(n**0.5) + 1) for query, n in counts]
        vocabulary = Vocabulary(train_tokenizer(texts, config.generator.vocab_size, special))
        model = generator.build(config.generator, vocabulary, context, config.seed)
        if config.generator.init_from_encoder:
            from aigq.models.text_encoder import TextEncoder

            generator.start_from_encoder(model, vocabulary, TextEncoder(config.encoder.name).encode)
    model.save_pretrained(folder)
    vocabulary.tokenizer.save_pretrained(folder)
    return vocabulary


def subset(samples: pa.Table, n: int | None, seed: int) -> pa.Table:
    """A seeded draw of n samples, in their order; all of them where n is null."""
    if n is None or n >= samples.num_rows:
        return samples
    rows = np.sort(np.random.default_rng(seed).choice(samples.num_rows, n, replace=False))
    return samples.take(rows)


_READ = (
    "labels",
    "ranker",
    "clicked_order",
    "order_noise",
    "tail",
    "tail_weight",
    "max_samples",
    "imitation_extra",
    "imitation_renamed",
    "eval_samples",
)


def fingerprint_of(config: Config, run: Path) -> str:
    """Hash of all that `make_materials` reads."""
    parts = config.model_dump(
        mode="json", include={"seed", "split", "samples", "prompt", "generator", "encoder"}
    )
    parts["sft"] = {key: getattr(config.sft, key) for key in _READ}
    parts["imitation"] = bool(config.sft.imitation_epochs)
    parts["channels"] = config.channels.model_dump(mode="json", exclude={"llms"})
    summary = run / "prepared" / "summary.json"
    parts["prepared"] = summary.read_text(encoding="utf-8") if summary.exists() else ""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
