"""One contract, three stores; the Redis is a real server process."""

import asyncio
import multiprocessing
import os
import shutil
import signal
import struct
import subprocess

import lmdb
import pytest
from live_shop import opened as run
from serving_helpers import RedisServer, free_port, listening

from aigq.config_serving import ServingConfig
from aigq.errors import UsageError
from aigq.serving.stores import StoreError, open_store, shown
from aigq.serving.stores.embedded import LmdbStore
from aigq.serving.stores.memory import MemoryStore


@pytest.fixture(params=["memory", "lmdb", "redis"])
def url(request, tmp_path):
    match request.param:
        case "memory":
            return "memory:"
        case "lmdb":
            return f"lmdb:{tmp_path / 'store'}?map_gb=0.1"
    return request.getfixturevalue("redis_url")


async def entries(store, prefix=""):
    return {e.key: e async for e in store.scan(prefix)}


def test_values_come_back_in_the_order_of_the_keys(url):
    async def work(store):
        await store.put({"a": b"1", "b": b"\x00\xff", "c": b""}, 60)
        return await store.get(["c", "missing", "a", "b", "a"])

    assert run(url, work) == [b"", None, b"1", b"\x00\xff", b"1"]


def test_every_key_expires(url):
    async def work(store):
        await store.put({"short": b"1"}, 0.5)
        await store.put({"long": b"2"}, 60)
        await store.update("changed", lambda _: b"3", 0.5)
        before = await store.get(["short", "long", "changed"])
        await asyncio.sleep(0.6)
        swept = [await store.sweep() for _ in range(2)]
        return before, await store.get(["short", "long", "changed"]), set(await entries(store)), swept

    before, after, left, swept = run(url, work)
    assert before == [b"1", b"2", b"3"]
    assert after == [None, b"2", None]
    assert left == {"long"}
    assert swept == ([0, 0] if url.startswith("redis") else [2, 0])


def test_update_sees_the_present_value_and_may_remove_it(url):
    async def work(store):
        seen = []

        def change(to):
            return lambda value: (seen.append(value), to)[1]

        results = [await store.update("k", change(to), 60) for to in (b"", b"x", None, None)]
        return seen, results, await store.get(["k"])

    assert run(url, work) == ([None, b"", b"x", None], [b"", b"x", None, None], [None])


def test_no_concurrent_update_is_lost(url):
    def more(value):
        return struct.pack(">q", (struct.unpack(">q", value)[0] if value else 0) + 1)

    async def work(store):
        await asyncio.gather(*(store.update("n", more, 60) for _ in range(12)))
        return struct.unpack(">q", (await store.get(["n"]))[0])[0]

    assert run(url, work) == 12


def test_many_reads_at_a_time(url):
    """Twice as many as `serving.max_in_flight`: x2q and co-click are read side by side."""

    async def work(store):
        await store.put({"a": b"1"}, 60)
        return await asyncio.gather(*(store.get(["a"]) for _ in range(2 * ServingConfig().max_in_flight)))

    assert run(url, work) == [[b"1"]] * 512


def test_scan_finds_a_prefix_with_sizes_and_times(url):
    async def work(store):
        await store.put({f"x:{{{n}}}": b"12345" for n in range(2500)}, 60)
        await store.put({"x*": b"1", "y:1": b"2"}, 60)
        return (
            await entries(store, "x:"),
            await entries(store, "x*"),
            await store.get([]),
            await store.delete([]),
        )

    found, literal, nothing, none = run(url, work)
    assert len(found) == 2500
    assert {e.size for e in found.values()} == {5}
    assert all(50 < e.ttl_s <= 60 for e in found.values())
    assert set(literal) == {"x*"}
    assert (nothing, none) == ([], 0)


def test_delete_counts_what_was_there(url):
    async def work(store):
        await store.put({"a": b"1", "b": b"2"}, 60)
        return await store.delete(["a", "nothing", "b", "a"]), await store.get(["a", "b"])

    assert run(url, work) == (2, [None, None])


def _add(url, times):
    def more(value):
        return str(int(value or b"0") + 1).encode()

    async def work(store):
        for _ in range(times):
            await store.update("n", more, 60)

    run(url, work)


def _fill(url, megabytes):
    run(url, lambda store: store.put({f"{n}": bytes(1_000_000) for n in range(megabytes)}, 60))


def elsewhere(work, *arguments):
    """Do it in another process."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
    process.start()
    process.join(30)
    assert process.exitcode == 0


@pytest.mark.parametrize("kind", ["lmdb", "redis"])
def test_processes_share_a_store(kind, tmp_path, request):
    url = f"lmdb:{tmp_path / 's'}" if kind == "lmdb" else request.getfixturevalue("redis_url")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_add, args=(url, 50)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [w.exitcode for w in workers] == [0, 0]
    assert run(url, lambda store: store.get(["n"])) == [b"100"]


def test_lmdb_sweeps_in_steps(tmp_path):
    now = [1000.0]

    async def work():
        store = LmdbStore(tmp_path, 0.1, clock=lambda: now[0])
        await store.put({f"{n:03}": b"x" for n in range(10)}, 5)
        await store.put({"keep": b"x"}, 500)
        now[0] = 1100.0
        swept = [await store.sweep(4) for _ in range(4)]
        return swept, set(await entries(store))

    assert asyncio.run(work()) == ([4, 4, 2, 0], {"keep"})


def test_a_full_lmdb_says_so_and_keeps_what_it_has(tmp_path):
    async def work(store):
        await store.put({"a": b"1"}, 60)
        with pytest.raises(StoreError, match="full"):
            await store.put({f"b{n}": b"x" * 10_000 for n in range(500)}, 60)
        return await store.get(["a", "b0"])

    assert run(f"lmdb:{tmp_path / 's'}?map_gb=0.001", work) == [b"1", None]


@pytest.mark.parametrize("first", ["read", "write"])
def test_an_lmdb_that_another_process_made_larger_goes_on(first, tmp_path):
    url = f"lmdb:{tmp_path / 's'}?map_gb="

    async def work(store):
        await store.put({"a": b"1"}, 60)
        elsewhere(_fill, f"{url}0.02", 8)
        if first == "write":
            await store.put({"a": b"2"}, 60)
        return await store.get(["a"]), len(await entries(store))

    assert run(f"{url}0.002", work) == ([b"1" if first == "read" else b"2"], 9)


def _die_reading(path):
    store = LmdbStore(path, 0.1)
    txn = store._env.begin()
    assert txn.get(b"a")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_was_killed_while_it_read_does_not_make_an_lmdb_grow(tmp_path):
    async def overwritten(store, times):
        for _ in range(times):
            await store.put({"a": bytes(1_000_000)}, 60)
        return (tmp_path / "data.mdb").stat().st_size

    async def work():
        store = LmdbStore(tmp_path, 0.1)
        await overwritten(store, 5)
        killed = multiprocessing.get_context("spawn").Process(target=_die_reading, args=(tmp_path,))
        killed.start()
        killed.join(30)
        before = await overwritten(store, 5)
        await store.sweep()
        return killed.exitcode, before, await overwritten(store, 20)

    code, before, later = asyncio.run(work())
    assert (code, later < before + 5_000_000) == (-signal.SIGKILL, True)


def test_an_lmdb_that_is_nearly_full_can_be_written_anew(tmp_path):
    """The new pages need as much room as the old ones."""
    names = [f"{n}" for n in range(8)]

    async def scrubbed(store):
        await store.delete(["remarkable"])
        await store.scrub()
        await store.put({"after": b"x"}, 60)
        return await store.get([*names, "remarkable"])

    _fill(f"lmdb:{tmp_path / 's'}?map_gb=0.01", 8)
    run(f"lmdb:{tmp_path / 's'}?map_gb=0.01", lambda store: store.put({"remarkable": b"remarkable"}, 60))
    found = run(f"lmdb:{tmp_path / 's'}?map_gb=0.01", scrubbed)
    assert found == [*(bytes(1_000_000) for _ in names), None]
    assert b"remarkable" not in (tmp_path / "s" / "data.mdb").read_bytes()


def test_a_damaged_lmdb_value_counts_as_missing(tmp_path):
    env = lmdb.open(str(tmp_path / "s"))
    with env.begin(write=True) as txn:
        txn.put(b"a", b"123")
    env.close()
    assert run(f"lmdb:{tmp_path / 's'}", lambda store: store.get(["a"])) == [None]


def test_a_redis_that_is_away_is_a_store_error():
    async def work(store):
        with pytest.raises(StoreError):
            await store.get(["a"])
        with pytest.raises(StoreError):
            await entries(store)

    run(f"redis://127.0.0.1:{free_port()}/0", work)


def test_a_wrong_password_is_a_store_error(redis_server):
    async def work(store):
        with pytest.raises(StoreError):
            await store.put({"a": b"1"}, 1)

    run(f"redis://:wrong@127.0.0.1:{redis_server.port}/0", work)


def test_a_cluster_takes_keys_of_many_slots(tmp_path):
    server = RedisServer(tmp_path, "--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    try:
        server.cli("cluster", "addslotsrange", "0", "16383")
        for _ in range(200):
            if "cluster_state:ok" in server.cli("cluster", "info"):
                break
        keys = [f"k{n}" for n in range(50)]

        async def work(store):
            await store.put({key: key.encode() for key in keys}, 60)
            await store.update("k1", lambda value: value + b"!", 60)
            found = await store.get(keys)
            return found, set(await entries(store, "k")), await store.delete(keys)

        found, scanned, deleted = run(server.url.replace("redis:", "redis+cluster:"), work)
        assert found == [b"k1!" if key == "k1" else key.encode() for key in keys]
        assert scanned == set(keys)
        assert deleted == 50
    finally:
        server.stop()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes the certificate")
def test_tls(tmp_path):
    request = (
        "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    )
    command = ["openssl", *request.split(), "-keyout", tmp_path / "key", "-out", tmp_path / "cert"]
    subprocess.run(command, check=True, capture_output=True)
    port = free_port()
    files = ["--tls-cert-file", f"{tmp_path}/cert", "--tls-key-file", f"{tmp_path}/key"]
    files += ["--tls-ca-cert-file", f"{tmp_path}/cert", "--tls-auth-clients", "no"]
    server = RedisServer(tmp_path, "--tls-port", str(port), *files)
    try:
        listening(port)
        url = f"rediss://:{server.password}@127.0.0.1:{port}/0?ssl_ca_certs={tmp_path}/cert"

        async def work(store):
            await store.put({"a": b"1"}, 60)
            return await store.get(["a"])

        assert run(url, work) == [b"1"]
    finally:
        server.stop()


def test_wrong_urls_are_wrong_use(tmp_path):
    sizes = ("much", "-1", "1&map_mb=1")
    urls = ("mongo://x", "lmdb:", "x", *(f"lmdb:{tmp_path}?map_gb={size}" for size in sizes))
    for url in (*urls, "redis://localhost:port/0", "redis://localhost:99999", "redis://localhost/0?no=1"):
        with pytest.raises(UsageError):
            open_store(url)


def test_a_server_that_is_no_cluster_is_a_store_that_does_not_answer(redis_url):
    with pytest.raises(StoreError, match="Cluster mode is not enabled"):
        run(redis_url.replace("redis:", "redis+cluster:"), lambda store: store.get(["a"]))


def test_a_missing_password_is_named(redis_server):
    for url in (f"redis://localhost:{redis_server.port}", f"redis://:wrong@localhost:{redis_server.port}"):
        with pytest.raises(StoreError, match="password in its URL is missing or wrong"):
            run(url, lambda store: store.get(["a"]))


def test_passwords_are_not_shown():
    assert shown("redis://me:pw@h:1/0") == "redis://me:***@h:1/0"
    assert shown("lmdb:x") == "lmdb:x"


def test_memory_keeps_its_own_time():
    now = [0.0]

    async def work():
        store = MemoryStore(clock=lambda: now[0])
        await store.put({"a": b"1"}, 10)
        now[0] = 9.0
        first = await store.get(["a"])
        now[0] = 10.0
        return first, await store.get(["a"])

    assert asyncio.run(work()) == ([b"1"], [None])
