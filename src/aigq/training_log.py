"""log.jsonl of a training folder: an entry per step or validation. Read by the report and on resuming."""

import json
from pathlib import Path
from typing import Any


def read(folder: Path) -> list[dict[str, Any]]:
    """The entries in order, none where there is no log; lines that an interruption cut off are left out."""
    path = folder / "log.jsonl"
    if not path.exists():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("step"), int):
            entries.append(entry)
    return entries
