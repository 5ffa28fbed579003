"""Discovery (`samples.targets: new`): targets, labels and lists are queries that the shopper never issued."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("torch")
pytest.importorskip("lightgbm")

import rl_toys
from small_logs import event

from aigq.config import parse
from aigq.errors import UsageError
from aigq.models.vocabulary import Vocabulary
from aigq.prepared import Prepared
from aigq.recall.direct import prompt_writer
from aigq.recall.ranker import Ranker
from aigq.samples.prepare import prepare
from aigq.tables import EVENTS
from aigq.training import il_grpo
from aigq.training.encoding import EncodedLists
from aigq.training.materials import make_materials
from aigq.training.validation import validator

DAY, DAYS, K, LENGTH = 24 * 60, 14, 3, 4
POOL = [
    f"{colour} {thing}" for colour in ("red", "blue", "green") for thing in ("shoe", "hat", "sock", "coat")
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A shop in which every shopper asks for one usual thing each day, and for one of all others in turn."""
    folder = tmp_path_factory.mktemp("discovery")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(8):
        user, order = f"u{number}", rng.permutation(POOL).tolist()
        for day in range(DAYS):
            rows.append(event(user, day * DAY, "search", order[0]))
            rows.append(event(user, day * DAY + 5, "search", order[day % len(order)]))
    (folder / "tables").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=EVENTS), folder / "tables" / "events.parquet")
    (folder / "tables" / "import.json").write_text(json.dumps({"provenance": "constructed"}))
    prepare(config(folder), folder)
    return folder


def config(folder):
    return parse(
        {
            "data": {"tables": folder / "tables"},
            "split": {"validation_from": "2024-03-09", "test_from": "2024-03-11"},
            "samples": {"targets": "new", "k_users": K, "list_length": LENGTH},
            "prompt": {"trending": 6, "trending_by": "shopper", "favourites": 3, "max_behaviours": 4},
            "generator": {"hidden_size": 32, "layers": 1, "heads": 2, "kv_heads": 1, "vocab_size": 300},
            "sft": {"imitation_epochs": 1, "imitation_extra": 10, "imitation_renamed": 0, "order_noise": 0}
            | {"tail_weight": 0.0},
            "channels": {"ranker": {"trees": 5, "min_pairs_in_leaf": 2, "similarity": "regression"}},
        }
    )


def test_only_queries_that_the_shopper_never_issued_are_targets(run):
    prepared = Prepared.load(run / "prepared")
    for sample, moment in zip(prepared.samples.to_pylist(), prepared.moments(prepared.samples), strict=True):
        assert all(sample["novel"])
        assert sample["targets"]
        assert not moment.issued() & set(sample["targets"])


def test_the_ranker_proposes_nothing_of_the_history(run):
    prepared = Prepared.load(run / "prepared")
    ranker = Ranker.of(config(run), run)
    ranker.fit(prepared)
    moments = prepared.moments(prepared.split("test"))
    for moment, hints in zip(moments, ranker.recommend(moments, 100), strict=True):
        left = set(POOL) - moment.issued()
        assert {hint.query for hint in hints} <= left
    assert any(ranker.recommend(moments, 100))
    assert ranker.trending(moments) == [[h.query for h in hints] for hints in ranker.recommend(moments, 100)]


def test_what_is_learned_from_and_written_is_new(run, tmp_path):
    make_materials(config(run), run, tmp_path)
    prepared, words = Prepared.load(run / "prepared"), Vocabulary.load(tmp_path / "init")
    moments = prepared.moments(prepared.split("train"))
    for name in ("train", "imitation"):
        lists = EncodedLists.load(tmp_path / f"{name}.npz")
        assert len(lists) > len(moments) // 2  # on the first days k users have not issued anything yet
        for i in range(len(lists)):
            start, end = lists.starts[i], lists.starts[i + 1]
            prompt, label = np.split(lists.tokens[start:end], [lists.prompt_lengths[i]])
            favourites = words.decode(prompt.tolist()).split("<favourites>")[-1].split("<queries>")[0]
            own = {text.strip() for text in favourites.split(";;")} - {""}
            written = {text.strip() for text in words.decode(label.tolist()).split(";;")}
            assert not own & written
            weights = lists.weights[start:end][lists.prompt_lengths[i] :]
            assert weights[-1] == 1
            assert (weights == 1).all() or name == "train"  # a tail is a part of labels: all is imitated

    asked = []

    class Spy:
        def __init__(self, real):
            self.real = real

        def __call__(self, *arguments, **options):
            asked.append(options["without"])
            return self.real(*arguments, **options)

    truth = json.loads((tmp_path / "valid.json").read_text())
    shoppers = prepared.moments(prepared.split("valid"))
    assert [set(queries) for queries in truth["issued"]] == [moment.issued() for moment in shoppers]
    with pytest.MonkeyPatch.context() as patch:
        from aigq.models import generator
        from aigq.training import validation

        patch.setattr(validation, "generate_lists", Spy(validation.generate_lists))
        found = validator(tmp_path, words, 64)(generator.load(tmp_path / "init"))
    assert sum(map(len, asked)) == len(shoppers)
    assert all(any(queries) for queries in asked)
    assert found["query_hr"] == found["novel_query_hr"]


def test_the_ranker_of_new_queries_orders_no_favourites(run):
    wrong = parse({**config(run).model_dump(mode="json"), "prompt": {"favourites_by": "ranker"}})
    with pytest.raises(UsageError, match="use frequency"):
        prompt_writer(wrong, run, Prepared.load(run / "prepared"))


def rollouts_of_the_loop(words, task, settings, folder):
    return il_grpo.roll_out(rl_toys.model(words), words, task, settings, [0, 1]).tokens.flatten(0, 1)


def rollouts_under_trl(words, task, settings, folder):
    trl_trainer = pytest.importorskip("aigq.training.trl_trainer")
    trainer = trl_trainer.IlGrpoTrainer(
        rl_toys.model(words), words, task, settings, folder, seed=3, use_cpu=True, bf16=False
    )
    prompts = [str(row) for row in (0, 1) for _ in range(settings.group)]
    return [np.array(ids) for ids in trl_trainer.sample(prompts, trainer)["completion_ids"]]


@pytest.mark.parametrize("drawn", [rollouts_of_the_loop, rollouts_under_trl])
def test_rollouts_name_nothing_of_the_history(tmp_path, drawn):
    words = rl_toys.vocabulary()
    settings = rl_toys.config()
    task = rl_toys.task(words, settings)
    barred = [[rl_toys.QUERIES[i % 8]] for i in range(len(task.prompts))]

    def named(task):
        """Per rollout, whether it names what is barred for its prompt."""
        lists = [
            il_grpo.read_list(ids.tolist(), words, rl_toys.SLOTS).queries
            for ids in drawn(words, task, settings, tmp_path)
        ]
        return [barred[i // settings.group][0] in one for i, one in enumerate(lists)]

    assert any(named(task))
    assert not any(named(replace(task, barred=barred)))
