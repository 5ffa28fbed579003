from hypothesis import given
from hypothesis import strategies as st

from aigq.serving.live_history import Histories
from aigq.serving.signals import Pending, add, answered, due, signal_of, too_old
from aigq.serving.state import Generation, Past, U2q


def past(at, action, text, category=None, id=None):
    return Past(float(at), id or f"{at}", action, text, text if action == "search" else None, None, category)


HISTORY = [past(1, "search", "milk", "dairy"), past(2, "click", "yoghurt", "dairy")]


def test_what_is_a_signal():
    assert signal_of(past(3, "search", "tea"), HISTORY) == "new_search"
    assert signal_of(past(3, "search", "milk"), HISTORY) is None
    assert signal_of(past(3, "click", "cheese", "dairy"), HISTORY) is None
    assert signal_of(past(3, "click", "rice", "grain"), HISTORY) == "new_category"
    assert signal_of(past(3, "cart", "rice"), HISTORY) == "new_category"
    assert signal_of(past(3, "purchase", "milk", "dairy"), HISTORY) == "purchase"


@given(st.permutations([*HISTORY, past(3, "search", "tea"), past(4, "search", "tea")]))
def test_a_signal_does_not_depend_on_what_was_read_before(known):
    assert signal_of(past(3, "search", "tea"), known) == "new_search"
    assert signal_of(past(4, "search", "tea"), known) is None


def pending(user, first, last, offset="1"):
    return Pending(user, 0, offset, first, last)


def test_a_burst_is_one_generation_and_a_restless_user_gets_one_too():
    waiting = {}
    add(waiting, pending("u", 10.0, 10.0, "1"))
    add(waiting, pending("u", 10.9, 10.9, "2"))
    assert waiting["u"] == pending("u", 10.0, 10.9, "1")
    assert due(waiting, 11.5, 1.0, 9) == []
    assert [p.user for p in due(waiting, 11.9, 1.0, 9)] == ["u"]
    add(waiting, pending("u", 14.9, 14.9, "3"))
    assert [p.user for p in due(waiting, 15.0, 1.0, 9)] == ["u"]  # five debounce times after the first


def test_active_users_first_and_the_old_are_shed():
    waiting = {name: pending(name, at, at) for name, at in [("a", 1.0), ("b", 3.0), ("c", 2.0)]}
    assert [p.user for p in due(waiting, 9.0, 1.0, 2)] == ["b", "c"]
    assert [p.user for p in too_old(waiting, 12.5, 10.0)] == ["a", "c"]


def test_a_clock_that_is_set_back_holds_nobody_up():
    waiting = {"u": pending("u", 3600.0, 3600.0)}
    assert [p.user for p in due(waiting, 10.0, 1.0, 9)] == ["u"]
    assert too_old(waiting, 10.0, 900.0) == []
    assert due({"u": pending("u", 10.2, 10.2)}, 10.0, 1.0, 9) == []  # clocks of two machines


def test_up_to_when_a_list_has_seen_events():
    newest, older = (Generation("m", at, at, []) for at in (100.0, 50.0))
    assert answered(U2q(), 200.0, 30.0) == 0.0
    assert answered(U2q([newest, older]), 200.0, 30.0) == 100.0
    assert answered(U2q([newest, older]), 70.0, 30.0) == 100.0
    assert answered(U2q([newest, older]), 69.0, 30.0) == 0.0  # the clock was set back


def test_a_live_moment_goes_on_after_the_published_history(prepared_shop):
    histories = Histories(prepared_shop)
    known = next(m for m in histories._by_name.values() if m.user_id == "u03")
    end = histories._end
    live = [
        Past(end + 60, "e", "search", "sled", "sled", None, "snow"),
        Past(end - 60, "old", "search", "no"),
    ]
    moment = histories.moment(0, "u03", live, end + 120, published=True)
    assert moment.history.num_rows == known.history.num_rows + 1
    assert moment.history["text"][-1].as_py() == "sled"
    assert moment.history["ts"][-1].as_py() < moment.cut.astype("O")
    assert moment.history.schema == known.history.schema
    assert histories.moment(0, "u03", live, end + 120, published=False).history.num_rows == 1
    assert histories.moment(0, "nobody", [], end + 120, published=True).history.num_rows == 0


def test_a_stale_log_counts_as_ended_yesterday(prepared_shop):
    histories = Histories(prepared_shop)
    now = histories._end + 400 * 86400.0
    live = [Past(now - 60, "e", "search", "sled", "sled")]
    moment = histories.moment(0, "u03", live, now, published=True)
    assert moment.day == histories._day
    ages = moment.cut - moment.history["ts"].to_numpy()[-2:]
    assert ages[1] == 60_000_000
    assert ages[0] < 3 * 86_400_000_000
