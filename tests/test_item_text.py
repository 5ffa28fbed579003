"""Item-to-text from a log to the behaviours that `aigq prepare` writes, as a user would do it."""

import json
import random
import shutil
from dataclasses import replace
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from aigq.cli import main
from aigq.cli_common import DONE, FAILED
from aigq.history.item_prompt import Item, item_prompt
from aigq.item_text import write_table
from aigq.models.item_writer import ItemWriter, encode_item, longest_prompt
from aigq.models.vocabulary import Vocabulary
from aigq.runs import Run, resolve
from aigq.samples.item_pairs import read_item_log
from aigq.tables import EVENTS, ITEMS

KINDS = ["shoe", "tent", "lamp", "chair", "bowl", "kettle"]
MAKERS = ["Acme", "Borea", "Corvus", "Delta"]
SHOP = {
    "split": {"validation_from": "2024-01-08", "test_from": "2024-01-10"},
    "samples": {"k_users": 3, "list_length": 5},
    "generator": {
        "vocab_size": 400, "hidden_size": 32, "layers": 2, "heads": 2, "kv_heads": 2,
        "intermediate_size": 64, "init_from_encoder": False,
    },
    "item_text": {"batch_size": 32, "max_steps": 120, "epochs": 40, "learning_rate": 5e-3, "eval_every": 40},
}  # fmt: skip


def items():
    """Ten items of each kind; what they are called says more than what shoppers type."""
    return [
        {"item_id": f"{kind}-{n}", "title": f"{MAKERS[n % 4]} {kind.title()} No. {n}, pack of {n + 1}"}
        for kind in KINDS
        for n in range(10)
    ]


def events(catalogue):
    """Forty shoppers search for a kind and click an item of it, for twelve days; one has words of her own."""
    draw, rows = random.Random(0), []
    for day in range(12):
        for user in range(40):
            item = draw.choice(catalogue)["item_id"]
            when = datetime(2024, 1, 1) + timedelta(days=day, minutes=user)
            query = "my own words" if user == 7 and day < 3 else item.split("-")[0]
            rows += [
                {"user_id": f"u{user}", "ts": when, "action": "search", "query": query},
                {
                    "user_id": f"u{user}",
                    "ts": when + timedelta(seconds=9),
                    "action": "click",
                    "item_id": item,
                },
            ]
    return rows


def write(folder, catalogue, log):
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(catalogue, schema=ITEMS), folder / "items.parquet")
    pq.write_table(pa.Table.from_pylist(log, schema=EVENTS), folder / "events.parquet")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a log and a run with a trained model: not to be changed."""
    folder = tmp_path_factory.mktemp("items")
    write(folder / "tables", items(), events(items()))
    config = {"name": "shop", "data": {"tables": str(folder / "tables")}, **SHOP}
    (folder / "shop.yaml").write_text(yaml.safe_dump(config))
    assert train(folder, folder / "run") == DONE
    return folder


@pytest.fixture
def shop(trained, tmp_path):
    """A copy of it, to be changed."""
    shutil.copytree(trained, tmp_path / "shop")
    text = (trained / "shop.yaml").read_text().replace(str(trained), str(tmp_path / "shop"))
    (tmp_path / "shop" / "shop.yaml").write_text(text)
    stages = tmp_path / "shop" / "run" / "stages.json"
    stages.write_text(stages.read_text().replace(str(trained), str(tmp_path / "shop")))
    return tmp_path / "shop"


def train(folder, run, *options):
    return main(["train", "item-text", "--config", str(folder / "shop.yaml"), "--run", str(run), *options])


def opened(folder):
    config, run = resolve(folder / "shop.yaml", folder / "run", ())
    return Run.open(run, config)


def texts(folder):
    return {row["item_id"]: row for row in pq.read_table(folder / "run/tables/item_text.parquet").to_pylist()}


def test_new_items_are_said_in_shoppers_words(trained):
    result = opened(trained).result("item_text")
    cold = result["comparison"]["held_out_items"]
    assert cold["items"] >= 3
    assert cold["template"]["query_hit"] == 0
    assert cold["template"]["rouge_l"] < 0.5
    assert cold["generated"]["query_hit"] >= 0.8
    low, high = cold["generated minus template"]["rouge_l_ci95"]
    assert 0 < low <= high
    assert result["comparison"]["held_out_days"]["items"] > 30
    assert (trained / "run/models/item_text/training.json").exists()


def test_what_fewer_than_k_users_typed_is_neither_learned_nor_written(trained):
    log = read_item_log(opened(trained).config)
    assert "my own words" in {q for led in log.led.values() for q in led}
    written = {row["text"] for row in texts(trained).values()}
    assert written <= log.servable == set(KINDS)
    vocabulary = json.loads((trained / "run/models/item_text/tokenizer.json").read_text())["model"]["vocab"]
    assert "Ġshoe" in vocabulary
    assert "Ġown" not in vocabulary
    truth = json.loads((trained / "run/models/item_text/training/valid.json").read_text())
    assert "my own words" not in json.dumps(truth)


def test_the_same_log_gives_the_same_texts(trained, tmp_path):
    assert train(trained, tmp_path / "again") == DONE
    again = pq.read_table(tmp_path / "again/tables/item_text.parquet").drop(["model"])
    assert again.equals(pq.read_table(trained / "run/tables/item_text.parquet").drop(["model"]))


def test_an_interrupted_training_goes_on_to_the_same_weights(trained, tmp_path, monkeypatch):
    from aigq.training import checkpoints

    save = checkpoints.save

    def killed(folder, model, optimizer, progress):
        save(folder, model, optimizer, progress)
        if progress.step == 40:
            raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(checkpoints, "save", killed)
        assert train(trained, tmp_path / "run") == 130
    assert train(trained, tmp_path / "run", "--resume") == DONE
    weights = "models/item_text/model.safetensors"
    assert (tmp_path / "run" / weights).read_bytes() == (trained / "run" / weights).read_bytes()


def test_only_new_and_changed_items_are_written_again(shop, monkeypatch):
    before, asked, plain = texts(shop), [], ItemWriter.write

    def counting(self, prompts):
        asked.extend(prompts)
        return plain(self, prompts)

    monkeypatch.setattr(ItemWriter, "write", counting)
    arguments = ["generate", "item-text", "--config", str(shop / "shop.yaml"), "--run", str(shop / "run")]
    assert main(arguments) == DONE
    assert asked == []
    assert texts(shop) == before
    catalogue = items()
    catalogue[0]["title"] = "Acme Tent for two"
    catalogue.append({"item_id": "new", "title": "Borea Lamp No. 99"})
    catalogue.append({"item_id": "no words"})
    write(shop / "tables", catalogue, events(items()))
    assert main(arguments) == DONE
    assert sorted(pieces[1] for pieces in asked) == ["acme tent for two;;", "borea lamp no. 99;;"]
    after = texts(shop)
    assert after["new"]["text"] == "lamp"
    assert after["no words"]["text"] is None
    changed = {i for i in before if after[i] != before[i]}
    assert changed == {catalogue[0]["item_id"]}


def test_a_text_that_k_users_no_longer_typed_is_written_again(shop):
    run, log = opened(shop), read_item_log(opened(shop).config)
    assert "shoe" in {row["text"] for row in texts(shop).values()}
    write_table(run, replace(log, servable=log.servable - {"shoe"}))
    assert {row["text"] for row in texts(shop).values()} <= log.servable - {"shoe"}


def test_prepare_uses_the_texts_and_notices_when_one_changes(shop):
    arguments = ["prepare", "--config", str(shop / "shop.yaml"), "--run", str(shop / "run")]
    generated = [*arguments, "--set", "history.item_text=generated"]
    assert main(generated) == DONE
    written, rows = texts(shop), pq.read_table(shop / "run/prepared/behaviours.parquet").to_pylist()
    clicks = [row for row in rows if row["action"] == "click"]
    assert clicks
    assert all(row["text"] == written[row["item_id"]]["text"] for row in clicks)
    summary = shop / "run/prepared/summary.json"
    first = summary.read_text()
    assert main(generated) == DONE
    assert summary.read_text() == first
    catalogue = items()
    catalogue[0]["title"] = "Acme Tent for two"
    write(shop / "tables", catalogue, events(items()))
    assert main(generated) == DONE
    assert summary.read_text() != first


def test_prepare_without_the_model_says_what_to_do(trained, tmp_path, capsys):
    arguments = ["prepare", "--config", str(trained / "shop.yaml"), "--run", str(tmp_path / "r")]
    assert main([*arguments, "--set", "history.item_text=generated"]) == FAILED
    assert "aigq train item-text" in capsys.readouterr().err
    assert main(arguments) == DONE  # the template needs no model


def test_a_log_with_nothing_to_learn_from_says_why(tmp_path, capsys):
    write(tmp_path / "tables", [{"item_id": "a"}], events(items())[:4])
    config = {"name": "shop", "data": {"tables": str(tmp_path / "tables")}, **SHOP}
    (tmp_path / "shop.yaml").write_text(yaml.safe_dump(config))
    assert train(tmp_path, tmp_path / "run") == FAILED
    assert "0 pairs to train" in capsys.readouterr().err


@pytest.mark.parametrize(
    "title",
    [
        "x" * 10_000,
        "Tent " * 2_000,
        "帳篷" * 5_000,
        "防水登山帳篷 四人用",
        "👟👟🏽 👨‍👩‍👧",
        "<end>;;<query><asked> shoe;; <pad>",
        "\x00\x07 \u202e ﷽ ",
        "👨‍👩‍👧" * 3_000,
    ],
)
def test_any_title_gives_a_query_of_k_users_and_a_short_prompt(trained, title):
    folder = trained / "run" / "models" / "item_text"
    pieces = item_prompt(Item("1", title, title, [title] * 9, [(title, title)] * 9), [])
    assert 0 < len(encode_item(Vocabulary.load(folder), pieces)) <= longest_prompt(0)
    writer = ItemWriter(folder, KINDS, 4)
    (text, nothing, again) = writer.write([pieces, [], pieces])
    assert text in KINDS
    assert nothing is None
    assert again == text
