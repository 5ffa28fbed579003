"""Asking a large language model through any OpenAI-compatible endpoint: cached, retried, with a cost cap."""

import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from aigq.config_recall import LlmConfig
from aigq.errors import StageError, UsageError
from aigq.recall.answers import Answers, content_key

log = logging.getLogger(__name__)

UNSUPPORTED = (
    "unsupported_parameter",
    "unsupported_value",
)  # how OpenAI's reasoning models refuse a parameter
CHARACTERS_PER_TOKEN = 2  # on the safe side, for the cost of a question before it is asked


class NoAnswer(StageError):
    """The endpoint did not answer, whatever was tried."""


class LlmClient:
    """One model and one instruction; answers are kept on disk, so a rerun asks nothing.

    Args:
        name: who asks, for messages.
        config: the endpoint, its prices and limits.
        system: the instruction that goes before every question.
        answers: the SQLite file of answers.
        wait: between attempts, so many seconds or until the event is set.

    Raises:
        UsageError: a cost cap without prices.
    """

    def __init__(
        self,
        name: str,
        config: LlmConfig,
        system: str,
        answers: Path,
        wait: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> None:
        if config.max_cost_usd is not None and not (
            config.usd_per_million_input or config.usd_per_million_output
        ):
            raise UsageError(f"{name}: max_cost_usd needs usd_per_million_input and usd_per_million_output")
        self.name = name
        self._config, self._system, self._path, self._wait = config, system, answers, wait
        self._client: Any = None
        self._parameters: dict[str, Any] = {"max_tokens": config.max_tokens, "temperature": 0}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._reserved = 0.0
        self._skipped = 0
        self.spent_usd = 0.0
        self.asked = 0

    def ask(self, prompts: Sequence[str]) -> list[str]:
        """The answer to each prompt, several at a time; empty past the cost cap.

        Raises:
            StageError: the endpoint refuses, or does not answer after all retries. Nothing more is sent then;
                answers so far, and those under way, are kept.
        """
        self._skipped = 0
        self._stop.clear()
        with Answers(self._path) as answers, ThreadPoolExecutor(self._config.concurrency) as pool:
            try:
                futures = [pool.submit(self._answer, answers, prompt) for prompt in prompts]
                for future in as_completed(futures):
                    future.result()  # the first failure ends it, whichever question it is of
            except BaseException:  # Ctrl-C too
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        if self._skipped:
            log.warning("%s: cost cap reached, %d questions were not asked", self.name, self._skipped)
        return [future.result() for future in futures]

    def _answer(self, answers: Answers, prompt: str) -> str:
        """The kept or fresh answer to one prompt; empty where the cost cap forbids to ask."""
        config = self._config
        key = content_key(config.base_url, config.model, str(config.max_tokens), self._system, prompt)
        kept = answers.get(key)
        if kept is not None:
            return kept
        worst = self._cost((len(self._system) + len(prompt)) / CHARACTERS_PER_TOKEN, config.max_tokens)
        with self._lock:
            cap = config.max_cost_usd
            if cap is not None and self.spent_usd + self._reserved + worst > cap:
                self._skipped += 1
                return ""
            self._reserved += worst
        try:
            text, tokens = self._ask(prompt)
        finally:
            with self._lock:
                self._reserved -= worst
        spent = self._cost(*tokens) if tokens else worst
        with self._lock:
            self.spent_usd += spent
            self.asked += 1
        answers.put(key, text, spent)
        return text

    def _ask(self, prompt: str) -> tuple[str, list[int] | None]:
        """One answer and its tokens, in and out, if counted; with exponential back-off on what may pass.

        Raises:
            NoAnswer: after all retries.
            StageError: the endpoint refuses.
            CancelledError: `ask` has ended by another question or Ctrl-C.
        """
        import openai

        client, config = self._opened(), self._config
        messages = [{"role": "system", "content": self._system}, {"role": "user", "content": prompt}]
        attempt = 0
        while True:
            if self._stop.is_set():
                raise CancelledError
            sent = dict(self._parameters)
            try:
                return _read(client.chat.completions.create(model=config.model, messages=messages, **sent))
            except (
                openai.APIConnectionError,
                openai.RateLimitError,
                openai.InternalServerError,
                ValueError,  # status 200, but no JSON or no completion: a gateway in front of the model
            ) as error:
                if attempt == config.retries:
                    raise NoAnswer(
                        f"{self.name}: {config.base_url} gave no answer in {attempt + 1} attempts ({error}); "
                        f"answers so far are kept, run again to continue"
                    ) from error
                self._wait(self._stop, min(60.0, 0.5 * 2.0**attempt))
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
                from openai import OpenAI

                key = os.environ.get(self._config.api_key_env) or "none"
                self._client = OpenAI(base_url=self._config.base_url, api_key=key, max_retries=0, timeout=300)
            return self._client

    def _cost(self, tokens_in: float, tokens_out: float) -> float:
        config = self._config
        return (tokens_in * config.usd_per_million_input + tokens_out * config.usd_per_million_output) / 1e6


def _read(response: Any) -> tuple[str, list[int] | None]:
    """The text of a completion and its tokens, in and out, if counted.

    Raises:
        ValueError: it is none; the client takes any JSON for a completion, and what is no JSON for text.
    """
    try:
        text = response.choices[0].message.content or ""  # null: no token was left for an answer
    except (AttributeError, LookupError, TypeError):
        text = None
    if not isinstance(text, str):
        said = getattr(response, "error", None) or response
        raise ValueError(f"status 200, but no answer: {said!r:.200}")
    tokens: list[Any] = [getattr(response.usage, f"{kind}_tokens", None) for kind in ("prompt", "completion")]
    # half an emoji, where the limit of tokens cut it, cannot be kept
    text = text.encode("utf-8", "replace").decode()
    return text, tokens if all(isinstance(n, int) for n in tokens) else None
