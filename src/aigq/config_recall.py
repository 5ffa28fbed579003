"""The section `channels` of the config."""

from typing import Literal

from pydantic import Field, field_validator

from aigq.config_base import Section


class PopularConfig(Section):
    """Popular queries with time decay, counted on earlier days only."""

    half_life_days: float = Field(30.0, gt=0, description="a query issued this long ago counts half")


class PersonalConfig(Section):
    """The user's own queries, most frequent and recent first."""

    half_life_days: float = Field(90.0, gt=0, description="a query issued this long ago counts half")


class CoClickConfig(Section):
    """Item-kNN over queries: issued by the same users, leading to the same items."""

    neighbours: int = Field(100, ge=1, description="kept per query")
    half_life_days: float = Field(
        30.0, gt=0, description="decay of the user's own behaviours at request time"
    )


class EbrConfig(Section):
    """Two-tower retrieval on the text encoder."""

    dim: int = Field(128, ge=8, description="width of both towers' output")
    max_steps: int = Field(1000, ge=1, description="optimiser steps at most; the best by validation are kept")
    eval_every: int = Field(20, ge=1, description="steps between validations")
    batch_size: int = Field(256, ge=2, description="in-batch negatives")
    learning_rate: float = Field(1e-3, gt=0, description="Adam")
    max_behaviours: int = Field(64, ge=1, description="most recent behaviours read by the user tower")


class RankerConfig(Section):
    """Gradient-boosted trees over what the log says about a shopper and a query."""

    max_samples: int = Field(
        6000,
        ge=1,
        description="trained on so many of the latest training samples; with exposures, of shoppers' days",
    )
    objective: Literal["binary", "lambdarank"] = Field(
        "binary", description="of the trees: probability of a hit, or order within a list of 30"
    )
    popular: int = Field(120, ge=1, description="candidates from the shop's top queries of the last days")
    near: int = Field(60, ge=0, description="candidates most similar to the history")
    similarity: Literal["together", "regression"] = Field(
        "together",
        description="together: of queries of the same users and items; regression: weights that rebuild each "
        "user's queries from the others (EASE), for the 4,096 queries of most users; better for new queries",
    )
    trees: int = Field(200, ge=1, description="boosting rounds")
    leaves: int = Field(31, ge=2, description="of a tree")
    min_pairs_in_leaf: int = Field(100, ge=1, description="fewest (moment, query) pairs in a leaf")
    learning_rate: float = Field(0.05, gt=0, description="shrinkage of each tree")


class LlmConfig(Section):
    """A zero-shot row: any OpenAI-compatible endpoint."""

    base_url: str = Field(
        description="for example http://127.0.0.1:8000/v1; without user, password and query"
    )
    model: str = Field(description="model name as the endpoint knows it")
    api_key_env: str = Field("OPENAI_API_KEY", description="environment variable that holds the key")
    max_users: int | None = Field(None, ge=1, description="ask only for the first so many samples")
    max_cost_usd: float | None = Field(
        None, gt=0, description="stop before spending more; needs the two prices"
    )
    usd_per_million_input: float = Field(0.0, ge=0, description="price")
    usd_per_million_output: float = Field(0.0, ge=0, description="price")
    max_tokens: int = Field(400, ge=16, description="of the answer")
    retries: int = Field(4, ge=0, description="with exponential back-off")
    concurrency: int = Field(4, ge=1, description="requests at a time")

    @field_validator("base_url")
    @classmethod
    def _holds_no_key(cls, url: str) -> str:
        # The address is written into config.yaml and metrics.json, and messages name it
        if "@" in url or "?" in url:
            raise ValueError(
                "takes no user, password or query; put the key into the variable that api_key_env names"
            )
        return url


class ChannelsConfig(Section):
    """What a shop would try instead."""

    popular: PopularConfig = PopularConfig()
    personal: PersonalConfig = PersonalConfig()
    coclick: CoClickConfig = CoClickConfig()
    ebr: EbrConfig = EbrConfig()
    ranker: RankerConfig = RankerConfig()
    llms: dict[str, LlmConfig] = Field(
        {}, description="zero-shot rows by name; the row is called zero_shot:NAME"
    )
