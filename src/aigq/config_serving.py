"""The section `serving` of the config."""

import sys
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, field_validator

from aigq.config_base import Section
from aigq.spelling import normalise_query, script_of

LogFormat = Literal["text", "json"]
ProfaneLanguage = Literal[
    "ar", "cs", "da", "de", "en", "eo", "es", "fa", "fi", "fr", "hi", "hu",
    "it", "ja", "ko", "nl", "no", "pl", "pt", "ru", "sv", "th", "tr", "zh",
]  # fmt: skip


WEIGHTS: Final = {"u2q": 1.0, "x2q": 1.0, "personal": 1.0, "coclick": 0.6, "popular": 0.4, "fallback": 0.1}
MOST_HINTS: Final = 100


def locale_tag(name: str) -> str:
    """The one spelling of a locale: de_AT is de-at."""
    return name.replace("_", "-").lower()


class NearlineConfig(Section):
    """The worker that writes u2q lists soon after a meaningful signal."""

    system: str = Field("direct_il_sft", description="the row of the table that writes the lists")
    count: int = Field(20, ge=1, description="queries per list")
    debounce_s: float = Field(
        1.0, ge=0, description="wait so long after a signal, so that a burst of events is one generation"
    )
    budget_per_hour: int = Field(30, ge=1, description="generations per user and hour")
    batch_users: int = Field(16, ge=1, description="users generated for together")
    max_age_s: float = Field(
        900.0, gt=0, description="a signal that waited longer is shed, and counted: the user is gone"
    )
    lease_s: float = Field(
        30.0, gt=1, le=150, description="after so long without a sign of life a worker is dead"
    )


class ServingConfig(Section):
    """`aigq publish`, `aigq serve` and `aigq nearline`. See docs/serving.md."""

    deadline_ms: float = Field(30.0, gt=0, description="for reading all channels; what is late is left out")
    max_hints: int = Field(30, ge=1, le=MOST_HINTS, description="largest n of a request")
    candidates: int = Field(60, ge=1, description="ranked per request, at most")
    ranker: Literal["ctr", "ranks"] = Field(
        "ctr",
        description="orders the candidates: ctr, the click model of the run if `aigq train ctr` made one "
        "before it was published; ranks, the sum of the channels' weight / (60 + rank)",
    )
    weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        WEIGHTS,
        description="weight of each channel's 1 / (60 + rank); 0: the channel is off; one that is not named "
        "keeps its default",
    )
    diversity: float = Field(
        0.15, ge=0, lt=1, description="a hint loses this share for every hint above it in its leaf category"
    )
    near_duplicate: float = Field(
        90.0, gt=0, le=100, description="rapidfuzz ratio from which two queries say the same"
    )
    triggers: int = Field(5, ge=1, description="latest behaviours that x2q and coclick are asked with")
    rotate_shown: int = Field(4, ge=1, description="a hint shown so often without a click makes room")
    rotate_hours: float = Field(24.0, gt=0, description="showings longer ago than this do not count")
    searched_minutes: float = Field(30.0, ge=0, description="a query searched this lately is not a hint")
    fallback: dict[str, list[str]] = Field(
        {}, description="when nothing else is left: queries by locale (de-AT, de), under '' for all others"
    )
    surfaces_off: list[str] = Field([], description="surfaces that get no hints")
    own_history_only: bool = Field(False, description="only queries that the shopper has issued before")
    blocklist: Path | None = Field(
        None, description="file of words that no hint may contain, one a line; read again when it changes"
    )
    allowlist: Path | None = Field(
        None, description="file of queries that are shown whatever the k-user rule says, one a line"
    )
    profanity: list[ProfaneLanguage] = Field(
        [],
        description="languages (de, en, ...) whose profane words no hint may hold, unless the allowlist has "
        "the query; needs the extra profanity",
    )
    max_characters: int = Field(80, ge=1, description="longest hint")
    scripts: list[str] = Field(
        [], description="scripts that the letters of a hint may have (LATIN, CYRILLIC, CJK, ...); empty: all"
    )
    min_results: int = Field(
        1,
        ge=0,
        description="a hint must have led to so many distinct items in the published log, if the log says "
        "what queries led to",
    )
    u2q_runs: int = Field(3, ge=1, description="last M generations kept per user")
    behaviours: int = Field(30, ge=1, description="behaviours kept per user, published and live each")
    user_days: float = Field(30.0, gt=0, description="live states and u2q lists expire after so long")
    table_days: float = Field(30.0, gt=0, description="a published table expires after so long")
    tables_kept: int = Field(2, ge=1, description="published tables kept, for --rollback")
    refresh_s: float = Field(2.0, gt=0, description="how often the service looks for a new table")
    hash_users_with: str | None = Field(
        None, description="environment variable with a secret: user ids enter store and log hashed with it"
    )
    keys_file: Path | None = Field(
        None, description="YAML list of API keys: name, sha256, roles, per_second; without it only localhost"
    )
    max_body_kb: int = Field(256, ge=1, description="largest request body")
    max_events: int = Field(500, ge=1, description="events in one request")
    max_in_flight: int = Field(
        256,
        ge=1,
        description="requests at a time in one process: of hints, the others get the popular list at once; "
        "with events, the others get a 503",
    )
    cors_origins: list[str] = Field([], description="origins whose pages may call the API")
    log_days: float = Field(7.0, gt=0, description="events stay in the log for so long")
    log_format: LogFormat = Field(
        "text", description="of what `serve` and `nearline` write on stderr; json: one object a line"
    )
    nearline: NearlineConfig = NearlineConfig()

    @field_validator("weights")
    @classmethod
    def _over_defaults(cls, weights: dict[str, float]) -> dict[str, float]:
        if unknown := sorted(weights.keys() - WEIGHTS.keys()):
            raise ValueError(f"no channel is called {unknown[0]}; known: {', '.join(WEIGHTS)}")
        return WEIGHTS | weights

    @field_validator("scripts")
    @classmethod
    def _known_scripts(cls, names: list[str]) -> list[str]:
        for name in names:
            every = map(chr, range(sys.maxunicode + 1))  # the usual scripts come early
            if not any(c.isalpha() and script_of(c) == name for c in every):
                raise ValueError(
                    f"no letter's Unicode name begins with {name}; give LATIN, CYRILLIC, CJK ..."
                )
        return names

    @field_validator("fallback")
    @classmethod
    def _in_one_spelling(cls, lists: dict[str, list[str]]) -> dict[str, list[str]]:
        spelled = {locale_tag(name): [*map(normalise_query, queries)] for name, queries in lists.items()}
        if len(spelled) < len(lists):
            raise ValueError("a locale is named twice (de-AT and de_at are one); join its lists")
        if not all(query for queries in spelled.values() for query in queries):
            raise ValueError("a query is empty; remove it")
        return spelled

    @property
    def impressions_kept(self) -> int:
        """Showings kept per user: the longest list, each hint shown `rotate_shown` times."""
        return self.rotate_shown * self.max_hints
