"""The cases of docs/bad-input.md through the command line, on real files: a clear line or a right answer."""

import io
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

import aigq as aigq_package
from aigq import config as configs
from aigq.cli import main
from aigq.cli_common import DONE, FAILED, INTERRUPTED, WRONG_USE
from aigq.erased import Erased
from aigq.errors import StageError
from aigq.prepared import Prepared
from aigq.runs import Run
from aigq.tables import PREPARED_TABLES
from aigq.training.encoding import EncodedLists

HEADER = "user_id,ts,action,query,item_id\n"
GOOD = "u1,2024-05-01,search,milk,\n"
CHANNELS = ["popular", "personal", "coclick"]
ALL_ROWS = [*CHANNELS, "direct_il_sft"]
CONFIG = {
    "name": "shop",
    "data": {"tables": "tables", "source": "files", "path": "log.csv"},
    "split": {"validation_from": "2024-03-10", "test_from": "2024-03-15"},
    "samples": {"k_users": 2, "list_length": 5},
    "prompt": {"budget_tokens": 96, "max_behaviours": 8},
    "generator": {
        "vocab_size": 300,
        "hidden_size": 32,
        "layers": 1,
        "heads": 2,
        "kv_heads": 1,
        "intermediate_size": 64,
        "init_from_encoder": False,
    },
    "sft": {"epochs": 3, "batch_size": 8, "tail": 5, "eval_every": 5, "eval_samples": 8},
    "evaluation": {"rows": CHANNELS, "ks": [3, 5], "bootstrap": 100, "report_users": 2},
}
MAPPED = HEADER.strip().split(",")
USERS_FILE = {"path": "users.csv", "user_id": "user_id"}
QUERIES = ("milk", "bread", "eggs", "tea")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test works in a folder of its own, with shop.yaml."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AIGQ_DEBUG", raising=False)
    configure()
    return tmp_path


@pytest.fixture
def aigq(capsys):
    """Run a command: exit code, its JSON or nothing, stderr."""

    def run(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in (*arguments, "--json")])
        out, err = capsys.readouterr()
        return code, json.loads(out) if code == DONE else out, err

    return run


def configure(**sections):
    content = {name: {**value} if isinstance(value, dict) else value for name, value in CONFIG.items()}
    for name, changes in sections.items():
        content[name].update(changes)
    Path("shop.yaml").write_text(yaml.safe_dump(content))


def log_lines(users=4, days=20, queries=QUERIES, clicks=True, start=datetime(2024, 3, 1, 10)):
    """Shoppers who search twice a day, and click what they find."""
    draw = random.Random(0)
    lines = []
    for user in range(users):
        for day in range(days):
            for hour in range(2):
                number = draw.randrange(len(queries))
                ts = start + timedelta(days=day, hours=hour, minutes=user)
                lines.append(f'u{user},{ts.isoformat()},search,"{queries[number]}",')
                if clicks:
                    ts += timedelta(seconds=30)
                    lines.append(f'u{user},{ts.isoformat()},click,"{queries[number]}",i{number}')
    return lines


def write_log(lines, path="log.csv"):
    Path(path).write_text(HEADER + "".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_json(objects, path="log.jsonl"):
    Path(path).write_text("".join(json.dumps(each) + "\n" for each in objects))  # NaN as Python writes it


def events(folder="tables"):
    return pq.read_table(f"{folder}/events.parquet").to_pylist()


def rejected(folder="tables"):
    return pq.read_table(f"{folder}/rejected.parquet").to_pylist()


def one_line(err, text):
    """The last line of stderr is aigq's, names the problem, and no traceback is above it."""
    last = err.strip().splitlines()[-1]
    return last.startswith("aigq: ") and text in last and "Traceback" not in err


def imported(aigq, path="log.csv", *options):
    code, summary, err = aigq("import", "files", path, "--out", "tables", *options)
    assert code == DONE, err
    assert summary["rows"] == summary["new_events"] + summary["duplicates"] + sum(
        summary["rejected"].values()
    )
    assert sum(summary["rejected"].values()) == len(rejected())
    return summary


def table(aigq, *options):
    code, result, err = aigq("table", "--config", "shop.yaml", *options)
    assert code == DONE, err
    return {row["system"]: row for row in result["rows"]}


# --- wrong file, missing column, empty log ---


def parquet_bytes(**columns):
    pq.write_table(pa.table(columns), "made.parquet")
    return Path("made.parquet").read_bytes()


def many():
    return parquet_bytes(user_id=[f"u{i}" for i in range(9_999)], ts=["2024-05-01"] * 9_999)


WRONG_FILES = {
    "a picture": ("log.csv", lambda: b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9, "expected CSV"),
    "a page": ("log.csv", lambda: b"<html>\n404\n</html>\n", "expected column 'user_id'"),
    "a JSON array": ("log.json", lambda: b'[\n{"user_id": 1},\n{"user_id": 2}\n]\n', "found a JSON array"),
    "gzip, cut off": ("log.csv.gz", lambda: b"\x1f\x8b\x08\x00", "expected a whole gzip file"),
    "no gzip": ("log.csv.gz", lambda: HEADER.encode(), "expected a whole gzip file"),
    "Parquet, cut off": ("log.parquet", lambda: many()[:5_000], "expected a Parquet file"),
}


@pytest.mark.parametrize(("name", "content", "message"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_a_wrong_file_is_named(aigq, name, content, message):
    Path(name).write_bytes(content())
    code, out, err = aigq("import", "files", name, "--out", "tables")
    assert (code, out) == (WRONG_USE, "")
    assert one_line(err, message)
    assert name in err
    assert not Path("tables").exists()


@pytest.mark.parametrize("source", ["bestbuy", "online_retail", "kuaisearch", "ubi", "ga4", "journey"])
def test_a_picture_is_a_wrong_file_for_every_source(aigq, source):
    Path("log.csv").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9)
    code, out, err = aigq("import", source, "log.csv", "--out", "tables")
    assert (code, out) == (WRONG_USE, "")
    assert one_line(err, "log.csv")


def test_damaged_pages_of_a_parquet_file(aigq):
    good = parquet_bytes(**{name: [f"{name}{i}" for i in range(9_999)] for name in HEADER.strip().split(",")})
    Path("log.parquet").write_bytes(good[:99] + bytes(2_000) + good[2_099:])
    code, _, err = aigq("import", "files", "log.parquet", "--out", "tables")
    assert code == WRONG_USE
    assert one_line(err, "the file cannot be read")


@pytest.mark.parametrize("content", [b"", b"PAR1 and nothing else"])
def test_damaged_tables_are_named_by_prepare_and_by_import(aigq, content):
    write_log(log_lines())
    imported(aigq)
    Path("tables/events.parquet").write_bytes(content)
    code, _, err = aigq("prepare", "--config", "shop.yaml")
    assert code == WRONG_USE
    assert one_line(err, "events.parquet is damaged")
    code, _, err = aigq("import", "files", "log.csv", "--out", "tables")
    assert code == WRONG_USE
    assert one_line(err, "import into a new folder")


def test_tables_of_another_program_are_named(aigq):
    write_log(log_lines())
    imported(aigq)
    found = pq.read_table("tables/events.parquet")
    pq.write_table(found.set_column(1, "ts", found["ts"].cast(pa.string())), "tables/events.parquet")
    code, _, err = aigq("prepare", "--config", "shop.yaml")
    assert code == WRONG_USE
    assert one_line(err, "holds ts as string")


def test_a_missing_column_is_named_with_those_there(aigq):
    Path("log.csv").write_text("user_id,when,action\nu,1,search\n")
    code, out, err = aigq("import", "files", "log.csv", "--out", "tables")
    assert (code, out) == (WRONG_USE, "")
    assert one_line(err, "expected column 'ts'; found user_id, when, action; say which column is what")
    assert not Path("tables").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": "q"}, "expected column 'q'"),
        ({"query": 7}, "query in the column map must be a column's name"),
        ({"actions": ["view"]}, "actions in the column map must be a map"),
        ({"actions": {"buy": "purchse"}}, "makes buy 'purchse', which is no action; did you mean purchase?"),
        ({"actions": {"buy": None}}, "makes buy None, which is no action; known: search, click"),
        ({"items": "log.csv"}, "items in the column map must be a map"),
        ({"items": {"item_id": "item_id"}}, "needs a path"),
        ({"items": {"path": "log.csv", "titel": "query"}}, "unknown key 'titel'"),
        ({"items": {"path": "log.csv", "attributes": "size"}}, "attributes in `items`"),
        ({"items": {"path": "log.csv", "attributes": ["size"]}}, "expected column 'size'"),
        ({"users": {"path": "log.csv", "profile": ["age"]}}, "expected column 'age'"),
    ],
)
def test_a_column_map_that_does_not_fit_is_wrong_use(aigq, change, message):
    Path("log.csv").write_text(HEADER + GOOD)
    Path("map.yaml").write_text(
        yaml.safe_dump({"user_id": "user_id", "ts": "ts", "action": "action"} | change)
    )
    code, out, err = aigq("import", "files", "log.csv", "--columns", "map.yaml", "--out", "tables")
    assert (code, out) == (WRONG_USE, "")
    assert one_line(err, message)


def test_an_empty_key_of_a_column_map_is_none(aigq):
    Path("log.csv").write_text(HEADER + GOOD)
    Path("map.yaml").write_text("{user_id: user_id, ts: ts, action: action, query: query, item_id: }")
    assert imported(aigq, "log.csv", "--columns", "map.yaml")["events"] == 1


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        ("", WRONG_USE, "the file is empty"),
        (HEADER, FAILED, "it has no rows"),
        (HEADER + ",2024-05-01,search,milk,\n", FAILED, "no user 1"),
    ],
    ids=["no bytes", "no rows", "rejects only"],
)
def test_an_empty_log_ends_the_command_and_writes_nothing(aigq, content, code, message):
    Path("log.csv").write_text(content)
    for command in (("import", "files", "log.csv", "--out", "tables"), ("table", "--config", "shop.yaml")):
        found, out, err = aigq(*command)
        assert (found, out) == (code, "")
        assert one_line(err, message)
        assert not Path("tables").exists()


# --- small logs ---


def test_one_user_gives_a_table_that_says_so(aigq, capsys):
    write_log(log_lines(users=1))
    configure(samples={"k_users": 1})
    code, summary, err = aigq("prepare", "--config", "shop.yaml")
    assert code == DONE, err
    assert summary["users"] == {"train": 1, "valid": 1, "test": 1}
    rows = table(aigq)
    assert list(rows) == CHANNELS
    assert all(row["query_hr"] == 1 and row["users"] == 1 for row in rows.values())  # 4 queries, lists of 5
    assert not any(d["significant"] for row in rows.values() for d in row.get("difference", {}).values())
    main(["table", "--config", "shop.yaml"])
    assert "Everything rests on one user only" in capsys.readouterr().out


def test_one_user_below_k_gets_empty_lists_and_the_reason(aigq):
    write_log(log_lines(users=1))
    code, _, err = aigq("prepare", "--config", "shop.yaml")
    assert code == DONE
    assert "no query of the training days was issued by 2 users (at most by 1)" in err
    assert all(row["validity"]["empty"] == 1 and row["query_hr"] == 0 for row in table(aigq).values())
    code, _, err = aigq("train", "sft", "--config", "shop.yaml")
    assert code == FAILED
    assert one_line(err, "0 queries issued by 2 users: nothing to learn from")


@pytest.mark.parametrize("clicks", [True, False], ids=["clicks", "searches only"])
def test_no_item_table_leaves_all_but_categories(aigq, clicks):
    write_log(log_lines(clicks=clicks))
    summary = imported(aigq)
    assert summary["items"] == 0
    rows = table(aigq)
    for row in rows.values():
        assert row["query_hr"] == 1  # 4 queries, lists of 5
        assert row["cate_hr"] == (1 if clicks else None)  # items are their own categories, or there are none


@pytest.mark.parametrize(
    ("command", "key"), [(("train", "sft"), "prompt.profile"), (("train", "ctr"), "ctr.profile")]
)
def test_a_profile_field_that_no_user_has_is_refused_before_and_after_prepare(aigq, command, key):
    write_log(log_lines())
    Path("users.csv").write_text("user_id,city\n" + "".join(f"u{user},delft\n" for user in range(4)))
    Path("map.yaml").write_text(yaml.safe_dump({name: name for name in MAPPED} | {"users": USERS_FILE}))
    imported(aigq, "log.csv", "--columns", "map.yaml")
    wrong = ("--config", "shop.yaml", "--set", f"{key}=[town]")
    code, _, err = aigq("prepare", *wrong)
    assert code == WRONG_USE
    assert one_line(err, f"{key}: no user has 'town'; known: city")
    assert aigq("prepare", "--config", "shop.yaml")[0] == DONE
    code, _, err = aigq(*command, *wrong)
    assert code == WRONG_USE
    assert one_line(err, f"{key}: no user has 'town'; known: city")


# --- bad rows ---


def test_timestamps_in_the_future_are_set_aside_by_the_clock(aigq):
    now = datetime.now(UTC)
    skewed, future = now + timedelta(hours=2), now + timedelta(days=3)
    write_log(
        [
            f"u,{skewed.isoformat()},search,tea,",
            f"u,{future.isoformat()},search,milk,",
            "u,4102444800,search,x,",
        ]
    )
    assert imported(aigq)["rejected"] == {"time in the future": 2}
    assert [event["query"] for event in events()] == ["tea"]
    assert "milk" in rejected()[0]["content"]


def test_actions_that_nobody_mapped_are_named(aigq, capsys):
    names = ["srch", "srch", "[/b]", *(f"view{'s' * 90}{i}" for i in range(3)), "a", "b", "c", "d"]
    write_log([GOOD.strip(), *(f"u1,2024-05-01,{name},milk," for name in names), "u1,2024-05-01,,milk,"])
    summary = imported(aigq)
    assert summary["rejected"] == {"unknown action": 11}
    assert summary["rejected_file"] == "tables/rejected.parquet"
    expected = {f"view{'s' * 36}": 3, "srch": 2, "": 1, "[/b]": 1, "a": 1}
    assert list(summary["unknown_actions"].items()) == list(expected.items())
    assert "srch" not in Path("tables/import.json").read_text()  # text of the log, which may name anybody
    capsys.readouterr()
    assert main(["import", "files", "log.csv", "--out", "tables"]) == DONE
    out = " ".join(capsys.readouterr().out.split())
    assert "'srch' 2, '' 1, '[/b]' 1, 'a' 1" in out
    assert "tables/rejected.parquet" in out


def test_an_erased_user_in_the_place_of_an_action_is_not_named(aigq):
    Erased.load(Path("tables")).adding(["u9"]).save(Path("tables"))
    write_log([GOOD.strip(), "u1,2024-05-01,u9,milk,"])
    code, summary, _ = aigq("import", "files", "log.csv", "--out", "tables")
    assert code == DONE
    assert (summary["rejected"], summary["unknown_actions"]) == ({"unknown action": 1}, {})


def test_a_log_of_unknown_actions_only_names_them(aigq):
    write_log(["u1,2024-05-01,srch,milk,"] * 2)
    code, _, err = aigq("import", "files", "log.csv", "--out", "tables")
    assert code == FAILED
    assert one_line(err, "(unknown action 2: 'srch' 2)")


def test_nothing_rejected_names_no_file(aigq, capsys):
    write_log([GOOD.strip()])
    assert imported(aigq)["rejected_file"] is None
    capsys.readouterr()
    assert main(["import", "files", "log.csv", "--out", "tables"]) == DONE
    assert "rejected" not in capsys.readouterr().out


def test_the_same_log_twice_changes_no_file_and_redoes_no_stage(aigq):
    write_log([*log_lines(), *log_lines()])
    first = imported(aigq)
    assert first["duplicates"] == first["new_events"] == len(log_lines())
    configure(evaluation={"rows": ALL_ROWS})
    table(aigq)
    before = {path.name: path.read_bytes() for path in Path("tables").iterdir()}
    again = imported(aigq)
    assert (again["new_events"], again["duplicates"]) == (0, again["rows"])
    assert again["fingerprint"] == first["fingerprint"]
    assert {path.name: path.read_bytes() for path in Path("tables").iterdir()} == before
    _, _, err = aigq("table", "--config", "shop.yaml")
    assert "begins" not in err


def test_more_rejects_or_another_provenance_are_written(aigq):
    write_log(["u1,2024-05-01,search,milk,"])
    imported(aigq)
    write_log(["u1,2024-05-01,search,milk,", ",2024-05-01,search,milk,"])
    imported(aigq)
    assert [row["reason"] for row in rejected()] == ["no user"]
    Path("map.yaml").write_text(
        "{user_id: user_id, ts: ts, action: action, query: query, provenance: constructed}"
    )
    imported(aigq, "log.csv", "--columns", "map.yaml")
    assert json.loads(Path("tables/import.json").read_text())["provenance"] == "constructed"


def test_a_query_of_ten_thousand_characters_is_set_aside_and_the_rest_goes_on(aigq):
    write_log([*log_lines(), f"u0,2024-03-02,search,{'x' * 10_000},"])
    assert imported(aigq)["rejected"] == {"query too long": 1}
    assert len(rejected()[0]["content"]) == 1_000
    assert table(aigq)["popular"]["query_hr"] == 1


def test_the_longest_queries_stay_within_the_prompts_budget(aigq):
    write_log(log_lines(queries=("牛" * 1_000, "y" * 1_000, "tea " * 250, "🎄" * 900, "milk")))
    configure(evaluation={"rows": ["direct_il_sft"]}, prompt={"favourites": 5})
    row = table(aigq)["direct_il_sft"]
    assert row["validity"]["valid"] == 1
    lists = EncodedLists.load(Path("runs/shop/models/direct_il_sft/training/train.npz"))
    assert lists.prompt_lengths.max() <= 96


def test_emoji_and_all_scripts_from_the_log_to_the_hints(aigq):
    queries = ("🎮 手机壳", "👨‍👩‍👧 tee", "苹果手机", "ñandú", "한국어 책", "مانتو", "🎄")
    write_log(log_lines(queries=queries))
    configure(evaluation={"rows": ALL_ROWS}, samples={"list_length": 7})
    rows = table(aigq)
    assert all(row["validity"]["valid"] == 1 for row in rows.values())
    assert set(Prepared.load(Path("runs/shop/prepared")).queries["query"].to_pylist()) == set(queries)
    code, result, err = aigq("generate", "u2q", "--run", "runs/shop", "--users", "u1", "-n", "7")
    assert code == DONE, err
    hints = [hint["query"] for hint in result["users"][0]["hints"]]
    assert sorted(hints) == sorted(queries)


def test_queries_that_look_like_the_models_own_tokens(aigq):
    queries = ("a;;b", "a", "<end>", "<pad>", ";;", "<queries>", "milk<end>", "x;;", "x", "jeans < 50")
    write_log(log_lines(queries=queries))
    configure(evaluation={"rows": ["direct_il_sft"], "ks": [10]}, samples={"list_length": 10})
    row = table(aigq)["direct_il_sft"]
    assert row["validity"]["valid"] == 1
    lists = pq.read_table("runs/shop/lists/direct_il_sft.parquet")
    assert {"a;;b", "a", "<end>", "x", "jeans < 50"} <= set(lists["query"].to_pylist())
    assert ";;" not in lists["query"].to_pylist()  # nothing is left of it to write


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl"])
def test_invalid_utf8_is_set_aside_with_its_line(aigq, name):
    if name == "log.csv":
        content = HEADER.encode() + b"u1,2024-05-01,search,caf\xe9,\nu\xff,2024-05-01,search,tea,\n"
        content += "u1,2024-05-01,search,牛奶,\n".encode()
    else:
        line = b'{"user_id": "%s", "ts": "2024-05-01", "action": "search", "query": "%s"}\n'
        content = line % (b"u1", b"caf\xe9") + line % (b"u\xff", b"tea") + line % (b"u1", "牛奶".encode())
    Path(name).write_bytes(content)
    assert imported(aigq, name)["rejected"] == {"invalid UTF-8": 2}
    assert [event["query"] for event in events()] == ["牛奶"]
    first = 2 if name == "log.csv" else 1  # a header is a line, too
    assert [(row["row"], "caf�" in row["content"]) for row in rejected()] == [
        (first, True),
        (first + 1, False),
    ]


def test_invalid_utf8_in_a_parquet_file(aigq):
    raw = pa.array([b"caf\xe9", "牛奶".encode()], pa.binary())
    columns = {"user_id": ["u", "u"], "ts": ["2024-05-01"] * 2, "action": ["search"] * 2}
    pq.write_table(pa.table({**columns, "query": raw.view(pa.string())}), "log.parquet")
    code, _, err = aigq("import", "files", "log.parquet", "--out", "tables")
    assert code == WRONG_USE
    assert one_line(err, 'value "caf\\xE9" is not valid UTF8')
    pq.write_table(pa.table({**columns, "query": raw}), "log.parquet")  # as bytes, each row stands for itself
    assert imported(aigq, "log.parquet")["rejected"] == {"invalid UTF-8": 1}
    assert [event["query"] for event in events()] == ["牛奶"]


NAN = float("nan")
NAN_ROWS = [
    {"user_id": 17850.0, "ts": 1714557600.0, "action": "search", "query": "milk", "item_id": None},
    {"user_id": NAN, "ts": 1714557600.0, "action": "search", "query": "milk", "item_id": None},
    {"user_id": 2.0, "ts": NAN, "action": "search", "query": "milk", "item_id": None},
    {"user_id": 2.0, "ts": 1714557600.0, "action": "click", "query": "NaN", "item_id": NAN},
    {"user_id": 2.0, "ts": 1714557600.0, "action": "click", "query": "NaN", "item_id": 7.0},
]


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "log.parquet"])
def test_nan_is_a_missing_value_and_never_a_shopper(aigq, name):
    if name == "log.parquet":
        pq.write_table(pa.Table.from_pylist(NAN_ROWS), name)
    elif name == "log.csv":
        write_log([",".join("" if v is None else str(v) for v in row.values()) for row in NAN_ROWS])
    else:
        write_json(NAN_ROWS)
    summary = imported(aigq, name)
    no_time = "no time" if name == "log.parquet" else "time not understood"
    assert summary["rejected"] == {"no user": 1, no_time: 1, "neither query nor item": 1}
    kept = [(event["query"], event["item_id"]) for event in events()]
    number = "7" if name == "log.parquet" else "7.0"  # a number's text is what the text file says
    assert kept == [("milk", None), (None, number)]


def test_nan_in_a_whole_column_of_queries(aigq):
    columns = {"user_id": ["u", "v"], "ts": ["2024-05-01"] * 2, "action": ["click", "search"]}
    pq.write_table(pa.table({**columns, "query": [NAN, NAN], "item_id": ["i", None]}), "log.parquet")
    assert imported(aigq, "log.parquet")["rejected"] == {"neither query nor item": 1}
    assert [event["query"] for event in events()] == [None]


@pytest.mark.parametrize("word", ["nan", "none", "null"])
def test_words_that_people_search_for_stay_queries(aigq, word):
    write_log([f"u,2024-05-01,search,{word},"])
    imported(aigq)
    assert [event["query"] for event in events()] == [word]


@pytest.mark.parametrize("name", ["items.csv", "items.jsonl", "items.parquet"])
def test_nan_prices_become_null(aigq, name):
    write_log(["u,2024-05-01,click,,a"])
    items = [{"sku": sku, "price": price} for sku, price in (("a", 1.5), ("b", NAN), ("c", float("inf")))]
    if name == "items.parquet":
        pq.write_table(pa.Table.from_pylist(items), name)
    elif name == "items.csv":
        Path(name).write_text("sku,price\n" + "".join(f"{i['sku']},{i['price']}\n" for i in items))
    else:
        write_json(items, name)
    roles = {"user_id": "user_id", "ts": "ts", "action": "action", "item_id": "item_id"}
    roles["items"] = {"path": name, "item_id": "sku", "price": "price"}
    Path("map.yaml").write_text(yaml.safe_dump(roles))
    imported(aigq, "log.csv", "--columns", "map.yaml")
    assert pq.read_table("tables/items.parquet")["price"].to_pylist() == [1.5, None, None]


# --- interrupted ---

INTERRUPTING = """
import os, signal, sys
import pathlib
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
def stop(*_): os.kill(os.getpid(), signal.{signal})
{patch}
from aigq.cli import main
sys.exit(main(sys.argv[1:]))
"""
AFTER_SECOND_CHECKPOINT = """
from aigq.training import checkpoints
save, saved = checkpoints.save, []
def saving(*arguments):
    save(*arguments)
    saved.append(1)
    if len(saved) == 2: stop()
checkpoints.save = saving
"""
WITHIN_SECOND_CHECKPOINT = """
import torch
save, saved = torch.save, []
def saving(state, file):
    saved.append(1)
    if len(saved) == 2:
        file.write(b"half"); file.flush(); stop()
    save(state, file)
torch.save = saving
"""
WITHIN_PREPARE = """
from aigq.samples import prepare
prepare._in_order = stop
"""
BETWEEN_OLD_AND_NEW = """
rename = pathlib.Path.rename
pathlib.Path.rename = lambda path, to: rename(path, to) if to.name == "old" else stop()
"""
WITHIN_IMPORT = """
from aigq.sources import writing
replace, replaced = os.replace, []
def replacing(*paths):
    replaced.append(1)
    if len(replaced) == {nth}: stop()
    replace(*paths)
writing.os.replace = replacing
"""


def interrupt(patch, *command, signal="SIGKILL"):
    """Run a command that stops itself at a certain point; returns the exit code and stderr."""
    script = INTERRUPTING.format(signal=signal, patch=patch)
    work = subprocess.run(
        [sys.executable, "-c", script, *command],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(aigq_package.__file__).parents[1])},
    )
    return work.returncode, work.stderr


def weights(run):
    return (Path("runs") / run / "models/direct_il_sft/model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with runs/whole, trained without an interruption, and the rows of its table."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as out:
        patch.chdir(folder)
        write_log(log_lines())
        configure(evaluation={"rows": ["popular", "direct_il_sft"]})
        assert main(["table", "--config", "shop.yaml", "--run", "runs/whole", "--json"]) == DONE
    return folder, json.loads(out.getvalue())["rows"]


@pytest.fixture
def whole(finished, folder):
    """A copy of that folder to work in; returns the rows by system."""
    shutil.copytree(finished[0], folder, dirs_exist_ok=True)
    return {row["system"]: row for row in finished[1]}


def without_seconds(rows):
    """Rows without what the clock says, also inside `trained`."""
    if isinstance(rows, dict):
        return {key: without_seconds(value) for key, value in rows.items() if "seconds" not in key}
    return rows


@pytest.mark.parametrize(
    ("verb", "option"), [(("train", "sft"), ("--resume",)), (("table",), ())], ids=["train", "table"]
)
def test_ctrl_c_in_training_resumes_where_it_was(aigq, whole, verb, option):
    run = ("--config", "shop.yaml", "--run", "runs/cut")
    assert aigq("prepare", *run)[0] == DONE
    code, err = interrupt(AFTER_SECOND_CHECKPOINT, *verb, *run, signal="SIGINT")
    assert code == INTERRUPTED, err
    assert one_line(err, f"continue with: aigq {' '.join((*verb, *run, *option))}")
    assert err.endswith((*run, *option)[-1] + "\n")
    assert "finished" not in json.loads(Path("runs/cut/stages.json").read_text())["sft:direct_il_sft"]
    code, _, err = aigq(*verb, *run, *option)
    assert code == DONE, err
    assert "step 10:" not in err  # its checkpoint was the second
    assert "step 15:" in err
    assert weights("cut") == weights("whole")


@pytest.mark.parametrize(
    "where", [AFTER_SECOND_CHECKPOINT, WITHIN_SECOND_CHECKPOINT], ids=["after", "within"]
)
def test_killed_in_training_goes_on_from_the_last_whole_checkpoint(aigq, whole, where):
    command = ("table", "--config", "shop.yaml", "--run", "runs/cut")
    code, _ = interrupt(where, *command)
    assert code == -9
    code, result, err = aigq(*command)
    assert code == DONE, err
    assert "prepare: finished earlier" in err
    assert "step 0:" not in err
    assert weights("cut") == weights("whole")
    assert without_seconds({row["system"]: row for row in result["rows"]}) == without_seconds(whole)


def test_two_commands_in_one_run_folder(aigq):
    write_log(log_lines())
    command = ("prepare", "--config", "shop.yaml")
    assert aigq(*command)[0] == DONE
    with Run.open(Path("runs/shop"), configs.load(Path("shop.yaml"))).stage("sft:direct_il_sft"):
        code, err = interrupt("", *command, "--force")
        assert code == WRONG_USE
        assert one_line(err, "another aigq command works in runs/shop")
        assert "finished" in json.loads(Path("runs/shop/stages.json").read_text())["prepare"]
    assert interrupt("", *command, "--force")[0] == DONE


def test_killed_in_prepare_is_prepared_again(aigq):
    write_log(log_lines())
    command = ("prepare", "--config", "shop.yaml")
    assert interrupt(WITHIN_PREPARE, *command)[0] == -9
    (left,) = Path("runs/shop").glob(".prepare-*")
    assert not Path("runs/shop/prepared").exists()
    code, first, err = aigq(*command)
    assert code == DONE, err
    assert not left.exists()
    assert interrupt(BETWEEN_OLD_AND_NEW, *command, "--force")[0] == -9
    code, second, err = aigq(*command)
    assert code == DONE, err
    assert second == first
    assert Prepared.load(Path("runs/shop/prepared")).samples.num_rows > 0
    assert not list(Path("runs/shop").glob(".prepare-*"))


def test_damaged_prepared_tables_are_named(tmp_path):
    for name, schema in PREPARED_TABLES.items():
        pq.write_table(schema.empty_table(), tmp_path / f"{name}.parquet")
    Prepared.load(tmp_path)
    path = tmp_path / "behaviours.parquet"
    damages = (
        lambda: pq.write_table(PREPARED_TABLES["behaviours"].empty_table().drop_columns(["category"]), path),
        lambda: path.write_bytes(path.read_bytes()[:-9]),
        path.unlink,
    )
    for damage in damages:
        damage()
        with pytest.raises(StageError, match=f"{path} .* run `aigq prepare --force`"):
            Prepared.load(tmp_path)


@pytest.mark.parametrize("nth", [1, 3, 5])
def test_killed_in_import_is_never_taken_for_an_import(aigq, nth):
    write_log([*log_lines(), ",2024-05-01,search,milk,"])
    aigq("import", "files", "log.csv", "--out", "whole")
    command = ("import", "files", "log.csv", "--out", "tables")
    assert interrupt(WITHIN_IMPORT.replace("{nth}", str(nth)), *command)[0] == -9
    assert not Path("tables/events.parquet").exists()
    assert table(aigq)["popular"]["query_hr"] == 1  # the config's source is imported first
    for name in ("events", "items", "users", "rejected"):
        assert Path(f"tables/{name}.parquet").read_bytes() == Path(f"whole/{name}.parquet").read_bytes()
    assert not [path for path in Path("tables").iterdir() if path.name.startswith(".")]


# --- disk full ---


def test_a_full_disk_in_import_leaves_the_old_tables(aigq, disk):
    write_log(log_lines(users=1, days=1))
    out = disk("size=64k") / "tables"
    assert aigq("import", "files", "log.csv", "--out", out)[0] == DONE
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    write_log(log_lines(users=40, days=60, queries=[f"query {i}" for i in range(999)]))
    code, _, err = aigq("import", "files", "log.csv", "--out", out)
    assert code == FAILED
    assert one_line(err, "the disk is full")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    disk("remount", "size=8m")
    assert aigq("import", "files", "log.csv", "--out", out)[0] == DONE


@pytest.mark.parametrize("size", ["16k", "300k"])
def test_a_full_disk_of_temporary_files_is_no_wrong_file(aigq, disk, monkeypatch, size):
    monkeypatch.setattr(tempfile, "tempdir", str(disk(f"size={size}")))
    write_log(log_lines(users=40))
    code, _, err = aigq("import", "files", "log.csv", "--out", "tables")
    assert code == FAILED
    assert one_line(err, "TMPDIR")
    assert not Path("tables").exists()
    assert list(Path("disk").iterdir()) == []


@pytest.mark.parametrize("size", [4, 12, 32, 100, 190, 240, 330, 450])
def test_a_full_disk_in_prepare_and_training_is_never_taken_for_finished(aigq, disk, whole, size):
    run = disk(f"size={size}k") / "run"
    command = ("table", "--config", "shop.yaml", "--run", run)
    code, _, err = aigq(*command)
    assert code == FAILED
    assert one_line(err, "the disk is full")
    disk("remount", "size=64m")
    code, result, err = aigq(*command)
    assert code == DONE, err
    assert without_seconds({row["system"]: row for row in result["rows"]}) == without_seconds(whole)
    model = run / "models/direct_il_sft/model.safetensors"
    assert model.read_bytes() == weights("whole")
    assert pc.max(Prepared.load(run / "prepared").samples["sample_id"]).as_py() > 0
