import json
import math
import mmap

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from aigq.config import PromptConfig
from aigq.config_training import GeneratorConfig, SftConfig
from aigq.errors import EmptyLogError, StageError
from aigq.history.prompt import special_tokens
from aigq.models import generator
from aigq.models.vocabulary import Vocabulary, train_tokenizer
from aigq.samples.labels import Label
from aigq.training import checkpoints, loop, sft
from aigq.training.encoding import EncodedLists, disorder, encode_lists, next_targets, rename

TINY = GeneratorConfig(hidden_size=32, layers=1, heads=2, kv_heads=1, intermediate_size=64, vocab_size=300)


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary(train_tokenizer([("milk", 9), ("bread", 9)], 300, special_tokens(PromptConfig(), [])))


def lists(vocabulary, n=24):
    rng = np.random.default_rng(0)
    prompts = [vocabulary.encode("milk;;") * int(rng.integers(1, 5)) for _ in range(n)]
    labels = [[Label("bread", "clicked"), Label("milk", "ranker")][: 1 + i % 2] for i in range(n)]
    return encode_lists(prompts, labels, vocabulary, tail_weight=0.5)


def test_weights_clicked_1_tail_as_configured_prompt_0(vocabulary):
    data = encode_lists([[5, 6]], [[Label("bread", "clicked"), Label("milk", "ranker")]], vocabulary, 0.5)
    bread, milk = (len(vocabulary.encode_query(q)) for q in ("bread", "milk"))
    assert data.weights.tolist() == [0, 0] + [1] * bread + [0.5] * milk + [1]
    assert data.prompt(0).tolist() == [5, 6]


def test_targets_of_a_disordered_list_are_the_best_not_yet_written():
    queries = [[10], [20, 21], [30]]
    assert next_targets(queries, [0, 1, 2]) == ([10, 20, 21, 30], [10, 20, 21, 30], [0, 1, 1, 2])
    # written 30, 10, 20: first 10 was due, then still 10, then 20 with its second token
    assert next_targets(queries, [2, 0, 1]) == ([30, 10, 20, 21], [10, 10, 20, 21], [0, 0, 1, 1])
    # written 20 21, 30, 10: due were 10 (21 goes on with what was begun), 10, 10
    assert next_targets(queries, [1, 2, 0]) == ([20, 21, 30, 10], [10, 21, 10, 10], [0, 1, 0, 0])


def test_disorder_is_a_permutation_that_moves_a_few_places():
    order = disorder(30, 2.0, np.random.default_rng(0))
    assert sorted(order) == list(range(30))
    moves = np.abs(np.array(order) - np.arange(30))
    assert 0.5 < moves.mean() < 4
    assert disorder(5, 0.0, np.random.default_rng(0)) == [0, 1, 2, 3, 4]


def test_list_losses_by_hand():
    logits = torch.zeros(2, 3, 4)  # uniform over 4 tokens: every NLL is log 4
    logits[0, 0, 1] = math.log(9.0)  # p(1) = 9/12
    ids, weights = torch.tensor([[1, 2], [3, 3]]), torch.tensor([[1.0, 0.5], [1.0, 0.0]])
    expected = ((math.log(12 / 9) + 0.5 * math.log(4)) / 1.5 + math.log(4)) / 2
    assert loop.list_losses(logits, ids, weights).mean().item() == pytest.approx(expected, rel=1e-6)


def test_an_epoch_visits_every_list_once(vocabulary):
    data = lists(vocabulary)
    seen = np.concatenate(list(loop.batches(data, 5, seed=1, epoch=0)))
    assert sorted(seen) == list(range(len(data)))


def test_saved_arrays_come_back(tmp_path, vocabulary):
    data = lists(vocabulary)
    data.save(tmp_path / "train.npz")
    back = EncodedLists.load(tmp_path / "train.npz")
    assert all(np.array_equal(a, b) for a, b in zip(vars(data).values(), vars(back).values(), strict=True))


def test_renaming_keeps_what_is_copied_from_where(vocabulary):
    data = lists(vocabulary, n=40)
    tokens = np.array([vocabulary.encode_query(q)[0] for q in ("milk", "bread")])
    renamed = rename(data, tokens, 1.0, seed=0)
    swapped = 0
    for i in range(len(data)):
        part = slice(data.starts[i], data.starts[i + 1])
        before, after = data.tokens[part], renamed.tokens[part]
        assert np.array_equal(before[:, None] == before, after[:, None] == after)
        assert set(after) <= set(data.tokens)
        swapped += not np.array_equal(before, after)
    assert 10 < swapped < 30  # of two names, half of the permutations swap them
    assert np.array_equal(rename(data, tokens, 0.0, seed=0).tokens, data.tokens)


class Killed(Exception):
    pass


def run(folder, vocabulary, resume=False, kill_at=None):
    config = SftConfig(epochs=3, batch_size=4, eval_every=5, learning_rate=1e-2)
    model = generator.build(TINY.model_copy(update={"dropout": 0.1}), vocabulary, 64, seed=0)

    def report(entry):
        if kill_at is not None and entry["step"] == kill_at and "loss" in entry:
            raise Killed

    progress = loop.fit(
        model,
        lists(vocabulary),
        config,
        folder,
        pad=vocabulary.pad,
        seed=3,
        validate=lambda m: {"query_hr": float(torch.rand(1))},  # draws random numbers, as generation does
        report=report,
        resume=resume,
    )
    return model.state_dict(), progress


def test_resumed_training_equals_uninterrupted_bit_for_bit(tmp_path, vocabulary):
    whole, _ = run(tmp_path / "whole", vocabulary)
    with pytest.raises(Killed):
        run(tmp_path / "cut", vocabulary, kill_at=8)
    resumed, progress = run(tmp_path / "cut", vocabulary, resume=True)
    assert progress.step == progress.total == 18
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    logs = [
        [json.loads(x) for x in (tmp_path / d / "log.jsonl").read_text().splitlines()]
        for d in ("whole", "cut")
    ]
    for entry in logs[0] + logs[1]:
        entry.pop("seconds", None)
    assert [e for e in logs[0] if "loss" in e] == [e for e in logs[1] if "loss" in e]


def test_a_resume_never_continues_an_earlier_training(tmp_path, vocabulary):
    whole, _ = run(tmp_path / "whole", vocabulary)
    with pytest.raises(Killed):
        run(tmp_path / "cut", vocabulary, kill_at=8)  # leaves a checkpoint
    with pytest.raises(Killed):
        run(tmp_path / "cut", vocabulary, kill_at=2)  # starts again and leaves none
    assert not (tmp_path / "cut" / "checkpoint.pt").exists()
    resumed, _ = run(tmp_path / "cut", vocabulary, resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("torn", ['{"step": 6, "lo', "[]", None])
def test_a_log_that_was_cut_off_does_not_stop_a_resume(tmp_path, vocabulary, torn):
    with pytest.raises(Killed):
        run(tmp_path, vocabulary, kill_at=8)
    log = tmp_path / "log.jsonl"
    if torn is None:
        log.unlink()
    else:
        log.write_text(log.read_text() + torn)
    _, progress = run(tmp_path, vocabulary, resume=True)
    assert progress.step == 18
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()][-1] == 18


def test_a_log_that_is_cut_is_replaced_whole(tmp_path, monkeypatch):
    """Under TRL it alone says which weights were the best."""
    log, whole = tmp_path / "log.jsonl", '{"step": 0, "valid_query_hr": 0.5}\n'
    log.write_text(whole + '{"step": 1}\n')
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_text", lambda path, *_, **__: path.write_bytes(b"{") and 1 / 0)
        with pytest.raises(ZeroDivisionError):
            checkpoints.truncate_log(tmp_path, 0)
    assert log.read_text() == whole + '{"step": 1}\n'
    checkpoints.truncate_log(tmp_path, 0)
    assert log.read_text() == whole


@pytest.mark.parametrize(("train", "valid", "use"), [(0, 3, "train"), (3, 0, "validate")])
def test_nothing_to_train_on_or_to_validate_with_is_said(tmp_path, vocabulary, train, valid, use):
    lists(vocabulary, n=train).save(tmp_path / "train.npz")
    lists(vocabulary, n=valid).save(tmp_path / "valid.npz")
    with pytest.raises(EmptyLogError, match=rf"no label list is left to {use} .*samples\.k_users"):
        sft.announce(tmp_path, SftConfig(), vocabulary, 8)


def test_nothing_to_imitate_is_said(tmp_path, vocabulary):
    lists(vocabulary, n=0).save(training_folder(tmp_path, vocabulary) / "imitation.npz")
    with pytest.raises(EmptyLogError, match=r"no label list is left to imitate in .*samples\.k_users"):
        sft.fit_folder(tmp_path, SftConfig(imitation_epochs=1), seed=0)


def test_the_estimate_of_memory_counts_the_imitated_lists(tmp_path, vocabulary, monkeypatch):
    """They are the ranker's whole lists; labels without its tail are short."""
    loads = []
    monkeypatch.setattr(sft.memory, "estimate", lambda size, load, **_: loads.append(load))
    monkeypatch.setattr(sft.memory, "announce", lambda memory: None)
    folder = training_folder(tmp_path, vocabulary)
    bread = [Label("bread", "ranker")]
    encode_lists([[5] * 60], [bread * 9], vocabulary, 1.0).save(folder / "imitation.npz")
    for epochs in (0, 1):
        sft.announce(folder, SftConfig(imitation_epochs=epochs), vocabulary, 1)
    written = 9 * len(vocabulary.encode_query("bread")) + 1
    assert loads[0].tokens < 60
    assert (loads[1].tokens, loads[1].predicted) == (60 + written, written + 1)


def training_folder(folder, vocabulary):
    """What the stage leaves for `fit_folder`, with a list in each part."""
    generator.build(TINY, vocabulary, 64, seed=0).save_pretrained(folder / "init")
    vocabulary.tokenizer.save_pretrained(folder / "init")
    for part in ("train", "valid"):
        lists(vocabulary, n=1).save(folder / f"{part}.npz")
    truth = {"targets": [["bread"]], "novel": [[False]], "days": [0], "servable": {0: ["bread"]}, "length": 1}
    (folder / "valid.json").write_text(json.dumps(truth))
    return folder


def test_adapters_begin_by_the_seed_alone(tmp_path, vocabulary):
    pytest.importorskip("peft")
    config = SftConfig(lora_rank=2, max_steps=1)
    trained = []
    for drawn_before in (1, 2):
        torch.manual_seed(drawn_before)
        folder = training_folder(tmp_path / str(drawn_before), vocabulary)
        torch.rand(drawn_before)
        sft.fit_folder(folder, config, seed=3)
        trained.append(torch.load(folder / "checkpoint.pt", weights_only=True)["model"])
    assert any("lora_A" in name for name in trained[0])
    assert all(torch.equal(weight, trained[1][name]) for name, weight in trained[0].items())


def test_a_checkpoint_without_the_random_numbers_of_gpus_is_read(tmp_path, vocabulary):
    whole, _ = run(tmp_path / "whole", vocabulary)
    with pytest.raises(Killed):
        run(tmp_path / "cut", vocabulary, kill_at=8)
    checkpoint = tmp_path / "cut" / "checkpoint.pt"
    state = torch.load(checkpoint, weights_only=True)
    assert len(state.pop("random_gpus")) == torch.cuda.device_count()
    torch.save(state, checkpoint)
    resumed, _ = run(tmp_path / "cut", vocabulary, resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_random_numbers_of_every_gpu_are_kept(monkeypatch):
    """Without a GPU: what torch is asked for and given back."""
    there, given = [torch.tensor([n], dtype=torch.uint8) for n in (1, 2)], []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: there)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", given.append)
    states = checkpoints.random_states()
    checkpoints.set_random_states(states)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # resumed on a smaller machine
    checkpoints.set_random_states(states)
    checkpoints.set_random_states({"random": states["random"]})  # of before they were kept
    assert [[int(state) for state in one] for one in given] == [[1, 2], [1], []]


def test_the_best_weights_are_replaced_whole(tmp_path, vocabulary):
    model = generator.build(TINY, vocabulary, 64, seed=0)
    checkpoints.replace_best(model, tmp_path)
    before = (tmp_path / "best" / "model.safetensors").read_bytes()

    class HalfSaved:
        def save_pretrained(self, folder, state_dict):
            folder.mkdir()
            (folder / "model.safetensors").write_bytes(b"half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        checkpoints.replace_best(HalfSaved(), tmp_path)
    assert (tmp_path / "best" / "model.safetensors").read_bytes() == before
    checkpoints.replace_best(model, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best"]


def test_training_stops_before_a_broken_gradient_spoils_the_weights(tmp_path, vocabulary, monkeypatch):
    """Steps 1 to 5 are fine and saved; at step 8 one gradient is not a number, as a faulty kernel gives."""
    steps, losses = [], loop.list_losses

    def broken(*arguments):
        steps.append(1)
        loss = losses(*arguments)
        loss.register_hook(lambda gradient: gradient * (float("nan") if len(steps) == 8 else 1.0))
        return loss

    monkeypatch.setattr(loop, "list_losses", broken)
    with pytest.raises(StageError, match="gradient is nan"):
        run(tmp_path, vocabulary)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=False)
    assert saved["progress"]["step"] == 5
    assert all(torch.isfinite(weight).all() for weight in saved["model"].values())


def test_training_lowers_the_loss(tmp_path, vocabulary):
    data = lists(vocabulary)
    ids, mask, targets, weights = loop.collate(data, np.arange(len(data)), vocabulary.pad)

    def loss(weights_of_model):
        model = generator.build(TINY, vocabulary, 64, seed=0)
        if weights_of_model:
            model.load_state_dict(weights_of_model)
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=mask).logits
        return loop.list_losses(logits[:, :-1].contiguous(), targets[:, 1:-1], weights[:, 1:-1]).mean().item()

    trained, _ = run(tmp_path, vocabulary)
    assert loss(trained) < 0.7 * loss(None)


def test_delivering_leaves_alone_the_weights_that_a_worker_has_mapped(tmp_path):
    model = tmp_path / "model.safetensors"
    best = tmp_path / "training" / "best"
    best.mkdir(parents=True)
    for content in (b"monday", b"tuesday"):
        (best / model.name).write_bytes(content)
        checkpoints.deliver(tmp_path / "training", {"steps": 1})
        if content == b"monday":
            with model.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    assert (bytes(mapped), model.read_bytes()) == (b"monday", b"tuesday")
    assert not list(tmp_path.glob("*.part"))
