"""Profane words in 24 languages: the lists and the matcher of glin-profanity (MIT), whole words only."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from aigq.config_serving import ProfaneLanguage
from aigq.errors import UsageError
from aigq.spelling import normalise_query

LANGUAGES: Final[dict[ProfaneLanguage, str]] = {
    "ar": "arabic", "cs": "czech", "da": "danish", "de": "german", "en": "english", "eo": "esperanto",
    "es": "spanish", "fa": "persian", "fi": "finnish", "fr": "french", "hi": "hindi", "hu": "hungarian",
    "it": "italian", "ja": "japanese", "ko": "korean", "nl": "dutch", "no": "norwegian", "pl": "polish",
    "pt": "portuguese", "ru": "russian", "sv": "swedish", "th": "thai", "tr": "turkish", "zh": "chinese",
}  # fmt: skip


def checker(languages: Sequence[ProfaneLanguage]) -> Callable[[str], bool] | None:
    """Says whether a normalised query holds a profane word of the languages; None without languages.

    Raises:
        UsageError: the extra `profanity` is not installed.
    """
    if not languages:
        return None
    try:
        from glin_profanity import Filter
        from glin_profanity.data.dictionary import dictionary
    except ModuleNotFoundError:
        raise UsageError("serving.profanity needs its word lists: pip install 'aigq[profanity]'") from None
    names = [LANGUAGES[language] for language in languages]
    # also as people spell them: scheiße is scheisse
    words = {normalise_query(word.casefold()) for name in names for word in dictionary.get_words(name)}
    found: Any = Filter({"languages": names, "custom_words": sorted(words - {""})})
    return lambda query: bool(found.is_profane(query))
