"""Logs of `aigq serve` and `aigq nearline`: on stderr, as text or one JSON object a line, without shoppers.

Nothing that a shopper is or typed belongs into a log. Our own messages name neither users nor queries; the
message of somebody else's exception may, so a traceback ends with the exception's type.
"""

import logging
import sys
import traceback
from typing import Any, Final

from aigq import progress
from aigq.config_serving import LogFormat

_TEXT: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"
_FIELDS: Final = {"levelname": "level", "name": "logger", "exc_info": "error"}

GRANIAN: Final[dict[str, Any]] = {"loggers": {"_granian": {"handlers": [], "propagate": True}}}
"""Granian's logging config: its lines go where ours go."""


class _Discreet:
    """A formatter's tracebacks: frames and types of the exceptions, without their messages."""

    def formatException(self, ei: Any) -> str:
        """The exception and what caused it, the first one first."""
        parts, error = list[str](), ei[1]
        while error is not None:
            name = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
            parts.append("".join(traceback.format_tb(error.__traceback__)) + name)
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return "\n".join(reversed(parts))


class _Text(_Discreet, logging.Formatter):
    pass


def configure(form: LogFormat) -> None:
    """Log to stderr from here on: warnings of everybody, information of ours.

    With `json`, what `aigq.progress` says becomes log lines too.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_json() if form == "json" else _Text(_TEXT))
    logging.basicConfig(handlers=[handler], force=True)
    logging.captureWarnings(True)
    if form == "json":
        ours = logging.getLogger("aigq")
        ours.setLevel(logging.INFO)
        progress.speak_through(ours.log)


def _json() -> logging.Formatter:
    from pythonjsonlogger.json import JsonFormatter

    class Json(_Discreet, JsonFormatter):
        pass

    fields = ["levelname", "name", "process", "message"]
    return Json(fields, timestamp="time", rename_fields=_FIELDS, json_ensure_ascii=False)
