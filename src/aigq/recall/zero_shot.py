"""A zero-shot row: a large language model, asked through any OpenAI-compatible endpoint."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from aigq.config_recall import LlmConfig
from aigq.errors import StageError
from aigq.prepared import CausalCounts, Moment, Prepared
from aigq.recall.answers import parse_queries
from aigq.recall.channel import Hint, RowMissing
from aigq.recall.llm import LlmClient, NoAnswer

SYSTEM = "You recommend search queries in an online shop. You answer with a numbered list and nothing else."
VERBS = {"search": "searched for", "click": "looked at", "cart": "put into the cart", "purchase": "bought"}
MAX_BEHAVIOURS = 50


class ZeroShot:
    """Asks once per shopper and moment; answers are kept on disk, so a rerun asks nothing.

    Answers that fewer than k users had issued are dropped, like those of every channel.

    Args:
        name: the row, zero_shot:NAME.
        config: the endpoint, its prices and limits.
        k_users: distinct users that must have issued a query before it is shown.
        length: queries that are asked for, however many are wanted: the same question has the same answer.
        answers: the SQLite file of answers.
        wait: between attempts, so many seconds or until the event is set.
    """

    def __init__(
        self,
        name: str,
        config: LlmConfig,
        k_users: int,
        length: int,
        answers: Path,
        wait: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> None:
        self.name = name
        self._config, self._k, self._path, self._wait = config, k_users, answers, wait
        self._length = length
        self._llm: LlmClient | None = None
        self._counts: CausalCounts | None = None
        self._seen = 0  # moments since `fit`: a table asks for a few hundred at a time

    def fit(self, prepared: Prepared) -> None:
        """Nothing is learned; keep the daily user counts. Raises UsageError for a cost cap without prices."""
        self._llm = LlmClient(self.name, self._config, SYSTEM, self._path, self._wait)
        self._counts = CausalCounts(prepared.query_days, None)
        self._seen = 0

    @property
    def spent_usd(self) -> float:
        """What the answers asked for since `fit` have cost."""
        return self._llm.spent_usd if self._llm else 0.0

    @property
    def asked(self) -> int:
        """Questions put to the endpoint since `fit`; kept answers are none."""
        return self._llm.asked if self._llm else 0

    def recommend(self, moments: Sequence[Moment], n: int) -> list[list[Hint]]:
        """The servable ones of the first n answered queries; nothing for an empty history or past the limits.

        Raises:
            StageError: the endpoint refuses, or answers no more after all retries. Answers so far are kept.
            RowMissing: it never answered since `fit`.
        """
        if self._llm is None or self._counts is None:
            raise StageError(f"{self.name}: recommend() before fit()")
        most = self._config.max_users
        asked = moments if most is None else moments[: max(0, most - self._seen)]
        self._seen += len(moments)
        chosen = [i for i, moment in enumerate(asked) if moment.history.num_rows and n > 0]
        lists: list[list[Hint]] = [[] for _ in moments]
        try:
            texts = self._llm.ask([prompt_of(moments[i], self._length) for i in chosen])
        except NoAnswer as error:
            if self.asked:
                raise
            raise RowMissing(str(error)) from error
        for i, text in zip(chosen, texts, strict=True):
            servable = self._counts.servable(moments[i].day, self._k)
            queries = [query for query in parse_queries(text)[:n] if query in servable]
            lists[i] = [
                Hint(query, 1.0 / rank, f"proposed by {self._config.model}")
                for rank, query in enumerate(queries, 1)
            ]
        return lists


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
