"""Product types of a supermarket's till as a shopper's words: the constructed queries of `journey`.

The rule, for "SFT DRNK 2 LITER BTL CARB INCL" -> "2 liter soft drink":

1. A type listed in `NAMES` has its name from there: the most bought types and those that no rule can read.
2. Otherwise: lower case; notes in brackets go, but "(hot)" and "(cold)" stay; "HEAD: REST" and
   "SEAFOOD-FRZ-REST" become "REST HEAD" by `HEADS`; a fruit or vegetable in front goes last ("APPLES GALA"
   -> "gala apples"), a kind of treatment goes first ("POPCORN - MICROWAVE" -> "microwave popcorn").
3. Abbreviations are expanded word by word by `WORDS`; filler words by `FILLER` go; a word is said once.
4. A type that says only how, not what ("PREMIUM", "LEAN", "ECONOMY - MEAT") gets the noun of its category.
5. Types that now share a name are told apart by their filler words, then by their category; types that
   still share it mean the same ("DRIED FRUIT" and "DRIED FRUIT - OTHER").
"""

import re
from collections import defaultdict
from collections.abc import Mapping

from aigq.sources.product_names import NAMES
from aigq.sources.product_words import FILLER, FRONT, HEADS, LAST, NOUNS, VAGUE, WORDS

_TOKEN = re.compile(r"\d+(?:\.\d+)?%?|bone-in|[a-z][a-z']*")


def queries(types: Mapping[str, str | None]) -> dict[str, str]:
    """The query of every product type; the values of `types` are their main categories."""
    short = {kind: name(kind, category) for kind, category in types.items()}
    full = {kind: name(kind, category, filler=True) for kind, category in types.items()}
    for attempt in (full, {k: _join(short[k], category_noun(types[k])) for k in types}):
        for kinds in _shared(short):
            fresh = [kind for kind in kinds if kind not in NAMES][1 if _all_free(kinds) else 0 :]
            for kind in fresh:
                short[kind] = attempt[kind] or short[kind]
    return short


def name(kind: str, category: str | None = None, *, filler: bool = False) -> str:
    """The words for one product type, before types are compared; with `filler`, filler words are kept."""
    if kind in NAMES and not filler:
        return NAMES[kind]
    text = re.sub(r"\((?:hot|cold)\)", lambda match: match[0][1:-1], kind.lower())
    text = re.sub(r"\(.*?(?:\)|$)", " ", text)
    text = re.sub(r"\bw/o\b", "without", text.replace("m&m", "m and m"))
    text = re.sub(r"\bn/", "non ", re.sub(r"\bw/", "with ", text))
    text, head = _head(re.sub(r"\bbone in\b", "bone-in", text))
    words = [word for token in _TOKEN.findall(text) for word in WORDS.get(token, token).split()]
    words = [word for word in words if filler or word not in FILLER]
    if words and words[0] in FRONT:
        words = [*words[1:], words[0]]
    while len(words) > 1 and words[-1] in LAST and words[0] not in LAST:
        words = [words[-1], *words[:-1]]
    phrase = _join(" ".join(words), head)
    if not phrase or all(word in VAGUE for word in phrase.split()):
        phrase = _join(phrase, category_noun(category))
    return phrase or " ".join(_TOKEN.findall(kind.lower()))


def category_noun(category: str | None) -> str:
    """What a category sells, in a word or two."""
    if not category:
        return ""
    if category in NOUNS:
        return NOUNS[category]
    tokens = _TOKEN.findall(re.sub(r"\(.*?(?:\)|$)", " ", category.lower()))
    words = [word for token in tokens for word in WORDS.get(token, token).split()]
    return " ".join(dict.fromkeys(word for word in words if word not in FILLER))


def _head(text: str) -> tuple[str, str]:
    for prefix, noun in HEADS.items():
        if text.startswith(prefix):
            return text[len(prefix) :], noun
    return text, ""


def _join(phrase: str, noun: str) -> str:
    """Both, every word once; the noun goes last."""
    tail = noun.split()
    said = [word for word in dict.fromkeys(phrase.split()) if word not in tail]
    return " ".join([*said, *tail])


def _shared(names: Mapping[str, str]) -> list[list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for kind in sorted(names, key=lambda kind: (len(kind), kind)):
        groups[names[kind]].append(kind)
    return [kinds for kinds in groups.values() if len(kinds) > 1]


def _all_free(kinds: list[str]) -> bool:
    return not any(kind in NAMES for kind in kinds)
