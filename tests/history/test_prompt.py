import itertools
from dataclasses import replace
from datetime import date

from hypothesis import given
from hypothesis import strategies as st

from aigq.config import PromptConfig
from aigq.history.prompt import (
    SEPARATOR,
    Behaviour,
    PromptParts,
    clean,
    compressed,
    fit_to_budget,
    special_tokens,
    time_token,
    verbose,
)

PARTS = PromptParts(
    behaviours=[Behaviour(1, "search", "iphone 17"), Behaviour(0, "click", "phone case")],
    profile=[("age", "45-54")],
    favourites=["whole milk"],
    trending=["egg nog"],
    day=(date(2017, 12, 22) - date(1970, 1, 1)).days,
)


def flat(pieces):
    return "".join([*pieces.head, *(piece for record in pieces.records for piece in record), *pieces.tail])


def test_compressed_prompt_reads_like_the_paper():
    assert flat(compressed(PARTS)) == (
        "<profile><age=45-54><december><friday>"
        "<behaviours><2><1_day_ago><search>iphone 17;;<1><today><click>phone case;;"
        "<trending>egg nog;;<favourites>whole milk;;<queries>"
    )


def test_every_special_token_of_a_compressed_prompt_is_declared():
    config = PromptConfig(profile=["age"], max_behaviours=2)
    declared = set(special_tokens(config, [{"age": "45-54"}]))
    used = [
        p
        for p in [
            *compressed(PARTS).head,
            *itertools.chain(*compressed(PARTS).records),
            *compressed(PARTS).tail,
        ]
        if p.startswith("<")
    ]
    assert used
    assert set(used) <= declared


def test_favourites_and_trend_in_one_list():
    parts = replace(PARTS, together=["egg nog", "whole milk"])
    assert flat(compressed(parts)).endswith("phone case;;<favourites>egg nog;;whole milk;;<queries>")
    assert flat(verbose(parts)).endswith("Most frequent queries: egg nog;;whole milk;;\nQueries: ")


def test_verbose_prompt_names_index_time_behaviour_and_content():
    assert "2 | 1 day ago | search | iphone 17;;" in flat(verbose(PARTS))
    assert "Today is a friday in december." in flat(verbose(PARTS))


def test_time_tokens():
    expected = {0: "<today>", 1: "<1_day_ago>", 6: "<6_days_ago>", 7: "<1_week_ago>", 13: "<1_week_ago>"}
    expected |= {59: "<4_weeks_ago>", 60: "<2_months_ago>", 5000: "<12_months_ago>", -3: "<today>"}
    assert {days: time_token(days) for days in expected} == expected


@given(st.text())
def test_clean_text_cannot_forge_structure(text):
    cleaned = clean(text)
    assert SEPARATOR not in cleaned + " "
    assert "<" not in cleaned
    assert not cleaned.endswith(";")


@given(st.integers(0, 50), st.lists(st.integers(1, 20), max_size=30), st.integers(0, 50), st.integers(0, 400))
def test_budget_drops_oldest_whole_records_and_no_more_than_needed(head, records, tail, budget):
    dropped = fit_to_budget(head, records, tail, budget)
    kept = head + sum(records[dropped:]) + tail
    assert kept <= budget or dropped == len(records)
    if dropped:
        assert kept + records[dropped - 1] > budget
