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
from safetensors import SafetensorError
from transformers import PreTrainedModel

from aigq.config import Config
from aigq.errors import ConfigError, EmptyLogError, StageError
from aigq.history.prompt import (
    SEPARATOR,
    PromptWriter,
    check_profiles,
    clean,
    shared_profiles,
    special_tokens,
)
from aigq.models import generator
from aigq.models.think_decoding import longest
from aigq.models.think_grammar import THINK_TOKENS
from aigq.models.vocabulary import Vocabulary, train_tokenizer
from aigq.prepared import CausalCounts, Moment, Prepared
from aigq.progress import note
from aigq.recall.direct import prompt_writer
from aigq.samples.labels import Label, ranked_labels
from aigq.systems import CTR
from aigq.tables import contents
from aigq.training.encoding import EncodedLists, encode_lists, encode_thoughts, rename, weight_of
from aigq.training.label_lists import label_lists, may_name, rankings, training_samples
from aigq.training.thoughts import Thinker, seen_of, thoughts

_MOMENTS_AT_ONCE = 2048
_KEPT_TO = 0.999
"""Share of the training prompts that are no longer than later ones may be: a handful teaches no length."""


@dataclass(frozen=True)
class _Read:
    """What the model reads at some moments: token ids, and how many behaviours they hold."""

    moments: list[Moment]
    prompts: list[list[int]]
    behaviours: list[int]

    def first(self, n: int) -> "_Read":
        return _Read(self.moments[:n], self.prompts[:n], self.behaviours[:n])


@dataclass(frozen=True)
class _Maker:
    """All that turns moments into prompts and lists; with a thinker, into thoughts."""

    config: Config
    run: Path
    prepared: Prepared
    allowed: set[str]
    vocabulary: Vocabulary
    writer: PromptWriter
    folder: Path
    thinker: Thinker | None

    def read(self, moments: list[Moment]) -> _Read:
        """The prompt of each moment."""
        budget = self.config.prompt.budget_tokens
        encoded: list[tuple[list[int], int]] = []
        for start in range(0, len(moments), _MOMENTS_AT_ONCE):
            pieces = self.writer.pieces(moments[start : start + _MOMENTS_AT_ONCE])
            encoded += [self.vocabulary.encode_and_count(p, budget) for p in pieces]
        return _Read(moments, [ids for ids, _ in encoded], [n for _, n in encoded])

    def encode(self, read: _Read, labels: Sequence[Sequence[Label]], tail_weight: float) -> EncodedLists:
        """Prompts and their labels as arrays; a thinker divides these and says why."""
        sft, seed = self.config.sft, self.config.seed
        noise = 0.0 if sft.labels == "log_order" else sft.order_noise
        if self.thinker is None:
            return encode_lists(read.prompts, labels, self.vocabulary, tail_weight, noise, seed)
        think = self.config.think
        seen = [seen_of(m, n) for m, n in zip(read.moments, read.behaviours, strict=True)]
        points = self.thinker.points(seen, labels)
        share = think.without_rationale
        why = self.thinker.reasons(seen, points) if share < 1 else [[]] * len(points)
        weights = [{label.query: weight_of(label, tail_weight) for label in row} for row in labels]
        made = thoughts(points, why, share, seed)
        return encode_thoughts(
            read.prompts, made, weights, self.vocabulary, think.rationale_tokens, noise, seed
        )

    def whole_queries(self) -> np.ndarray:
        """The ids of the tokens that are one whole query."""
        paths = [self.vocabulary.encode_query(query) for query in sorted(self.allowed)]
        return np.unique([path[0] for path in paths if len(path) == 1]).astype(np.int64)


def make_materials(config: Config, run: Path, folder: Path, *, think: bool = False) -> dict[str, int]:
    """Write everything that training reads into `folder`; returns how many lists there are.

    Raises:
        EmptyLogError: no samples, or no query of k users.
        StageError: Think starts from a Direct model that is not there.
        ConfigError: `prompt.profile` or `ctr.profile` names a field that no user has.
    """
    prepared = Prepared.load(run / "prepared")
    check_profiles(config, prepared.users.to_batches())
    queries = prepared.shared_queries(config.samples.k_users)
    samples = training_samples(config, prepared, think=think)
    train = subset(samples, config.sft.max_samples, config.seed)
    valid = subset(prepared.split("valid"), config.sft.eval_samples, config.seed)
    if train.num_rows == 0 or valid.num_rows == 0 or queries.num_rows == 0:
        raise EmptyLogError(
            f"{train.num_rows} training and {valid.num_rows} validation samples, {queries.num_rows} queries "
            f"issued by {config.samples.k_users} users: nothing to learn from; see split and samples.k_users"
        )
    vocabulary = _start(config, run, prepared, queries, folder / "init", think=think)
    writer = prompt_writer(config, run, prepared)
    allowed = set(queries["query"].to_pylist())
    thinker = Thinker.of(config, run, prepared, allowed) if think else None
    maker = _Maker(config, run, prepared, allowed, vocabulary, writer, folder, thinker)
    note(f"writing prompts and label lists of {train.num_rows:,} samples")
    earlier, vocabulary.longest_prompt = vocabulary.longest_prompt, None  # today's are learned from, too
    lengths = _write_train(maker, train)
    if earlier is not None:
        usual = int(np.quantile(lengths, _KEPT_TO, method="higher"))
        vocabulary.longest_prompt = max(earlier, usual)
        vocabulary.tokenizer.save_pretrained(folder / "init")
    _write_valid(maker, valid)
    return {"train": train.num_rows, "valid": valid.num_rows}


def _write_valid(maker: _Maker, valid: pa.Table) -> None:
    """Prompts only, as validation compares generated lists; and what it compares them to."""
    config = maker.config
    read = maker.read(maker.prepared.moments(valid))
    nothing = [[Label("", "clicked")]] * valid.num_rows
    sft = config.sft
    encode_lists(read.prompts, nothing, maker.vocabulary, sft.tail_weight).save(maker.folder / "valid.npz")
    counts = CausalCounts(maker.prepared.query_days, None)
    days = valid["day"].to_pylist()
    truth = {
        "targets": valid["targets"].to_pylist(),
        "novel": valid["novel"].to_pylist(),
        "days": days,
        "servable": {day: sorted(counts.servable(day, config.samples.k_users)) for day in sorted(set(days))},
        "length": config.samples.list_length,
    }
    if config.samples.only_new:
        truth["issued"] = [sorted(moment.issued()) for moment in read.moments]
    if maker.thinker is not None:
        truth["behaviours"], truth["think"] = read.behaviours, config.think.model_dump(mode="json")
    (maker.folder / "valid.json").write_text(json.dumps(truth, ensure_ascii=False), encoding="utf-8")


def _write_train(maker: _Maker, train: pa.Table) -> list[int]:
    """The label lists and, where asked for, the ranker's own lists; returns the tokens of each prompt."""
    config, prepared = maker.config, maker.prepared
    sft, length, think = config.sft, config.samples.list_length, maker.thinker is not None
    moments = prepared.moments(train)
    plain = sft.labels == "log_order"
    extra = [] if plain else between(prepared, train, sft.imitation_extra, config.seed)
    read = maker.read([*moments, *extra])
    orders = [] if plain else rankings(config, maker.run, prepared, read.moments)
    labels = label_lists(
        config, maker.run, prepared, train, orders[: len(moments)], maker.allowed, think=think
    )
    own = [
        ranked_labels([], order, may_name(config, maker.allowed, moment), length, length)
        for order, moment in zip(orders, read.moments, strict=not plain)
    ]
    if think:  # where few samples have a history there is little to give reasons for
        labels += own[len(moments) :]
    maker.encode(read.first(len(labels)), labels, sft.tail_weight).save(maker.folder / "train.npz")
    if sft.imitation_epochs and not plain:
        lists = maker.encode(read, own, tail_weight=1.0)  # all of it is to be imitated
        lists = rename(lists, maker.whole_queries(), sft.imitation_renamed, config.seed)
        lists.save(maker.folder / "imitation.npz")
    return [len(prompt) for prompt in read.prompts]


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


def _start(
    config: Config, run: Path, prepared: Prepared, queries: pa.Table, folder: Path, *, think: bool
) -> Vocabulary:
    """Write the model and the vocabulary to start from, with the marks of Think where it needs them."""
    profiles = shared_profiles(prepared, config.prompt.profile, config.samples.k_users)
    special = special_tokens(config.prompt, profiles.values())
    if think and config.think.from_direct:
        folders = direct_start(run)
        model, vocabulary = generator.load(folders[0]), Vocabulary.load(folders[1])
    elif config.generator.start is not None:
        model, vocabulary = _earlier(config.generator.start, special)
        _make_room(model, _reach(config, queries) + 1)
    elif config.generator.base is not None:
        model, vocabulary = generator.extend_pretrained(config.generator.base, special)
    else:
        counts = zip(queries["query"].to_pylist(), queries["issues"].to_pylist(), strict=True)
        # the root flattens the counts, so that rare whole queries become tokens too
        texts = [(clean(query), int(n**0.5) + 1) for query, n in counts]
        vocabulary = Vocabulary(train_tokenizer(texts, config.generator.vocab_size, special))
        vocabulary.longest_prompt = 0  # so far; a pretrained base reads prompts of any length
        model = generator.new(config, vocabulary, _reach(config, queries) + 1)
    if think:
        vocabulary = generator.add_tokens(model, vocabulary, THINK_TOKENS)
        context = _reach(config, queries) + longest(config.think, [], config.samples.list_length)
        _make_room(model, context)
    model.save_pretrained(folder)
    vocabulary.tokenizer.save_pretrained(folder)
    return vocabulary


def _make_room(model: PreTrainedModel, context: int) -> None:
    """Let a model with rotary positions, which have no table, have at least this context."""
    model.config.max_position_embeddings = max(int(model.config.max_position_embeddings), context)


def _reach(config: Config, queries: pa.Table) -> int:
    """Tokens of the longest prompt and the longest list.

    A query that is younger than the vocabulary is written in pieces, at worst in bytes; it is taken to be no
    longer than the longest one so far.
    """
    sizes = (len((clean(query) + SEPARATOR).encode()) for query in queries["query"].to_pylist())
    return config.prompt.budget_tokens + config.samples.list_length * max(sizes, default=0)


def _earlier(folder: Path, special: Sequence[str]) -> tuple[PreTrainedModel, Vocabulary]:
    """The model and the vocabulary of `generator.start`, with those tokens of today's prompts that it lacks.

    Raises:
        ConfigError: there is no such model, or its vocabulary does not fit.
    """
    try:
        model, vocabulary = generator.load(folder), Vocabulary.load(folder)
    except (OSError, ValueError, SafetensorError) as error:
        why = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"generator.start: {folder} holds no model to train on from; give RUN/models/SYSTEM ({why})"
        ) from None
    tokenizer, rows = vocabulary.tokenizer, int(model.config.vocab_size)
    if None in (tokenizer.eos_token_id, tokenizer.pad_token_id) or len(tokenizer) != rows:
        raise ConfigError(
            f"generator.start: the vocabulary in {folder} ({len(tokenizer):,} tokens) does not fit its model "
            f"({rows:,}), or is no generator's; give RUN/models/SYSTEM; a foreign model is a "
            "generator.base"
        )
    return model, generator.add_tokens(model, vocabulary, special)


def direct_start(run: Path) -> tuple[Path, Path]:
    """Where the weights that Think starts from are, those of Direct's imitation if any, and their tokenizer.

    Raises:
        StageError: direct_il_sft is not trained in this run.
    """
    folder = run / "models" / "direct_il_sft"
    if not (folder / "training.json").exists():
        raise StageError(
            f"no trained model at {folder}: run `aigq train sft` first, or set think.from_direct=false"
        )
    imitation = folder / "training" / "imitation" / "best"
    return (imitation if (imitation / "config.json").exists() else folder), folder


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

_UNREAD = {"imitation_max_steps", "imitation_learning_rate", "max_steps", "learning_rate"}
"""Of `think`: what steers the training alone."""


def fingerprint_of(config: Config, run: Path, *, think: bool = False) -> str:
    """Hash of all that `make_materials` reads."""
    parts = config.model_dump(
        mode="json", include={"seed", "split", "samples", "prompt", "generator", "encoder"}
    )
    parts["sft"] = {key: getattr(config.sft, key) for key in _READ}
    parts["imitation"] = bool(config.sft.imitation_epochs)
    parts["channels"] = config.channels.model_dump(mode="json", exclude={"llms"})
    summary = run / "prepared" / "summary.json"
    parts["prepared"] = summary.read_text(encoding="utf-8") if summary.exists() else ""
    if names := config.sft.llms():
        parts["llms"] = config.model_dump(mode="json", include={"channels": {"llms": names}})
    if CTR in config.sft.ranker:
        parts["ctr"] = hash_of_weights(run / "models" / CTR)
    if config.generator.start is not None:
        parts["start"] = hash_of_weights(config.generator.start)
    if think:
        parts["think"] = config.think.model_dump(mode="json", exclude=_UNREAD)
        asked = {"channels": {"llms": config.think.llms()}}
        parts["teachers"] = config.model_dump(mode="json", include=asked)
        if config.think.from_direct:
            parts["start"] = hash_of_weights(direct_start(run)[0])
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def hash_of_weights(folder: Path) -> str:
    """Of a generator's or the CTR model's folder; of a folder without weights that of nothing."""
    return contents(sorted([*folder.glob("*.safetensors"), *folder.glob("*.pt")]))
