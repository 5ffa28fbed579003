"""The HTTP API in this process; test_serve.py has the real server."""

import asyncio
import hashlib
import json
import threading
import time

import msgspec
import pytest
import yaml
from litestar.testing import TestClient
from prometheus_client import REGISTRY
from serving_helpers import config

from aigq.cli_serving import _publish
from aigq.errors import UsageError
from aigq.serving import keys, users
from aigq.serving.access import Access, ApiKey, Refused, read_keys
from aigq.serving.app import create_app
from aigq.serving.hints import Ask
from aigq.serving.metrics import LEFT_OUT
from aigq.serving.publish import publish, rollback
from aigq.serving.run_tables import RunTables
from aigq.serving.service import Service
from aigq.serving.state import Generation, Neighbours, Suggestion, U2q, encode
from aigq.serving.stores import StoreError, open_store
from aigq.serving.stores.memory import MemoryStore
from aigq.serving.streams import LogError, open_log
from aigq.serving.streams.log import PARTITIONS

SLED = {"object": {"object_id": "item sled"}}
SEA = {"swim goggles", "beach towel", "sun cream", "snorkel set", "flip flops"}


@pytest.fixture
def store(shop_run):
    store = MemoryStore()
    asyncio.run(publish(shop_run.config, store, RunTables(shop_run.config, shop_run.folder).families))
    return store


def client_of(store, log=None, api_keys=None, ranker=None, **serving):
    service = Service(config(**serving), store, log or open_log("memory:"), api_keys, ranker)
    return TestClient(create_app(service), raise_server_exceptions=False)


def inside(client, work, *arguments):
    """Run a coroutine in the event loop of the application."""
    with client.portal() as portal:
        return portal.call(work, *arguments)


def hints(client, **params):
    response = client.get("/v1/hints", params=params)
    assert response.status_code == 200, response.text
    return response.json()["hints"]


def names(client, **params):
    return [hint["query"] for hint in hints(client, **params)]


def event(action, query=None, item=None, user="u1", **more):
    attributes = {"object": {"object_id": item}} if item else {}
    return {
        "action_name": action, "user_id": user, "user_query": query, "event_attributes": attributes, **more
    }  # fmt: skip


def test_everybody_gets_hints(store):
    with client_of(store) as client:
        nobody = client.get("/v1/hints", params={"n": 4}).json()
        assert len(nobody["request_id"]) == 32
        assert [h["position"] for h in nobody["hints"]] == [1, 2, 3, 4]
        assert {h["channel"] for h in nobody["hints"]} == {"popular"}
        own = hints(client, user="u00", n=5)
        assert own[0]["query"] in SEA
        assert own[0]["channel"] == "personal"
        assert own[0]["reason"].startswith("you looked for this")


def test_a_query_of_one_person_is_never_a_hint(store):
    with client_of(store) as client:
        assert "a secret of mine" not in names(client, user="u03", n=30)
        client.post("/v1/events", json=event("search", "my own little secret"))
        assert "my own little secret" not in names(client, user="u1", n=30)


def test_an_event_changes_the_next_answer(store):
    with client_of(store) as client:
        assert client.post("/v1/events", json=event("search", "Ski  Gloves")).json() == {
            "accepted": 1, "rejected": []
        }  # fmt: skip
        after = hints(client, user="u1", n=3)
        assert "ski gloves" not in [h["query"] for h in after]  # just searched
        assert after[0]["channel"] == "coclick"
        assert after[0]["reason"] == "goes with “ski gloves”"


def test_events_in_the_request_count_at_once_and_are_not_kept(store):
    inline = json.dumps(
        [{"action_name": "click", "event_attributes": {"object": {"object_id": "item sled"}}}]
    )
    with client_of(store) as client:
        first = hints(client, user="new", n=1, events=inline)[0]
        assert first["channel"] == "coclick"
        assert first["reason"] == "goes with “sled”"
        assert hints(client, user="new", n=1)[0]["channel"] == "popular"


def test_x2q_and_u2q_reach_the_answer(store):
    with client_of(store) as client:
        version = client.get("/readyz").json()["table"]
        run = Generation("m", time.time(), 0.0, [Suggestion("sun cream", "summer"), Suggestion("secret")])
        put = {
            keys.u2q("u9"): encode(U2q([run])),
            keys.x2q(version, "category", "snow"): encode(Neighbours(["flip flops"], [1.0])),
        }
        asyncio.run(store.put(put, 60))
        first = hints(client, user="u9", n=1)[0]
        assert (first["query"], first["channel"], first["reason"]) == ("sun cream", "u2q", "summer")
        client.post("/v1/events", json=event("click", item="item sled", user="u9"))
        found = {h["query"]: h for h in hints(client, user="u9", n=30)}
        assert found["flip flops"]["reason"] == "because you viewed “sled”"
        assert "secret" not in found


def test_dismissed_and_often_seen_hints_make_room(store):
    with client_of(store, rotate_shown=2) as client:
        first, second = names(client, user="u00", n=2)
        client.post("/v1/events", json=event("hint_dismiss", first, user="u00"))
        for request in ("r1", "r2"):
            client.post("/v1/events", json=event("hint_impression", second, user="u00", query_id=request))
        assert not {first, second} & set(names(client, user="u00", n=30))


def test_long_lists_change_nothing_about_what_rests(store):
    with client_of(store) as client:
        dismissed, seen = names(client, user="u00", n=2)
        client.post("/v1/events", json=event("hint_dismiss", dismissed, user="u00"))
        for request in ("r1", "r2", "r3", "r4"):
            shown = [seen, *(f"another hint {place}" for place in range(29))]
            told = [event("hint_impression", query, user="u00", query_id=request) for query in shown]
            client.post("/v1/events", json=told)
        assert not {dismissed, seen} & set(names(client, user="u00", n=30))


def test_no_reason_quotes_a_blocked_word(store, tmp_path):
    blocked = tmp_path / "blocked.txt"
    blocked.write_text("sled\n")
    with client_of(store, blocklist=str(blocked)) as client:
        version = client.get("/readyz").json()["table"]
        lists = {keys.x2q(version, "item", "item sled"): encode(Neighbours(["flip flops"], [9.0]))}
        asyncio.run(store.put(lists, 60))
        client.post("/v1/events", json=event("click", item="item sled"))
        assert hints(client, user="u1", n=1)[0] == {
            "query": "flip flops", "position": 1, "channel": "x2q", "reason": "suggested for you"
        }  # fmt: skip


def test_the_service_logs_its_impressions(store):
    log = open_log("memory:")
    with client_of(store, log) as client:
        answer = client.get("/v1/hints", params={"user": "u00", "n": 3, "surface": "home"}).json()
        time.sleep(0.4)
        records = inside(client, log.read, "g", list(range(PARTITIONS)), 99, {})
    bodies = [json.dumps(msgspec.msgpack.decode(r.body)) for r in records]
    assert len(bodies) == 1
    assert all(hint["query"] in bodies[0] for hint in answer["hints"])
    assert {r.user for r in records} == {"u00"}
    assert all(answer["request_id"] in body and "hint_impression" in body for body in bodies)


def test_a_batch_is_taken_event_by_event(store):
    with client_of(store, max_events=3) as client:
        batch = [event("search", "sled"), event("fly", "x"), event("search", user=None, query="x")]
        answer = client.post("/v1/events", json=batch).json()
        assert answer["accepted"] == 1
        assert [r["index"] for r in answer["rejected"]] == [1, 2]
        unreadable = [event("search", "x", user=1017), None, event("search", "sled")]
        answer = client.post("/v1/events", json=unreadable).json()
        assert (answer["accepted"], [r["index"] for r in answer["rejected"]]) == (1, [0, 1])
        assert "user_id" in answer["rejected"][0]["reason"]
        assert client.post("/v1/events", json=[]).json() == {"accepted": 0, "rejected": []}
        assert client.post("/v1/events", json=[event("search", "x")] * 4).status_code == 413
        assert client.post("/v1/events", json=event("fly", "x")).status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("GET", "/v1/hints?n=0", {}, 400),
        ("GET", "/v1/hints?n=x", {}, 400),
        ("GET", "/v1/hints", {"params": {"events": "[{"}}, 400),
        ("GET", "/v1/hints", {"params": {"user": "x" * 257}}, 400),
        ("GET", "/v1/hints", {"params": {"events": json.dumps([event("search", "x")] * 21)}}, 400),
        ("GET", "/v1/hints", {"params": {"events": '[{"z":' + "[" * 1900 + "]" * 1900 + "}]"}}, 400),
        ("GET", "/v1/nothing", {}, 404),
        ("PUT", "/v1/events", {}, 405),
        ("POST", "/v1/events", {"content": b"\xff"}, 400),
        ("POST", "/v1/events", {"content": b""}, 400),
        (
            "POST",
            "/v1/events",
            {"content": b'{"action_name":"exit","user_id":"\xe9"}'},
            400,
        ),
        ("POST", "/v1/events", {"content": b"[" * 5000 + b"]" * 5000}, 400),
        ("POST", "/v1/events", {"json": event("search", "x" * 2001)}, 400),
        ("POST", "/v1/events", {"content": b"[" + b" " * 300_000 + b"]"}, 413),
        ("POST", "/v1/events", {"json": event("search", "'; drop table events; --")}, 202),
        ("POST", "/v1/events", {"json": event("search", "x", user="{u:}*\x00../")}, 202),
    ],
)
def test_bad_requests(store, method, path, options, status):
    with client_of(store) as client:
        response = client.request(method, path, **options)
        assert response.status_code == status, response.text
        if status >= 400 and status != 405:
            assert set(response.json()) == {"status_code", "detail"}
        assert "Traceback" not in response.text


def test_erasing_a_user(store):
    log = open_log("memory:")
    with client_of(store, log) as client:
        client.post("/v1/events", json=event("search", "sled", user="u02"))
        names(client, user="u02")
        assert client.delete("/v1/users/u02").json()["removed"] >= 3
        late = event("search", "sled", user="u02", timestamp=time.time() - 60)
        client.post("/v1/events", json=late)  # from before the erasure
        time.sleep(0.3)
        client.delete("/v1/users/u02")

        async def left():
            return [e.key async for e in store.scan("") if "u02" in e.key], await log.read(
                "g", list(range(PARTITIONS)), 99, {}
            )

        stored, logged = inside(client, left)
        assert stored == []
        assert [r for r in logged if r.user == "u02"] == []
        assert hints(client, user="u02")[0]["channel"] == "popular"
        client.post("/v1/events", json=event("search", "sled", user="u02"))  # who comes back may
        assert hints(client, user="u02")[0]["channel"] == "coclick"


class Broken:
    """A store and a log that do not answer."""

    def __getattr__(self, name):
        async def fail(*_, **__):
            raise (LogError if name == "append" else StoreError)("away")

        async def close():
            return None

        return close if name == "close" else fail


def test_an_answer_never_fails(store):
    with client_of(Broken(), Broken()) as client:
        assert hints(client, user="u00", locale="de") == [
            {"query": "gutschein", "position": 1, "channel": "fallback", "reason": "our suggestion"}
        ]
        assert client.post("/v1/events", json=event("search", "x")).status_code == 503
        assert client.delete("/v1/users/u").status_code == 503
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "scores",
    [
        lambda n: 1 / 0,
        lambda n: [float("nan")] * n,
        lambda n: [float("inf"), *[0.5] * (n - 1)],
        lambda n: [0.5] * (n - 1),
        lambda n: [0.5] * (n + 1),
    ],
)
def test_a_failing_ranker_is_replaced(store, scores):
    class Ranker:
        async def score(self, shopper, candidates):
            return scores(len(candidates))

    LEFT_OUT.labels("ranker", "failed")
    labels = {"channel": "ranker", "why": "failed"}
    before = REGISTRY.get_sample_value("aigq_channel_left_out_total", labels)
    with client_of(store, ranker=Ranker()) as client:
        assert len(hints(client, user="u00", n=5)) == 5
    assert REGISTRY.get_sample_value("aigq_channel_left_out_total", labels) == before + 1


def test_a_ranker_of_ones_own_decides(store):
    class ByLength:
        async def score(self, shopper, candidates):
            return [float(len(c.query)) for c in candidates]

    with client_of(store, ranker=ByLength(), diversity=0.0) as client:
        lengths = [len(query) for query in names(client, user="u00", n=10)]
        assert lengths == sorted(lengths, reverse=True)


def test_a_slow_ranker_is_done_without(store):
    class Slow:
        async def score(self, shopper, candidates):
            await asyncio.sleep(5)

    with client_of(store, ranker=Slow(), deadline_ms=50) as client:
        start = time.monotonic()
        assert len(hints(client, user="u00", n=5)) == 5
        assert time.monotonic() - start < 2


def test_no_answer_waits_for_the_classifier(store):
    waited_for = []

    def profane(text):
        if threading.current_thread() is threading.main_thread():
            waited_for.append(text)
        return text == "sled"

    async def shown():
        service = Service(config(), store, open_log("memory:"), profane=profane)
        await service.catalogs.follow()
        return [hint.query for hint in (await service.hints.answer(Ask("u00", 30))).hints]

    queries = asyncio.run(shown())
    assert "wool hat" in queries
    assert "sled" not in queries
    assert waited_for == []


def test_late_channels_are_left_out(store):
    class Slow(MemoryStore):
        async def get(self, wanted):
            if any("coclick" in key for key in wanted):
                await asyncio.sleep(5)
            return await store.get(wanted)

    with client_of(Slow(), deadline_ms=50) as client:
        start = time.monotonic()
        found = {h["channel"] for h in hints(client, user="u00", n=30)}
        assert time.monotonic() - start < 2
        assert "personal" in found
        assert "coclick" not in found


def test_too_many_requests_at_a_time_get_the_popular_list(store):
    class Away(MemoryStore):
        async def get(self, wanted):
            await asyncio.sleep(0.001)  # the others arrive meanwhile
            return await store.get(wanted)

    async def burst():
        service = Service(config(max_in_flight=2, deadline_ms=5000), Away(), open_log("memory:"))
        await service.catalogs.refresh()
        return await asyncio.gather(*(service.hints.answer(Ask("u00", 3)) for _ in range(6)))

    channels = [answer.hints[0].channel for answer in asyncio.run(burst())]
    assert channels.count("popular") == 4


def test_a_damaged_value_does_no_harm(store):
    with client_of(store) as client:
        asyncio.run(store.put({keys.live("u00"): b"\xc1\xff"}, 60))
        assert hints(client, user="u00")[0]["channel"] == "personal"
        client.post("/v1/events", json=event("search", "sled", user="u00"))
        assert any(h["reason"] == "goes with “sled”" for h in hints(client, user="u00", n=30))


def test_a_surface_that_is_off_and_own_history_only(store):
    with client_of(store, surfaces_off=["checkout"], own_history_only=True) as client:
        assert hints(client, user="u00", surface="checkout") == []
        assert hints(client, n=5) == []
        assert {h["query"] for h in hints(client, user="u00", n=30)} <= SEA


def test_user_ids_can_be_hashed(shop_run, monkeypatch):
    monkeypatch.setenv("SECRET", "of the shop")
    store, name = MemoryStore(), keys.user_names("SECRET")
    tables = RunTables(shop_run.config, shop_run.folder, name)
    asyncio.run(publish(shop_run.config, store, tables.families))
    log, raw = open_log("memory:"), ("u00", "visit-77", "session:")
    with client_of(store, log, hash_users_with="SECRET") as client:
        assert hints(client, user="u00")[0]["channel"] == "personal"
        sent = [
            event("search", "sled", user="u00", session_id="visit-77", event_id="u00/1"),
            event("search", "sled", user=None, session_id="visit-77"),
            event("click", item="item sled", user=None, event_attributes={"session_id": "visit-77"} | SLED),
        ]
        assert client.post("/v1/events", json=sent).json()["accepted"] == len(sent)
        assert hints(client, session="visit-77", events=json.dumps(sent))
        time.sleep(0.4)  # impressions too
        written = inside(client, _written, store, log)
    assert any(keys.live(name("u00")).encode() in text for text in written)
    assert any(keys.live(name("session:visit-77")).encode() in text for text in written)
    assert [text for text in written if any(word.encode() in text for word in raw)] == []
    with pytest.raises(UsageError, match="NOT_SET"):
        keys.user_names("NOT_SET")


async def _written(store, log):
    """Every key and value of the store, every user and body of the log."""
    pairs = [pair async for pair in store.dump()] + [(m.user.encode(), m.body) async for m in log.dump()]
    return [text for pair in pairs for text in pair]


# --- access ---


def hashed(secret):
    return hashlib.sha256(secret.encode()).hexdigest()


def test_keys_have_roles_and_rates(store):
    api_keys = [
        ApiKey(name="page", sha256=hashed("r"), roles=["read"], per_second=1),
        ApiKey(name="boss", sha256=hashed("a"), roles=["read", "write", "admin"]),
    ]
    with client_of(store, api_keys=api_keys, cors_origins=["https://shop.example"]) as client:
        assert client.get("/v1/hints").status_code == 401
        assert client.get("/v1/hints", headers={"x-api-key": "wrong"}).status_code == 401
        page = {"authorization": "Bearer r"}
        assert client.post("/v1/events", json=event("search", "x"), headers=page).status_code == 403
        assert client.delete("/v1/users/u", headers=page).status_code == 403
        assert client.get("/metrics", headers=page).status_code == 403
        statuses = [client.get("/v1/hints", headers=page).status_code for _ in range(4)]
        assert statuses[:2] == [200, 200]
        assert statuses[-1] == 429
        boss = {"x-api-key": "a"}
        assert client.post("/v1/events", json=event("search", "x"), headers=boss).status_code == 202
        assert "aigq_hints_total" in client.get("/metrics", headers=boss).text
        assert client.get("/healthz").status_code == 200
        asked = {"origin": "https://shop.example", "access-control-request-method": "GET"}
        allowed = client.options("/v1/hints", headers=asked)
        assert allowed.headers["access-control-allow-origin"] == "https://shop.example"
        other = client.get("/v1/hints", headers={"x-api-key": "a", "origin": "https://other.example"})
        assert other.status_code == 200  # who has a key may call from anywhere
        assert other.headers.get("access-control-allow-origin") != "https://other.example"


def test_without_keys_only_the_shops_own_pages_may_call(store):
    sent = json.dumps(event("search", "sled"))  # as text/plain, which no browser asks about first
    origins = ["https://other.example", "null", "https://shop.example", "http://testserver.local", None]
    with client_of(store, cors_origins=["https://shop.example"]) as client:
        statuses = {}
        for origin in origins:
            headers = {"content-type": "text/plain"} | ({"origin": origin} if origin else {})
            statuses[origin] = client.post("/v1/events", content=sent, headers=headers).status_code
        stranger = {"origin": "https://other.example"}
        refused = [client.get("/v1/hints", headers=stranger), client.delete("/v1/users/u", headers=stranger)]
    assert list(statuses.values()) == [403, 403, 202, 202, 202]
    assert [answer.status_code for answer in refused] == [403, 403]
    assert "serving.cors_origins" in refused[0].json()["detail"]
    with client_of(store) as client:
        assert client.get("/v1/hints", headers=stranger).status_code == 403
        assert client.get("/v1/hints", headers={"origin": str(client.base_url)}).status_code == 200
    with client_of(store, cors_origins=["*"]) as client:
        assert client.get("/v1/hints", headers=stranger).status_code == 200


def test_the_bucket_fills_with_time():
    now = [0.0]
    access = Access([ApiKey(name="k", sha256=hashed("s"), roles=["read"], per_second=2)], lambda: now[0])

    def refused():
        with pytest.raises(Refused) as caught:
            access.check("s", "read")
        return caught.value.status

    assert [access.check("s", "read") for _ in range(4)] == ["k"] * 4
    assert refused() == 429
    now[0] = 0.5
    assert access.check("s", "read") == "k"
    assert refused() == 429


def test_the_keys_file(tmp_path):
    path = tmp_path / "keys.yaml"
    path.write_text(yaml.safe_dump([{"name": "n", "sha256": hashed("x"), "roles": ["read"]}]))
    assert read_keys(path)[0].name == "n"
    assert read_keys(None) is None
    for content in (
        "",
        "- {name: n}",
        "x: [",
        "- 2026-13-16",
        f"- {{name: n, sha256: {hashed('x')}, roles: [fly]}}",
        "7",
    ):
        path.write_text(content)
        with pytest.raises(UsageError, match="keys file"):
            read_keys(path)


# --- the table ---


def test_publishing_swaps_and_rolls_back(shop_run):
    async def work():
        store = open_store("memory:")
        build = RunTables(shop_run.config, shop_run.folder).families
        versions = [(await publish(shop_run.config, store, build))["version"] for _ in range(3)]
        back = await rollback(shop_run.config, store)
        left = {
            e.key.split(":")[2] async for e in store.scan("") if e.key not in (keys.CURRENT, keys.VERSIONS)
        }
        with pytest.raises(Exception, match="no earlier table"):
            await rollback(shop_run.config, store)
        return versions, back["version"], left

    versions, back, left = asyncio.run(work())
    assert back == versions[1]
    assert left == {versions[1]}


def test_a_publish_that_fails_half_way_changes_nothing(shop_run, store):
    def half(version):
        families = dict(RunTables(shop_run.config, shop_run.folder).families(version))

        def broken():
            yield from list(families["base"])[:3]
            raise StoreError("full")

        return {**families, "base": broken()}

    before = asyncio.run(store.get([keys.CURRENT]))
    with pytest.raises(StoreError):
        asyncio.run(publish(shop_run.config, store, half))
    assert asyncio.run(store.get([keys.CURRENT])) == before
    with client_of(store) as client:
        assert hints(client, user="u00")[0]["channel"] == "personal"


def test_an_erasure_while_a_table_is_written_holds_for_it(shop_run):
    log = open_log("memory:")

    class Erasing(MemoryStore):
        async def put(self, values, ttl_s):
            await super().put(values, ttl_s)
            if any(keys.is_of("u02", key) for key in values):
                await users.erase(self, log, "u02")

        async def close(self):
            pass  # it is looked at afterwards

    async def work():
        store = Erasing()
        version = (await _publish(shop_run, store, rollback=False))["version"]
        return version, [e.key async for e in store.scan("") if e.key.endswith(("{u:u02}", "{u:u03}"))]

    version, left = asyncio.run(work())
    assert left == [keys.base(version, "u03")]


def test_a_swap_is_seen_without_a_restart(shop_run, store):
    with client_of(store) as client:
        before = client.get("/readyz").json()["table"]
        inside(client, publish, shop_run.config, store, RunTables(shop_run.config, shop_run.folder).families)
        time.sleep(0.5)
        after = client.get("/readyz").json()["table"]
        assert after != before
        assert hints(client, user="u00")[0]["channel"] == "personal"
