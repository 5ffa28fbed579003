import asyncio

import pytest
from serving_helpers import config

from aigq.errors import ConfigError
from aigq.serving import channels, keys
from aigq.serving.lists import Beside, Lists, Trigger
from aigq.serving.state import Base, Generation, Neighbours, Own, Past, Suggestion, U2q, encode
from aigq.serving.stores.memory import MemoryStore

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
    boots = Past(2.0, "2", "click", "ski boots", None, "i7", "snow")
    item, query, category = Trigger.of("v", boots).names()
    assert [item, query, category] == [
        keys.x2q("v", "item", "i7"),
        keys.x2q("v", "query", "ski boots"),
        keys.x2q("v", "category", "snow"),
    ]
    assert read({query: ["wax"], category: ["sled"]}, boots) == {"wax": 1.0}
    assert read({item: ["hat"], query: ["wax"]}, boots) == {"hat": 1.0}
    assert read({item: []}, boots) == {}


def read(published, past):
    async def work():
        store = MemoryStore()
        await store.put({key: encode(Neighbours(q, [1.0] * len(q))) for key, q in published.items()}, 60)
        lists, trigger = Lists(store), Trigger.of("v", past)
        first = await lists.get([trigger, Beside("v", "hat")])
        await store.delete(list(published))
        assert await lists.get([trigger]) == {trigger: first[trigger]}  # kept
        return first[trigger]

    return asyncio.run(work())


def test_lists_that_were_not_asked_for_lately_make_room():
    class Counting(MemoryStore):
        read = 0

        async def get(self, wanted):
            self.read += len(wanted)
            return await super().get(wanted)

    async def work():
        store = Counting()
        lists = Lists(store, kept=2)
        for query in ("a", "b", "a", "c", "a", "b"):
            await lists.get([Beside("v", query)])
        return store.read

    assert asyncio.run(work()) == 4  # a, b, c, and b again


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
    assert [(p.text, p.at) for p in channels.triggers(past, 5)] == [("a", 3.0), ("b", 2.0)]
    assert len(channels.triggers(past, 1)) == 1


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
    lists = config(fallback={"": ["all"], "DE": ["deutsch"], "de_AT": ["servus"]}).serving.fallback
    assert [channels.fallback(lists, tag) for tag in ("de-AT", "De_at", "de_CH", "fr", None)] == [
        ["servus"], ["servus"], ["deutsch"], ["all"], ["all"]
    ]  # fmt: skip
    assert channels.fallback({}, "de") == []


def test_the_fallback_has_the_spelling_that_guards_let_through():
    assert config(fallback={"": ["Gift  Card"]}).serving.fallback == {"": ["gift card"]}
    with pytest.raises(ConfigError, match=r"serving\.fallback: .*empty"):
        config(fallback={"": ["gift card", " "]})
    with pytest.raises(ConfigError, match=r"serving\.fallback: .*twice"):
        config(fallback={"de-AT": ["servus"], "de_at": ["servus"]})


def test_long_names_make_short_keys():
    long = "ü" * 5000
    for key in (keys.live(long), keys.x2q("v", "query", long), keys.base("v", long), keys.item("v", long)):
        assert len(key.encode()) < 400
    assert keys.live(long) != keys.live(long + "x")
    assert "someone" not in keys.gone("someone")
