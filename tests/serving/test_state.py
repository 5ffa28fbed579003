"""The live state is a set with a bound: order and repetition of events change nothing."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigq.serving.state import (
    Base,
    Event,
    ItemInfo,
    Live,
    Past,
    Shown,
    decode,
    encode,
    intact,
    merge_live,
    past_of,
    recent,
    shown_of,
)

pasts = st.builds(
    Past,
    at=st.integers(0, 20).map(float),
    id=st.sampled_from("abcdefgh"),
    action=st.sampled_from(["search", "click"]),
    text=st.just("x"),
)


@given(st.lists(pasts), st.randoms(use_true_random=False), st.integers(1, 5))
def test_order_and_repetition_of_events_change_nothing(events, random, kept):
    events = list({e.id: e for e in events}.values())  # an id is one event
    once = merge_live(Live(), events, [], kept, 9)
    again = [*events, *random.choices(events, k=len(events))] if events else []
    random.shuffle(again)
    live = Live()
    for event in again:
        live = merge_live(live, [event], [], kept, 9)
    assert live == once
    assert len(once.past) == min(kept, len(events))
    assert once.past == sorted(events, key=lambda e: (e.at, e.id))[-kept:]


def test_recent_is_newest_first_and_trusts_the_published_history():
    base = Base(until=10.0, past=[Past(5.0, "p1", "search", "milk"), Past(9.0, "p2", "search", "tea")])
    live = Live(past=[Past(9.5, "e1", "search", "in the log already"), Past(12.0, "e2", "search", "rice")])
    inline = [Past(13.0, "e3", "click", "bread"), Past(12.0, "e2", "search", "rice")]
    assert [p.text for p in recent(base, live, inline)] == ["bread", "rice", "tea", "milk"]


def test_an_item_is_named_by_the_table_then_by_the_client():
    click = Event("1", "u", 1.0, "click", item="7", text="what the page says")
    told = past_of(click, ItemInfo("white bread", "bakery"), {})
    assert (told.text, told.category, told.query) == ("white bread", "bakery", None)
    assert past_of(click, None, {"what the page says": "c"}).category == "c"
    told = past_of(click, ItemInfo(None, "bakery"), {})
    assert (told.text, told.category) == ("what the page says", "bakery")
    assert past_of(Event("1", "u", 1.0, "exit"), None, {}) is None
    assert past_of(Event("1", "u", 1.0, "hint_impression", query="x"), None, {}) is None


def test_page_and_service_tell_of_one_showing():
    page = shown_of(Event("a", "u", 1.0, "hint_impression", query="milk", request="r1"))
    hints = [("tea", "popular"), ("milk", "u2q")]
    service = shown_of(Event("b", "u", 1.2, "hint_impression", request="r1", hints=hints))
    assert [s.query for s in merge_live(Live(), [], [*page, *service], 9, 9).shown] == ["milk", "tea"]
    assert shown_of(Event("c", "u", 1.0, "search", query="milk")) == []


def test_showings_do_not_push_out_what_was_clicked_and_dismissed():
    told = [Shown(1.0, "d", "hint_dismiss", "milk"), Shown(2.0, "c", "hint_click", "tea")]
    seen = [Shown(3.0 + at, f"i{at}", "hint_impression", "rice") for at in range(500)]
    live = merge_live(Live(), [], told, 9, 120)
    for one in seen:
        live = merge_live(live, [], [one], 9, 120)
    assert live.shown == [*told, *seen[-120:]]


def test_damaged_values_count_as_missing():
    assert intact(Live, b"\xc1") is None
    assert intact(Live, encode([[["not a time"]]])) is None
    not_utf8 = encode(Live([Past(1.0, "i", "search", "abc")])).replace(b"abc", b"\xffbc")
    assert intact(Live, not_utf8) is None
    with pytest.raises(msgspec.DecodeError):
        decode(Live, not_utf8)
    assert decode(Live, None) is None
    assert decode(Live, encode(Live())) == Live()
