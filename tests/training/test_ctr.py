"""The CTR model on the shop of tests/recall: training, export, scoring, resume, warm start."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("lightgbm")

from recall_shop import GROUPS, TEST, VALID, build

from aigq.config import Config, EncoderConfig, parse
from aigq.errors import ConfigError, EmptyLogError, StageError
from aigq.models.ctr import BINS, ClickNet, Inputs, export, quantile_edges
from aigq.models.ctr_arrays import Calibration, pad
from aigq.recall.ctr import Ctr
from aigq.recall.ctr_inputs import TextTable
from aigq.recall.ctr_scorer import ClickModel
from aigq.tables import EXPOSURES
from aigq.training import ctr
from aigq.training.click_rows import make_rows

EPOCH = date(1970, 1, 1)
DAYS = {"validation_from": EPOCH + timedelta(days=VALID), "test_from": EPOCH + timedelta(days=TEST)}
SHOP = {"split": {name: str(day) for name, day in DAYS.items()}}


class Letters:
    """A text encoder without a model: counts of letters, as unit vectors."""

    def __init__(self, name: str) -> None: ...

    def encode(self, texts):
        counts = np.array([[t.count(c) for c in "abcdefghijklmnopqrst"] for t in texts], dtype=np.float32)
        return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-6)


def config(**changes) -> Config:
    section = {"epochs": 4, "eval_every": 6, "batch_size": 24, "dropout": 0.2, "behaviours": 6, "patience": 9}
    return parse({**SHOP, "ctr": section | changes, "samples": {"k_users": 3}})


@pytest.fixture(autouse=True)
def letters(monkeypatch):
    monkeypatch.setattr("aigq.training.click_rows.TextEncoder", Letters)


def write_run(folder: Path) -> Path:
    prepared = build()
    (folder / "prepared").mkdir(parents=True)
    for name in ("behaviours", "queries", "query_days", "samples", "users"):
        pq.write_table(getattr(prepared, name), folder / "prepared" / f"{name}.parquet")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aigq.training.click_rows.TextEncoder", Letters)
        run = write_run(tmp_path_factory.mktemp("run"))
        summary = ctr.train_ctr(config(), run)
    return run, summary


def some(prepared, n=5):
    moments = prepared.moments(prepared.split("test"))[:n]
    everything = [q for group in GROUPS.values() for q in group]
    return moments, [everything] * len(moments)


def test_it_learns_the_groups_and_says_how_well(trained):
    _, summary = trained
    for judged in ("later_days", "later_days_lightgbm"):
        assert set(summary[judged]) == {"auc", "user_auc", "log_loss", "calibration_error"}
    assert summary["mode"] == "bootstrap"
    assert summary["later_days"]["auc"] > 0.7  # queries of the shopper's own group against the other
    assert summary["later_days"]["calibration_error"] < 0.1
    assert json.loads(json.dumps(summary)) == summary


def test_own_group_is_likelier_and_probabilities_are_probabilities(trained):
    run, _ = trained
    prepared = build()
    model = ClickModel.load(run, prepared)
    moments, queries = some(prepared)
    for moment, p in zip(moments, model.probabilities(moments, queries), strict=True):
        assert ((p >= 0) & (p <= 1)).all()
        sea = int(moment.user_id[1:]) % 2 == 0
        assert (p[:5].mean() > p[5:].mean()) == sea


def test_lists_may_be_ragged_repeat_and_hold_unknown_queries(trained):
    run, _ = trained
    prepared = build()
    model = ClickModel.load(run / "models" / "ctr", prepared)
    first, second = some(prepared)[0][:2]
    lists = [["sled", "never heard of", "sled"], [], ["sun cream"], ["sled"]]
    found = model.probabilities([first, second, second, first], lists)
    assert [len(p) for p in found] == [3, 0, 1, 1]
    assert found[0][0] == found[0][2] == found[3][0]
    alone = model.probabilities([second], [["sun cream"]])[0]
    assert alone[0] == pytest.approx(found[2][0], abs=1e-6)
    settings = json.loads((run / "models" / "ctr" / "model.json").read_text())
    assert found[0][1] == settings["unknown"]
    assert model.probabilities([], []) == []


def test_the_lower_bound_is_lower(trained):
    run, _ = trained
    prepared = build()
    model = ClickModel.load(run, prepared)
    moments, queries = some(prepared)
    mean = np.concatenate(model.probabilities(moments, queries))
    low, lower = (np.concatenate(model.lower_bounds(moments, queries, z)) for z in (None, 3.0))
    assert (low < mean).all()
    assert (lower < low).all()
    assert np.allclose(np.concatenate(model.lower_bounds(moments, queries, 0.0)), mean)


def test_scores_equal_those_of_training(trained):
    """The scorer, from strings through ONNX, gives what the torch model gives for the rows of training."""
    run, summary = trained
    prepared, settings = build(), config()
    data = make_rows(settings, prepared)
    model = ClickNet(settings.ctr, 20, quantile_edges(data.train.plain))
    model.load_state_dict(torch.load(run / "models" / "ctr" / "weights.pt", weights_only=True))
    logits = ctr.predict(model, data.test, data.texts).mean(axis=1)
    wanted = Calibration(**summary["calibration"])(logits)
    found = ClickModel.load(run, prepared).candidates(prepared.moments(prepared.split("test")))
    assert np.abs(np.concatenate([p for _, p in found]) - wanted).max() < 1e-4


def test_the_row_orders_candidates_by_probability(trained):
    run, _ = trained
    prepared = build()
    channel = Ctr(run)
    with pytest.raises(StageError, match="before fit"):
        channel.recommend([], 3)
    channel.fit(prepared)
    hints = channel.recommend(some(prepared)[0], 4)
    assert all(
        len(h) == 4 and [x.score for x in h] == sorted((x.score for x in h), reverse=True) for h in hints
    )
    assert "a secret of mine" not in {x.query for h in hints for x in h}


def test_no_text_of_the_log_is_in_the_model_folder(trained):
    run, _ = trained
    for file in (run / "models" / "ctr").glob("*.*"):
        assert b"a secret of mine" not in file.read_bytes()
        assert b"snorkel" not in file.read_bytes()


def random_inputs(moments, candidates, behaviours=6, dim=5, features=3):
    generator = torch.Generator().manual_seed(moments)
    return Inputs(
        torch.randn(moments, behaviours, dim, generator=generator),
        torch.randint(0, 11, (moments, behaviours), generator=generator),
        torch.randint(0, 5, (moments, behaviours), generator=generator),
        torch.randn(moments, candidates, dim, generator=generator),
        torch.randn(moments, candidates, features, generator=generator),
    )


def net(features=3, dim=5):
    torch.manual_seed(0)
    plain = np.random.default_rng(0).normal(size=(200, features))
    return ClickNet(config().ctr, dim, quantile_edges(plain)).eval()


def test_onnx_equals_torch_for_any_batch(tmp_path):
    import onnxruntime

    model = net()
    export(model, tmp_path / "model.onnx", 6)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for moments, candidates in ((1, 1), (7, 30), (3, 200)):
        batch = random_inputs(moments, candidates)
        with torch.no_grad():
            wanted = model(batch).numpy()
        found = session.run(["logits"], {k: v.numpy() for k, v in batch._asdict().items()})[0]
        assert found.shape == (moments, candidates, 4)
        assert np.abs(found - wanted).max() < 1e-4


def test_places_beyond_the_history_and_other_candidates_do_not_matter():
    model, batch = net(), random_inputs(4, 5)
    batch.action[:, 3:] = 0
    changed = batch._replace(behaviour=batch.behaviour.clone(), age=batch.age.clone())
    changed.behaviour[:, 3:] = 100.0
    changed.age[:, 3:] = 7
    with torch.no_grad():
        whole = model(batch)
        assert torch.allclose(whole, model(changed))
        assert torch.allclose(
            whole[:, :2], model(batch._replace(query=batch.query[:, :2], plain=batch.plain[:, :2])), atol=1e-6
        )


def test_the_position_matters_in_training_only():
    model, batch = net(), random_inputs(2, 3)
    with torch.no_grad():
        model.position.weight[:, 0] = torch.arange(16).float()
        place = torch.tensor([[0, 1, 2], [2, 1, 0]])
        assert torch.allclose(model(batch, place) - model(batch), place.unsqueeze(-1).float(), atol=1e-5)


def test_steps_by_hand():
    model = net(features=1)
    model.low, model.width = torch.tensor([[0.0, 2.0]]), torch.tensor([[2.0, 4.0]])
    steps = model.steps(torch.tensor([[[-1.0], [1.0], [3.0], [9.0]]]))
    assert steps.squeeze(0).tolist() == [[0, 0], [0.5, 0], [1, 0.25], [1, 1]]


def test_edges_keep_bins_for_what_is_rarely_there():
    values = np.concatenate([np.zeros(10_000), np.arange(1.0, 101.0)])
    edges = quantile_edges(np.column_stack([values, np.ones_like(values)]))
    assert edges.shape == (2, BINS + 1)
    assert (np.diff(edges) > 0).all()
    assert ((edges[0] > 0) & (edges[0] < 100)).sum() >= 5
    assert edges[1, 0] == 1.0


def test_pad():
    padded = pad(np.array([1, 2, 3]), np.array([0, 2, 2, 3]), fill=-1)
    assert padded.tolist() == [[1, 2], [-1, -1], [3, -1]]


def test_texts_that_the_table_lacks_are_zero(tmp_path):
    TextTable.of(["a", "b"], np.array([[1.0, 0.0], [0.0, 1.0]])).save(tmp_path)
    table = TextTable.load(tmp_path)
    assert table.vectors[table.codes(["b", "c", "a"])].tolist() == [[0, 1], [0, 0], [1, 0]]


def test_calibration_recovers_a_known_one():
    rng = np.random.default_rng(0)
    logit = rng.normal(0, 2, 40_000)
    clicked = rng.random(40_000) < Calibration(0.5, -1.0)(logit)
    fitted = Calibration.fitted(logit, clicked)
    assert fitted.slope == pytest.approx(0.5, abs=0.03)
    assert fitted.intercept == pytest.approx(-1.0, abs=0.05)


def test_a_poor_model_is_refused():
    ctr.require_auc({"later_days": {"auc": 0.7}}, 0.7)
    with pytest.raises(StageError, match=r"AUC 0\.583 on later days.*ctr\.auc_floor 0\.6"):
        ctr.require_auc({"later_days": {"auc": 0.583}}, 0.6)
    with pytest.raises(StageError, match="nan"):
        ctr.require_auc({"later_days": {"auc": float("nan")}}, 0.6)


def test_training_goes_on_from_an_earlier_model(trained, tmp_path):
    first, _ = trained
    run = write_run(tmp_path / "next")
    ctr.train_ctr(config(start=str(first), epochs=0.5), run)
    logs = [
        [json.loads(line)["valid_log_loss"] for line in (f / "models/ctr/training/log.jsonl").open()]
        for f in (first, run)
    ]
    assert logs[1][0] == pytest.approx(min(logs[0]))  # it begins where the other was best
    with pytest.raises(ConfigError, match="other sizes"):
        ctr.train_ctr(config(start=str(first), hidden=32), run)
    with pytest.raises(ConfigError, match=r"ctr\.start"):
        ctr.train_ctr(config(start=str(tmp_path)), run)
    other = config(start=str(first)).model_copy(update={"encoder": EncoderConfig(name="of-another-make")})
    with pytest.raises(ConfigError, match=r"encoder\.name is of-another-make"):
        ctr.train_ctr(other, run)


@pytest.mark.parametrize("file", ["weights.pt", "model.json"])
@pytest.mark.parametrize("kept", [0, 20])
def test_a_damaged_model_to_start_from_is_refused(trained, tmp_path, file, kept):
    shutil.copytree(trained[0] / "models" / "ctr", tmp_path / "before")
    damaged = tmp_path / "before" / file
    damaged.write_bytes(damaged.read_bytes()[:kept])
    with pytest.raises(ConfigError, match=r"ctr\.start: .*before is damaged; give another"):
        ctr.train_ctr(config(start=str(tmp_path / "before")), tmp_path / "run")


@pytest.mark.parametrize(("clicked", "what"), [(False, "nothing"), (True, "every hint")])
def test_a_split_where_all_hints_are_alike_is_refused(clicked, what):
    prepared = build()
    everything = [query for group in GROUPS.values() for query in group]
    rows = [
        {name: row[name] for name in EXPOSURES.names if name in row}
        | {"shown": everything, "clicked": [clicked] * len(everything)}
        for row in prepared.samples.to_pylist()
    ]
    shop = replace(prepared, exposures=pa.Table.from_pylist(rows, schema=EXPOSURES))
    exposed = parse({**SHOP, "samples": {"unit": "exposure", "k_users": 3}})
    with pytest.raises(EmptyLogError, match=rf"{what} was clicked in the train split.*not clicked, too"):
        make_rows(exposed, shop)


KILLED = """
import os, signal, sys
sys.path[:0] = [sys.argv[2], sys.argv[3]]
import test_ctr
from aigq.training import checkpoints, ctr, click_rows
click_rows.TextEncoder = test_ctr.Letters
save, saved = checkpoints.save, []
def saving(*arguments):
    save(*arguments)
    saved.append(1)
    if len(saved) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
checkpoints.save = saving
from pathlib import Path
ctr.train_ctr(test_ctr.config(), Path(sys.argv[1]))
"""


def test_resumed_after_kill_9_equals_uninterrupted_bit_for_bit(trained, tmp_path):
    whole, summary = trained
    run = write_run(tmp_path / "run")
    here = Path(__file__).parent
    command = [sys.executable, "-c", KILLED, str(run), str(here), str(here.parent / "recall")]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    assert not (run / "models" / "ctr" / "network.onnx").exists()
    again = ctr.train_ctr(config(), run, resume=True)
    states = [torch.load(f / "models" / "ctr" / "weights.pt", weights_only=True) for f in (whole, run)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert {**again, "seconds": 0} == {**summary, "seconds": 0}
    logs = [(f / "models/ctr/training/log.jsonl").read_text() for f in (whole, run)]
    assert logs[0] == logs[1]


def test_a_model_of_an_earlier_version_says_what_to_do(trained, tmp_path):
    run, _ = trained
    shutil.copytree(run / "models" / "ctr", tmp_path / "models" / "ctr")
    (tmp_path / "models" / "ctr" / "network.onnx").unlink()
    with pytest.raises(StageError, match="run `aigq train ctr --force`"):
        ClickModel.load(tmp_path, build())


def test_the_scorer_needs_no_torch(trained):
    run, _ = trained
    here = Path(__file__).parent.parent / "recall"
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\nfrom recall_shop import build\n"
        "from aigq.recall.ctr_scorer import ClickModel\n"
        "prepared = build(); model = ClickModel.load(Path(sys.argv[1]), prepared)\n"
        "moments = prepared.moments(prepared.split('test'))[:2]\n"
        "print(model.probabilities(moments, [['sled'], ['sun cream']]))\n"
        "assert not {'torch', 'transformers', 'sentence_transformers', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(run), str(here)], check=True, capture_output=True)
