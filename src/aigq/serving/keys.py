"""The names of keys. `aigq:FAMILY:...`; what belongs to a user carries the hash tag {u:USER}.

    family    key                                    value                           written by
    current   aigq:current                           Current                         publish
    versions  aigq:versions                          which have keys, last write     publish
    catalog   aigq:catalog:VERSION:PART              CatalogPart                     publish
    clicks    aigq:clicks:VERSION:PART               part of the CTR model           publish
    item      aigq:item:VERSION:ITEM                 ItemInfo                        publish
    x2q       aigq:x2q:VERSION:KIND:TRIGGER          Neighbours                      publish
    coclick   aigq:coclick:VERSION:QUERY             Neighbours                      publish
    base      aigq:base:VERSION:{u:USER}             Base                            publish
    live      aigq:live:{u:USER}                     Live                            service, worker
    u2q       aigq:u2q:{u:USER}                      U2q                             worker, publish
    gone      aigq:gone:HASH OF USER                 time of the erasure             service

All keys of one user and version are in one slot of a Redis cluster, so they are read together.
"""

import hashlib
import hmac
import os
import re
from collections.abc import Callable
from typing import Final, Literal

from aigq.errors import UsageError

FAMILIES: Final = (
    "current", "versions", "catalog", "clicks", "item", "x2q", "coclick", "base", "live", "u2q", "gone",
)  # fmt: skip
TABLE_FAMILIES: Final = ("catalog", "clicks", "item", "x2q", "coclick", "base")
"""Families whose keys carry a version."""

CURRENT: Final = "aigq:current"
VERSIONS: Final = "aigq:versions"
TriggerKind = Literal["item", "query", "category"]
_LONGEST: Final = 160  # bytes of a name; LMDB takes keys of 511 bytes
_HASHED: Final = re.compile(r"hashed:[0-9a-f]{32}")
_USER: Final = re.compile(r"\{u:(.*)\}$", re.DOTALL)


def short(name: str) -> str:
    """The name itself, or a hash of it where it is too long for a key."""
    if len(name) <= _LONGEST and name.isascii():
        return name
    encoded = name.encode("utf-8", "surrogatepass")
    if len(encoded) <= _LONGEST:
        return encoded.decode("utf-8", "replace")
    return "#" + hashlib.blake2b(encoded, digest_size=16).hexdigest()


def catalog(version: str, part: int) -> str:
    """A part of what every process holds in memory."""
    return f"aigq:catalog:{version}:{part}"


def click_model(version: str, part: int) -> str:
    """A part of the CTR model."""
    return f"aigq:clicks:{version}:{part}"


def item(version: str, item_id: str) -> str:
    """Text and leaf category of an item."""
    return f"aigq:item:{version}:{short(item_id)}"


def x2q(version: str, kind: TriggerKind, trigger: str) -> str:
    """The queries of a trigger."""
    return f"aigq:x2q:{version}:{kind}:{short(trigger)}"


def coclick(version: str, query: str) -> str:
    """The neighbours of a query."""
    return f"aigq:coclick:{version}:{short(query)}"


def base(version: str, user: str) -> str:
    """The published history of a user."""
    return f"aigq:base:{version}:{{u:{short(user)}}}"


def live(user: str) -> str:
    """What the user did since."""
    return f"aigq:live:{{u:{short(user)}}}"


def u2q(user: str) -> str:
    """The last generated lists of a user."""
    return f"aigq:u2q:{{u:{short(user)}}}"


def is_of(user: str, key: str) -> bool:
    """Whether a key is one of this user, of whatever family and version."""
    return key.endswith(f":{{u:{short(user)}}}")


def user_of(key: str) -> str | None:
    """Whose key it is; None for those of no user."""
    found = _USER.search(key)
    return found and found[1]


def is_hashed(user: str) -> bool:
    """Whether it is a name that `user_names` made of an id."""
    return _HASHED.fullmatch(user) is not None


def gone(user: str) -> str:
    """Says that a user was erased. Without the user's id, which must be found nowhere afterwards."""
    return f"aigq:gone:{hashlib.blake2b(user.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()}"


def user_names(variable: str | None) -> Callable[[str], str]:
    """What stores and logs call a user: the id itself, or its HMAC-SHA256 with the secret in `variable`.

    A hashed name is its own name: `aigq import log` brings such users into the tables, and `aigq publish`
    names all that are in them.

    Raises UsageError when the variable is not set.
    """
    if variable is None:
        return str
    secret = os.environ.get(variable, "").encode()
    if not secret:
        raise UsageError(f"serving.hash_users_with names {variable}, which is not set in the environment")

    def name(user: str) -> str:
        if is_hashed(user):
            return user
        digest = hmac.new(secret, user.encode("utf-8", "surrogatepass"), "sha256").hexdigest()
        return f"hashed:{digest[:32]}"

    return name
