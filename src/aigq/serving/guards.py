"""What may be shown. Every refusal has a reason, and every reason a counter (`aigq_guarded`).

The k-user rule is enforced where tables are made; here a query must be in the published catalogue, which
holds only queries of k users, or in the allowlist or the configured fallback, which people wrote. What the
words of a query say against it counts when lists are generated and published, too.
"""

import time
import unicodedata
from collections.abc import Callable, Collection, Container, Iterable
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Final, Literal, Protocol

from aigq.config_serving import ServingConfig
from aigq.errors import UsageError
from aigq.serving.blend import Hint
from aigq.serving.profanity import checker
from aigq.serving.stores.store import Clock
from aigq.spelling import KEPT_FORMATS, is_private, normalise_query, script_of

Reason = Literal[
    "empty", "length", "private", "blocked", "profane", "script", "few_users", "no_results", "not_own"
]
_LOOK_EVERY_S: Final = 1.0
_KEPT: Final = 200_000  # verdicts
_NO_REASON: Final = "suggested for you"
_ABOUT_OTHERS: Final = (None, "few_users", "no_results")  # what other shoppers did decides


class KnownQueries(Protocol):
    """The catalogue, as far as guards need it."""

    def __contains__(self, query: str, /) -> bool:
        """Whether k users issued the query."""
        ...

    def results(self, query: str) -> int | None:
        """How many items the query leads to; None where nobody knows."""
        ...


class WordFile:
    """The lines of a file, normalised; read again when the file changes. `#` begins a comment.

    Args:
        path: None: always empty.
        clock: seconds; a change is seen after at most a second.

    Raises:
        UsageError: the file cannot be read at first. When it cannot be read later, the last lines stay.
    """

    def __init__(self, path: Path | None, clock: Clock = time.monotonic) -> None:
        self._path, self._clock, self._looked = path, clock, clock()
        self._stamp: tuple[int, int] | None = None
        self._lines: frozenset[str] = frozenset()
        try:
            self._read()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} cannot be read: {error}") from None

    def lines(self) -> frozenset[str]:
        """The lines as they are now."""
        if self._path is not None and self._clock() - self._looked >= _LOOK_EVERY_S:
            self._looked = self._clock()
            try:
                self._read()
            except (OSError, UnicodeDecodeError):
                return self._lines  # somebody is editing it
        return self._lines

    def _read(self) -> None:
        if self._path is None:
            return
        status = self._path.stat()
        stamp = (status.st_mtime_ns, status.st_size)
        if stamp != self._stamp:
            lines = self._path.read_text(encoding="utf-8").splitlines()
            spelled = (normalise_query(line.partition("#")[0]) for line in lines)
            self._lines, self._stamp = frozenset(line for line in spelled if line), stamp


class Guards:
    """Says why a query must not be shown.

    Args:
        config: the section `serving`.
        profane: a classifier of texts; None: the word lists of `serving.profanity`.
        clock: of the word files.
    """

    def __init__(
        self,
        config: ServingConfig,
        profane: Callable[[str], bool] | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._config, self._profane = config, profane or checker(config.profanity)
        self._blocked = WordFile(config.blocklist, clock)
        self._allowed = WordFile(config.allowlist, clock)
        self._classified: dict[str, bool] = {}  # whether a text is profane
        self._verdicts: dict[str, Reason | None] = {}
        self._fine: set[str] = set()  # those without a reason
        self._judged_by: tuple[object, ...] = (None, None, None)
        self._written = frozenset(chain.from_iterable(config.fallback.values()))

    def surface_off(self, surface: str | None) -> bool:
        """Whether this surface gets no hints."""
        return surface in self._config.surfaces_off

    def study(self, queries: Iterable[str]) -> None:
        """Classify the queries of a new catalogue; those of the one before are known.

        A text may take milliseconds, so this is done in a thread, and before the catalogue is served.
        """
        if self._profane is not None:
            self._classified = {query: self._is_profane(query) for query in (*queries, *self._written)}

    def refusals(
        self, queries: Collection[str], known: KnownQueries, own: Container[str]
    ) -> dict[str, Reason]:
        """The first reason against each normalised query that must not be shown.

        What does not depend on the shopper is judged once per query, catalogue and state of the word files.

        Args:
            queries: the candidates.
            known: the published catalogue.
            own: the shopper's own queries.
        """
        blocked, allowed = self._blocked.lines(), self._allowed.lines()
        judged_by = (known, blocked, allowed)
        same = all(a is b for a, b in zip(judged_by, self._judged_by, strict=True))
        if not same or len(self._verdicts) >= _KEPT:
            self._verdicts, self._fine, self._judged_by = {}, set(), judged_by
        verdicts, refused = self._verdicts, dict[str, Reason]()
        if self._fine.issuperset(queries) and not self._config.own_history_only:
            return refused
        for query in queries:
            if query not in verdicts:
                verdicts[query] = self._judge(query, known, blocked, allowed)
                if verdicts[query] is None:
                    self._fine.add(query)
            reason = verdicts[query]
            if self._config.own_history_only and query not in own and reason in _ABOUT_OTHERS:
                reason = "not_own"
            if reason is not None:
                refused[query] = reason
        return refused

    def fit(self, queries: Iterable[str]) -> set[str]:
        """Those whose words allow to show them: what may stand in a generated list and in a table."""
        blocked, allowed = self._blocked.lines(), self._allowed.lines()
        worded = (query for query in queries if self._words_reason(query, blocked) is None)
        return {query for query in worded if query in allowed or not self._is_profane(query)}

    def reworded(self, hints: list[Hint]) -> list[Hint]:
        """The hints; a reason that holds a blocked word, as it may quote anything, says nothing instead."""
        blocked = self._blocked.lines()
        if not blocked:
            return hints
        return [h._replace(reason=_NO_REASON) if _says(h.reason, blocked) else h for h in hints]

    def _judge(
        self, query: str, known: KnownQueries, blocked: frozenset[str], allowed: frozenset[str]
    ) -> Reason | None:
        words = self._words_reason(query, blocked)
        if words is not None or query in allowed:
            return words
        written = query in self._written
        if not written and query not in known:
            return "few_users"
        if self._is_profane(query):
            return "profane"
        found = None if written else known.results(query)
        return "no_results" if found is not None and found < self._config.min_results else None

    def _words_reason(self, query: str, blocked: frozenset[str]) -> Reason | None:
        text = _text_reason(query, self._config.max_characters, tuple(self._config.scripts))
        if text is not None:
            return text
        return "blocked" if contains_word(query, blocked) else None

    def _is_profane(self, query: str) -> bool:
        if self._profane is None:
            return False
        known = self._classified  # a thread may put another in its place
        if query not in known:
            known[query] = self._profane(query)
        return known[query]


def _text_reason(query: str, longest: int, scripts: tuple[str, ...]) -> Reason | None:
    """Reasons that lie in the text alone."""
    if not query or query != normalise_query(query):
        return "empty"
    if len(query) > longest:
        return "length"
    if is_private(query):
        return "private"
    if scripts and not all(script_of(c) in scripts for c in query if c.isalpha()):
        return "script"
    return None


def contains_word(query: str, words: frozenset[str]) -> bool:
    """Whether a run of the query's words is in `words`; in scripts without spaces, whether any part is.

    Punctuation ends a word. What stands in a run must stand in the line of `words`, too, or is passed over.
    """
    if not words:
        return False
    phrases, longest, unspaced = _phrases(words)
    tokens = _tokens(query)
    for some in (tokens, [token for token in tokens if _in_word(token[0])]):
        ends = range(1, longest + 1)
        if any(" ".join(some[i : i + n]) in phrases for i in range(len(some)) for n in ends):
            return True
    return not query.isascii() and any(word in query for word in unspaced)


@lru_cache(maxsize=8)
def _phrases(words: frozenset[str]) -> tuple[frozenset[str], int, list[str]]:
    """The lines as tokens, the tokens of the longest, and the lines in scripts without spaces."""
    lines = [_tokens(word) for word in words]
    phrases = frozenset(" ".join(line) for line in lines)
    return phrases, max(map(len, lines)), [word for word in words if _unspaced(word)]


def _tokens(text: str) -> list[str]:
    """Words, and each other character by itself."""
    seen = (c for c in text if c not in KEPT_FORMATS)
    return "".join(c if _in_word(c) else f" {c} " for c in seen).split()


@lru_cache(maxsize=10_000)
def _in_word(char: str) -> bool:
    """Letters, digits and marks, which are the vowels of Hindi."""
    return unicodedata.category(char)[0] in "LNM"


@lru_cache(maxsize=20_000)
def _says(reason: str, blocked: frozenset[str]) -> bool:
    return contains_word(normalise_query(reason), blocked)


def _unspaced(word: str) -> bool:
    return any(
        script_of(c) in ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR") for c in word
    )
