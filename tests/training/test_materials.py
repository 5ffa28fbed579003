import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

pytest.importorskip("torch")

from recall_shop import VALID, build

from aigq.config import parse
from aigq.errors import ConfigError
from aigq.history.prompt import shared_profiles
from aigq.models import generator
from aigq.models.decoding import QueryTree
from aigq.models.vocabulary import Vocabulary
from aigq.recall.direct import prompt_writer
from aigq.recall.ranker import Ranker
from aigq.tables import USERS
from aigq.training.materials import _start, between, fingerprint_of, subset


@pytest.fixture(scope="module")
def prepared():
    return build()


def test_moments_between_are_prefixes_that_end_before_validation(prepared):
    train = prepared.split("train")
    moments = between(prepared, train, 200, seed=0)
    assert 100 < len(moments) <= 200
    for moment in moments:
        rows = prepared.behaviours.filter(np.asarray(prepared.behaviours["user_id"]) == moment.user_id)
        assert moment.history.equals(rows.slice(0, moment.history.num_rows))
        assert moment.history.num_rows > 0
        assert moment.history["ts"].to_numpy()[-1] < moment.cut
        assert moment.cut.astype("datetime64[D]").astype(int) == moment.day < VALID
    again = between(prepared, train, 200, seed=0)
    assert [(m.user_id, m.cut) for m in again] == [(m.user_id, m.cut) for m in moments]


def test_no_moments_between_where_nobody_came_back(prepared):
    first = prepared.split("train").filter(np.asarray(prepared.split("train")["n_before"]) == 0)
    assert between(prepared, first, 50, seed=0) == []
    assert between(prepared, prepared.split("train"), 0, seed=0) == []
    nothing = replace(prepared, behaviours=prepared.behaviours.slice(0, 0))
    assert between(nothing, first, 50, seed=0) == []


def test_a_subset_keeps_the_order_and_is_the_same_for_a_seed(prepared):
    train = prepared.split("train")
    drawn = subset(train, 10, seed=1)["sample_id"].to_pylist()
    assert drawn == sorted(drawn)
    assert len(set(drawn)) == 10
    assert drawn == subset(train, 10, seed=1)["sample_id"].to_pylist()
    assert subset(train, None, seed=1) is train


K = 3
CANARY = "hermit lane 7"


def neighbours(prepared, sharing):
    """Shoppers of one town, `sharing` of whom live in the same small street."""
    names = prepared.users["user_id"].to_pylist()
    rows = [
        {"user_id": name, "profile": {"town": "york", "street": CANARY} if i < sharing else {"town": "york"}}
        for i, name in enumerate(names)
    ]
    return replace(prepared, users=pa.Table.from_pylist(rows, schema=USERS))


def settings(style="compressed"):
    return parse(
        {
            "split": {"validation_from": "2026-01-31", "test_from": "2026-02-05"},
            "samples": {"k_users": K},
            "prompt": {"profile": ["street", "town"], "style": style},
            "generator": {"hidden_size": 32, "layers": 1, "heads": 2, "kv_heads": 1, "vocab_size": 300}
            | {"intermediate_size": 32, "init_from_encoder": False},
        }
    )


@pytest.mark.parametrize("think", [False, True])
def test_a_new_model_has_room_for_a_list_of_queries_younger_than_its_vocabulary(prepared, tmp_path, think):
    config = parse(settings().model_dump() | {"think": {"from_direct": False}})
    words = _start(config, tmp_path, prepared, prepared.queries, tmp_path / "init", think=think)
    younger = [f"é{letter}" for letter in "abcdefghijklmnopqrstuvwxyzåäöé"]
    tree = QueryTree([*prepared.queries["query"].to_pylist(), *younger], words)
    longest = tree.room(config.samples.list_length)
    context = generator.load(tmp_path / "init").config.max_position_embeddings
    assert longest > config.samples.list_length  # some in pieces
    assert context > config.prompt.budget_tokens + longest


def test_a_model_to_start_from_gets_that_room(prepared, tmp_path):
    first = settings().model_dump() | {"think": {"from_direct": False}}
    _start(parse(first), tmp_path, prepared, prepared.queries, tmp_path / "init", think=False)
    described = json.loads((tmp_path / "init" / "config.json").read_text())
    context = described["max_position_embeddings"]
    (tmp_path / "init" / "config.json").write_text(json.dumps(described | {"max_position_embeddings": 16}))
    second = parse(first | {"generator": first["generator"] | {"start": str(tmp_path / "init")}})
    _start(second, tmp_path, prepared, prepared.queries, tmp_path / "next", think=False)
    assert generator.load(tmp_path / "next").config.max_position_embeddings == context


@pytest.mark.parametrize(("sharing", "told"), [(1, False), (K - 1, False), (K, True)])
def test_a_profile_value_of_fewer_than_k_users_is_in_no_file_and_in_no_prompt(
    prepared, tmp_path, sharing, told
):
    shop = neighbours(prepared, sharing)
    _start(settings(), tmp_path, shop, shop.queries, tmp_path / "init", think=False)
    files = [file.read_bytes() for file in (tmp_path / "init").iterdir()]
    assert any(CANARY.encode() in content for content in files) == told
    assert any(b"<town=york>" in content for content in files)
    first = shop.users["user_id"].to_pylist()[0]
    moment = next(m for m in shop.moments(shop.split("test")) if m.user_id == first)
    for style in ("compressed", "verbose"):
        (pieces,) = prompt_writer(settings(style), tmp_path, shop).pieces([moment])
        assert (CANARY in "".join(pieces.head)) == told
        assert "york" in "".join(pieces.head)


def test_only_shoppers_of_training_samples_count_towards_k(prepared):
    shop = neighbours(prepared, K)
    away = shop.users["user_id"].to_pylist()[0]
    users, splits = (np.asarray(shop.samples[name]) for name in ("user_id", "split"))
    fewer = replace(shop, samples=shop.samples.filter((users != away) | (splits != "train")))
    fields = ["town", "street"]
    assert shared_profiles(shop, fields, K)[away] == {"street": CANARY, "town": "york"}
    assert shared_profiles(fewer, fields, K)[away] == {"town": "york"}
    assert shared_profiles(shop, [], K)[away] == {}


def test_a_query_younger_than_training_is_left_out_of_the_trend(prepared, tmp_path):
    young = "sled"
    older = replace(prepared, queries=prepared.queries.filter(pc.not_equal(prepared.queries["query"], young)))
    moment = prepared.moments(prepared.split("test"))[-1]

    def trend(known, n=6):
        config = settings()
        prompt = config.prompt.model_copy(update={"trending": n, "trending_known": known})
        writer = prompt_writer(config.model_copy(update={"prompt": prompt}), tmp_path, older)
        return writer.pieces([moment])[0].tail[1:-1]

    longest = trend(False, 100)
    assert young + ";;" in longest
    assert trend(True) == [query for query in longest if query != young + ";;"][:6]


def test_with_one_list_every_shopper_is_told_as_many_queries(prepared, tmp_path):
    pytest.importorskip("lightgbm")
    young = "sled"
    shop = replace(prepared, queries=prepared.queries.filter(pc.not_equal(prepared.queries["query"], young)))
    config = settings()
    update = {"favourites": 4, "trending": 0, "trending_known": True, "together": True}
    prompt = config.prompt.model_copy(update=update)
    writer = prompt_writer(config.model_copy(update={"prompt": prompt}), tmp_path, shop)
    moments = shop.moments(shop.split("test"))
    moments.append(replace(moments[-1], history=moments[-1].history.slice(0, 0)))
    ranker = Ranker.of(config, tmp_path)
    ranker.fit(shop)
    for moment, parts, listed in zip(
        moments, writer.parts(moments), ranker.own_and_trending(moments), strict=True
    ):
        assert parts.together == [query for query in listed if query != young][:4]
        issued = set(moment.history["query"].to_pylist())
        assert [q for q in parts.together if q in issued] == parts.favourites
        assert [q for q in parts.together if q not in issued] == parts.trending
    assert any(parts.favourites for parts in writer.parts(moments))


def from_start(folder, **prompt):
    config = settings()
    changes = {
        "generator": config.generator.model_copy(update={"start": folder}),
        "prompt": config.prompt.model_copy(update=prompt),
    }
    return config.model_copy(update=changes)


def test_yesterdays_model_goes_on_with_the_tokens_of_todays_prompts(prepared, tmp_path):
    shop, before, today = neighbours(prepared, K - 1), tmp_path / "before", tmp_path / "today"
    _start(settings(), tmp_path, shop, shop.queries, before, think=False)
    moved = neighbours(prepared, K)  # one more in that street: a value of K shoppers
    words = _start(from_start(before), tmp_path, moved, moved.queries, today, think=False)
    old, new = Vocabulary.load(before), Vocabulary.load(today)
    streets = [[t for t in each.special.values() if t.startswith("<street=")] for each in (old, new)]
    assert [len(found) for found in streets] == [0, 1]
    assert len(words.tokenizer) == len(old.tokenizer) + 1
    weights = [generator.load(folder).get_input_embeddings().weight for folder in (before, today)]
    assert weights[1][: len(weights[0])].equal(weights[0])
    same = tmp_path / "same"
    _start(from_start(before), tmp_path, shop, shop.queries, same, think=False)
    assert (same / "model.safetensors").read_bytes() == (before / "model.safetensors").read_bytes()


def test_materials_are_those_of_the_weights_that_they_start_from(prepared, tmp_path):
    shop, before = neighbours(prepared, 0), tmp_path / "before"
    _start(settings(), tmp_path, shop, shop.queries, before, think=False)
    of_ctr = settings().model_copy(update={"sft": settings().sft.model_copy(update={"ranker": {"ctr": 1.0}})})
    clicks = tmp_path / "models" / "ctr" / "weights.pt"
    clicks.parent.mkdir(parents=True)
    for config, file in ((from_start(before), before / "model.safetensors"), (of_ctr, clicks)):
        found = []
        for content in (b"of Monday", b"of Tuesday"):
            file.write_bytes(content)
            found.append(fingerprint_of(config, tmp_path))
        assert found[0] != found[1] == fingerprint_of(config, tmp_path)
    assert fingerprint_of(settings(), tmp_path) != fingerprint_of(from_start(before), tmp_path)


@pytest.mark.parametrize(("ranker", "same"), [({"ranker": 1}, True), ({"zero_shot:large": 1}, False)])
def test_materials_are_those_of_a_language_model_that_orders_labels(tmp_path, ranker, same):
    def key(model):
        llms = {"large": {"base_url": "http://127.0.0.1:1/v1", "model": model}}
        changed = {"sft": {"ranker": ranker}, "channels": {"llms": llms}}
        return fingerprint_of(parse(settings().model_dump() | changed), tmp_path)

    assert (key("one") == key("other")) is same


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"imitation_max_steps": 50, "imitation_learning_rate": 7e-4}, True),
        ({"max_steps": 5, "learning_rate": 1e-4}, True),
        ({"links": 1}, False),
        ({"without_rationale": 0.2}, False),
    ],
)
def test_materials_of_think_do_not_change_with_steps_and_rates(tmp_path, changed, same):
    def key(**think):
        chosen = {"from_direct": False, "imitation_max_steps": 40, **think}
        return fingerprint_of(parse(settings().model_dump() | {"think": chosen}), tmp_path, think=True)

    assert (key() == key(**changed)) is same


@pytest.mark.parametrize("what", ["nothing", "no vocabulary", "another vocabulary", "half of the weights"])
def test_a_start_that_does_not_fit_is_refused(prepared, tmp_path, what):
    shop, before = neighbours(prepared, 0), tmp_path / "before"
    if what != "nothing":
        _start(settings(), tmp_path, shop, shop.queries, before, think=False)
    if what == "half of the weights":
        weights = before / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(ConfigError, match=r"generator\.base"):
            generator.extend_pretrained(str(before), [])
    elif what != "nothing":
        for file in before.glob("tokenizer*"):
            file.unlink()
    if what == "another vocabulary":
        words = Vocabulary.load(_other(shop, tmp_path))
        words.tokenizer.add_tokens(["more"])
        words.tokenizer.save_pretrained(before)
    with pytest.raises(ConfigError, match=r"generator\.start"):
        _start(from_start(before), tmp_path, shop, shop.queries, tmp_path / "today", think=False)


def _other(shop, folder):
    _start(settings(), folder, shop, shop.queries, folder / "other", think=False)
    return folder / "other"
