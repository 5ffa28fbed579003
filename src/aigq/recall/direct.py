"""AIGQ-Direct as a recall channel: history in, an ordered list of queries out. Paper section 3."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from aigq.config import Config
from aigq.errors import StageError, UsageError
from aigq.history.prompt import PromptParts, PromptWriter, by_day, shared_profiles
from aigq.models import engine, generator
from aigq.models.decoding import QueryTree, Trees, generate_lists
from aigq.models.vocabulary import Vocabulary
from aigq.prepared import CausalCounts, Moment, Prepared
from aigq.recall.channel import Hint
from aigq.recall.ranker import Ranker


def prompt_writer(config: Config, run: Path, prepared: Prepared) -> PromptWriter:
    """The prompt writer of a run; a ranker that orders parts of it is kept in the run folder.

    Raises:
        UsageError: the ranker of new queries shall order the shopper's own ones.
    """
    prompt, k_users = config.prompt, config.samples.k_users
    if prompt.favourites_by == "ranker" and not prompt.together and config.samples.only_new:
        raise UsageError(
            "prompt.favourites_by=ranker: with samples.targets=new it knows no own queries; use frequency"
        )
    profiles = shared_profiles(prepared, prompt.profile, k_users)
    counts = CausalCounts(prepared.query_days, prompt.trending_half_life_days)
    known = set(prepared.shared_queries(k_users)["query"].to_pylist()) if prompt.trending_known else None
    enough = prompt.trending if known is None else len(counts.queries)

    def kept(top: Iterable[str], most: int = prompt.trending) -> list[str]:
        return list(islice((q for q in top if known is None or q in known), most))

    trend = by_day(lambda day: kept(query for query, _ in counts.top(day, enough, k_users)))
    if not (prompt.together or prompt.trending_by != "issues" or prompt.favourites_by == "ranker"):
        return PromptWriter(prompt, profiles, trend)
    ranker = Ranker.of(config, run)
    ranker.fit(prepared)

    def for_shopper(moments: Sequence[Moment]) -> list[list[str]]:
        return [kept(top) for top in ranker.trending(moments)]

    def together(moments: Sequence[Moment]) -> list[list[str]]:
        return [kept(both, prompt.favourites) for both in ranker.own_and_trending(moments)]

    if prompt.trending_by == "ranker":
        trend = by_day(lambda day: kept(ranker.trend(day)))
    elif prompt.trending_by == "shopper":
        trend = for_shopper
    own = ranker.own if prompt.favourites_by == "ranker" else None
    return PromptWriter(prompt, profiles, trend, own, together if prompt.together else None)


class DirectGenerator:
    """Writes lists with a trained model.

    Args:
        config: the run's config, already adapted to the system (see `aigq.training.sft.variant`).
        run: the run folder; the model is a Hugging Face folder in RUN/models/NAME.
        name: the row's name.
        only_new: write no query that the shopper has issued before, as where `samples.targets` says so.
    """

    def __init__(self, config: Config, run: Path, name: str, *, only_new: bool = False) -> None:
        folder = run / "models" / name
        if not (folder / "config.json").exists():
            raise StageError(f"no trained model at {folder}; run `aigq train sft` first")
        generator.require_whole(folder)
        self.name = name
        self._config, self._run = config, run
        self._only_new = only_new or config.samples.only_new
        self._vocabulary = Vocabulary.load(folder)
        self._write = engine.opened(config.decoding, folder, self._vocabulary)

    def fit(self, prepared: Prepared) -> None:
        """Nothing is learned here: the weights come from `aigq train sft`."""
        self._writer = prompt_writer(self._config, self._run, prepared)
        self._counts = CausalCounts(prepared.query_days, None)
        self._category = prepared.category_of
        self._trees = Trees(self._vocabulary)

    def recommend(self, moments: Sequence[Moment], n: int) -> list[list[Hint]]:
        """At most n hints for each moment; prompts of similar length are generated together."""
        budget = self._config.prompt.budget_tokens
        parts = self._writer.parts(moments)
        prompts = [self._vocabulary.encode_prompt(self._writer.styled(p), budget) for p in parts]
        lists: list[list[Hint]] = [[] for _ in moments]
        trees = self._trees_of(moments)
        for rows in self._batches(prompts):
            drawn = generate_lists(
                self._write,
                [prompts[i] for i in rows],
                [trees[moments[i].day] for i in rows],
                n,
                without=[self._known(moments[i]) for i in rows],
                temperature=self._config.decoding.temperature,
                top_k=self._config.decoding.top_k,
            )
            for i, queries in zip(rows, drawn, strict=True):
                lists[i] = [
                    Hint(q, 1.0 / rank, explain(q, parts[i], self._category))
                    for rank, q in enumerate(queries, 1)
                ]
        return lists

    def _batches(self, prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Positions of prompts of similar length, a batch at a time."""
        order = np.argsort([len(p) for p in prompts], kind="stable").tolist()
        size = self._config.decoding.batch_size
        for start in range(0, len(order), size):
            yield order[start : start + size]

    def _known(self, moment: Moment) -> set[str]:
        """What the list may not name: with `only_new`, every query of the history."""
        return moment.issued() if self._only_new else set()

    def _trees_of(self, moments: Sequence[Moment]) -> dict[int, QueryTree]:
        """The tree of each day."""
        k = self._config.samples.k_users
        return self._trees.by_day({day: self._counts.servable(day, k) for day in {m.day for m in moments}})


def explain(query: str, parts: PromptParts, category_of: dict[str, str]) -> str:
    """Why a hint is shown, from what the model read: own habit, latest behaviour, same category, trend."""
    if query in parts.favourites:
        return "one of your usual searches"
    for behaviour in reversed(parts.behaviours):
        if behaviour.text == query:
            return "you looked for this lately"
    category = category_of.get(query)
    for behaviour in reversed(parts.behaviours):
        if category is not None and category_of.get(behaviour.text) == category:
            return because(behaviour.text)
    if query in parts.trending:
        return "popular in the shop now"
    return "new for you"


def because(text: str) -> str:
    """The reason that names a behaviour."""
    return f"because of “{text}”"
