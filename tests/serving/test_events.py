"""UBI events in; what is wrong is said, and nothing else happens."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigq.serving.events import EventError, UbiEvent, parse_event, read_event, split
from aigq.serving.keys import user_names
from aigq.spelling import normalise_query

NOW = 1_795_000_000.0


def parse(body, default=None, name=str):
    return parse_event(msgspec.convert(body, UbiEvent), NOW, name, default)


def test_a_whole_ubi_event():
    event = parse(
        {
            "application": "shop", "action_name": "Add_To_Cart", "client_id": "c1", "session_id": "s1",
            "query_id": "q1", "timestamp": "2026-11-18T11:00:00Z", "message_type": "INFO",
            "user_query": " White  BREAD ",
            "event_attributes": {
                "object": {"object_id": 4711, "object_id_field": "sku", "description": "Toast (500 g)"},
                "position": {"ordinal": 3, "x": 1}, "surface": "home",
            },
        }
    )  # fmt: skip
    assert (event.user, event.action, event.query, event.item) == ("c1", "cart", "white bread", "4711")
    assert (event.request, event.position, event.surface) == ("q1", 3, "home")
    assert (
        event.at == 1_795_004_800.0 - 0
        if event.at == 1_795_004_800.0
        else event.at == pytest.approx(NOW, abs=9e4)
    )
    assert event.text == "toast (500 g)"


@pytest.mark.parametrize(
    "stamp",
    ["2026-11-18T10:00:00Z", "2026-11-18T11:00:00+01:00", 1794996000, 1794996000000, "2026-11-18 10:00:00"],
)
def test_times_in_every_common_form(stamp):
    assert (
        parse({"action_name": "search", "user_id": "u", "user_query": "x", "timestamp": stamp}).at
        == 1794996000.0
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"action_name": "fly"}, "unknown action_name"),
        ({"user_id": None}, "no user_id"),
        ({"user_query": "\x00  "}, "without a query"),
        ({"timestamp": "yesterday"}, "not a timestamp"),
        ({"timestamp": "2036-01-01T00:00:00Z"}, "future"),
        ({"timestamp": 1.0}, "30 days ago"),
        ({"timestamp": float("nan")}, "future"),
        ({"timestamp": "0001-01-01T00:00:00+23:59"}, "timestamp"),
    ],
)
def test_what_is_wrong_is_said(change, reason):
    with pytest.raises(EventError, match=reason):
        parse({"action_name": "search", "user_id": "u", "user_query": "x", **change})


def test_a_repeat_has_the_same_id():
    body = {"action_name": "search", "user_id": "u", "user_query": "x", "timestamp": NOW}
    assert parse(body).id == parse(body).id
    assert parse({**body, "user_query": "y"}).id != parse(body).id
    assert parse({**body, "event_id": "mine"}).id == "mine"


def test_the_id_of_an_event_hides_what_the_key_hides(monkeypatch):
    """Without the key nobody can try user ids on what stands beside an event's own id."""
    body = {"action_name": "search", "user_id": "u", "user_query": "x", "timestamp": NOW}
    found = []
    for secret in ("one", "two", "two"):
        monkeypatch.setenv("SECRET", secret)
        event = parse(body, name=user_names("SECRET"))
        given = parse({**body, "event_id": "u-1"}, name=user_names("SECRET"))
        found.append((event.user, event.id, given.id))
    assert found[1] == found[2]
    assert not set(found[0]) & {*found[1], parse(body).id, "u-1"}


def test_who_acts():
    body = {"action_name": "search", "user_query": "x"}
    assert parse({**body, "user_id": "u", "client_id": "c", "session_id": "s"}).user == "u"
    assert parse({**body, "session_id": "s"}).user == "session:s"
    assert parse({**body, "event_attributes": {"session_id": "s"}}).user == "session:s"
    assert parse(body, default="d").user == "d"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(
    [
        "action_name",
        "client_id",
        "user_id",
        "session_id",
        "query_id",
        "user_query",
        "message",
        "timestamp",
        "event_id",
        "event_attributes",
    ]
)
attributes = st.fixed_dictionaries(
    {}, optional={"object": json_values, "position": json_values, "session_id": json_values}
)


@given(st.dictionaries(names, json_values | attributes | st.sampled_from(["search", "click", "u"])))
def test_any_object_is_an_event_or_a_reason(body):
    try:
        event = parse(body)
    except (EventError, msgspec.ValidationError):
        return
    assert event.user
    assert abs(event.at - NOW) < 31 * 86400
    assert event.query is None or event.query == normalise_query(event.query) != ""


@given(st.binary(max_size=200))
def test_any_bytes_are_an_event_or_a_reason(body):
    try:
        event = read_event(body, NOW)
    except EventError:
        return
    assert event.user


NESTED = b"[" * 5000 + b"]" * 5000
UNREADABLE = {
    "a number for an id": (b'{"action_name":"search","user_id":1017,"user_query":"x"}', "user_id"),
    "a long query": (b'{"action_name":"search","user_id":"u","user_query":"%s"}' % (b"x" * 2001), "2000"),
    "no action": (b'{"user_id":"u","user_query":"x"}', "action_name"),
    "a place beyond 32 bits": (
        b'{"action_name":"search","user_id":"u","user_query":"x",'
        b'"event_attributes":{"position":{"ordinal":18446744073709551616}}}',
        "ordinal",
    ),
    "not UTF-8": (b'{"action_name":"search","user_id":"u","user_query":"caf\xe9"}', "utf-8"),
    "not an object": (b"null", "object"),
}


@pytest.mark.parametrize(("body", "reason"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_no_event_spoils_no_other(body, reason):
    good = b'{"action_name":"search","user_id":"u","user_query":"x"}'
    first, bad, last = split(b" [%s, %s,%s]" % (good, body, good))
    assert read_event(first, NOW) == read_event(last, NOW)
    with pytest.raises(EventError, match=reason):
        read_event(bad, NOW)


@pytest.mark.parametrize("body", [b"{}", b"[{}", b"", b'[{"z":%s}]' % NESTED, b"[]x"])
def test_what_is_no_list_is_said(body):
    with pytest.raises(EventError, match="not a list of events"):
        split(body)
    with pytest.raises(EventError):
        read_event(b'{"action_name":"search","user_id":"u","user_query":"x","z":%s}' % NESTED, NOW)
