"""`aigq train item-text` and `aigq generate item-text`: the model, and its text for every item of the log."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from aigq.evaluation.item_texts import compare
from aigq.history.item_prompt import item_prompt, key_of
from aigq.models.item_writer import ItemWriter
from aigq.progress import task
from aigq.runs import Run
from aigq.samples.item_pairs import ItemLog, read_item_log
from aigq.tables import ITEM_TEXT, write_whole
from aigq.training.item_text import train_item_text

STAGE = "item_text"
CHUNK = 2048
"""Prompts between two signs of progress."""


def train(run: Run, *, resume: bool) -> dict[str, Any]:
    """Train, compare with the template, and write the table; see the modules for what each returns."""
    log = read_item_log(run.config)
    summary = train_item_text(run.config, run.folder, log, resume=resume)
    comparison = compare(run.config, log, _writer(run, log).write)
    return {**summary, "comparison": comparison, **write_table(run, log)}


def write_table(run: Run, log: ItemLog | None = None) -> dict[str, Any]:
    """Write RUN/tables/item_text.parquet: a text for every item of the log, or null.

    A text that this model wrote earlier for an item that reads the same stays, unless fewer than k users have
    issued it by now (after an erasure). So only new and changed items are written for.
    """
    log = log or read_item_log(run.config)
    path, model = run.folder / "tables" / "item_text.parquet", f"{STAGE}@{run.begun(STAGE)}"
    prompts = [item_prompt(item, log.asked(item.item_id, run.config.item_text.asked)) for item in log.items]
    keys = [key_of(pieces) for pieces in prompts]
    known = {key: text for key, text in _earlier(path, model).items() if text is None or text in log.servable}
    known[key_of([])] = None
    missing = {key: pieces for key, pieces in zip(keys, prompts, strict=True) if key not in known}
    try:
        if missing:
            _write_missing(_writer(run, log), missing, known)
    finally:  # an interruption keeps what has been written
        rows = [
            {"item_id": item.item_id, "text": known[key], "key": key, "model": model}
            for item, key in zip(log.items, keys, strict=True)
            if key in known
        ]
        write_whole(pa.Table.from_pylist(rows, schema=ITEM_TEXT), path)
    return {
        "table": str(path),
        "model": model,
        "items": len(rows),
        "items_with_text": sum(row["text"] is not None for row in rows),
        "written_now": len(missing),
    }


def _write_missing(
    writer: ItemWriter, missing: Mapping[str, Sequence[str]], known: dict[str, str | None]
) -> None:
    """Add the text of each prompt to `known`, a part at a time."""
    keys = list(missing)
    with task("generate item_text", len(keys)) as advance:
        for start in range(0, len(keys), CHUNK):
            part = keys[start : start + CHUNK]
            known.update(zip(part, writer.write([missing[key] for key in part]), strict=True))
            advance(len(part))


def _writer(run: Run, log: ItemLog) -> ItemWriter:
    return ItemWriter(run.folder / "models" / STAGE, log.servable, run.config.decoding.batch_size)


def _earlier(path: Path, model: str) -> dict[str, str | None]:
    """key -> text of an earlier table by the same model."""
    if not path.exists():
        return {}
    table = pq.read_table(path, schema=ITEM_TEXT)
    table = table.filter(pa.compute.equal(table["model"], model))
    return dict(zip(table["key"].to_pylist(), table["text"].to_pylist(), strict=True))
