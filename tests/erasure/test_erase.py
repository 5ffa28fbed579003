"""A user is erased from a real run folder, LMDB and SQLite or Redis; an own look finds the id nowhere."""

import asyncio
import csv
import json
import random
import re
import shutil
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta

import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import redis
import yaml

from aigq.cli import main
from aigq.erased import Erased
from aigq.erasure import places
from aigq.erasure.scan import Sought, scan_files
from aigq.runs import Run, resolve
from aigq.serving import keys
from aigq.serving.stores import StoreError, open_store
from aigq.serving.stores.embedded import LmdbStore
from aigq.serving.streams import Message, open_log
from aigq.sources import import_source
from aigq.sources.importing import alone
from aigq.tables import USERS

USER = "visitor-remarkable"
GAMES = ["zelda", "halo", "fifa 12", "forza", "batman", "portal 2", "skyrim", "rage"]
SMALL = {
    "name": "shop",
    "split": {"validation_from": "2011-09-05", "test_from": "2011-09-15"},
    "samples": {"unit": "next_query", "k_users": 2, "list_length": 5},
    "channels": {"ranker": {"trees": 5, "leaves": 4, "min_pairs_in_leaf": 5}},
    "ctr": {"epochs": 1, "eval_every": 20},
    "evaluation": {"rows": ["popular", "personal", "ranker", "ctr"], "ks": [3, 5], "bootstrap": 100},
}


def write_log(path):
    """Thirty shoppers, one of a remarkable name, who is in a rejected line and in a broken one, too."""
    draw, rows = random.Random(0), []
    for number in range(30):
        user = USER if number == 7 else f"visitor-{number}"
        moment = datetime(2011, 8, 11) + timedelta(hours=number)
        while moment < datetime(2011, 9, 25):
            game = draw.choice(GAMES[number % 5 : number % 5 + 4])
            rows.append((user, 1000 + GAMES.index(game), "abcat1", game, moment.isoformat(sep=" ")))
            moment += timedelta(days=draw.uniform(1, 6))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("user", "sku", "category", "query", "click_time", "query_time"))
        writer.writerows((*row, row[-1]) for row in rows)
        writer.writerow((USER, 1000, "abcat1", "zelda", "no time", "no time"))
        file.write(f"{USER},broken,line\r\n")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with tables, a CTR model, the table of results and generated lists."""
    folder = tmp_path_factory.mktemp("finished")
    write_log(folder / "log.csv")
    data = {"tables": "tables", "source": "bestbuy", "path": "log.csv"}
    (folder / "shop.yaml").write_text(yaml.safe_dump({**SMALL, "data": data}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["table", "--config", "shop.yaml", "--run", "run"]) == 0
        assert main(["generate", "u2q", "--run", "run", "--system", "personal"]) == 0
    return folder


@pytest.fixture
def shop(finished, tmp_path, monkeypatch):
    """A copy to erase from."""
    shutil.copytree(finished, tmp_path / "shop")
    monkeypatch.chdir(tmp_path / "shop")
    return tmp_path / "shop"


def publish(store, log, users=(USER, "visitor-3")):
    """The table of the run in a store, events in the log, a key of a version that nobody keeps."""
    assert main(["publish", "--run", "run", "--store", store]) == 0

    async def fill():
        opened, stream = open_store(store), open_log(log)
        for user in users:
            values = {keys.live(user): user.encode(), keys.base("forgotten", user): b"old"}
            await opened.put({**values, keys.u2q(user): b"lists"}, 600)
            await stream.append([Message(user, f"{user} {n}".encode()) for n in range(20)])
        await opened.close()
        await stream.close()

    asyncio.run(fill())


def erase(capsys, *options, user=USER):
    capsys.readouterr()
    code = main(["erase-user", user, "--run", "run", "--json", *options])
    return code, json.loads(capsys.readouterr().out)


def places_of(folder, user):
    """Where an id is, by other means than the command's: files as bytes, Parquet as Python text."""
    found = []
    for path in folder.rglob("*"):
        if not path.is_file() or path.name == "log.csv":
            continue
        text = path.read_bytes()
        if path.suffix == ".parquet":
            text += repr(pq.read_table(path).to_pydict()).encode()
        if user.encode() in text:
            found.append(str(path.relative_to(folder)))
    return found


def per_user(folder, file):
    counts = pq.read_table(folder / file, columns=["user_id"])["user_id"].value_counts().to_pylist()
    return {row["values"]: row["counts"] for row in counts}


def test_the_id_is_nowhere_afterwards_and_others_are_untouched(shop, capsys):
    publish("lmdb:run/store", "sqlite:run/events.sqlite")
    before = set(places_of(shop, USER))
    assert {"tables/events.parquet", "tables/rejected.parquet", "run/prepared/behaviours.parquet"} <= before
    assert {"run/tables/u2q.parquet", "run/store/data.mdb", "run/events.sqlite"} <= before
    users = {file: per_user(shop, file) for file in ("tables/events.parquet", "run/tables/u2q.parquet")}
    code, result = erase(capsys)
    assert (code, result["found"]) == (0, [])
    assert places_of(shop, USER) == []
    for file, rows in users.items():
        assert per_user(shop, file) == {user: n for user, n in rows.items() if user != USER}
        assert result["removed"][file.removeprefix("run/")] == rows[USER]
    assert (result["removed"]["log"], result["removed"]["tables/rejected.parquet"]) == (20, 2)
    assert result["removed"]["store"] == 4  # live, u2q, base of the version and of a forgotten one
    assert min(result["scanned"].values()) > 10
    with lmdb.open("run/store", readonly=True) as env, env.begin() as txn:
        names = [key.decode() for key, _ in txn.cursor()]
    assert any(name == keys.live("visitor-3") for name in names)
    with closing(sqlite3.connect("run/events.sqlite")) as db:
        assert db.execute("select user, count(*) from events group by 1").fetchall() == [("visitor-3", 20)]
    about = json.loads((shop / "tables" / "import.json").read_text())
    assert about["events"] == pq.read_metadata(shop / "tables" / "events.parquet").num_rows
    assert about["users"] == 29


def test_what_was_made_from_the_rows_is_made_again_without_them(shop, capsys):
    under_trl = shop / "run" / "models" / "direct_grpo" / "training" / "checkpoint-2"
    under_trl.mkdir(parents=True)
    (under_trl / "trainer_state.json").write_text("{}")
    code, result = erase(capsys)
    assert (code, result["outdated"]) == (0, ["ctr"])
    assert {"lists", "channels"} <= set(result["caches"])
    assert not under_trl.exists()
    assert not (shop / "run" / "metrics.json").exists()
    assert not (shop / "run" / "report.html").exists()
    assert not list((shop / "run" / "models").rglob("checkpoint.pt"))
    opened = Run.open(shop / "run", resolve(None, shop / "run", ())[0])
    assert opened.finished("ctr")  # the old model stays in use
    started = opened.begun("ctr")
    fresh = shop / "fresh"
    assert main(["prepare", "--config", "shop.yaml", "--run", str(fresh)]) == 0
    for name in ("behaviours", "queries", "query_days", "samples"):
        made, again = (pq.read_table(run / "prepared" / f"{name}.parquet") for run in (shop / "run", fresh))
        assert made.equals(again)
    capsys.readouterr()
    assert main(["table", "--run", "run"]) == 0
    errors = capsys.readouterr().err
    assert "ctr: a user whose rows it was trained with was erased; it is trained again" in errors
    assert "prepare: begins" not in errors
    assert opened.begun("ctr") >= started
    assert opened.outdated_models() == []
    assert (shop / "run" / "report.html").exists()
    assert places_of(shop / "run", USER) == []


def test_importing_the_raw_log_again_leaves_the_user_out(shop, capsys):
    erase(capsys)
    before = per_user(shop, "tables/events.parquet")
    summary = import_source("bestbuy", shop / "log.csv", shop / "tables")
    assert summary.rejected["erased user"] > 5
    assert summary.rows == summary.new_events + summary.duplicates + sum(summary.rejected.values())
    assert per_user(shop, "tables/events.parquet") == before
    assert places_of(shop / "tables", USER) == []


def test_prepare_leaves_out_who_is_on_the_list_where_another_program_wrote_the_tables(shop):
    Erased.load(shop / "tables").adding([USER]).save(shop / "tables")
    assert USER in per_user(shop, "tables/events.parquet")
    assert main(["prepare", "--config", "shop.yaml", "--run", "other"]) == 0
    assert places_of(shop / "other", USER) == []


def test_the_last_user_with_a_field_of_the_prompt(shop, capsys):
    people = [{"user_id": USER, "profile": {"town": "delft"}}]
    pq.write_table(pa.Table.from_pylist(people, schema=USERS), shop / "tables" / "users.parquet")
    asked = ("--config", "shop.yaml", "--run", "towns", "--set", "prompt.profile=[town]")
    assert main(["prepare", *asked]) == 0
    assert main(["erase-user", USER, "--run", "towns"]) == 0
    assert "no user has 'town'" in capsys.readouterr().err
    assert places_of(shop / "towns", USER) == []


def test_again_and_for_strangers(shop, capsys):
    erase(capsys)
    files = {path: path.read_bytes() for path in shop.rglob("*.parquet")}
    for user in (USER, "somebody else"):
        code, result = erase(capsys, user=user)
        assert (code, result["removed"], result["caches"], result["found"]) == (0, {}, [], [])
    assert {path: path.read_bytes() for path in shop.rglob("*.parquet")} == files
    listed = Erased.load(shop / "tables")
    assert listed.digest("somebody else") in listed.users
    assert len(listed.users) == 2
    capsys.readouterr()
    assert main(["erase-user", USER, "--run", "run"]) == 0
    out = capsys.readouterr().out
    assert "found nowhere" in out
    assert "ctr was trained with rows of an erased user" in out  # of whom, the mark does not say
    assert USER not in out


def test_nothing_is_erased_while_another_command_works_in_the_run(shop, capsys):
    before = places_of(shop, USER)
    with Run.open(shop / "run", resolve(None, shop / "run", ())[0]).alone():
        assert main(["erase-user", USER, "--run", "run"]) == 2
    assert "another aigq command works in" in capsys.readouterr().err
    assert places_of(shop, USER) == before


def test_nothing_is_erased_while_an_import_works_in_the_tables(shop, capsys):
    before = places_of(shop, USER)
    with alone(shop / "tables"):
        assert main(["erase-user", USER, "--run", "run"]) == 2
    assert "another `aigq import` or `aigq erase-user` works in tables" in capsys.readouterr().err
    assert places_of(shop, USER) == before
    assert erase(capsys)[0] == 0


def test_no_import_works_in_the_tables_while_a_user_is_erased(shop, capsys, monkeypatch):
    real, codes = places.erase_tables, []

    def meanwhile(*arguments):
        codes.append(main(["import", "bestbuy", "log.csv", "--out", "tables"]))
        return real(*arguments)

    monkeypatch.setattr(places, "erase_tables", meanwhile)
    assert main(["erase-user", USER, "--run", "run"]) == 0
    assert codes == [2]
    assert "works in tables" in capsys.readouterr().err
    assert not (shop / "tables" / ".import.lock").exists()


def test_a_mistyped_store_is_no_empty_one(shop, capsys):
    assert main(["erase-user", USER, "--run", "run", "--store", "lmdb:stor"]) == 2
    assert "no store at stor" in capsys.readouterr().err
    assert not (shop / "stor").exists()


def test_a_mistyped_log_is_no_empty_one(shop, capsys):
    before = places_of(shop, USER)
    assert main(["erase-user", USER, "--run", "run", "--log", "sqlite:evens.sqlite"]) == 2
    assert "no event log at evens.sqlite" in capsys.readouterr().err
    assert not (shop / "evens.sqlite").exists()
    assert places_of(shop, USER) == before


@pytest.mark.parametrize("where", ["remove_caches", "erase_tables", "prepare_again", "_describe"])
def test_killed_half_way_it_is_finished_by_the_next_call(shop, capsys, monkeypatch, where):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(places, where, killed)
        assert main(["erase-user", USER, "--run", "run"]) == 130
    code, result = erase(capsys)
    assert (code, result["outdated"]) == (0, ["ctr"])
    assert places_of(shop, USER) == []
    assert json.loads((shop / "tables" / "import.json").read_text())["users"] == 29


def test_a_store_that_fails_keeps_no_row_in_the_tables(shop, capsys, monkeypatch):
    publish("lmdb:run/store", "sqlite:run/events.sqlite")

    async def full(_):
        raise StoreError("full")

    with monkeypatch.context() as patch:
        patch.setattr(LmdbStore, "scrub", full)
        assert main(["erase-user", USER, "--run", "run"]) == 1
    left = places_of(shop, USER)
    assert left
    assert all(place.startswith(("run/store", "run/events.sqlite")) for place in left)
    code, result = erase(capsys)
    assert (code, result["found"], places_of(shop, USER)) == (0, [], [])


def test_redis_with_hashed_names(shop, capsys, monkeypatch, redis_server):
    redis_server.cli("flushall")
    monkeypatch.setenv("NAMES", "a secret")
    config = shop / "run" / "config.yaml"
    plain = config.read_text()
    hashing = plain.replace("hash_users_with: null", "hash_users_with: NAMES")
    config.write_text(hashing)
    url, name = redis_server.url, keys.user_names("NAMES")
    publish(url, url, [name(USER), name("visitor-3")])
    config.write_text(plain)  # as after `aigq publish --set`: the run knows nothing of the secret
    assert main(["erase-user", USER, "--run", "run", "--store", url, "--log", url]) == 2
    assert "name the secret by serving.hash_users_with" in capsys.readouterr().err
    config.write_text(hashing)
    code, result = erase(capsys, "--store", url, "--log", url)
    assert (code, result["found"]) == (0, [])
    assert (result["removed"]["store"], result["removed"]["log"]) == (4, 20)
    with closing(redis.Redis.from_url(url)) as server:
        kept = b"".join(key + (server.dump(key) or b"") for key in server.scan_iter())
    assert name("visitor-3").encode() in kept
    assert name(USER).encode() not in kept
    assert USER.encode() not in kept


def test_what_is_left_is_named_and_exit_code_1(shop, capsys):
    (shop / "run" / "notes.txt").write_text(f"called about {USER}.")
    np.savez(shop / "run" / "own.npz", users=np.array(["a", USER]))
    table = pa.table({"maps": pa.array([[("who", USER)]], pa.map_(pa.string(), pa.string()))})
    pq.write_table(table, shop / "run" / "own.parquet", compression="zstd", write_statistics=False)
    code, result = erase(capsys)
    assert code == 1
    assert {re.sub(r"\W.*", "", place.removeprefix("run/")) for place in result["found"]} == {"notes", "own"}
    assert len(result["found"]) == 3


def test_an_id_is_a_word_of_its_own_and_a_short_one_is_sought_in_columns(tmp_path):
    pq.write_table(pa.table({"user_id": ["17", "170"], "query": ["x", "17"]}), tmp_path / "a.parquet")
    (tmp_path / "b.json").write_text('{"17": 17, "user17": "user170", "é": "visitor-\\u00e9"}')
    found = [
        scan_files([tmp_path], Sought(frozenset([each]))).found for each in ("17", "user17", "visitor-é")
    ]
    assert [len(places) for places in found] == [1, 1, 1]
    assert found[0][0].endswith("a.parquet, column user_id")
    assert scan_files([tmp_path], Sought(frozenset(["user1"]))).found == []


def test_a_scrubbed_lmdb_file_holds_nothing_of_removed_keys(tmp_path):
    async def work():
        store = LmdbStore(tmp_path, map_gb=0.1)
        named = {f"aigq:base:v:{{u:user-{n:05}}}": b"%05d-" % n * (n % 300) for n in range(2000)}
        await store.put(named, 600)
        await store.delete([key for key in named if key.endswith("7}")])
        await store.scrub()
        left = {key.decode() async for key, _ in store.dump()}
        await store.close()
        return left, {key for key in named if not key.endswith("7}")}

    left, wanted = asyncio.run(work())
    raw = (tmp_path / "data.mdb").read_bytes()
    assert left == wanted
    seen = {int(name) for name in re.findall(rb"user-(\d{5})", raw)}
    assert seen == {n for n in range(2000) if n % 10 != 7}
    assert not {int(name) for name in re.findall(rb"(?<!\d)(\d{5})-", raw)} & {
        n for n in range(2000) if n % 10 == 7
    }


def test_counts_fall_below_k_with_the_user(shop, capsys):
    """A query that only k users issued may not be shown once one of them is gone."""
    queries = pq.read_table(shop / "run" / "prepared" / "queries.parquet")
    before = dict(zip(queries["query"].to_pylist(), queries["users"].to_pylist(), strict=True))
    rows = pq.read_table(shop / "run" / "prepared" / "behaviours.parquet")
    rows = rows.filter(pc.equal(rows["user_id"], USER))
    issued = {row["query"] for row in rows.to_pylist() if row["ts"] < datetime(2011, 9, 5)}
    erase(capsys)
    queries = pq.read_table(shop / "run" / "prepared" / "queries.parquet")
    after = dict(zip(queries["query"].to_pylist(), queries["users"].to_pylist(), strict=True))
    assert issued
    assert after == {query: n - (query in issued) for query, n in before.items()}
