"""IL-GRPO for Think: what a token of a thought is credited with, and a training of a tiny model."""

import math

import numpy as np
import pytest
import rl_toys
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aigq.config_training import ThinkConfig
from aigq.errors import StageError
from aigq.models import generator
from aigq.models.think_decoding import Marks
from aigq.models.think_grammar import THINK_TOKENS
from aigq.models.vocabulary import END, Vocabulary
from aigq.samples.interests import InterestPoint
from aigq.training import il_grpo
from aigq.training.judge import Judge, Scores
from aigq.training.spans import LIST, NOTHING
from aigq.training.thought_spans import ThoughtForm, references, thought_spans

K, N = rl_toys.SLOTS, 3
LIMITS = ThinkConfig(max_points=N, max_triggers=2, rationale_tokens=8)


def thinking(words: Vocabulary):
    """A tiny model whose vocabulary has the marks, the same weights each time."""
    model = rl_toys.model(words)
    return model, generator.add_tokens(model, words, THINK_TOKENS)


def ids_of(words: Vocabulary, *pieces: str) -> list[int]:
    """Special tokens as they are, other pieces as queries."""
    return [
        i for piece in pieces for i in (words.encode(piece) if piece[0] == "<" else words.encode_query(piece))
    ]


def task_of(words: Vocabulary, config, prompts: int = 6) -> il_grpo.Task:
    """The toy task with two behaviours per prompt; labels rest on <1>, on <2>, and one is discovery."""
    plain = rl_toys.task(words, config, prompts)
    labels = [
        references(
            [InterestPoint((1,), (q[0],)), InterestPoint((2,), (q[1], q[2])), InterestPoint((), (q[3],))]
        )
        for q in plain.judge.references
    ]
    queries, triggers = [queries for queries, _ in labels], [named for _, named in labels]
    judge = Judge(config, rl_toys.clicks, queries, 20.0, (3, 11), K, triggers, N)
    form = ThoughtForm(Marks.of(words), [2] * prompts, LIMITS)
    return il_grpo.Task(plain.prompts, plain.trees, judge, plain.category_of, form)


@pytest.fixture(scope="module")
def words():
    return thinking(rl_toys.vocabulary())[1]


def units(words, *pieces, slots=K, points=N):
    """The spans, and per piece the set of slots of its tokens."""
    spans = thought_spans(ids_of(words, *pieces), words, slots, points)
    at, found = 0, []
    for piece in pieces:
        n = len(ids_of(words, piece))
        found.append(set(spans.slot[at : at + n]))
        at += n
    return spans, found


def test_each_token_of_a_thought_belongs_to_a_query_to_a_trigger_or_to_the_list(words):
    pieces = ["<think>", "because of milk", "<interest>", "<1>", "<4>", "milk", "牛奶", "<interest>"]
    pieces += ["<discovery>", "brown eggs", END]
    spans, found = units(words, *pieces)
    assert spans.queries == ["milk", "牛奶", "brown eggs"]
    assert spans.triggers == [[1, 4], [0]]
    assert found == [{LIST}, {LIST}, {LIST}, {K}, {K}, {0}, {1}, {LIST}, {K + 1}, {2}, {LIST}]


def test_malformed_output_keeps_what_can_be_read(words):
    # no trigger, an index after a query, too many points and too many queries
    pieces = ["<interest>", "milk", "<2>", "tea", "<interest>", "<1>", "eggs", "<interest>", "<2>", "bread"]
    spans, found = units(words, *pieces, slots=3, points=2)
    assert spans.queries == ["milk", "tea", "eggs"]
    assert spans.triggers == [[], [1]]
    assert found == [{LIST}, {0}, {LIST}, {1}, {LIST}, {4}, {2}, {LIST}, {LIST}, {LIST}]
    nothing = thought_spans(ids_of(words, "milk", "<1>", "tea"), words, K, N)  # no point was opened
    assert (nothing.queries, set(nothing.slot), nothing.triggers) == ([], {LIST}, [])


def test_a_query_that_was_cut_off_has_no_advantage_and_counts_as_a_fault(words):
    task = task_of(words, rl_toys.config())
    cut = words.tokenizer.encode("brown eg", add_special_tokens=False)
    spans = task.read(0, [*ids_of(words, "<interest>", "<1>", "milk"), *cut], words)
    assert spans.queries == ["milk"]
    assert set(spans.slot[-len(cut) :]) == {NOTHING}
    assert spans.faults == 2  # unfinished text, no end
    whole = task.read(0, [*ids_of(words, "<interest>", "<1>", "milk", END), words.pad], words)
    assert whole.faults == 0
    assert whole.slot[-2:] == [LIST, NOTHING]


@given(
    st.lists(
        st.sampled_from(["<think>", "<interest>", "<discovery>", "<1>", "<2>", "<9>", "milk", "牛奶", END])
    )
)
@settings(deadline=None, max_examples=60)
def test_any_output_has_a_slot_for_every_token_and_none_beyond_the_limits(words, pieces):
    ids = ids_of(words, *pieces)
    spans = thought_spans(ids, words, K, N)
    assert len(spans.slot) == len(ids)
    assert len(spans.queries) <= K
    assert len(spans.triggers) <= N
    assert all(NOTHING <= slot < K + len(spans.triggers) for slot in spans.slot)
    assert {slot for slot in spans.slot if 0 <= slot < K} == set(range(len(spans.queries)))


def written(words, triggers, queries):
    """A thought of one point per trigger sequence, each with the next query."""
    pieces = []
    for named, query in zip(triggers, queries, strict=True):
        pieces += ["<interest>", *(f"<{i}>" if i else "<discovery>" for i in named), query]
    return ids_of(words, *pieces, END)


def rollouts_of(words, task, thoughts):
    """Rollouts of prompt 0."""
    width = max(map(len, thoughts))
    padded = [[*one, *[words.pad] * (width - len(one))] for one in thoughts]
    spans = [task.read(0, one, words) for one in padded]
    return il_grpo.Rollouts(
        [0],
        torch.tensor([padded]),
        torch.tensor([[one.slot for one in spans]]),
        [[one.queries for one in spans]],
        [[one.triggers for one in spans]],
        [[one.faults for one in spans]],
    )


def scored(task, rollouts):
    return task.judge.score(rollouts.rows, rollouts.lists, rollouts.triggers, rollouts.faults)


def test_trigger_advantages_equal_those_by_hand(words):
    config = rl_toys.config(epsilon=1e-12, advantage_clip=10.0)
    task = task_of(words, config)
    queries = ["milk", "oat milk", "bread"]
    # references <1>, <2>, discovery
    rollouts = rollouts_of(
        words,
        task,
        [
            written(words, [[1], [2], [0]], queries),  # r = 1, 1, 1
            written(words, [[1, 2], [0]], queries[:2]),  # 2/3 = LCS 1 of 2 and 1; 0; no third point: 0
            written(words, [[2], [1, 2], [0]], queries),  # 0, 2/3, 1
            written(words, [[1], [0], [2]], queries),  # 1, 0, 0
        ],
    )
    scores = scored(task, rollouts)
    expected = torch.tensor([[1, 1, 1], [2 / 3, 0, 0], [0, 2 / 3, 1], [1, 0, 0]])
    torch.testing.assert_close(scores.triggers[0], expected)
    advantages, _ = il_grpo.token_advantages(scores, rollouts, config, task.judge.best())
    weights = il_grpo.credit.equal_queries(rollouts.slot[0])
    # point 1: mean 2/3, centred 1/3 0 -2/3 1/3, sigma sqrt(6/9/4) = 0.408248
    # point 2: mean 5/12, centred 7/12 -5/12 3/12 -5/12, sigma sqrt((49+25+9+25)/144/4) = 0.433013
    # point 3: 1 0 1 0: +-1
    by_hand = {
        K: [0.816497, 0.0, -1.632993, 0.816497],
        K + 1: [1.347151, -0.962250, 0.577350, -0.962250],
        K + 2: [1.0, None, 1.0, -1.0],  # the second rollout has no token there
    }
    for unit, values in by_hand.items():
        for g, value in enumerate(values):
            tokens = rollouts.slot[0, g] == unit
            assert bool(tokens.any()) == (value is not None)
            for advantage in (advantages[0, g] / weights[g])[tokens].tolist():
                assert advantage == pytest.approx(value, abs=1e-4)


def test_triggers_are_matched_as_sets_where_queries_are(words):
    task = task_of(words, rl_toys.config(match="set"))
    rollouts = rollouts_of(words, task, [written(words, [[2], [1]], ["milk", "tea"])])
    assert scored(task, rollouts).triggers.tolist() == [[[1.0, 1.0, 0.0]]]


def example(words, credit="own"):
    config = rl_toys.config(credit=credit)
    task = task_of(words, config)
    think = ids_of(words, "<think>", "because of milk")
    drawn = [
        [*think, *written(words, [[1], [2], [0]], ["milk", "oat milk", "bread"])],
        [*think, *written(words, [[2], [1]], ["oat milk", "tea"])],
        written(words, [[0], [1, 2]], ["brown eggs", "milk"]),
        written(words, [[1]], ["eggs"]),
    ]
    rollouts = rollouts_of(words, task, drawn)
    return config, task, rollouts, scored(task, rollouts)


def moved_by(words, change, credit="own"):
    """Slots of the tokens whose advantage changes with the scores."""
    config, task, rollouts, scores = example(words, credit)
    before, _ = il_grpo.token_advantages(scores, rollouts, config, task.judge.best())
    after, _ = il_grpo.token_advantages(change(scores), rollouts, config, task.judge.best())
    return set(rollouts.slot[before != after].tolist())


def test_a_trigger_moves_its_own_tokens_alone(words):
    def change(scores: Scores) -> Scores:
        triggers = scores.triggers.clone()
        triggers[0, 1, 1] += 0.3
        return scores._replace(triggers=triggers)

    assert moved_by(words, change) == {K + 1}
    assert moved_by(words, change, "list") == set()  # plain GRPO has no reward of triggers


def test_queries_and_lists_move_no_trigger(words):
    def query(scores: Scores) -> Scores:
        rewards = scores.query.clone()
        rewards[0, 2, 0, 1] += 0.3
        return scores._replace(query=rewards)

    def whole(scores: Scores) -> Scores:
        lists = scores.lists.clone()
        lists[0, 0] -= 0.4
        return scores._replace(lists=lists)

    assert moved_by(words, query) == {0}
    assert moved_by(words, whole) == {LIST, 0, 1, 2}


def test_plain_grpo_gives_triggers_the_credit_of_the_list(words):
    config, task, rollouts, scores = example(words, "list")
    advantages, _ = il_grpo.token_advantages(scores, rollouts, config, task.judge.best())
    weights = il_grpo.credit.equal_queries(rollouts.slot[0])
    for g in range(4):
        inside = rollouts.slot[0, g] >= 0
        each = (advantages[0, g] / weights[g])[inside]
        torch.testing.assert_close(each, each[:1].expand_as(each))
        assert each[0] != 0


def test_faults_cost_the_list_and_no_query(words):
    task = task_of(words, rl_toys.config())
    good = written(words, [[1], [2]], ["milk", "tea"])
    bad = ids_of(words, "<interest>", "<1>", "milk", "<2>", "<interest>", "<2>", "tea", END)  # index astray
    rollouts = rollouts_of(words, task, [good, bad])
    assert rollouts.faults == [[0, 1]]
    scores = scored(task, rollouts)
    assert scores.query[0, 0].tolist() == scores.query[0, 1].tolist()
    assert scores.lists[0].tolist() == [2 / K, 1 / K]


def train(folder, config, *, resume=False, until=None):
    model, words = thinking(rl_toys.vocabulary())
    task = task_of(words, config)

    def validate(policy):
        rollouts = il_grpo.roll_out(policy, words, task, config, [0, 1])
        if until is not None and len(calls) == until:
            raise KeyboardInterrupt
        calls.append(1)
        return {"query_hr": float(scored(task, rollouts).query.mean())}

    calls: list[int] = []
    options = {"seed": 5, "validate": validate, "report": lambda entry: None, "resume": resume}
    progress = il_grpo.fit(model, words, task, config, folder, **options)
    return model, progress


def test_resume_equals_an_uninterrupted_training_bit_for_bit(tmp_path):
    config = rl_toys.config()
    whole, _ = train(tmp_path / "whole", config)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", config, until=2)  # at the start, at step 2, and cut off at step 4
    resumed, progress = train(tmp_path / "cut", config, resume=True)
    assert progress.step == config.steps
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name
    assert rl_toys.log_of(tmp_path / "whole") == rl_toys.log_of(tmp_path / "cut")


def test_training_learns_to_name_the_right_behaviours(tmp_path):
    config = rl_toys.config(steps=25, eval_every=25, learning_rate=5e-3, entropy_bonus=0.0)
    train(tmp_path, config)
    lines = [line for line in rl_toys.log_of(tmp_path) if "trigger" in line]
    first, last = (np.mean([line["trigger"] for line in part]) for part in (lines[:5], lines[-5:]))
    assert last > first + 0.05
    assert all(math.isfinite(line["loss"]) for line in lines)


def test_trl_refuses_think(tmp_path, words):
    pytest.importorskip("trl")
    from aigq.training.trl_trainer import IlGrpoTrainer

    config = rl_toys.config()
    model, grown = thinking(rl_toys.vocabulary())
    with pytest.raises(StageError, match=r"set grpo\.trainer to loop for Think"):
        IlGrpoTrainer(model, grown, task_of(grown, config), config, tmp_path, seed=0)
