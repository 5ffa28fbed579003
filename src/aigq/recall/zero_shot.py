"""A zero-shot row: a large language model, asked through any OpenAI-compatible endpoint."""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from aigq.config import LlmConfig
from aigq.errors import StageError, UsageError
from aigq.prepared import CausalCounts, Moment, Prepared
from aigq.recall.answers import Answers, content_key, parse_queries
from aigq.recall.channel import Hint

log = logging.getLogger(__name__)

SYSTEM = "You recommend search queries in an online shop. You answer with a numbered list and nothing else."
VERBS = {"search": "searched for", "click": "looked at", "cart": "put into the cart", "purchase": "bought"}
MAX_BEHAVIOURS = 50
UNSUPPORTED = (
    "unsupported_parameter",
    "unsupported_value",
)  # how OpenAI's reasoning models refuse a parameter
CHARACTERS_PER_TOKEN = 2  # on the safe side, for the cost of a question before it is asked


class ZeroShot:
    """Asks once per shopper and moment; answers are kept on disk, so a rerun asks nothing.

    Answers that fewer than k users had issued are dropped, like those of every channel.

    Args:
        name: the row, zero_shot:NAME.
        config: the endpoint, its prices and limits.
        k_users: distinct users that must have issued a query before it is shown.
        answers: the SQLite file of answers.
        sleep: waits between attempts.
    """

    def __init__(
        self,
        name: str,
        config: LlmConfig,
        k_users: int,
        answers: Path,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name = name
        self._config, self._k, self._path, self._sleep = config, k_users, answers, sleep
        self._counts: CausalCounts | None = None
        self._client: Any = None
        self._parameters: dict[str, Any] = {"max_tokens": config.max_tokens, "temperature": 0}
        self._lock = threading.Lock()
        self._reserved = 0.0
        self._skipped = 0
        self.spent_usd = 0.0
        self.asked = 0

    def fit(self, prepared: Prepared) -> None:
        """Nothing is learned; keep the daily user counts."""
        if self._config.max_cost_usd is not None and not (
            self._config.usd_per_million_input or self._config.usd_per_million_output
        ):
            raise UsageError(
                f"{self.name}: max_cost_usd needs usd_per_million_input and usd_per_million_output"
            )
        self._counts = CausalCounts(prepared.query_days, None)

    def recommend(self, moments: Sequence[Moment], n: int) -> list[list[Hint]]:
        """The servable ones of at most n answered queries; nothing for an empty history or past the limits.

        Raises:
            StageError: the endpoint refuses, or does not answer after all retries. Answers so far are kept.
        """
        if self._counts is None:
            raise StageError(f"{self.name}: recommend() before fit()")
        asked = moments if self._config.max_users is None else moments[: self._config.max_users]
        chosen = [i for i, moment in enumerate(asked) if moment.history.num_rows and n > 0]
        lists: list[list[Hint]] = [[] for _ in moments]
        self._skipped = 0
        with Answers(self._path) as answers, ThreadPoolExecutor(self._config.concurrency) as pool:
            futures = [pool.submit(self._answer, answers, prompt_of(moments[i], n)) for i in chosen]
            try:
                texts = [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        if self._skipped:
            log.warning("%s: cost cap reached, %d shoppers were not asked", self.name, self._skipped)
        for i, text in zip(chosen, texts, strict=True):
            servable = self._counts.servable(moments[i].day, self._k)
            queries = [query for query in parse_queries(text)[:n] if query in servable]
            lists[i] = [
                Hint(query, 1.0 / rank, f"proposed by {self._config.model}")
                for rank, query in enumerate(queries, 1)
            ]
        return lists

    def _answer(self, answers: Answers, prompt: str) -> str:
        """The kept or fresh answer to one prompt; empty where the cost cap forbids to ask."""
        config = self._config
        key = content_key(config.base_url, config.model, str(config.max_tokens), SYSTEM, prompt)
        kept = answers.get(key)
        if kept is not None:
            return kept
        worst = self._cost((len(SYSTEM) + len(prompt)) / CHARACTERS_PER_TOKEN, config.max_tokens)
        with self._lock:
            cap = config.max_cost_usd
            if cap is not None and self.spent_usd + self._reserved + worst > cap:
                self._skipped += 1
                return ""
            self._reserved += worst
        try:
            response = self._ask(prompt)
        finally:
            with self._lock:
                self._reserved -= worst
        text = (response.choices[0].message.content or "") if response.choices else ""
        usage = response.usage
        spent = self._cost(usage.prompt_tokens, usage.completion_tokens) if usage else worst
        with self._lock:
            self.spent_usd += spent
            self.asked += 1
        answers.put(key, text, spent)
        return text

    def _ask(self, prompt: str) -> Any:
        """One completion, with exponential back-off on what may pass."""
        import openai

        client, config = self._opened(), self._config
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}]
        attempt = 0
        while True:
            sent = dict(self._parameters)
            try:
                return client.chat.completions.create(model=config.model, messages=messages, **sent)
            except (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError) as error:
                if attempt == config.retries:
                    raise StageError(
                        f"{self.name}: {config.base_url} gave no answer in {attempt + 1} attempts ({error}); "
                        f"answers so far are kept, run again to continue"
                    ) from error
                self._sleep(min(60.0, 0.5 * 2.0**attempt))
                attempt += 1
            except openai.APIStatusError as error:
                if error.code in UNSUPPORTED and error.param in sent and self._adapt(error.param):
                    continue
                raise StageError(
                    f"{self.name}: {config.base_url} refused: status {error.status_code}, {error.message}; "
                    f"check base_url, model and the key in ${config.api_key_env}"
                ) from error

    def _adapt(self, refused: str) -> bool:
        """Do without a parameter that the model does not know; False if no limit of tokens would be left."""
        if refused not in ("max_tokens", "temperature"):
            return False
        with self._lock:
            # another thread may have been told the same before
            if self._parameters.pop(refused, None) is not None:
                if refused == "max_tokens":
                    self._parameters["max_completion_tokens"] = self._config.max_tokens
                else:
                    log.warning("%s: asked without temperature 0; only kept answers repeat", self.name)
        return True

    def _opened(self) -> Any:
        with self._lock:
            if self._client is None:
                try:
                    from openai import OpenAI
                except ModuleNotFoundError:
                    raise UsageError(
                        f"{self.name} needs the openai client: pip install 'aigq[llm]'"
                    ) from None
                key = os.environ.get(self._config.api_key_env) or "none"
                self._client = OpenAI(base_url=self._config.base_url, api_key=key, max_retries=0, timeout=300)
            return self._client

    def _cost(self, tokens_in: float, tokens_out: float) -> float:
        config = self._config
        return (tokens_in * config.usd_per_million_input + tokens_out * config.usd_per_million_output) / 1e6


def prompt_of(moment: Moment, n: int) -> str:
    """The verbose question: the most recent behaviours in plain sentences, oldest first."""
    recent = moment.history.slice(max(0, moment.history.num_rows - MAX_BEHAVIOURS))
    lines = []
    for row in recent.select(["day", "action", "text"]).to_pylist():
        days = moment.day - row["day"]
        when = "today" if days == 0 else "yesterday" if days == 1 else f"{days} days ago"
        lines.append(f'- {when}: {VERBS.get(row["action"], row["action"])} "{row["text"]}"')
    behaviours = "\n".join(lines)
    return (
        f"This is what one shopper did lately, oldest first:\n{behaviours}\n\n"
        f"Today is {moment.cut.astype('datetime64[D]')!s}. Before the shopper types anything, the search "
        f"box shows queries. Write the {n} search queries that this shopper most likely searches for next, "
        f"the most likely first. Queries are short, lower-case, in the words of this shop's shoppers. "
        f"Answer with a numbered list of {n} queries, one per line, without explanations."
    )
