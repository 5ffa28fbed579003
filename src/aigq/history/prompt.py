"""What the model reads. Paper section 3.1; method.md section 2.

A prompt is a list of pieces, and every piece is either one special token or one text that ends with the
separator `;;`. Pieces are tokenised on their own, so that a query is the same tokens wherever it stands:
in the favourites, in the trend, in a behaviour, in the generated list. Copying is then a lookup.

    <profile><age=45-54> <december><friday> <behaviours><2><1_day_ago><click>phone case;;
    <1><today><search>iphone 17;; <trending>egg nog;; <favourites>whole milk;;white bread;; <queries>

`<1>` is the most recent behaviour, so an index means the same thing however long the history is. What a list
mostly copies from, the favourites, stands last: then it is at the same distance in every prompt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from aigq.errors import ConfigError, suggestion

if TYPE_CHECKING:
    import pyarrow as pa

    from aigq.config import Config, PromptConfig
    from aigq.prepared import Moment, Prepared

Own = Callable[[Sequence["Moment"]], list[list[str]]]
"""The shopper's own queries at each moment, best first."""

Trend = Callable[[Sequence["Moment"]], list[list[str]]]
"""The queries that stand out in the shop at each moment, best first."""

SEPARATOR = ";;"
SECTIONS = ("<profile>", "<favourites>", "<trending>", "<behaviours>", "<queries>")
ACTION_TOKENS = {action: f"<{action}>" for action in ("search", "click", "cart", "purchase")}
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MONTHS = tuple(
    [
        "january",
        "february",
        "march",
        "april",
        "may",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
    ]
)
_EPOCH = date(1970, 1, 1)
_TITLES = {"trending": "Trending in the shop", "favourites": "Most frequent queries"}
_DAY_STEPS = (0, 1, 2, 3, 4, 5, 6, 7, 14, 21, 28, 60, 90, 180, 365)


class Behaviour(NamedTuple):
    """One line of the history, paper schema `index | time | behaviour | content` without its index."""

    days_ago: int
    action: str
    text: str


@dataclass(frozen=True)
class PromptParts:
    """Everything a prompt may say about one moment; behaviours are oldest first.

    `together` is the order of favourites and trend in one list; empty: each is a list of its own.
    """

    behaviours: Sequence[Behaviour]
    profile: Sequence[tuple[str, str]] = ()
    favourites: Sequence[str] = ()
    trending: Sequence[str] = ()
    day: int | None = None
    together: Sequence[str] = ()


@dataclass(frozen=True)
class Pieces:
    """A prompt before tokenisation. Head and tail always stay; records are dropped from the front."""

    head: list[str]
    records: list[list[str]] = field(default_factory=list)
    tail: list[str] = field(default_factory=list)


def clean(text: str) -> str:
    """Text that cannot be mistaken for a separator or a special token."""
    return " ".join(text.replace(SEPARATOR, "; ").replace("<", " ").replace(">", " ").split()).rstrip("; ")


def time_token(days_ago: int) -> str:
    """`<today>`, `<1_day_ago>` ... `<6_days_ago>`, then weeks, months and a year: 15 tokens in all."""
    days = max(step for step in _DAY_STEPS if step <= max(days_ago, 0))
    if days == 0:
        return "<today>"
    number, unit = (days, "day") if days < 7 else (days // 7, "week") if days < 60 else (days // 30, "month")
    return f"<{number}_{unit}{'s' if number > 1 else ''}_ago>"


def special_tokens(config: PromptConfig, profiles: Iterable[dict[str, str]]) -> list[str]:
    """All special tokens of a compressed prompt, in a fixed order; profile values come from `profiles`.

    They are written into the tokenizer's files: see `shared_profiles`.
    """
    values = sorted(
        {f"<{name}={value}>" for p in profiles for name, value in p.items() if name in config.profile}
    )
    return [
        *SECTIONS,
        *ACTION_TOKENS.values(),
        *dict.fromkeys(time_token(days) for days in _DAY_STEPS),
        *(f"<{weekday}>" for weekday in WEEKDAYS),
        *(f"<{month}>" for month in MONTHS),
        *(f"<{i}>" for i in range(1, config.max_behaviours + 1)),
        *values,
    ]


def compressed(parts: PromptParts) -> Pieces:
    """The paper's compressed prompt: special tokens for small vocabularies, no instruction text."""
    head, tail = [], []
    if parts.profile:
        head += ["<profile>", *(f"<{name}={value}>" for name, value in parts.profile)]
    if parts.day is not None:
        today = _EPOCH + timedelta(days=parts.day)
        head += [f"<{MONTHS[today.month - 1]}>", f"<{WEEKDAYS[today.weekday()]}>"]
    n = len(parts.behaviours)
    records = [
        [f"<{n - i}>", time_token(b.days_ago), ACTION_TOKENS[b.action], clean(b.text) + SEPARATOR]
        for i, b in enumerate(parts.behaviours)
    ]
    for name, queries in _lists(parts):
        tail += [f"<{name}>", *(clean(q) + SEPARATOR for q in queries)]
    return Pieces([*head, "<behaviours>"], records, [*tail, "<queries>"])


def verbose(parts: PromptParts) -> Pieces:
    """The uncompressed prompt of the ablation: plain sentences, one line a behaviour, the same order."""
    head = ["Recommend the next search queries of this shopper, most likely first, each followed by ;;\n"]
    tail = []
    if parts.profile:
        head.append("Profile: " + ", ".join(f"{name} {value}" for name, value in parts.profile) + "\n")
    if parts.day is not None:
        today = _EPOCH + timedelta(days=parts.day)
        head.append(f"Today is a {WEEKDAYS[today.weekday()]} in {MONTHS[today.month - 1]}.\n")
    n = len(parts.behaviours)
    records = [
        [
            f"{n - i} | {time_token(b.days_ago)[1:-1].replace('_', ' ')} | {b.action} | ",
            clean(b.text) + SEPARATOR,
        ]
        for i, b in enumerate(parts.behaviours)
    ]
    for name, queries in _lists(parts):
        tail += [f"\n{_TITLES[name]}: ", *(clean(q) + SEPARATOR for q in queries)]
    return Pieces(
        [*head, "Behaviours: index | time | behaviour | content\n"], records, [*tail, "\nQueries: "]
    )


def _lists(parts: PromptParts) -> list[tuple[str, Sequence[str]]]:
    """The lists of queries that a prompt ends with, by the name of their section."""
    if parts.together:
        return [("favourites", parts.together)]
    both = (("trending", parts.trending), ("favourites", parts.favourites))
    return [(name, queries) for name, queries in both if queries]


class PromptWriter:
    """Gathers the parts of a prompt for a moment, using nothing later than the moment.

    Args:
        config: which fields, how long.
        profiles: user_id -> profile.
        trend: what the shop is looking for at each moment, best first and no more than the prompt tells,
            counted on earlier days.
        own: each moment's own queries, best first; default: by decayed frequency.
        together: own ones and trend of each moment in one list; None: they are lists of their own.
    """

    def __init__(
        self,
        config: PromptConfig,
        profiles: dict[str, dict[str, str]],
        trend: Trend,
        own: Own | None = None,
        together: Trend | None = None,
    ) -> None:
        self._config, self._profiles, self._trend, self._together = config, profiles, trend, together
        self._own = own or by_frequency(config.favourites_half_life_days)

    def parts(self, moments: Sequence[Moment]) -> list[PromptParts]:
        """The parts of each moment's prompt."""
        if self._together is not None:
            return [self._joined(*about) for about in zip(moments, self._together(moments), strict=True)]
        own = self._own(moments) if self._config.favourites else [[]] * len(moments)
        top = self._trend(moments) if self._config.trending else [[]] * len(moments)
        return [self._parts(*about) for about in zip(moments, own, top, strict=True)]

    def pieces(self, moments: Sequence[Moment]) -> list[Pieces]:
        """The prompt of each moment in the configured style."""
        return [self.styled(parts) for parts in self.parts(moments)]

    def styled(self, parts: PromptParts) -> Pieces:
        """A prompt in the configured style."""
        return (compressed if self._config.style == "compressed" else verbose)(parts)

    def _joined(self, moment: Moment, queries: Sequence[str]) -> PromptParts:
        issued = moment.issued()
        own = [query for query in queries if query in issued]
        trend = [query for query in queries if query not in issued]
        return replace(self._parts(moment, own, trend), together=queries)

    def _parts(self, moment: Moment, own: Sequence[str], top: Sequence[str]) -> PromptParts:
        config = self._config
        recent = moment.history.slice(max(0, moment.history.num_rows - config.max_behaviours))
        columns = (recent[c].to_pylist() for c in ("day", "action", "text"))
        profile = self._profiles.get(moment.user_id, {})
        return PromptParts(
            behaviours=[Behaviour(moment.day - day, a, t) for day, a, t in zip(*columns, strict=True)],
            profile=[(name, profile[name]) for name in config.profile if name in profile],
            favourites=own[: config.favourites],
            trending=top,
            day=moment.day if config.calendar else None,
        )


def by_day(top: Callable[[int], list[str]]) -> Trend:
    """The same trend for everybody on a day; each day is asked for once."""
    cached = cache(top)
    return lambda moments: [cached(moment.day) for moment in moments]


def by_frequency(half_life_days: float) -> Own:
    """Own queries by how often they were issued, each time decayed by its age; ties go to the later one."""
    return lambda moments: [_frequent(moment, half_life_days) for moment in moments]


def _frequent(moment: Moment, half_life_days: float) -> list[str]:
    if moment.history.num_rows == 0:
        return []
    column = moment.history["query"].combine_chunks().dictionary_encode()
    codes = column.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    known = codes >= 0
    days = moment.history["day"].to_numpy()[known]
    weights = 0.5 ** ((moment.day - days) / half_life_days)
    size = len(column.dictionary)
    counts = np.bincount(codes[known], weights, size)
    last = np.full(size, -1)
    np.maximum.at(last, codes[known], np.flatnonzero(known))
    texts = column.dictionary.to_pylist()
    return [texts[i] for i in np.lexsort((-last, -counts))]


def fit_to_budget(head: int, records: Sequence[int], tail: int, budget: int) -> int:
    """How many of the oldest records to drop so that the prompt fits; a record is never cut inside.

    Args:
        head, tail: token counts of the fixed parts.
        records: token counts, oldest first.
        budget: longest prompt in tokens.
    """
    total, dropped = head + tail + sum(records), 0
    while total > budget and dropped < len(records):
        total -= records[dropped]
        dropped += 1
    return dropped


def check_profiles(config: Config, users: Iterable[pa.RecordBatch]) -> None:
    """Raise ConfigError where `prompt.profile` or `ctr.profile` names a field that no user has.

    Args:
        config: the run.
        users: the users table in batches.
    """
    wanted = {"prompt.profile": config.prompt.profile, "ctr.profile": config.ctr.profile}
    if not any(wanted.values()):
        return
    known = sorted({name for batch in users for name in batch["profile"].keys.unique().to_pylist()})
    for key, fields in wanted.items():
        for name in fields:
            if name not in known:
                hint = suggestion(name, known) if known else "the users table has no fields"
                raise ConfigError(f"{key}: no user has {name!r}; {hint}")


def profiles_of(users: pa.Table) -> dict[str, dict[str, str]]:
    """user_id -> profile from the users table."""
    profiles = (dict(p or []) for p in users["profile"].to_pylist())
    return dict(zip(users["user_id"].to_pylist(), profiles, strict=True))


def shared_values(fields: Sequence[str], profiles: Iterable[Mapping[str, str]], k_users: int) -> list[str]:
    """`field=value` pairs that at least k of these profiles share, sorted."""
    counts = Counter(f"{name}={p[name]}" for p in profiles for name in fields if name in p)
    return sorted(pair for pair, n in counts.items() if n >= k_users)


def shared_profiles(prepared: Prepared, fields: Sequence[str], k_users: int) -> dict[str, dict[str, str]]:
    """user_id -> what a prompt may say of the profile: values that k users of training samples share.

    What fewer share could name one of them. It is no token, in no prompt, and so in no weight.
    """
    profiles = profiles_of(prepared.users)
    trained = prepared.split("train")["user_id"].unique().to_pylist()
    known = set(shared_values(fields, (profiles.get(user, {}) for user in trained), k_users))
    return {
        user: {name: value for name, value in profile.items() if f"{name}={value}" in known}
        for user, profile in profiles.items()
    }
