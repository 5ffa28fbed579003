"""Row-level checks, through the source `files`."""

import csv
import gzip
import io
import json
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_helpers import NOW, add_up, rows, write_json_lines

from aigq.errors import EmptyLogError, SourceError
from aigq.sources import import_source

GOOD = {"user_id": "u1", "ts": "2024-05-01T10:00:00Z", "action": "search", "query": "milk", "item_id": None}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"user_id": None}, "no user"),
        ({"user_id": "  "}, "no user"),
        ({"ts": None}, "no time"),
        ({"ts": "yesterday"}, "time not understood"),
        ({"ts": "2026-11-03T00:00:00Z"}, "time in the future"),
        ({"ts": "1989-12-31T23:59:59Z"}, "time before 1990"),
        ({"action": "dance"}, "unknown action"),
        ({"action": None}, "unknown action"),
        ({"query": "x" * 1001}, "query too long"),
        ({"query": " \u3000 "}, "neither query nor item"),
    ],
)
def test_bad_rows_are_set_aside_with_a_reason(bring, tmp_path, change, reason):
    log = write_json_lines(tmp_path / "log.jsonl", [GOOD, GOOD | change])
    summary = bring("files", log)
    assert summary.rejected == {reason: 1}
    assert summary.events == 1
    (rejected,) = rows(tmp_path / "out", "rejected")
    assert rejected["reason"] == reason
    assert (rejected["file"], rejected["row"]) == ("log.jsonl", 2)
    assert len(rejected["content"]) <= 1000


@pytest.mark.parametrize(
    "change",
    [
        {"query": "  " + "x" * 1000 + "\t"},
        {"query": "🎮 手机壳 ñandú"},
        {"ts": "2026-11-01T20:00:00Z"},  # a clock a few hours ahead
        {"action": "exit", "query": None},
        {"action": "CLICK", "query": None, "item_id": "7"},
    ],
)
def test_good_rows_pass(bring, tmp_path, change):
    log = write_json_lines(tmp_path / "log.jsonl", [GOOD | change])
    assert bring("files", log).rejected == {}
    (event,) = rows(tmp_path / "out")
    query = (GOOD | change)["query"]
    assert event["query"] == (query.strip() if query else None)


@pytest.mark.parametrize(
    "text",
    [
        "2024-05-01T10:00:00Z",
        "2024-05-01 10:00:00",
        "2024-05-01T12:00:00+02:00",
        "1714557600",
        "1714557600000",
        "1714557600000000",
    ],
)
def test_times_in_many_spellings(bring, tmp_path, text):
    bring("files", write_json_lines(tmp_path / "log.jsonl", [GOOD | {"ts": text}]))
    assert rows(tmp_path / "out")[0]["ts"] == datetime(2024, 5, 1, 10)


def test_invalid_bytes_are_rejected_and_the_rest_is_kept(bring, tmp_path):
    log = tmp_path / "log.csv"
    log.write_bytes(
        b"user_id,ts,action,query\nu1,2024-05-01,search,caf\xe9\nu1,2024-05-01,search,milk\n"
        + "u1,2024-05-01,search,牛奶\n".encode()
    )
    assert bring("files", log).rejected == {"invalid UTF-8": 1}
    assert {event["query"] for event in rows(tmp_path / "out")} == {"milk", "牛奶"}


def test_lines_that_are_not_csv_are_rejected(bring, tmp_path):
    log = tmp_path / "log.csv"
    log.write_text(
        "user_id,ts,action,query\nu1,2024-05-01,search,milk\nu1,2024-05-01,search,a,b,c,d\nu2,2024-05-01,search,tea\n"
    )
    summary = bring("files", log)
    assert summary.rejected == {"malformed CSV line": 1}
    assert summary.events == 2


def test_lines_that_are_not_json_are_rejected(bring, tmp_path):
    log = write_json_lines(tmp_path / "log.jsonl", [GOOD, "{broken", "[1, 2]", ""])
    assert bring("files", log).rejected == {"not a JSON object": 2}


def test_prices_that_are_no_numbers_become_null(bring, tmp_path):
    log = write_json_lines(tmp_path / "log.jsonl", [GOOD])
    items = pa.table({"id": ["a", "b", "c"], "price": [1.5, float("nan"), float("inf")]})
    pq.write_table(items, tmp_path / "items.parquet")
    roles = {"user_id": "user_id", "ts": "ts", "action": "action", "query": "query"}
    bring(
        "files", log, columns=roles | {"items": {"path": "items.parquet", "item_id": "id", "price": "price"}}
    )
    assert [item["price"] for item in rows(tmp_path / "out", "items")] == [1.5, None, None]


def test_empty_log(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("user_id,ts,action,query\n")
    with pytest.raises(EmptyLogError, match="no events are left"):
        import_source("files", log, tmp_path / "out", now=NOW)
    assert not (tmp_path / "out").exists()


def test_nothing_but_rejects_is_an_empty_log_that_says_why(tmp_path):
    log = write_json_lines(tmp_path / "log.jsonl", [GOOD | {"user_id": None}])
    with pytest.raises(EmptyLogError, match="no user 1"):
        import_source("files", log, tmp_path / "out", now=NOW)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.csv", None, "expected a file; found nothing"),
        ("empty.csv", b"", "the file is empty"),
        ("log.csv", b"PAR1....", "expected text; found a Parquet file"),
        ("log.jsonl", b"PK\x03\x04zip", "expected text; found a zip archive"),
        ("log.csv", "user_id\n".encode("utf-16"), "expected UTF-8 text; found UTF-16"),
        ("log.parquet", b"user_id,ts\n1,2\n", "expected a Parquet file"),
        ("log.jsonl", b"user_id,ts\n1,2\n", "expected JSON lines"),
        (
            "log.csv",
            b"user_id,when,action\nu,1,search\n",
            "expected column 'ts'; found user_id, when, action",
        ),
        ("log.jsonl", b'{"user_id": 1, "action": "search"}\n', "expected column 'ts'"),
    ],
)
def test_files_that_are_not_what_they_claim(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError) as caught:
        import_source("files", tmp_path / name, tmp_path / "out", now=NOW)
    text = str(caught.value)
    assert message in text
    assert name in text
    assert "\n" not in text
    assert caught.value.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_unknown_source_and_unknown_key(tmp_path):
    with pytest.raises(SourceError, match="known: journey, bestbuy"):
        import_source("amazon", tmp_path, tmp_path / "out")
    with pytest.raises(SourceError, match="unknown key 'user'"):
        import_source("files", tmp_path / "x.csv", tmp_path / "out", columns={"user": "u"})


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "user_id": st.sampled_from(["u1", "u2", "", None]),
                "ts": st.sampled_from(["2024-05-01T10:00:00Z", "1714557600", "soon", "2999-01-01", None]),
                "action": st.sampled_from(["search", "click", "wave"]),
                "query": st.none() | texts,
                "item_id": st.sampled_from([None, "1"]),
            }
        ),
        max_size=12,
    )
)
def test_every_row_is_accounted_for(tmp_path_factory, log):
    folder = tmp_path_factory.mktemp("log")
    path = write_json_lines(folder / "log.jsonl", [GOOD, *log])
    summary = import_source("files", path, folder / "out", now=NOW)
    assert summary.rows == len(log) + 1
    assert add_up(summary)
    assert summary.events == len(rows(folder / "out"))
    assert sum(summary.rejected.values()) == len(rows(folder / "out", "rejected"))
    again = import_source("files", path, folder / "out", now=NOW)
    assert (again.fingerprint, again.new_events) == (summary.fingerprint, 0)


def test_quoted_commas_and_newlines_in_csv(bring, tmp_path):
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerows(
        [["user_id", "ts", "action", "query"], ["u", "2024-05-01", "search", 'milk, "fresh"\nand cold']]
    )
    (tmp_path / "log.csv").write_text(text.getvalue())
    bring("files", tmp_path / "log.csv")
    assert rows(tmp_path / "out")[0]["query"] == 'milk, "fresh"\nand cold'


def test_a_view_of_path_types(bring, tmp_path):
    log = write_json_lines(tmp_path / "o'brien.jsonl", [GOOD])
    assert bring("files", Path(str(log))).events == 1


def test_a_quote_that_never_closes(bring, tmp_path):
    log = tmp_path / "log.csv"
    log.write_text(
        'user_id,ts,action,query\nu,2024-01-01,search,milk\nu,2024-01-01,search,"open\nu,2024-01-02,search,tea\n'
    )
    assert bring("files", log).rejected == {"malformed CSV line": 1}
    (rejected,) = rows(tmp_path / "out", "rejected")
    assert rejected["row"] == 3
    assert "tea" in rejected["content"]  # what the quote swallowed can still be read


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_byte_order_mark_and_windows_lines(bring, tmp_path, delimiter):
    lines = ["user_id,ts,action,query", "u,2024-01-01,search,milk"]
    text = "\r\n".join(lines).replace(",", delimiter)
    (tmp_path / "log.csv").write_bytes(text.encode("utf-8-sig"))
    assert bring("files", tmp_path / "log.csv").events == 1


def test_gzip(bring, tmp_path):
    (tmp_path / "log.jsonl.gz").write_bytes(gzip.compress(json.dumps(GOOD).encode()))
    assert bring("files", tmp_path / "log.jsonl.gz").events == 1


NOBODY = ",2024-01-01,search,milk\n"
GOOD_LINE = "u,2024-01-01,search,tea\n"
NUMBERED = {
    "header": (NOBODY, [2]),
    "blank lines": ("\n" + NOBODY + "\n\n" + NOBODY, [3, 6]),
    "malformed lines": ("a,b,c,d,e,f\n" + NOBODY + "x\n" + NOBODY, [2, 3, 4, 5]),
    "rows of several lines": ('u,2024-01-01,search,"a\n\nb"\n' + NOBODY + "\nx,y\n" + NOBODY, [5, 7, 8]),
    "a quote inside a word": ('u,2024-01-01,search,12" tv\n\n' + NOBODY, [4]),
    "a quote that never closes": (
        GOOD_LINE + "\n" + NOBODY + '\nu,2024-01-01,search,"' + "x\n" * 99_999,
        [4, 6],
    ),
}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(("lines", "numbers"), NUMBERED.values(), ids=NUMBERED)
def test_rejected_rows_of_csv_have_the_line_of_the_file(bring, tmp_path, lines, numbers, end):
    text = "user_id,ts,action,query\n" + lines + GOOD_LINE
    (tmp_path / "log.csv").write_bytes(text.replace("\n", end).encode("utf-8-sig"))
    bring("files", tmp_path / "log.csv")
    assert [row["row"] for row in rows(tmp_path / "out", "rejected")] == numbers


def test_lines_of_a_long_csv_are_counted_right(bring, tmp_path):
    half = GOOD_LINE * 200_000
    (tmp_path / "log.csv").write_text(
        "user_id,ts,action,query\n" + half + "\n" + NOBODY + half + "x\n" + NOBODY
    )
    bring("files", tmp_path / "log.csv")
    assert [row["row"] for row in rows(tmp_path / "out", "rejected")] == [200_003, 400_004, 400_005]


ODD_LINES = {
    "a byte that is no text": (b"\xff", "invalid UTF-8"),
    "such a byte after the object": (json.dumps(GOOD).encode() + b"\xe9", "invalid UTF-8"),
    "such a byte in the query": (
        b'{"user_id": "u", "ts": "2024-05-01", "action": "search", "query": "\xe9"}',
        "invalid UTF-8",
    ),
    "control characters": (b'{"user_id": "u\x01\x00"}', "not a JSON object"),
}


@pytest.mark.parametrize("source", ["files", "ubi"])
@pytest.mark.parametrize(("line", "reason"), ODD_LINES.values(), ids=ODD_LINES)
def test_an_odd_byte_in_json_lines_rejects_its_line_alone(bring, tmp_path, source, line, reason):
    good = json.dumps(
        GOOD | {"action_name": "search", "user_query": "milk", "timestamp": GOOD["ts"]}
    ).encode()
    if source == "ubi":
        for name, of_ubi in ((b"action", b"action_name"), (b"query", b"user_query"), (b"ts", b"timestamp")):
            line = line.replace(b'"%s"' % name, b'"%s"' % of_ubi)
    (tmp_path / "log.jsonl").write_bytes(good + b"\n\n  \r\n" + line + b"\r\n" + good + b"\n")
    assert bring(source, tmp_path / "log.jsonl").rejected == {reason: 1}
    assert [(row["row"], row["reason"]) for row in rows(tmp_path / "out", "rejected")] == [(4, reason)]
    assert [event["query"] for event in rows(tmp_path / "out")] == ["milk"]


def test_json_lines_end_with_any_newline_and_hold_returns(bring, tmp_path):
    line = json.dumps(GOOD).encode()
    (tmp_path / "log.jsonl").write_bytes(line + b"\r\n" + line.replace(b", ", b",\r ") + b"\n{\n")
    assert bring("files", tmp_path / "log.jsonl").rejected == {"not a JSON object": 1}
    assert rows(tmp_path / "out", "rejected")[0]["row"] == 3


@pytest.mark.parametrize("zone", [None, "UTC"])
@pytest.mark.parametrize(("unit", "far"), [("ms", 2**62), ("us", 2**62), ("ns", 2**62)])
def test_times_of_parquet_out_of_range(bring, tmp_path, unit, far, zone):
    good = 1714557600 * {"ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    times = pa.array([good, far, None, -far], pa.timestamp(unit, zone))
    columns = {"user_id": ["u"] * 4, "ts": times, "action": ["search"] * 4, "query": ["tea"] * 4}
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    assert bring("files", tmp_path / "log.parquet").rejected == {
        "no time": 1,
        "time before 1990": 1,
        "time in the future": 1,
    }
    assert [event["ts"] for event in rows(tmp_path / "out")] == [datetime(2024, 5, 1, 10)]
    assert [row["row"] for row in rows(tmp_path / "out", "rejected")] == [2, 3, 4]


def test_dates_of_parquet_out_of_range(bring, tmp_path):
    times = pa.array([19_844, 2**31 - 1, -(2**31) + 2], pa.date32())
    columns = {"user_id": ["u"] * 3, "ts": times, "action": ["search"] * 3, "query": ["tea"] * 3}
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    assert bring("files", tmp_path / "log.parquet").rejected == {
        "time in the future": 1,
        "time not understood": 1,
    }


ROLES = {"user_id": "user.id", "ts": "ts", "action": "search", "query": "query"}


def test_a_dotted_name_of_csv_is_a_column(bring, tmp_path):
    (tmp_path / "log.csv").write_text("user.id,ts,query\nu,2024-01-01,tea\n")
    assert bring("files", tmp_path / "log.csv", columns=ROLES).events == 1
    (tmp_path / "log.csv").write_text("user,ts,query\nu,2024-01-01,tea\n")
    with pytest.raises(SourceError, match=r"expected column 'user\.id'; found user, ts, query"):
        bring("files", tmp_path / "log.csv", columns=ROLES)


@pytest.mark.parametrize("user", [{"user": {"id": "u"}}, {"user.id": "u"}])
@pytest.mark.parametrize("name", ["log.jsonl", "log.parquet"])
def test_a_dotted_name_is_a_path_or_a_name_that_is_there(bring, tmp_path, user, name):
    row = user | {"ts": "2024-01-01", "query": "tea"}
    if name == "log.jsonl":
        write_json_lines(tmp_path / name, [row])
    else:
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / name)
    bring("files", tmp_path / name, columns=ROLES)
    assert [event["user_id"] for event in rows(tmp_path / "out")] == ["u"]


def test_a_dotted_name_that_a_struct_lacks(bring, tmp_path):
    pq.write_table(
        pa.Table.from_pylist([{"user": {"name": "u"}, "ts": "2024-01-01", "query": "a"}]),
        tmp_path / "l.parquet",
    )
    with pytest.raises(SourceError, match=r"expected column 'user\.id'"):
        bring("files", tmp_path / "l.parquet", columns=ROLES)
