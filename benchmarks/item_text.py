"""Item-to-text: generated against the template, on items and on days that the model has not learned from.

    python benchmarks/item_text.py bestbuy ../shared/data/bestbuy
    python benchmarks/item_text.py home_depot ../shared/data/home_depot/train.csv.zip

Each imports the log into data/, trains the model of `aigq train item-text` in runs/item-text-NAME and puts
the comparison into results/item-text.json. Nothing is timed. After the path: --resume goes on where it
stopped, and key=value changes the config.

What is real and what is not:
bestbuy      typed queries, clicks and days are real. Its items have no title: the model reads the earlier
             queries that led to them, and has nothing to say of a new one.
home_depot   queries and titles are real. There are no shoppers, clicks or times: a (query, product) pair
             that its raters found relevant (MIN_RELEVANCE of 3 or more) stands for one click of a shopper
             of its own, all on one day. So there are no held-out days, and the k-user rule is off.
"""

import csv
import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

from aigq.config import load
from aigq.evaluation.item_texts import compare
from aigq.models.item_writer import ItemWriter
from aigq.runs import versions
from aigq.samples.item_pairs import read_item_log
from aigq.sources import import_source
from aigq.training.item_text import train_item_text

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "item-text.json"
RECIPES = {"bestbuy": Path("recipes/bestbuy.yaml"), "home_depot": HERE / "home_depot.yaml"}
MIN_RELEVANCE = 2.5
DAY = "2016-01-18"  # when the data was published
COLUMNS = {
    "user_id": "rating", "ts": "day", "action": "click", "query": "query", "item_id": "product",
    "items": {"path": "items.csv", "item_id": "product", "title": "title"},
}  # fmt: skip


def import_home_depot(archive: Path, out: Path) -> None:
    """train.csv.zip of the Kaggle competition -> the tables of a log."""
    with zipfile.ZipFile(archive) as files, files.open("train.csv") as file:
        rows = list(csv.DictReader(io.TextIOWrapper(file, encoding="latin-1")))
    relevant = [row for row in rows if float(row["relevance"]) >= MIN_RELEVANCE]
    titles = {row["product_uid"]: row["product_title"] for row in rows}
    folder = out.with_name(f"{out.name}_csv")
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [(row["id"], DAY, row["search_term"], row["product_uid"]) for row in relevant]
    _write(folder / "pairs.csv", ("rating", "day", "query", "product"), pairs)
    _write(folder / "items.csv", ("product", "title"), list(titles.items()))
    import_source("files", folder / "pairs.csv", out, columns=COLUMNS)


def measure(name: str, path: Path, *options: str) -> dict[str, Any]:
    """Import where that is not done yet, then train and compare."""
    tables = Path("data") / name
    if not (tables / "events.parquet").exists():
        if name == "home_depot":
            import_home_depot(path, tables)
        else:
            import_source(name, path, tables)
    overrides = [f"data.tables={tables}", *(option for option in options if "=" in option)]
    config, run = load(RECIPES[name], overrides), Path(f"runs/item-text-{name}")
    log = read_item_log(config)
    summary = train_item_text(config, run, log, resume="--resume" in options)
    writer = ItemWriter(run / "models" / "item_text", log.servable, config.decoding.batch_size)
    return {
        "command": " ".join(["python benchmarks/item_text.py", name, str(path), *options]),
        "settings": config.item_text.model_dump() | config.generator.model_dump(mode="json"),
        "trained": {key: summary[key] for key in ("samples", "steps", "parameters")},
        "comparison": compare(config, log, writer.write),
    }


def _write(path: Path, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in RECIPES:
        sys.exit(__doc__)
    measured = measure(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results |= {sys.argv[1]: {**measured, "packages": versions()["packages"]}}
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(results[sys.argv[1]]["comparison"], indent=1))
