"""A model from scratch is never asked to read more than it has learned to read."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("torch")
pytest.importorskip("lightgbm")

from small_logs import event

from aigq.config import parse
from aigq.models.vocabulary import Vocabulary
from aigq.prepared import Prepared
from aigq.recall.direct import prompt_writer
from aigq.samples.prepare import prepare
from aigq.tables import EVENTS
from aigq.training.encoding import EncodedLists
from aigq.training.materials import make_materials

DAY, DAYS, YOUNGER = 24 * 60, 13, 9
OLD = ["red shoe", "blue hat", "green sock", "grey coat", "white glove"]
NEW = ["lamp", "rug", "tall vase", "bowl", "pan"]  # as many tokens as letters, since they are too young


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A shop whose shoppers, from the tenth day on, ask for other things."""
    folder = tmp_path_factory.mktemp("lengths")
    rng = np.random.default_rng(0)
    rows = [
        event(f"u{user}", day * DAY + minute, "search", str(rng.choice(OLD if day < YOUNGER else NEW)))
        for user in range(8)
        for day in range(DAYS)
        for minute in (0, 5)
    ]
    (folder / "tables").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=EVENTS), folder / "tables" / "events.parquet")
    (folder / "tables" / "import.json").write_text(json.dumps({"provenance": "constructed"}))
    prepare(config(folder), folder)
    return folder


def config(folder, validation_from="2024-03-10", **generator):
    sizes = {"hidden_size": 32, "layers": 1, "heads": 2, "kv_heads": 1, "vocab_size": 300}
    return parse(
        {
            "data": {"tables": folder / "tables"},
            "split": {"validation_from": validation_from, "test_from": "2024-03-13"},
            "samples": {"k_users": 3, "list_length": 4},
            "prompt": {"max_behaviours": 6},
            "generator": {**sizes, "intermediate_size": 32, "init_from_encoder": 0, **generator},
            "channels": {"ranker": {"trees": 5, "min_pairs_in_leaf": 2, "similarity": "regression"}},
        }
    )


def lengths(folder, name):
    return EncodedLists.load(folder / f"{name}.npz").prompt_lengths


def test_prompts_are_no_longer_than_those_of_the_training(run, tmp_path):
    make_materials(config(run), run, tmp_path)
    words, prepared = Vocabulary.load(tmp_path / "init"), Prepared.load(run / "prepared")
    longest = lengths(tmp_path, "train").max()
    assert words.longest_prompt == longest
    assert lengths(tmp_path, "valid").max() <= longest
    pieces = prompt_writer(config(run), run, prepared).pieces(prepared.moments(prepared.split("test")))
    cut = [words.encode_and_count(some, 384) for some in pieces]
    words.longest_prompt = None
    whole = [words.encode_and_count(some, 384) for some in pieces]
    assert max(len(ids) for ids, _ in cut) <= longest < max(len(ids) for ids, _ in whole)
    for (ids, behaviours), (every, all_of_them) in zip(cut, whole, strict=True):
        assert ids == every or 0 < behaviours < all_of_them  # the oldest ones are gone
        assert ids[-1] == every[-1]


def test_a_later_training_makes_the_prompts_longer_and_never_shorter(run, tmp_path):
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    for folder in (first, second, third):
        folder.mkdir()
    make_materials(config(run), run, first)
    later = config(run, "2024-03-12", start=str(first / "init"))
    other = tmp_path / "run"
    prepare(later, other)
    make_materials(later, other, second)
    before, after = (Vocabulary.load(folder / "init").longest_prompt for folder in (first, second))
    assert before < after == lengths(second, "train").max()
    make_materials(config(run, start=str(second / "init")), run, third)
    assert lengths(third, "train").max() == before
    assert Vocabulary.load(third / "init").longest_prompt == after


def test_a_pretrained_base_reads_prompts_of_any_length(run, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    make_materials(config(run), run, first)
    words = Vocabulary.load(first / "init")
    words.longest_prompt = None
    words.tokenizer.save_pretrained(first / "init")
    make_materials(config(run, base=str(first / "init")), run, second)
    assert Vocabulary.load(second / "init").longest_prompt is None
    assert lengths(second, "valid").max() > lengths(second, "train").max()
