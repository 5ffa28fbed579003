"""Where events go before anything is done with them. `open_log` opens a log by URL.

memory:          this process only; tests
sqlite:PATH      embedded, several processes on one machine; the default
redis://...      Redis Streams, with the URLs of the stores (no cluster)
kafka://...      Apache Kafka or what speaks its protocol; kafkas:// with TLS
"""

from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from aigq.errors import UsageError
from aigq.serving.streams.log import Erased, EventLog, LeaseLost, LogError, Message, Record

__all__ = ["Erased", "EventLog", "LeaseLost", "LogError", "Message", "Record", "need_log", "open_log"]


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
    if parts.scheme in ("kafka", "kafkas"):
        if find_spec("aiokafka") is None:
            raise UsageError("a Kafka log needs aiokafka: pip install 'aigq[kafka]'")
        from aigq.serving.streams.kafka import KafkaLog

        return KafkaLog(url)
    raise UsageError(
        f"no log has the scheme {parts.scheme!r}; known: memory:, sqlite:PATH, redis://, rediss://, "
        "kafka://, kafkas://"
    )


def need_log(url: str) -> None:
    """Raise UsageError where a SQLite log is not there; `open_log` would make an empty one."""
    parts = urlsplit(url)
    path = parts.netloc + parts.path
    if parts.scheme == "sqlite" and path and not Path(path).is_file():
        raise UsageError(f"no event log at {path}; give the URL that `aigq serve --log` has")
