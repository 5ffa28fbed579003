"""What the item-to-text model reads of one item. Paper section 3.1: title, category, attributes and tags.

    <title> sony 55 in. led tv;; <brand> sony;; <category> tv;; 4k tv;; <attributes> size 55 in.;;
    <asked> sony tv;; led tv;; <query>

`asked` are queries of k users that led to the item before. A new item has none.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aigq.history.prompt import SEPARATOR, clean
from aigq.spelling import is_private, normalise_query

ITEM_TOKENS: Final = ("<title>", "<brand>", "<category>", "<attributes>", "<asked>", "<query>")
TEXT_CHARACTERS: Final = 200
"""Of a title or another field; what is longer is cut. The words that shoppers use stand at the beginning."""
LEVELS: Final = 2
"""Names of the category path that are read, from the leaf up."""
ATTRIBUTES: Final = 4


@dataclass(frozen=True)
class Item:
    """The fields of the table ITEMS that have words."""

    item_id: str
    title: str | None = None
    brand: str | None = None
    category: Sequence[str] = ()  # root to leaf
    attributes: Sequence[tuple[str, str]] = ()


def item_prompt(item: Item, asked: Sequence[str]) -> list[str]:
    """The pieces of an item's prompt: special tokens, and texts with their separator.

    Empty where nothing sets the item apart from the others of its category: no title, no attribute and no
    query that led to it. Texts with contact data are left out, as they are everywhere.
    """
    title, attributes = _texts([item.title]), _texts([f"{k} {v}" for k, v in item.attributes][:ATTRIBUTES])
    if not (title or attributes or asked):
        return []
    sections = (
        title,
        _texts([item.brand]),
        _texts(list(item.category)[-LEVELS:]),
        attributes,
        [clean(query) + SEPARATOR for query in asked],
    )
    pieces = [
        piece for mark, texts in zip(ITEM_TOKENS, sections, strict=False) if texts for piece in (mark, *texts)
    ]
    return [*pieces, ITEM_TOKENS[-1]]


def key_of(pieces: Sequence[str]) -> str:
    """A hash of all that the model reads of an item."""
    return hashlib.blake2b(json.dumps(list(pieces)).encode(), digest_size=16).hexdigest()


def _texts(fields: Sequence[str | None]) -> list[str]:
    """The fields in the spelling of queries, shortened; none that is empty or private."""
    cut = [field[: 2 * TEXT_CHARACTERS] for field in fields if field]  # before the work, for huge ones
    folded = [normalise_query(field) for field in cut if not is_private(field)]
    texts = [clean(text[:TEXT_CHARACTERS]) for text in folded]
    return [text + SEPARATOR for text in texts if text]
