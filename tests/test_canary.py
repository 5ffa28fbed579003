"""Text of fewer than k users is never learned and never written, and without the k rule it is."""

import csv
import random
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
import torch

from aigq import config as configs
from aigq.models import generator
from aigq.models.decoding import Asked, ListRow, QueryTree, sample_groups
from aigq.models.vocabulary import Vocabulary
from aigq.prepared import CausalCounts, Prepared
from aigq.recall.direct import prompt_writer
from aigq.runs import Run
from aigq.stages import import_if_absent, run_prepare, run_sft
from aigq.training.encoding import EncodedLists
from aigq.training.il_grpo import read_list
from test_cli import GAMES, SMALL

CANARIES = [
    f"private {word} {number}" for number in range(10) for word in ("ode", "vow", "wish", "oath", "rhyme")
]
K, LENGTH, SAMPLED = 5, 5, 20_000


def write_log(path: Path) -> None:
    """Eighty shoppers; each canary is searched often, but by fewer than K of them."""
    draw, rows = random.Random(1), []
    own = {canary: draw.sample(range(80), K - 1) for canary in CANARIES}
    for user in range(80):
        mine = [canary for canary, users in own.items() if user in users]
        moment = datetime(2011, 8, 11) + timedelta(hours=user)
        while moment < datetime(2011, 9, 25):
            query = draw.choice(mine) if mine and draw.random() < 0.5 else draw.choice(GAMES)
            searched = moment.isoformat(sep=" ")
            rows.append((f"user{user}", 1000 + user % 7, f"abcat{user % 3}", query, searched, searched))
            moment += timedelta(days=draw.uniform(0.5, 4))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("user", "sku", "category", "query", "click_time", "query_time"))
        writer.writerows(sorted(rows, key=lambda row: row[4]))


def sampled(folder: Path, k: int, lists: int) -> list[list[str]]:
    """Train with this k, then draw lists for the last moments of the log."""
    data = {"tables": str(folder / "tables"), "source": "bestbuy", "path": str(folder / "searches.csv")}
    samples = {**SMALL["samples"], "k_users": k}
    sft = {**SMALL["sft"], "epochs": 3, "imitation_extra": 0}
    config = configs.parse({**SMALL, "data": data, "samples": samples, "sft": sft})
    run = Run.open(folder / f"k{k}", config)
    import_if_absent(config)
    run_prepare(run, force=False)
    run_sft(run, "direct_il_sft", resume=False, force=False)
    model_folder = run.folder / "models" / "direct_il_sft"
    vocabulary, prepared = Vocabulary.load(model_folder), Prepared.load(run.folder / "prepared")
    model = generator.load(model_folder)
    moments = prepared.moments(prepared.split("test"))[:50]
    pieces = prompt_writer(config, run.folder, prepared).pieces(moments)
    prompts = [vocabulary.encode_prompt(p, config.prompt.budget_tokens) for p in pieces]
    servable = CausalCounts(prepared.query_days, None).servable
    trees = [QueryTree(servable(moment.day, k), vocabulary) for moment in moments]
    group = lists // len(prompts)
    torch.manual_seed(0)
    rows = [partial(ListRow, tree, LENGTH) for tree in trees for _ in range(group)]
    each = [prompt for prompt in prompts for _ in range(group)]
    drawn = sample_groups(model, vocabulary, Asked(each, rows, 6 * LENGTH, 1.0), group)
    return [read_list(tokens, vocabulary, LENGTH).queries for tokens in drawn.flatten(0, 1).tolist()]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("canaries")
    write_log(folder / "searches.csv")
    return folder


def test_no_canary_is_written_in_twenty_thousand_lists(shop):
    lists = sampled(shop, K, SAMPLED)
    assert len(lists) == SAMPLED
    assert all(len(queries) == LENGTH for queries in lists)
    written = {query for queries in lists for query in queries}
    assert written <= set(GAMES)
    assert not any("private" in query for query in written)


def test_without_the_k_rule_canaries_are_written(shop):
    written = {query for queries in sampled(shop, 1, 1000) for query in queries}
    assert len(written & set(CANARIES)) > 10


def test_no_canary_is_in_what_training_reads(shop):
    """The k rule holds in the label lists themselves, not only when lists are written."""
    folder = shop / f"k{K}"
    if not folder.exists():
        sampled(shop, K, 50)
    training = folder / "models" / "direct_il_sft" / "training"
    vocabulary, lists = Vocabulary.load(training / "init"), EncodedLists.load(training / "train.npz")
    for i in range(len(lists)):
        labels = lists.tokens[lists.starts[i] + lists.prompt_lengths[i] : lists.starts[i + 1]]
        assert "private" not in str(vocabulary.tokenizer.decode(labels.tolist()))
