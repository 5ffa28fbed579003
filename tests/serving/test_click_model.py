"""The CTR model in the service equals the one of the run; batches equal single requests."""

import asyncio
import json
import threading
import time
from datetime import date, timedelta

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("lightgbm")

import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from recall_shop import GROUPS, TEST, VALID, build

from aigq.config import parse
from aigq.errors import StageError
from aigq.evaluation.past_shop import PastShop
from aigq.evaluation.served import Served
from aigq.history.prompt import profiles_of
from aigq.models.columns import BEHAVIOUR, ISSUE, SIMILAR, age_buckets
from aigq.models.ctr import BINS, ClickNet, Inputs
from aigq.models.ctr_arrays import Calibration
from aigq.models.letters import letters
from aigq.prepared import Prepared, day_after, latest_moments
from aigq.recall.ctr_inputs import ClickInputs, TextTable
from aigq.recall.ctr_scorer import folder_of
from aigq.recall.features import FeatureMaker
from aigq.serving import click_batches, keys
from aigq.serving.catalog import Catalogs
from aigq.serving.click_model import ClickModel
from aigq.serving.click_tables import ClickTables
from aigq.serving.click_words import Words
from aigq.serving.guards import Guards
from aigq.serving.hints import Ask, Hints
from aigq.serving.live_history import Histories
from aigq.serving.publish import publish
from aigq.serving.run_tables import RunTables
from aigq.serving.state import Base, Past, decode, encode
from aigq.serving.stores import StoreError
from aigq.serving.stores.memory import MemoryStore
from aigq.training import ctr

QUERIES = [q for group in GROUPS.values() for q in group]
DAY_S = 86400.0
KINDS = {"recent": BEHAVIOUR, "issues": ISSUE, "similar": SIMILAR}


class Letters:
    def __init__(self, name: str) -> None: ...

    def encode(self, texts):
        counts = np.array([[t.count(c) for c in "abcdefghijklmnopqrst"] for t in texts], dtype=np.float32)
        return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-6)


def config(**serving):
    days = {"validation_from": VALID, "test_from": TEST}
    raw = {"split": {k: str(date(1970, 1, 1) + timedelta(days=v)) for k, v in days.items()}}
    section = {"epochs": 2, "eval_every": 6, "batch_size": 24, "behaviours": 6}
    return parse(raw | {"ctr": section, "samples": {"k_users": 3}, "serving": serving})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with a trained CTR model."""
    folder, prepared = tmp_path_factory.mktemp("clicks") / "run", build()
    (folder / "prepared").mkdir(parents=True)
    for name in ("behaviours", "queries", "query_days", "samples", "users"):
        pq.write_table(getattr(prepared, name), folder / "prepared" / f"{name}.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aigq.training.click_rows.TextEncoder", Letters)
        ctr.train_ctr(config(), folder)
    return folder


@pytest.fixture(scope="module")
def store(run):
    store = MemoryStore()
    asyncio.run(publish(config(), store, RunTables(config(), run).families))
    return store


@pytest.fixture(scope="module")
def served(store):
    return asyncio.run(loaded(store))


async def loaded(store):
    catalogs = Catalogs(store, clicks=True)
    await catalogs.refresh()
    return catalogs.now


def of_the_run(run, moments, queries):
    """p_hat of every pair by the run's own tables and the weights as they were trained, in torch."""
    prepared, folder = Prepared.load(run / "prepared"), folder_of(run)
    settings = json.loads((folder / "model.json").read_text())
    maker = FeatureMaker(prepared, prepared.behaviours, settings["k_users"])
    texts = TextTable.load(folder)
    inputs = ClickInputs(
        maker, texts, profiles_of(prepared.users), settings["profile"], settings["behaviours"]
    )
    moment = np.repeat(np.arange(len(moments)), len(queries))
    query = np.tile(inputs.query_codes(queries), len(moments))
    recent, shape = inputs.recent(moments), (len(moments), len(queries), -1)
    plain = inputs.plain(maker.known(moments), moments, moment, query)
    feed = Inputs(
        behaviour=texts.vectors[recent.text],
        age=recent.age.astype(np.int64),
        action=recent.action.astype(np.int64),
        query=texts.vectors[inputs.text_rows(query)].reshape(shape),
        plain=plain.reshape(shape),
    )
    edges = np.tile(np.arange(BINS + 1.0), (plain.shape[1], 1))
    model = ClickNet(config().ctr, texts.vectors.shape[1], edges).eval()
    model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    with torch.no_grad():
        logits = model(Inputs(*map(torch.from_numpy, feed))).numpy()
    return Calibration(**settings["calibration"])(logits.mean(axis=2))


def base_of(store, version, user):
    return decode(Base, asyncio.run(store.get([keys.base(version, user)]))[0])


def test_published_users_get_the_probabilities_of_the_run(run, store, served):
    prepared = Prepared.load(run / "prepared")
    moments = latest_moments(prepared, day_after(prepared))
    bases = [base_of(store, served.version, m.user_id) for m in moments]
    readers = [served.clicks.reader(b.taste, b.until, b.past[::-1]) for b in bases]
    now = day_after(prepared) * DAY_S
    found = np.stack(served.clicks.probabilities(readers, [QUERIES] * len(readers), now))
    expected = of_the_run(run, moments, QUERIES)
    assert expected.std() > 0.01  # the model tells pairs apart
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_what_happens_after_the_log_counts(run, store, served):
    prepared = Prepared.load(run / "prepared")
    day, user = day_after(prepared), prepared.behaviours["user_id"][0].as_py()
    base = base_of(store, served.version, user)
    now = (day + 0.9) * DAY_S  # counts of the shop stay those of this day until the next publishing
    live = [
        Past(now - 0.5 * DAY_S, "a", "search", "sled", "sled"),
        Past(now - 0.2 * DAY_S, "b", "search", "wool hat", "wool hat"),
        Past(now - 0.1 * DAY_S, "c", "click", "wool hat", "wool hat", "i9"),
    ]
    moment = Histories(prepared).moment(0, user, live, now, published=True)
    past = sorted([*base.past, *live], key=lambda p: -p.at)
    readers = [served.clicks.reader(base.taste, base.until, past)]
    (found,) = served.clicks.probabilities(readers, [QUERIES], now)
    (expected,) = of_the_run(run, [moment], QUERIES)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_a_stranger_and_unknown_queries(served):
    reader = served.clicks.reader(None, 0.0, [])
    (found,) = served.clicks.probabilities([reader], [["sled", "nobody asked this"]], time.time())
    assert np.isfinite(found).all()
    assert ((found >= 0) & (found <= 1)).all()


def test_a_batch_is_its_requests_one_by_one(store, served):
    users = [key.split("{u:")[1][:-1] for key in store._values if key.startswith("aigq:base:")]
    bases = [base_of(store, served.version, user) for user in users]
    readers = [served.clicks.reader(b.taste, b.until, b.past[::-1]) for b in bases]
    lists = [QUERIES[i % 3 : i % 3 + 2 + i % 4] for i in range(len(readers))]

    async def together():
        batches = click_batches.ClickBatches(lambda: 0.0)
        asked = zip(readers, lists, strict=True)
        return await asyncio.gather(*(batches.score(served.clicks, r, q) for r, q in asked))

    one_by_one = [served.clicks.probabilities([r], [q], 0.0)[0] for r, q in zip(readers, lists, strict=True)]
    for together_, alone in zip(asyncio.run(together()), one_by_one, strict=True):
        np.testing.assert_allclose(together_, alone, rtol=1e-4)


def test_hints_are_in_the_order_of_the_model(run, store, served):
    prepared = Prepared.load(run / "prepared")
    user, now = prepared.behaviours["user_id"][0].as_py(), day_after(prepared) * DAY_S

    async def answer(section):
        catalogs = Catalogs(store, clicks=True)
        await catalogs.refresh()
        return await Hints(section, store, catalogs, Guards(section.serving), clock=lambda: now).answer(
            Ask(user, 5)
        )

    patient = {"deadline_ms": 10_000, "diversity": 0.0, "near_duplicate": 100}
    ranked = [h.query for h in asyncio.run(answer(config(**patient))).hints]
    base = base_of(store, served.version, user)
    reader = served.clicks.reader(base.taste, base.until, base.past[::-1])
    (p,) = served.clicks.probabilities([reader], [ranked], now)
    assert len(ranked) == 5
    assert list(p) == sorted(p, reverse=True)


def test_the_row_of_the_blend_is_ordered_by_the_model_and_a_channel_alone_is_not(run, tmp_path):
    prepared = Prepared.load(run / "prepared")
    moments = prepared.moments(prepared.split("test").slice(0, 8))
    weights = {"u2q": 0.0, "x2q": 0.0}
    shop = PastShop(config(), lambda: 1 / 0, lambda: 1 / 0, tmp_path, folder_of(run))

    def lists(name, ranker):
        served = Served(name, shop, config(weights=weights, ranker=ranker).serving)
        served.fit(prepared)
        return [[hint.query for hint in listed] for listed in served.recommend(moments, 9)]

    assert lists("blend", "ctr") != lists("blend", "ranks")
    assert lists("coclick", "ctr") == lists("coclick", "ranks")


def test_a_version_without_a_part_is_refused(store, served):
    async def broken():
        kept = await store.get([keys.click_model(served.version, 0)])
        await store.put({keys.click_model(served.version, 0): encode((2, b"half"))}, 60)
        try:
            with pytest.raises(StoreError, match="lacks a part"):
                await ClickModel.load(store, served.version)
            await store.put({keys.click_model(served.version, 0): encode((1, b"rubbish"))}, 60)
            with pytest.raises(StoreError, match="damaged"):
                await ClickModel.load(store, served.version)
        finally:
            await store.put({keys.click_model(served.version, 0): kept[0]}, 3600)

    asyncio.run(broken())
    assert asyncio.run(ClickModel.load(store, "no such version")) is None


def test_a_version_whose_arrays_do_not_fit_is_refused(store, served):
    async def shortened():
        first = keys.click_model(served.version, 0)
        kept = (await store.get([first]))[0]
        count, part = msgspec.msgpack.decode(kept, type=tuple[int, bytes])
        assert count == 1
        tensors = safetensors.numpy.load(part) | {"shop": np.zeros((0, 5), np.float32)}
        await store.put({first: encode((1, safetensors.numpy.save(tensors)))}, 60)
        try:
            with pytest.raises(StoreError, match="damaged"):
                await ClickModel.load(store, served.version)
        finally:
            await store.put({first: kept}, 3600)

    asyncio.run(shortened())


def test_an_earlier_model_must_be_trained_again(run, tmp_path):
    prepared = Prepared.load(run / "prepared")
    (tmp_path / "model.json").write_bytes((folder_of(run) / "model.json").read_bytes())
    with pytest.raises(StageError, match="train ctr"):
        ClickTables(tmp_path, prepared, day_after(prepared))


def test_a_model_that_fails_fails_for_those_who_asked(served):
    class Broken:
        def asked(self, reader, queries, now):
            raise ValueError("no such feature")

    async def ask():
        batches = click_batches.ClickBatches(time.time)
        reader = served.clicks.reader(None, 0.0, [])
        with pytest.raises(ValueError, match="no such feature"):
            await batches.score(Broken(), reader, ["sled"])
        return await batches.score(served.clicks, reader, ["sled"])  # the next one is answered

    assert len(asyncio.run(ask())) == 1


def test_features_are_made_while_the_network_runs(served):
    both = threading.Barrier(2)

    class Watched:
        def __init__(self):
            self.asking = self.ran = 0

        def asked(self, reader, queries, now):
            self.asking += 1
            if self.asking == click_batches.AT_ONCE + 1:
                both.wait(5)
            return served.clicks.asked(reader, queries, now)

        def feed(self, batch):
            return served.clicks.feed(batch)

        def run(self, feed):
            self.ran += 1
            if self.ran == 1:
                both.wait(5)  # the features of the second batch are not done yet
            return served.clicks.run(feed)

        def lists(self, *arguments):
            return served.clicks.lists(*arguments)

    async def ask():
        batches, model = click_batches.ClickBatches(time.time), Watched()
        reader = served.clicks.reader(None, 0.0, [])
        asked = click_batches.AT_ONCE + 1
        return await asyncio.gather(*(batches.score(model, reader, ["sled"]) for _ in range(asked)))

    assert len(asyncio.run(ask())) == click_batches.AT_ONCE + 1


@pytest.mark.parametrize("part", ["recent", "issues", "similar", "profile", "latest"])
def test_a_damaged_history_is_ranked_all_the_same(run, store, served, part):
    """Numbers beyond the arrays of the model: hints come without it, or with what can be read."""
    prepared = Prepared.load(run / "prepared")
    user, now = prepared.behaviours["user_id"][0].as_py(), day_after(prepared) * DAY_S
    base = base_of(store, served.version, user)
    wrong = {"profile": [10**6], "latest": 10**6}
    for name in ("recent", "issues", "similar"):
        rows = np.frombuffer(getattr(base.taste, name), KINDS[name]).copy()
        assert len(rows)
        rows[rows.dtype.names[0]] = 10**8
        wrong[name] = rows.tobytes()
    broken = msgspec.structs.replace(base, taste=msgspec.structs.replace(base.taste, **{part: wrong[part]}))
    copy = MemoryStore()
    copy._values = dict(store._values)

    async def answer():
        await copy.put({keys.base(served.version, user): encode(broken)}, 3600)
        catalogs = Catalogs(copy, clicks=True)
        await catalogs.refresh()
        section = config(deadline_ms=10_000)
        return await Hints(section, copy, catalogs, Guards(section.serving), clock=lambda: now).answer(
            Ask(user, 5)
        )

    assert len(asyncio.run(answer()).hints) == 5


WRITTEN = st.text(alphabet="abc ö牛😀", max_size=6)


@given(st.lists(WRITTEN, min_size=1, max_size=12, unique=True), st.integers(1, 7), st.data())
def test_kept_ratios_are_those_of_the_letters(texts, kept, data):
    words = Words(len(texts), kept)
    for _ in range(3):
        latest = data.draw(st.integers(0, len(texts) - 1))
        numbers = np.array(data.draw(st.lists(st.integers(-1, len(texts) - 1), min_size=1, max_size=9)))
        found = words.alike(texts[latest], latest, [texts[n] for n in numbers], numbers)
        expected = letters([texts[latest]] * len(numbers), [texts[n] for n in numbers])
        np.testing.assert_array_equal(found, expected)


def test_ages_fall_into_the_buckets_of_training():
    assert age_buckets(np.array([0.0, 0.6, 1000.0])).tolist() == [0, 2, 10]
