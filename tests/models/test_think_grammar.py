import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

from aigq.config import PromptConfig
from aigq.history.prompt import clean, special_tokens
from aigq.models.think_grammar import THINK_TOKENS, Thought, index_token, parse, pieces, read
from aigq.models.vocabulary import END, Vocabulary, train_tokenizer
from aigq.samples.interests import InterestPoint

B = 6  # behaviours of the prompt
SPECIAL = [*special_tokens(PromptConfig(max_behaviours=8), []), *THINK_TOKENS]
VOCABULARY = Vocabulary(train_tokenizer([("milk", 9), ("whole milk", 9), ("牛奶", 9)], 300, SPECIAL))
TEXT = st.one_of(
    st.sampled_from(["milk", "whole milk", "牛奶", "egg nog 🎄", "a;b", "1"]),
    st.text(max_size=8),
).map(clean).filter(bool)  # fmt: skip
TRIGGERS = st.lists(st.integers(1, B), unique=True, min_size=1, max_size=4).map(tuple)
PIECES = st.lists(
    st.one_of(
        st.sampled_from([*THINK_TOKENS, END, "<click>", *map(index_token, range(1, 9))]),
        TEXT.map(lambda text: text + ";;"),
        st.sampled_from([";;", ";;;;", "milk", "milk;;milk;;", "unfinished", " ;; "]),
    ),
    max_size=20,
)


@st.composite
def thoughts(draw):
    texts = draw(st.lists(TEXT, unique=True, min_size=0, max_size=8))
    queries = iter(texts)
    points = []
    while taken := [q for q, _ in zip(queries, range(draw(st.integers(1, 3))), strict=False)]:
        discovery = draw(st.booleans()) and all(point.triggers for point in points)
        points.append(InterestPoint(() if discovery else draw(TRIGGERS), tuple(taken)))
    return Thought(tuple(draw(st.lists(TEXT, max_size=3))), tuple(points))


def encode(texts):
    return [i for text in texts for i in VOCABULARY.encode(text)]


@settings(deadline=None)
@given(thoughts())
def test_what_is_written_is_read_back_without_a_fault(thought):
    reading = read(encode(pieces(thought)), VOCABULARY, B)
    assert reading.thought == thought
    assert reading.faults == ()


@settings(deadline=None)
@given(PIECES)
def test_any_output_is_read_and_what_was_read_is_well_formed(texts):
    reading = read(encode(texts), VOCABULARY, B)
    again = read(encode(pieces(reading.thought)), VOCABULARY, B)
    assert again.thought == reading.thought
    assert again.faults == ()
    queries = [q for point in reading.thought.points for q in point.queries]
    assert len(set(queries)) == len(queries)
    assert all(1 <= i <= B for point in reading.thought.points for i in point.triggers)


@settings(deadline=None)
@given(thoughts(), st.data())
def test_truncated_output_keeps_what_was_finished(thought, data):
    ids = encode(pieces(thought))
    cut = data.draw(st.integers(0, len(ids) - 1))
    reading = read(ids[:cut], VOCABULARY, B)
    assert "no end" in reading.faults
    whole = [(point.triggers, q) for point in thought.points for q in point.queries]
    kept = [(point.triggers, q) for point in reading.thought.points for q in point.queries]
    assert [q for _, q in kept] == [q for _, q in whole][: len(kept)]
    assert kept == whole[: len(kept)]
    rationales = reading.thought.rationales
    assert rationales == thought.rationales[: len(rationales)]


def read_pieces(*texts, behaviours=B):
    reading = read(encode(texts), VOCABULARY, behaviours)
    return [tuple(point) for point in reading.thought.points], set(reading.faults)


@pytest.mark.parametrize(
    ("texts", "points", "faults"),
    [
        (["<interest>", "<1>", "<today>", "a;;", END], [((1,), ("a",))], {"misplaced token"}),
        (["<interest>", "<1>", "<7>", "a;;", END], [((1,), ("a",))], {"unknown index"}),
        (["<interest>", "<2>", "<2>", "a;;", END], [((2,), ("a",))], {"repeated index"}),
        (["<interest>", "<2>", "a;;", "<1>", "b;;", END], [((2,), ("a", "b"))], {"misplaced index"}),
        (["<interest>", "<7>", "a;;", END], [((), ("a",))], {"unknown index", "no trigger"}),
        (["<interest>", "<1>", ";;", "a;;", END], [((1,), ("a",))], {"empty text"}),
        (["<interest>", "<1>", "<interest>", "<2>", "a;;", END], [((2,), ("a",))], {"empty point"}),
        (["<interest>", "<1>", "a;;", "a;;", "b", END], [((1,), ("a",))],
         {"repeated query", "unfinished text"}),
        (["a;;", END], [], {"text outside"}),
        (["<interest>", "<discovery>", "a;;", "<interest>", "<discovery>", "b;;", END], [((), ("a", "b"))],
         {"second discovery"}),
        (["<interest>", "<discovery>", "<1>", "a;;", END], [((), ("a",))], {"misplaced index"}),
        (["<interest>", "<1>", "a;;", END, "<interest>", "<2>", "b;;"], [((1,), ("a",))], set()),
        ([], [], {"no end"}),
    ],
)  # fmt: skip
def test_each_fault_costs_what_it_touches(texts, points, faults):
    assert read_pieces(*texts) == (points, faults)


def test_a_separator_inside_a_token_is_found():
    assert len(VOCABULARY.encode("milk;;")) == 1
    parts = [("<interest>", True), ("<1>", True), ("milk;;whole milk;;mi", False), ("lk;;", False)]
    reading = parse([*parts, (END, True)], B)
    assert reading.thought.points == (InterestPoint((1,), ("milk", "whole milk", "lk")),)
    assert reading.faults == ("unfinished text",)
