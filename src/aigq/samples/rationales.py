"""Rationales r_k: a teacher is shown (T_k, Q_k) and writes why. Paper section 3.3; method.md section 4.

The teacher sees only text that may be shown to others, so a rationale cannot carry a shopper's own words.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from aigq.history.prompt import clean

INSTRUCTION = (
    "You explain in one short sentence, in plain words, which interest of a shopper of an online shop leads "
    "from what the shopper did to what the shopper may search for next. You name what the shopper did."
)
_NAMED = 2  # behaviours that a template names
_LONGEST = 200  # characters of a teacher's sentence


class Question(NamedTuple):
    """What a teacher is shown of one interest point: texts of T_k, most recent first, and Q_k, best first."""

    behaviours: tuple[str, ...]
    queries: tuple[str, ...]


Teacher = Callable[[Sequence[Question]], list[str]]
"""A rationale for each question."""


def template(questions: Sequence[Question]) -> list[str]:
    """The offline teacher: the latest behaviours of the point, and the query that they lead to first."""
    return [_sentence(q) for q in questions]


def asked_of(ask: Callable[[Sequence[str]], list[str]]) -> Teacher:
    """A teacher that is a language model; `ask` answers prompts, see `aigq.recall.llm.LlmClient`."""
    return lambda questions: [" ".join(text.split())[:_LONGEST] for text in ask([*map(prompt_of, questions)])]


def prompt_of(question: Question) -> str:
    """The user message of one question."""
    did, next_ = (", ".join(f'"{text}"' for text in texts) for texts in question)
    return f"The shopper did: {did}. The next searches may be: {next_}. One short sentence:"


def rationales(questions: Sequence[Question], teacher: Teacher) -> list[str]:
    """One rationale per question; empty where there is no behaviour to name, or where none is named."""
    asked = [i for i, question in enumerate(questions) if question.behaviours and question.queries]
    written = [""] * len(questions)
    for i, text in zip(asked, teacher([questions[i] for i in asked]), strict=True):
        if mentions(text, questions[i].behaviours):
            written[i] = clean(text)
    return written


def mentions(rationale: str, behaviours: Sequence[str]) -> bool:
    """Whether the rationale names one of the behaviours, in whatever case."""
    return any(text and text.casefold() in rationale.casefold() for text in behaviours)


def _sentence(question: Question) -> str:
    named = " and ".join(dict.fromkeys(question.behaviours[:_NAMED]))
    return f"{named}, so {question.queries[0]}"
