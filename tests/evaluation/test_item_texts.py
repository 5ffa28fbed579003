import pytest

from aigq.config import parse
from aigq.evaluation.item_texts import compare, scores
from aigq.history.item_prompt import Item
from aigq.samples.item_pairs import ItemLog, part_of

CONFIG = parse({"split": {"validation_from": "2024-01-02", "test_from": "2024-01-03"}})


def test_rouge_and_hit_by_hand():
    led = {"red shoe": 3, "shoe": 1}
    assert scores("red shoe", led) == (pytest.approx((3 * 1 + 1 * 2 / 3) / 4), 0.75)
    assert scores("blue shoe", led) == (pytest.approx((3 * 0.5 + 2 / 3) / 4), 0.0)
    assert scores(None, led) == (0.0, 0.0)


def test_new_items_are_read_without_queries_and_days_with_those_of_training():
    items = [Item(f"i{n}", f"thing {n}") for n in range(60)]
    new = [i.item_id for i in items if part_of(i.item_id, 0.1, 0) == "test"]
    led = {i.item_id: {"thing": 2} for i in items}
    described = {i.item_id: f"thing {i.item_id[1:]}" for i in items}
    later = {"i0": {"thing": 1}, "gone": {"x": 1}}
    log = ItemLog(items, led, later, frozenset({"thing"}), dict.fromkeys(led, "other"), described)
    seen = []

    def write(prompts):
        seen.append(prompts)
        return ["thing" if pieces else None for pieces in prompts]

    result = compare(CONFIG, log, write)
    assert all("<asked>" not in pieces for pieces in seen[0])
    assert len(seen[0]) == len(new) > 0
    assert seen[1][0] == []
    assert seen[1][1][-3:] == ["<asked>", "thing;;", "<query>"]
    cold, warm = result["held_out_items"], result["held_out_days"]
    assert cold["items"] == len(new)
    assert cold["template"]["rouge_l"] == pytest.approx(2 / 3, abs=1e-4)  # "thing 7" against "thing"
    assert cold["template"]["query_hit"] == 0
    assert cold["generated"]["query_hit"] == 1
    assert warm["generated"]["query_hit"] == 0.5
    assert warm["template"]["query_hit"] == 0
    assert warm["generated minus template"]["query_hit"] == 0.5
    assert warm["generated"]["items_with_text"] == 1


def test_a_log_without_such_days_says_so():
    log = ItemLog([Item("i")], {}, {}, frozenset(), {})
    result = compare(CONFIG, log, lambda prompts: [None for _ in prompts])
    assert result == {"held_out_items": {"items": 0}, "held_out_days": {"items": 0}}
