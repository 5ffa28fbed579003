"""Targets of the Think variant: label lists as interest points, with reasons. method.md sections 3, 4."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from aigq.config import Config
from aigq.config_training import ThinkConfig
from aigq.errors import ConfigError
from aigq.models.text_encoder import TextEncoder
from aigq.models.think_grammar import Thought
from aigq.prepared import Moment, Prepared
from aigq.recall.coclick import similarities
from aigq.samples.interests import InterestPoint, interest_points, links, strengths
from aigq.samples.labels import Label
from aigq.samples.rationales import INSTRUCTION, Question, Teacher, asked_of, rationales, template

Encode = Callable[[Sequence[str]], np.ndarray]


@dataclass(frozen=True)
class Seen:
    """What a prompt shows of a history, most recent first; position b has the index b + 1.

    A query is what led to the behaviour, or None. It is the text itself wherever the shopper typed that:
    in a search, in a click merged with its search, and in a click on an item that the shop has no text for.
    """

    texts: list[str]
    categories: list[str | None]
    queries: list[str | None]


def seen_of(moment: Moment, behaviours: int) -> Seen:
    """The most recent behaviours of a moment."""
    history = moment.history
    recent = history.slice(max(0, history.num_rows - behaviours))
    texts, categories, queries = (recent[c].to_pylist()[::-1] for c in ("text", "category", "query"))
    return Seen(texts, categories, queries)


def searches_later(prepared: Prepared, samples: pa.Table) -> list[list[str]]:
    """What each sample's shopper searched for from the cut to the end of its day, in log order.

    A search that led to a click on the same text is one behaviour with it, and counts.
    """
    behaviours = prepared.behaviours
    users = behaviours["user_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    days = behaviours["day"].to_numpy()
    typed = pc.equal(behaviours["query"], behaviours["text"])
    searches = pc.if_else(typed, behaviours["query"], None).to_pylist()
    owners = pc.index_in(samples["user_id"], pc.unique(behaviours["user_id"])).to_pylist()
    lists = []
    begins = (samples["first_row"].to_numpy() + samples["n_before"].to_numpy()).tolist()
    for owner, begin, day in zip(owners, begins, samples["day"].to_pylist(), strict=True):
        end = begin
        while end < len(days) and users[end] == owner and days[end] == day:
            end += 1
        lists.append([query for query in searches[begin:end] if query is not None])
    return lists


class Explainer:
    """Which behaviours explain a query: same text, same leaf category, co-click, closeness in meaning.

    Args:
        config: limits of links.
        prepared: co-click is counted in its training rows.
        encode: texts to unit vectors (n, d).
    """

    def __init__(self, config: ThinkConfig, prepared: Prepared, encode: Encode) -> None:
        self._config, self._encode = config, encode
        self._category = prepared.category_of
        vocabulary = np.asarray(prepared.queries["query"].to_pylist(), dtype=object)
        self._code = {query: i for i, query in enumerate(vocabulary)}
        self._similar = _relative(similarities(prepared.training_rows(), vocabulary, config.neighbours))
        self._vectors: dict[str, np.ndarray] = {}

    def learn(self, texts: Sequence[str]) -> None:
        """Embed all texts that will be asked for, many at a time."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        self._vectors.update(zip(missing, self._encode(missing), strict=True))

    def links(self, seen: Seen, queries: Sequence[str]) -> list[tuple[int, ...]]:
        """The indices of the behaviours that explain each query."""
        if not seen.texts or not queries:
            return [()] * len(queries)
        same = np.array([[text == query for text in seen.texts] for query in queries])
        leaves = [self._category.get(query) for query in queries]
        category = np.array([[leaf is not None and leaf == c for c in seen.categories] for leaf in leaves])
        self.learn([*queries, *seen.texts])
        cosine = self._stacked(queries) @ self._stacked(seen.texts).T
        strength = strengths(
            same, category, self._coclick(queries, seen.texts), cosine, self._config.min_cosine
        )
        return links(strength, self._config.links)

    def _stacked(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([self._vectors[text] for text in texts])

    def _coclick(self, queries: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        """Similarities (Q, B) relative to each query's nearest neighbour; 0 for unknown texts."""
        known_queries = [(i, self._code[q]) for i, q in enumerate(queries) if q in self._code]
        known_texts = [(b, self._code[t]) for b, t in enumerate(texts) if t in self._code]
        result = np.zeros((len(queries), len(texts)))
        if known_queries and known_texts:
            rows, query_codes = zip(*known_queries, strict=True)
            columns, text_codes = zip(*known_texts, strict=True)
            result[np.ix_(rows, columns)] = self._similar[list(query_codes)][:, list(text_codes)].toarray()
        return result


@dataclass(frozen=True)
class Thinker:
    """Turns label lists into thoughts.

    `allowed` is the text that k users issued: of a shopper's own words a rationale names nothing else.
    """

    explainer: Explainer
    teacher: Teacher
    allowed: set[str]
    limits: ThinkConfig

    @classmethod
    def of(cls, config: Config, run: Path, prepared: Prepared, allowed: set[str]) -> "Thinker":
        """The explainer and the teacher of a run.

        Raises:
            ConfigError: `think.teacher` is neither `template` nor in channels.llms.
        """
        encode = TextEncoder(config.encoder.name).encode
        explainer = Explainer(config.think, prepared, encode)
        return cls(explainer, teacher_of(config, run), allowed, config.think)

    def points(self, seen: Sequence[Seen], labels: Sequence[Sequence[Label]]) -> list[list[InterestPoint]]:
        """Interest points of each label list; what a language model made up must be tied to the history."""
        self.explainer.learn([t for s in seen for t in s.texts] + [x.query for row in labels for x in row])
        result = []
        for shown, row in zip(seen, labels, strict=True):
            linked = self.explainer.links(shown, [label.query for label in row])
            kept = [i for i, label in enumerate(row) if label.source != "llm" or linked[i]]
            queries, found = [row[i].query for i in kept], [linked[i] for i in kept]
            result.append(interest_points(queries, found, self.limits.max_points, self.limits.max_triggers))
        return result

    def reasons(self, seen: Sequence[Seen], points: Sequence[Sequence[InterestPoint]]) -> list[list[str]]:
        """The rationale of each point, in order; points without one are left out."""
        questions = [
            Question(self._nameable(shown, point.triggers), point.queries)
            for shown, row in zip(seen, points, strict=True)
            for point in row
        ]
        written = iter(rationales(questions, self.teacher))
        return [[text for text in (next(written) for _ in row) if text] for row in points]

    def _nameable(self, seen: Seen, triggers: Sequence[int]) -> tuple[str, ...]:
        """Texts of behaviours that may be told to a teacher: nothing typed that fewer than k users issued."""
        both = [(seen.texts[i - 1], seen.queries[i - 1]) for i in triggers]
        return tuple(text for text, query in both if text != query or text in self.allowed)


def thoughts(
    points: Sequence[Sequence[InterestPoint]], reasons: Sequence[Sequence[str]], share: float, seed: int
) -> list[Thought]:
    """Points with their reasons; a seeded `share` of the thoughts is answer only."""
    bare = np.random.default_rng(seed).random(len(points)) < share
    return [
        Thought(() if without else tuple(why), tuple(row))
        for row, why, without in zip(points, reasons, bare, strict=True)
    ]


def teacher_of(config: Config, run: Path) -> Teacher:
    """The configured teacher; a language model's sentences are kept in the run folder."""
    name = config.think.teacher
    if name == "template":
        return template
    if name not in config.channels.llms:
        known = ", ".join(["template", *config.channels.llms])
        raise ConfigError(f"think.teacher: no channels.llms.{name} in the config; known: {known}")
    from aigq.recall.llm import LlmClient

    answers = run / "channels" / f"teacher_{name}" / "answers.sqlite"
    return asked_of(LlmClient(f"teacher {name}", config.channels.llms[name], INSTRUCTION, answers).ask)


def _relative(similar: sparse.csr_matrix) -> sparse.csr_matrix:
    """Each row divided by its largest value."""
    largest = similar.max(axis=1).toarray().ravel() if similar.nnz else np.zeros(similar.shape[0])
    inverse = np.divide(1.0, largest, out=np.zeros_like(largest, dtype=float), where=largest > 0)
    return (sparse.diags(inverse) @ similar).tocsr()
