import os

import pytest
from serving_helpers import config

from aigq.errors import UsageError
from aigq.serving.catalog import Catalog
from aigq.serving.guards import Guards, contains_word
from aigq.serving.state import QueryInfo

KNOWN = Catalog(
    "v", [QueryInfo(q, None, n) for q, n in [("milk", 3), ("ski gloves", 0), ("молоко", 1), ("damn hat", 1)]]
)


def reason(query, own=(), profane=None, **serving):
    return Guards(config(**serving).serving, profane).refusals([query], KNOWN, own).get(query)


@pytest.mark.parametrize(
    ("query", "serving", "expected"),
    [
        ("milk", {}, None),
        ("a secret of mine", {}, "few_users"),
        ("gift card", {}, None),  # the configured fallback
        ("call 0171 2345 678 901", {}, "private"),
        ("me@example.org", {}, "private"),
        ("", {}, "empty"),
        ("Milk", {}, "empty"),  # not in its one spelling
        ("milk", {"max_characters": 3}, "length"),
        ("молоко", {}, None),
        ("молоко", {"scripts": ["LATIN"]}, "script"),
        ("milk", {"scripts": ["LATIN"]}, None),
        ("ski gloves", {}, "no_results"),
        ("ski gloves", {"min_results": 0}, None),
        ("milk", {"min_results": 3}, None),
        ("milk", {"own_history_only": True}, "not_own"),
        ("gift card", {"own_history_only": True}, "not_own"),
    ],
)
def test_reasons(query, serving, expected):
    assert reason(query, **serving) == expected


def test_own_history_only_lets_own_queries_through():
    assert reason("milk", own={"milk"}, own_history_only=True) is None


def test_a_classifier_may_be_plugged_in():
    assert reason("damn hat", profane=lambda text: "damn" in text) == "profane"
    assert reason("milk", profane=lambda text: "damn" in text) is None


def test_a_text_is_classified_once_and_only_if_it_may_be_shown():
    asked = []
    guards = Guards(config(fallback={}).serving, lambda text: bool(asked.append(text)))
    guards.study(["milk", "tea"])
    guards.study(["milk", "rice"])
    assert guards.refusals(["milk", "a secret of mine"], KNOWN, ()) == {"a secret of mine": "few_users"}
    assert asked == ["milk", "tea", "rice"]


def test_word_files_are_read_again_without_a_restart(tmp_path):
    now, words = [0.0], tmp_path / "blocked.txt"
    words.write_text("# words\n")
    guards = Guards(config(blocklist=str(words)).serving, clock=lambda: now[0])
    assert guards.refusals(["milk"], KNOWN, ()).get("milk") is None
    words.write_text("MILK  # not today\n")
    assert guards.refusals(["milk"], KNOWN, ()).get("milk") is None  # looked at once a second
    now[0] = 1.0
    assert guards.refusals(["milk"], KNOWN, ()).get("milk") == "blocked"
    os.remove(words)  # a file that is away leaves the last words
    now[0] = 2.0
    assert guards.refusals(["milk"], KNOWN, ()).get("milk") == "blocked"


def test_the_allowlist_beats_the_k_user_rule_and_not_the_blocklist(tmp_path):
    allowed, blocked = tmp_path / "a", tmp_path / "b"
    allowed.write_text("new thing\nbad thing\n")
    blocked.write_text("bad\n")
    files = {"allowlist": str(allowed), "blocklist": str(blocked)}
    assert reason("new thing", **files) is None
    assert reason("bad thing", **files) == "blocked"


def test_a_missing_word_file_is_wrong_use(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        Guards(config(blocklist=str(tmp_path / "none")).serving)


def test_blocked_words_are_whole_words_except_where_there_are_no_spaces():
    words = frozenset(["ass", "two words", "酒"])
    assert contains_word("an ass here", words)
    assert not contains_word("glass", words)
    assert contains_word("some two words more", words)
    assert contains_word("白酒杯", words)
    assert not contains_word("", words)


@pytest.mark.parametrize(
    "query", ["gun", "gun-holster", "gun,ammo", "gun's", "gun.", "#gun", "(gun)", "g\u200dun", "toy_gun"]
)
def test_punctuation_does_not_hide_a_blocked_word(query):
    assert contains_word(query, frozenset(["gun"]))
    assert not contains_word(query.replace("un", "unsmith"), frozenset(["gun"]))


def test_lines_with_punctuation_and_marks_stay_whole():
    assert contains_word("blue t-shirt, large", frozenset(["t-shirt"]))
    assert contains_word("a bad-word here", frozenset(["bad word"]))
    assert contains_word("🍆 emoji", frozenset(["🍆"]))
    assert contains_word("c++ book", frozenset(["c++"]))
    assert not contains_word("vitamin c", frozenset(["c++"]))
    assert not contains_word("किताब", frozenset(["क"]))  # its vowels are marks


def test_a_surface_can_be_off():
    guards = Guards(config(surfaces_off=["checkout"]).serving)
    assert guards.surface_off("checkout")
    assert not guards.surface_off("home")
    assert not guards.surface_off(None)


def test_where_the_log_does_not_say_what_queries_led_to_nothing_is_refused_for_it():
    searches = Catalog("v", [QueryInfo("milk", None, 0), QueryInfo("tea", None, 0)])
    assert Guards(config().serving).refusals(["milk"], searches, ()) == {}


def test_a_new_catalogue_is_judged_anew():
    guards = Guards(config().serving)
    assert guards.refusals(["milk"], Catalog(), ()) == {"milk": "few_users"}
    assert guards.refusals(["milk"], KNOWN, ()) == {}
