from small_logs import START, behaviour_rows, event


def shown(rows):
    return [(r["session"], r["action"], r["text"], r["query"], r["item_id"]) for r in rows]


def test_a_search_and_its_purchase_are_one_behaviour():
    rows = behaviour_rows(
        [event("u", 0, "search", "red shoe"), event("u", 1, "click", "red shoe", "i1"),
         event("u", 2, "purchase", None, "i1"), event("u", 3, "search", "red shoe")]
    )  # fmt: skip
    assert shown(rows) == [(0, "purchase", "red shoe", "red shoe", "i1")]
    assert rows[0]["ts"] == START


def test_pure_item_events_have_no_query():
    rows = behaviour_rows([event("u", 0, "click", None, "i2"), event("u", 1, "cart", None, "i2")])
    assert shown(rows) == [(0, "cart", "tent", None, "i2")]


def test_an_item_without_text_speaks_as_its_query_or_not_at_all():
    rows = behaviour_rows([event("u", 0, "click", "sock", "i9"), event("u", 1, "click", None, "i8")])
    assert shown(rows) == [(0, "click", "sock", "sock", "i9")]


def test_a_query_of_other_words_stays_beside_the_item_text():
    rows = behaviour_rows([event("u", 0, "click", "camping", "i2")])
    assert shown(rows) == [(0, "click", "tent", "camping", "i2")]


def test_a_pause_starts_a_session_and_thirty_minutes_do_not():
    rows = behaviour_rows(
        [event("u", m, "search", "a") for m in (0, 30, 61)] + [event("v", 500, "search", "a")]
    )
    assert [(r["user_id"], r["session"]) for r in rows] == [("u", 0), ("u", 1), ("v", 0)]


def test_midnight_ends_a_row_but_not_a_session():
    rows = behaviour_rows([event("u", 110, "search", "a"), event("u", 130, "search", "a")])
    assert [(r["session"], r["day"]) for r in rows] == [(0, 19783), (0, 19784)]


def test_another_query_ends_the_rows_where_queries_are_predicted():
    rows = behaviour_rows(
        [
            event("u", 0, "search", "red shoe"),
            event("u", 1, "search", "b"),
            event("u", 2, "purchase", None, "i1"),
        ],
        "next_query",
    )
    assert [r["action"] for r in rows] == ["search", "search", "purchase"]
