from aigq.serving import channels, keys
from aigq.serving.state import Base, Generation, Own, Past, Suggestion, U2q

DAY = 86400.0


def reasons(proposals):
    return [(query, proposals.why(query)) for query in proposals.queries]


def run(at, *queries):
    return Generation("m", at, at, [Suggestion(q, f"{q}!") for q in queries])


def test_the_last_generations_are_one_list():
    value = U2q([run(20.0, "a", "b", "c"), run(10.0, "d", "a")])
    found = channels.from_u2q(Base(), value, 2)
    # a 1, b 1/2, d 1/2 (halved), c 1/3
    assert reasons(found) == [("a", "a!"), ("b", "b!"), ("d", "d!"), ("c", "c!")]
    assert channels.from_u2q(Base(), value, 1).queries == ["a", "b", "c"]


def test_the_backfill_is_one_of_them_by_its_time():
    base = Base(backfill=run(15.0, "z"))
    assert channels.from_u2q(base, U2q([run(20.0, "a")]), 3).queries == ["a", "z"]
    assert channels.from_u2q(base, U2q([run(10.0, "a")]), 1).queries == ["z"]


def test_x2q_is_asked_for_the_item_then_the_query_then_the_category():
    past = [
        Past(2.0, "2", "click", "ski boots", None, "i7", "snow"),
        Past(1.0, "1", "search", "hat", "hat", None, "wear"),
    ]
    asked = channels.triggers("v", past, 5)
    assert asked[0].keys == (
        keys.x2q("v", "item", "i7"),
        keys.x2q("v", "query", "ski boots"),
        keys.x2q("v", "category", "snow"),
    )


def test_x2q_adds_up_over_triggers():
    boots = Past(2.0, "2", "click", "ski boots", None, "i7", "snow")
    hat = Past(1.0, "1", "search", "hat", "hat", None, "wear")
    lists = [(boots, {"wax": 0.5}), (hat, {"scarf": 0.9, "wax": 0.1})]
    # scarf .9 * .7 = .63; wax .5 + .1 * .7 = .57
    assert reasons(channels.from_x2q(lists)) == [
        ("scarf", "because you searched for “hat”"),
        ("wax", "because you viewed “ski boots”"),
    ]


def test_triggers_are_the_latest_distinct_behaviours():
    past = [Past(3.0, "3", "click", "a"), Past(2.0, "2", "search", "b"), Past(1.0, "1", "search", "a")]
    assert [(t.past.text, t.past.at) for t in channels.triggers("v", past, 5)] == [("a", 3.0), ("b", 2.0)]
    assert len(channels.triggers("v", past, 1)) == 1


def test_own_queries_decay():
    base = Base(until=10 * DAY, own=[Own("milk", 2.0, 3), Own("tea", 0.5, 1)])
    past = [Past(20 * DAY, "1", "search", "tea", "tea"), Past(9 * DAY, "0", "search", "milk", "milk")]
    weights, counts = channels.own_queries(base, past, 20 * DAY, half_life_days=10)
    assert weights == {"milk": 1.0, "tea": 1.25}
    assert counts == {"milk": 3, "tea": 2}
    assert reasons(channels.from_personal(weights, counts)) == [
        ("tea", "you looked for this 2 times"),
        ("milk", "you looked for this 3 times"),
    ]


def test_coclick_adds_up_over_own_queries():
    found = [("hat", {"scarf": 1.0}), ("sled", {"wax": 1.2, "scarf": 0.1})]
    assert reasons(channels.from_coclick(found)) == [
        ("scarf", "goes with “hat”"),
        ("wax", "goes with “sled”"),
    ]


def test_the_fallback_of_a_locale():
    lists = {"": ["all"], "de": ["deutsch"], "de-AT": ["servus"]}
    assert [channels.fallback(lists, tag) for tag in ("de-AT", "de_CH", "fr", None)] == [
        ["servus"], ["deutsch"], ["all"], ["all"]
    ]  # fmt: skip
    assert channels.fallback({}, "de") == []


def test_long_names_make_short_keys():
    long = "ü" * 5000
    for key in (keys.live(long), keys.x2q("v", "query", long), keys.base("v", long), keys.item("v", long)):
        assert len(key.encode()) < 400
    assert keys.live(long) != keys.live(long + "x")
    assert "someone" not in keys.gone("someone")
