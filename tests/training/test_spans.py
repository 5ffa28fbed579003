from hypothesis import given
from hypothesis import strategies as st

from aigq.training.spans import LIST, NOTHING, query_spans


def spans(*pieces: str, slots: int = 8):
    return query_spans(pieces, "".join(pieces), slots)


def test_a_token_may_be_a_whole_query_with_its_separator():
    assert spans("milk;;", "oat milk;;") == (["milk", "oat milk"], [0, 1])


def test_a_separator_belongs_to_the_query_it_ends_even_when_the_token_goes_on():
    assert spans("red", " wi", "ne;; ch", "eese", ";", ";") == (["red wine", "cheese"], [0, 0, 0, 1, 1, 1])


def test_halves_of_a_chinese_character_belong_to_its_query():
    assert query_spans(["\ufffd", "\ufffd;;", "tea;;"], "牛;;tea;;", 8) == (["牛", "tea"], [0, 0, 1])


def test_an_empty_query_keeps_its_slot():
    assert spans("a;;", ";;", "b;;") == (["a", "", "b"], [0, 1, 2])


def test_queries_beyond_the_slots_are_extra():
    assert spans("a;;", "b;;", "c", ";;", slots=2) == (["a", "b"], [0, 1, LIST, LIST])


def test_a_query_that_was_cut_off_gets_nothing():
    assert spans("a;;", "b", "c") == (["a"], [0, NOTHING, NOTHING])
    assert spans("a;;", " ") == (["a"], [0, 1]), "a space after the last separator is no query"


@given(
    st.lists(st.text(alphabet="ab; 牛", max_size=6).filter(lambda q: ";" not in q), max_size=6),
    st.lists(st.integers(1, 4), min_size=40, max_size=40),
)
def test_however_the_text_is_cut_into_tokens_the_queries_are_the_same(queries, widths):
    text = "".join(query + ";;" for query in queries)
    pieces, at = [], 0
    for width in widths:
        if at < len(text):
            pieces.append(text[at : at + width])
            at += width
    pieces.append(text[at:]) if at < len(text) else None
    found = query_spans(pieces, text, 10)
    assert found.queries == [query.strip() for query in queries]
    assert found.slot == sorted(found.slot), "slots never go back"
    assert NOTHING not in found.slot or not queries
    ends = [
        sum(text[:end].count(";;") for end in [sum(map(len, pieces[: i + 1]))]) for i in range(len(pieces))
    ]
    for piece_end, slot in zip(ends, found.slot, strict=True):
        assert slot <= piece_end, "a token belongs to a query that has begun"
