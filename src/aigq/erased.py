"""The list of erased users of a tables folder: DIR/erased.json, read by `aigq import` and `aigq prepare`.

`aigq erase-user` writes it, so that importing the shop's raw log again does not bring a user back. It holds
salted SHA-256 digests and no id. Who has an id can ask whether it is on the list, as an import must; nobody
can read the ids from it, short of trying all that there may be.
"""

import hashlib
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aigq.errors import SourceError

FILE: Final = "erased.json"
REASON: Final = "erased user"
"""Why `aigq import` counts a row as rejected; its content is not kept."""

_WORDS: Final = r"[\s,;|\"\[\]{}]+"
_FIELDS: Final = r"[,;|\t]"


@dataclass(frozen=True)
class Erased:
    """Digests of erased users, of one folder.

    Args:
        salt: goes before each id; of this folder alone.
        users: hexadecimal SHA-256 of salt and id, in UTF-8.
    """

    salt: str
    users: frozenset[str] = frozenset()

    @classmethod
    def load(cls, folder: Path) -> "Erased":
        """The list of a folder, empty where there is none.

        Raises SourceError when it is damaged: to go on without it would bring erased users back.
        """
        path = folder / FILE
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return cls(str(found["salt"]), frozenset(map(str, found["users"])))
        except FileNotFoundError:
            return cls(secrets.token_hex(16))
        except (ValueError, KeyError, TypeError):
            raise SourceError(
                f"{path} is damaged: it lists the users who were erased; put back a copy"
            ) from None

    def save(self, folder: Path) -> None:
        """Write the list, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f".{FILE}.part"
        part.write_text(json.dumps({"salt": self.salt, "users": sorted(self.users)}, indent=1) + "\n")
        part.replace(folder / FILE)

    def digest(self, user: str) -> str:
        """How a user stands on the list."""
        return hashlib.sha256((self.salt + user).encode("utf-8", "surrogatepass")).hexdigest()

    def adding(self, users: Iterable[str]) -> "Erased":
        """The list with these ids, too."""
        return Erased(self.salt, self.users | {self.digest(user) for user in users})

    def is_listed(self, column: str) -> str:
        """DuckDB SQL: whether the user of a text column is on the list; false for null."""
        if not self.users:
            return "false"
        return f"coalesce(sha256('{self.salt}' || {column}) IN ({self._digests()}), false)"

    def is_mentioned(self, column: str) -> str:
        """DuckDB SQL: whether a raw row of text names a user of the list, as a field or a word of it."""
        if not self.users:
            return "false"
        text = f"coalesce({column}, '')"
        parts = (
            f"list_concat(regexp_split_to_array({text}, '{_WORDS}'), string_split_regex({text}, '{_FIELDS}'))"
        )
        digests = f"list_transform({parts}, lambda part: sha256('{self.salt}' || trim(part, ' :''\"')))"
        return f"list_has_any({digests}, [{self._digests()}])"

    def _digests(self) -> str:
        return ", ".join(f"'{digest}'" for digest in sorted(self.users))
