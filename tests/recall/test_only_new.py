from channel_contract import K_USERS

from aigq.prepared import Prepared
from aigq.recall.only_new import OnlyNew
from aigq.recall.personal import Personal
from aigq.recall.popular import Popular


def test_fills_the_list_with_what_the_shopper_never_issued(prepared: Prepared) -> None:
    moments = prepared.moments(prepared.split("test"))
    new, plain = OnlyNew(Popular(7, K_USERS)), Popular(7, K_USERS)
    new.fit(prepared)
    plain.fit(prepared)
    everything = plain.recommend(moments, 100)
    for moment, hints, ranked in zip(moments, new.recommend(moments, 3), everything, strict=True):
        own = set(moment.history["query"].to_pylist())
        assert hints == [hint for hint in ranked if hint.query not in own][:3]
    assert new.name == "popular:new"
    assert new.recommend(moments[:1], 0) == [[]]
    assert new.recommend([], 3) == []


def test_personal_has_nothing_new(prepared: Prepared) -> None:
    channel = OnlyNew(Personal(7, K_USERS))
    channel.fit(prepared)
    assert not any(channel.recommend(prepared.moments(prepared.split("test")), 3))
