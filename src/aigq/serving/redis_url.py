"""What redis-py understands of the URLs of stores and logs, and what its errors mean."""

from typing import Any, Final

from redis.exceptions import AuthenticationError, RedisClusterException, RedisError

from aigq.errors import UsageError

FAILURES: Final = (RedisError, RedisClusterException, OSError)
"""What a call raises where no answer comes. That of a cluster that is away is no RedisError."""


def redis_url(url: str) -> str:
    """The URL with redis:// for valkey:// and without `+cluster`. Host and password stay as they are."""
    scheme, _, rest = url.partition("://")
    return f"{scheme.removesuffix('+cluster').replace('valkey', 'redis')}://{rest}"


def client(kind: Any, url: str, of: str, **options: Any) -> Any:
    """A client of redis-py, not connected yet. Raises UsageError for a URL that it does not understand."""
    try:
        made = kind.from_url(redis_url(url), **options)
        if pool := getattr(made, "connection_pool", None):
            pool.make_connection()  # else an unknown parameter shows only when it connects
    except (TypeError, ValueError, *FAILURES) as error:
        raise UsageError(f"the {of}'s URL is wrong: {error}") from None
    return made


def reason(error: Exception) -> str:
    """What an error of redis-py says, and of a refused login what is wrong with the URL."""
    if isinstance(error, AuthenticationError):
        return f"the password in its URL is missing or wrong: redis://:PASSWORD@HOST:PORT/0 ({error})"
    return str(error)
