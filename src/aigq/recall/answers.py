"""Answers of language models: reading a list of queries out of free text, and keeping answers on disk."""

import hashlib
import json
import re
import sqlite3
import threading
import time
from pathlib import Path
from types import TracebackType

from aigq.history.normalise import normalise_query

MAX_QUERY_CHARACTERS = 100
_THOUGHTS = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
_MARKER = re.compile(r"^\s*(?:[-*+•–]\s+|\(?#?\d{1,3}\s*[.):\]]+(?:\s+|(?=\D))|#\d{1,3}\s+)")
_TRIM = " \t\"'`*_“”‘’«»,;"


def parse_queries(text: str) -> list[str]:
    """The queries of an answer, in order, normalised and without repeats.

    Reads numbered lists, bullets, plain lines and JSON arrays of strings. Where any line carries a marker,
    lines without one (greetings, explanations) are left out. Never raises.
    """
    text = _THOUGHTS.sub("", text).strip()
    lines = _json_strings(text)
    if lines is None:
        rows = [line for line in text.splitlines() if line.strip() and not line.strip().startswith("```")]
        marked = [_MARKER.sub("", line, count=1) for line in rows if _MARKER.match(line)]
        lines = marked or [line for line in rows if not line.rstrip().endswith(":")]
    queries = (normalised(line) for line in lines)
    return list(dict.fromkeys(query for query in queries if 0 < len(query) <= MAX_QUERY_CHARACTERS))


def normalised(line: str) -> str:
    """As the shop's own queries are written, without quotes, emphasis or a final full stop around it."""
    previous, line = None, normalise_query(line)
    while line != previous:
        previous, line = line, normalise_query(line.strip(_TRIM).removesuffix("."))
    return line


def _json_strings(text: str) -> list[str] | None:
    start, end = text.find("["), text.rfind("]")
    if start < 0 or end < start:
        return None
    try:
        value = json.loads(text[start : end + 1])
    except (ValueError, RecursionError):
        return None
    strings = [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
    return strings or None


def content_key(*parts: str) -> str:
    """The hash under which an answer is kept: everything that may change it."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()


class Answers:
    """A SQLite file of answers by content hash, safe for several threads.

    Args:
        path: the file; made with its folder when missing.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
        self._db.execute(
            "create table if not exists answers (key text primary key, answer text, usd real, written real)"
        )

    def get(self, key: str) -> str | None:
        """The kept answer, if any."""
        with self._lock:
            row = self._db.execute("select answer from answers where key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def put(self, key: str, answer: str, usd: float) -> None:
        """Keep an answer; it is on disk when this returns."""
        with self._lock:
            self._db.execute(
                "insert or replace into answers values (?, ?, ?, ?)", (key, answer, usd, time.time())
            )

    def __enter__(self) -> "Answers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()
