from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from recall_shop import GROUPS, build
from small_logs import behaviour_rows, event

from aigq.config import parse
from aigq.config_training import ThinkConfig
from aigq.errors import ConfigError
from aigq.models.think_grammar import Thought
from aigq.prepared import Moment
from aigq.samples.interests import InterestPoint
from aigq.samples.labels import Label
from aigq.samples.rationales import template
from aigq.training.thoughts import Explainer, Seen, Thinker, searches_later, seen_of, teacher_of, thoughts

LIMITS = ThinkConfig(links=2, neighbours=3, min_cosine=0.9)


@pytest.fixture(scope="module")
def prepared():
    return build()


def encode(texts):
    """Every text its own direction (n, 64), but `ski glove` has that of `ski gloves`."""
    places = [sum(map(ord, text.replace("glove", "gloves").replace("ss", "s"))) % 64 for text in texts]
    return np.eye(64)[places]


@pytest.fixture(scope="module")
def thinker(prepared):
    allowed = set(GROUPS["sea"] + GROUPS["snow"])
    return Thinker(Explainer(LIMITS, prepared, encode), template, allowed, LIMITS)


def test_searches_later_are_those_of_the_rest_of_the_day(prepared):
    train = prepared.split("train")
    lists = searches_later(prepared, train)
    assert lists == train["targets"].to_pylist()  # a user-day begins at midnight: all of the day
    later = train.set_column(
        train.schema.get_field_index("n_before"), "n_before", [[n + 1 for n in train["n_before"].to_pylist()]]
    )
    assert searches_later(prepared, later) == [targets[1:] for targets in train["targets"].to_pylist()]


def test_a_search_that_led_to_a_click_counts_as_a_search(prepared):
    train = prepared.split("train")
    behaviours = prepared.behaviours
    clicked = pa.array(["click"] * behaviours.num_rows, behaviours.schema.field("action").type)
    merged = behaviours.set_column(behaviours.schema.get_field_index("action"), "action", clicked)
    assert searches_later(replace(prepared, behaviours=merged), train) == searches_later(prepared, train)
    of_items = merged.set_column(
        merged.schema.get_field_index("text"), "text", pc.binary_join_element_wise(merged["text"], "!", "")
    )
    assert not any(searches_later(replace(prepared, behaviours=of_items), train))


def test_a_prompt_shows_the_latest_first(prepared):
    moment = next(m for m in prepared.moments(prepared.split("train")) if m.history.num_rows > 4)
    seen = seen_of(moment, 3)
    assert seen.texts == moment.history["text"].to_pylist()[-1:-4:-1]
    assert seen_of(moment, 0) == Seen([], [], [])


def test_queries_are_explained_by_text_category_co_click_and_meaning(thinker):
    seen = Seen(["sun cream", "ski glove", "elsewhere"], ["sea", None, None], [None] * 3)
    queries = ["sun cream", "beach towel", "ski gloves", "nobody knows this"]
    assert thinker.explainer.links(seen, queries) == [(1,), (1,), (2,), ()]
    assert thinker.explainer.links(Seen([], [], []), queries) == [()] * 4
    without_category = Seen(["snorkel set"], [None], [None])
    linked = thinker.explainer.links(without_category, GROUPS["sea"] + GROUPS["snow"])
    assert any(linked[i] for i, q in enumerate(GROUPS["sea"]) if q != "snorkel set")  # co-click alone
    assert not any(linked[len(GROUPS["sea"]) :])


def test_a_language_models_queries_must_be_tied_to_the_history(thinker):
    seen = [Seen(["sun cream"], ["sea"], ["sun cream"])]
    labels = [Label("sled", "ranker"), Label("beach towel", "llm"), Label("wool hat", "llm")]
    assert thinker.points(seen, [labels]) == [
        [InterestPoint((), ("sled",)), InterestPoint((1,), ("beach towel",))]
    ]


def test_reasons_name_nothing_that_a_single_shopper_typed(thinker):
    secret, mixed = InterestPoint((1,), ("sled",)), InterestPoint((1, 2), ("beach towel",))
    typed = Seen(["a secret of mine", "sun cream"], [None, "sea"], ["a secret of mine", "sun cream"])
    assert thinker.reasons([typed], [[secret, mixed]]) == [["sun cream, so beach towel"]]
    of_the_shop = Seen(["a lamp", "a chair"], [None, None], [None, "a secret of mine"])
    assert thinker.reasons([of_the_shop], [[secret, mixed]]) == [
        ["a lamp, so sled", "a lamp and a chair, so beach towel"]
    ]


def test_reasons_do_not_name_the_query_of_a_click(thinker):
    """Either the click was merged with its search, or the shop has no text for its item."""
    rows = behaviour_rows(
        [event("u", 0, "search", "red shoe"), event("u", 1, "click", "red shoe", "i1"),
         event("u", 2, "click", "a secret of mine", "unknown"), event("u", 3, "click", "camping", "i2")]
    )  # fmt: skip
    history = pa.Table.from_pylist([{**row, "category": None} for row in rows])
    seen = seen_of(Moment(0, "u", np.datetime64("2024-03-02"), 19784, history), 8)
    assert seen.texts == ["tent", "a secret of mine", "red shoe"]
    point = InterestPoint((1, 2, 3), ("sled",))
    assert thinker.reasons([seen], [[point]]) == [["tent, so sled"]]


def test_a_share_of_the_thoughts_is_answer_only():
    points, why = [[InterestPoint((), ("a",))]] * 400, [["because"]] * 400
    made = thoughts(points, why, 0.25, seed=0)
    assert made == thoughts(points, why, 0.25, seed=0)
    counts = Counter(thought.rationales for thought in made)
    assert 60 < counts[()] < 140
    assert counts[()] + counts[("because",)] == 400
    assert thoughts(points, why, 1.0, seed=0)[0] == Thought((), (InterestPoint((), ("a",)),))


def test_an_unknown_teacher_is_refused(tmp_path):
    split = {"validation_from": "2026-01-31", "test_from": "2026-02-05"}
    config = parse({"split": split, "think": {"teacher": "nobody"}})
    with pytest.raises(ConfigError, match=r"no channels\.llms\.nobody in the config; known: template"):
        teacher_of(config, tmp_path)
