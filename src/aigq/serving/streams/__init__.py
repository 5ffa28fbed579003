"""Where events go before anything is done with them. `open_log` opens a log by URL.

memory:          this process only; tests
sqlite:PATH      embedded, several processes on one machine; the default
redis://...      Redis Streams, with the URLs of the stores (no cluster)
"""

from urllib.parse import urlsplit

from aigq.errors import UsageError
from aigq.serving.streams.log import EventLog, LeaseLost, LogError, Message, Record

__all__ = ["EventLog", "LeaseLost", "LogError", "Message", "Record", "open_log"]


def open_log(url: str) -> EventLog:
    """The log behind a URL. Raises UsageError for an unknown scheme, LogError when it cannot be opened."""
    parts = urlsplit(url)
    if parts.scheme == "memory":
        from aigq.serving.streams.memory import MemoryLog

        return MemoryLog()
    if parts.scheme == "sqlite":
        from aigq.serving.streams.embedded import SqliteLog

        if not parts.netloc + parts.path:
            raise UsageError("a SQLite log needs a file: sqlite:runs/events.sqlite")
        return SqliteLog(parts.netloc + parts.path)
    if parts.scheme in ("redis", "rediss", "valkey", "valkeys"):
        from aigq.serving.streams.networked import RedisLog

        return RedisLog(url)
    raise UsageError(
        f"no log has the scheme {parts.scheme!r}; known: memory:, sqlite:PATH, redis://, rediss://"
    )
