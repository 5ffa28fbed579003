import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings
from hypothesis import strategies as st

from aigq.config import PromptConfig
from aigq.config_training import GeneratorConfig, ThinkConfig
from aigq.history.prompt import Behaviour, PromptParts, compressed, special_tokens
from aigq.models import generator
from aigq.models.decoding import ListRow, QueryTree, writer
from aigq.models.think_decoding import Marks, ThinkRow, generate_thoughts
from aigq.models.think_grammar import THINK_TOKENS, read
from aigq.models.vocabulary import END, Vocabulary, train_tokenizer
from aigq.samples.interests import by_rank

QUERIES = ["whole milk", "white bread", "milk", "牛奶", "egg nog 🎄", "whole milk organic", "a;;b"]
TINY = GeneratorConfig(hidden_size=32, layers=2, heads=2, kv_heads=1, intermediate_size=64, vocab_size=300)
LIMITS = ThinkConfig(rationale_tokens=8, max_points=3, max_triggers=2)


@pytest.fixture(scope="module")
def direct():
    """A model and a vocabulary of the Direct variant: none of Think's marks."""
    special = special_tokens(PromptConfig(max_behaviours=4), [])
    vocabulary = Vocabulary(train_tokenizer([(q, 5) for q in QUERIES[:3]], 300, special))
    return generator.build(TINY, vocabulary, context=256, seed=0), vocabulary


@pytest.fixture(scope="module")
def think(direct):
    model, vocabulary = generator.build(TINY, direct[1], context=256, seed=0), direct[1]
    grown = generator.add_tokens(model, vocabulary, THINK_TOKENS)
    return model, grown, Marks.of(grown)


def prompt(vocabulary, *texts):
    parts = PromptParts([Behaviour(0, "search", t) for t in texts])
    return vocabulary.encode_prompt(compressed(parts), 200)


def test_a_direct_model_gets_the_marks_and_still_says_the_same(direct, think):
    model, _ = direct
    size = model.get_input_embeddings().weight.shape[0]
    grown, words, marks = think
    assert grown.get_input_embeddings().weight.shape[0] == size + 3
    assert set(words.special.values()) >= set(THINK_TOKENS)
    assert [words.special[i] for i in marks.indices] == ["<1>", "<2>", "<3>", "<4>"]
    ids = prompt(words, "milk", "牛奶")
    with torch.no_grad():
        before, after = (m(torch.tensor([ids])).logits for m in (model, grown))
    torch.testing.assert_close(after[..., :size], before)
    assert generator.add_tokens(grown, words, THINK_TOKENS) is words  # nothing is missing any more


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("reasoning", [True, False])
def test_thoughts_stay_in_the_grammar_and_in_the_tree(think, temperature, reasoning):
    model, vocabulary, marks = think
    trees = [
        QueryTree(QUERIES, vocabulary),
        QueryTree(QUERIES[:2], vocabulary),
        QueryTree(QUERIES, vocabulary),
    ]
    prompts = [prompt(vocabulary, *texts) for texts in (["milk"], ["milk", "egg", "牛奶"], [])]
    limits = LIMITS.model_copy(update={"max_triggers": 99})  # more room in tokens for a model that spells
    torch.manual_seed(1)
    drawn = generate_thoughts(
        writer(model, vocabulary),
        marks,
        prompts,
        [1, 3, 0],
        trees,
        4,
        limits,
        reasoning=reasoning,
        temperature=temperature,
    )
    for thought, tree, known in zip(drawn, trees, [1, 3, 0], strict=True):
        written = by_rank(thought.points)
        assert len(written) == min(4, len(tree.queries))
        assert set(written) <= set(tree.queries)
        assert all(0 < i <= known for point in thought.points for i in point.triggers)
        assert len(thought.points) <= limits.max_points
        assert reasoning or not thought.rationales
    assert all(not point.triggers for point in drawn[2].points)  # nothing to name, nothing to reason about
    assert drawn[2].rationales == ()


@settings(deadline=None)
@given(st.integers(0, 4), st.booleans(), st.integers(1, 9), st.randoms(use_true_random=False))
def test_any_path_through_the_choices_reads_without_a_fault_but_unfinished_reasoning(
    think, behaviours, reasoning, length, random
):
    _, vocabulary, marks = think
    tree = QueryTree(QUERIES, vocabulary)
    row = ThinkRow(marks, ListRow(tree, length), behaviours, LIMITS, reasoning=reasoning)
    written = []
    while not row.finished():
        choices = row.choices()
        nodes = list(choices.node.children) if choices.node else []
        allowed = [token for token in nodes if token not in choices.spent]
        token = random.choice([*choices.marks, *allowed[: random.randint(1, 300)]])
        written.append(token)
        row.advance(token)
    reading = read([*written, *vocabulary.encode(END)], vocabulary, behaviours)
    assert set(reading.faults) <= {"unfinished text", "empty text"}  # both only in reasoning
    assert len(by_rank(reading.thought.points)) == min(length, len(QUERIES))
    reasoned = written.index(marks.interest) - 1 if reasoning and behaviours else 0
    assert reasoned <= LIMITS.rationale_tokens
    assert len(reading.thought.points) <= LIMITS.max_points
    assert all(len(point.triggers) <= LIMITS.max_triggers for point in reading.thought.points)
    named = [i for point in reading.thought.points for i in point.triggers]
    assert len(set(named)) == len(named)


def test_barred_queries_are_in_no_point(think):
    model, vocabulary, marks = think
    tree = QueryTree(QUERIES, vocabulary)
    (thought,) = generate_thoughts(
        writer(model, vocabulary), marks, [prompt(vocabulary, "milk")], [1], [tree], 9, LIMITS,
        reasoning=False, without=[{"milk", "牛奶"}],
    )  # fmt: skip
    assert not {"milk", "牛奶"} & set(by_rank(thought.points))
