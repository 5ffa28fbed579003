import numpy as np
import pytest

torch = pytest.importorskip("torch")

from aigq.models.two_tower import PATIENCE, HistoryArrays, TwoTower, sampled_softmax, train


def tower(texts: int = 6, dim: int = 8) -> TwoTower:
    torch.manual_seed(0)
    embedded = np.random.default_rng(0).normal(size=(texts, 12)).astype(np.float32)
    return TwoTower(embedded, dim, np.ones(texts))


def test_shapes_and_padding_changes_nothing() -> None:
    model = tower().eval()
    text = torch.tensor([[2, 1, -1, -1]])
    zeros = torch.zeros_like(text)
    longer = model.users(text, zeros, zeros)
    shorter = model.users(text[:, :2], zeros[:, :2], zeros[:, :2])
    assert longer.shape == (1, 9)
    assert model.queries(torch.arange(6)).shape == (6, 9)
    assert torch.allclose(longer, shorter, atol=1e-6)


def test_loss_corrects_for_popularity_and_spares_other_positives() -> None:
    users, queries = torch.ones(1, 1), torch.zeros(3, 1)
    target = torch.tensor([[0, 0]])
    even = torch.log(torch.full((3,), 1 / 3))
    only = torch.tensor([[True, False, False]])
    both = torch.tensor([[True, True, False]])
    assert sampled_softmax(users, queries, only, target, even).item() == pytest.approx(np.log(3))
    assert sampled_softmax(users, queries, both, target, even).item() == pytest.approx(np.log(2))
    popular = torch.log(torch.tensor([0.1, 0.45, 0.45]))
    rare_target = sampled_softmax(users, queries, only, target, popular).item()
    assert rare_target == pytest.approx(-np.log(10 / (10 + 2 / 0.45)))


def test_training_fits_a_rule_and_is_deterministic() -> None:
    text = np.array([[i % 3] for i in range(90)], dtype=np.int32)
    histories = HistoryArrays(text, np.zeros_like(text), np.zeros_like(text))
    targets = [np.array([3 + i % 3]) for i in range(90)]
    outputs = []
    for _ in range(2):
        model = tower()
        train(
            model,
            histories,
            targets,
            np.bincount(np.concatenate(targets), minlength=6),
            max_steps=60,
            eval_every=10,
            batch_size=30,
            learning_rate=1e-2,
            seed=0,
            validate=iter(range(100)).__next__,
        )
        with torch.inference_mode():
            scores = model.users(*histories.take(np.arange(3))) @ model.queries(torch.arange(3, 6)).T
        outputs.append(scores.numpy())
    chances = np.exp(outputs[0]) / np.exp(outputs[0]).sum(1, keepdims=True)
    assert (np.diag(chances) > 0.8).all()
    assert np.array_equal(*outputs)


def test_the_weights_that_validate_best_are_kept_and_training_stops_when_none_is_better() -> None:
    text = np.zeros((8, 1), dtype=np.int32)
    histories = HistoryArrays(text, text, text)
    model, seen = tower(), []

    def validate() -> float:
        seen.append(model.bias.weight.detach().clone())
        return float(len(seen) == 3)

    targets, popularity = [np.array([3])] * 7 + [np.array([4])], np.array([0, 0, 0, 7, 1, 0])
    size = {"max_steps": 100, "eval_every": 2, "batch_size": 8, "learning_rate": 1e-2}
    train(model, histories, targets, popularity, **size, seed=0, validate=validate)
    assert len(seen) == 3 + PATIENCE
    assert torch.equal(model.bias.weight, seen[2])
    assert not torch.equal(seen[2], seen[-1])


def test_a_query_that_was_never_a_target_starts_below_the_others() -> None:
    texts = np.random.default_rng(0).normal(size=(3, 12)).astype(np.float32)
    bias = TwoTower(texts, 8, np.array([0, 1, 99])).bias.weight[:, 0]
    assert bias.tolist() == pytest.approx(np.log([0.005, 0.015, 0.995]).tolist(), abs=1e-6)
