"""Who may call what: API keys with roles and a rate each. Keys are kept as SHA-256, never in the clear."""

import hashlib
import time
from pathlib import Path
from typing import Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aigq.errors import UsageError
from aigq.serving.stores.store import Clock

Role = Literal["read", "write", "admin"]
_BURST_S: Final = 2.0
"""A caller that was quiet may spend so many seconds of its rate at once."""


class ApiKey(BaseModel):
    """One entry of the keys file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    roles: list[Role]
    per_second: float = Field(0.0, ge=0)  # 0: no limit


class Refused(Exception):
    """A call that may not go on: an HTTP status and what to tell the caller."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


class Access:
    """Checks keys and rates. Rates are per process: with N workers a key may call N times as often.

    Args:
        keys: None: everybody may do everything; `aigq serve` then listens on localhost only.
        clock: seconds.
    """

    def __init__(self, keys: list[ApiKey] | None, clock: Clock = time.monotonic) -> None:
        self._keys = None if keys is None else {key.sha256: key for key in keys}
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # name -> (calls left, as of)

    @property
    def open(self) -> bool:
        """Whether everybody may do everything."""
        return self._keys is None

    def check(self, secret: str | None, role: Role) -> str:
        """The name of the caller. Raises Refused: 401 no such key, 403 not its role, 429 too fast."""
        if self._keys is None:
            return "local"
        # a hash is looked up, not the secret compared: its time says nothing about the secret
        key = (
            self._keys.get(hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()) if secret else None
        )
        if key is None:
            raise Refused(401, "a valid API key is needed: Authorization: Bearer KEY, or X-API-Key: KEY")
        if role not in key.roles:
            raise Refused(403, f"this API key lacks the role {role}")
        if not self._spend(key):
            raise Refused(429, f"more than {key.per_second:g} requests per second")
        return key.name

    def _spend(self, key: ApiKey) -> bool:
        """Token bucket: refilled at the key's rate, up to two seconds of it."""
        if key.per_second == 0:
            return True
        full = max(1.0, key.per_second * _BURST_S)
        now = self._clock()
        left, as_of = self._buckets.get(key.name, (full, now))
        left = min(full, left + (now - as_of) * key.per_second)
        self._buckets[key.name] = (left - 1.0 if left >= 1.0 else left, now)
        return left >= 1.0


def read_keys(path: Path | None) -> list[ApiKey] | None:
    """The keys of a YAML file. Raises UsageError when it is missing or wrong."""
    if path is None:
        return None
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        keys = [ApiKey.model_validate(entry) for entry in content or []]
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"the keys file {path}: {where}: {first['msg']}") from None
    except (OSError, yaml.YAMLError, TypeError, ValueError) as error:  # ValueError: no UTF-8, or no date
        raise UsageError(f"the keys file {path} cannot be read: {' '.join(str(error).split())}") from None
    if not keys:
        raise UsageError(f"the keys file {path} holds no keys")
    return keys
