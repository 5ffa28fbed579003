"""AIGQ-Think: interest points with their queries, and as a recall channel one list. Paper section 3.3."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from aigq.history.prompt import PromptParts
from aigq.models.think_decoding import Marks, generate_thoughts
from aigq.models.think_grammar import Thought
from aigq.prepared import Moment, Prepared
from aigq.recall.channel import Hint
from aigq.recall.direct import DirectGenerator, because, explain
from aigq.samples.interests import InterestPoint, by_rank


@dataclass(frozen=True)
class Trigger:
    """A behaviour that an interest rests on; `index` 1 is the most recent one of the prompt."""

    index: int
    action: str
    text: str
    query: str | None
    item_id: str | None
    category: str | None


class Interest(NamedTuple):
    """One interest point of a shopper; no triggers: discovery."""

    triggers: tuple[Trigger, ...]
    queries: tuple[str, ...]


class ThinkGenerator(DirectGenerator):
    """Writes interest points with a trained model. Arguments as of `DirectGenerator`."""

    def fit(self, prepared: Prepared) -> None:
        """Nothing is learned here: the weights come from `aigq train sft`."""
        super().fit(prepared)
        self._marks = Marks.of(self._vocabulary)

    def think(self, moments: Sequence[Moment], n: int) -> list[list[Interest]]:
        """The interest points of each moment, at most n distinct queries in all, in the order written."""
        return self._interests(moments, self._writer.parts(moments), n)

    def recommend(self, moments: Sequence[Moment], n: int) -> list[list[Hint]]:
        """At most n hints for each moment: first queries of all interest points, then the second ones, ..."""
        parts = self._writer.parts(moments)
        interests = self._interests(moments, parts, n)
        return [self._hints(found, read) for found, read in zip(interests, parts, strict=True)]

    def _hints(self, interests: Sequence[Interest], read: PromptParts) -> list[Hint]:
        """One ranked list; a hint names the latest behaviour of its interest, or what explains discovery."""
        reasons = {}
        for interest in interests:
            latest = min(interest.triggers, key=lambda trigger: trigger.index, default=None)
            for query in interest.queries:
                reasons[query] = because(latest.text) if latest else explain(query, read, self._category)
        merged = by_rank([InterestPoint((), interest.queries) for interest in interests])
        return [Hint(query, 1.0 / rank, reasons[query]) for rank, query in enumerate(merged, 1)]

    def _interests(
        self, moments: Sequence[Moment], parts: Sequence[PromptParts], n: int
    ) -> list[list[Interest]]:
        thoughts = self.thoughts(moments, parts, n)
        return [
            [Interest(_triggers(moment, point), point.queries) for point in thought.points]
            for moment, thought in zip(moments, thoughts, strict=True)
        ]

    def thoughts(self, moments: Sequence[Moment], parts: Sequence[PromptParts], n: int) -> list[Thought]:
        """What the model wrote for these prompts, its reasoning included."""
        budget, decoding = self._config.prompt.budget_tokens, self._config.decoding
        encoded = [self._vocabulary.encode_and_count(self._writer.styled(p), budget) for p in parts]
        reasoning = decoding.reasoning and self._config.think.without_rationale < 1
        thoughts = [Thought()] * len(moments)
        trees = self._trees_of(moments)
        for rows in self._batches([ids for ids, _ in encoded]):
            drawn = generate_thoughts(
                self._write,
                self._marks,
                [encoded[i][0] for i in rows],
                [encoded[i][1] for i in rows],
                [trees[moments[i].day] for i in rows],
                n,
                self._config.think,
                reasoning=reasoning,
                without=[self._known(moments[i]) for i in rows],
                temperature=decoding.temperature,
                top_k=decoding.top_k,
            )
            for i, thought in zip(rows, drawn, strict=True):
                thoughts[i] = thought
        return thoughts


def _triggers(moment: Moment, point: InterestPoint) -> tuple[Trigger, ...]:
    columns = ("action", "text", "query", "item_id", "category")
    rows = (moment.history.slice(moment.history.num_rows - i, 1).to_pylist()[0] for i in point.triggers)
    named = zip(point.triggers, rows, strict=True)
    return tuple(Trigger(i, *(row[column] for column in columns)) for i, row in named)
