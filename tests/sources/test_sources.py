"""One log of each format, built by hand; and the real files where they are."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from source_helpers import rows, write_json_lines

from aigq.errors import SourceError
from aigq.sources.online_retail import head_phrase

BESTBUY = "user,sku,category,query,click_time,query_time\n"
RETAIL = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"


def told(out, *names):
    return [tuple(event[name] for name in names) for event in rows(out)]


def test_bestbuy(bring, tmp_path):
    (tmp_path / "searches.csv").write_text(
        BESTBUY
        + "u1,111,c9,Gears of War 3,2011-08-11 04:00:17.021,2011-08-11 03:59:04.27\n"
        + "u1,112,c9,Gears of War 3,2011-08-11 04:01:00,2011-08-11 03:59:04.27\n"
        + "u2,113,c9,2371074 2126339 2126108,2011-08-11 04:00:00,2011-08-11 03:59:00\n"
        + "u2,113,c9,LaborDay_VideoGames_20110902,2011-08-11 04:00:00,2011-08-11 03:59:00\n"
        + "u3,113,c9,warhammer 40000,2011-08-11 04:00:00,soon\n"
    )
    path = [{"id": "c1", "name": "Games"}, {"id": "c9", "name": "Xbox"}]
    (tmp_path / "categories.json").write_text(json.dumps([{"id": "c9", "name": "Xbox", "path": path}]))
    summary = bring("bestbuy", tmp_path)
    assert summary.provenance == "typed"
    assert summary.rejected == {
        "query is a campaign name": 1,
        "query is a list of SKUs": 1,
        "time not understood": 1,
    }
    assert told(tmp_path / "out", "action", "query", "item_id") == [
        ("search", "Gears of War 3", None),
        ("click", "Gears of War 3", "111"),
        ("click", "Gears of War 3", "112"),
    ]
    assert rows(tmp_path / "out", "items")[0]["category"] == ["Games", "Xbox"]


def test_bestbuy_without_a_column(bring, tmp_path):
    (tmp_path / "searches.csv").write_text("user,sku,query\nu,1,halo\n")
    with pytest.raises(
        SourceError, match="expected columns category, click_time, query_time; found user, sku, query"
    ):
        bring("bestbuy", tmp_path / "searches.csv")


def test_online_retail(bring, tmp_path):
    (tmp_path / "retail.csv").write_text(
        RETAIL
        + "1,A,SET OF 3 CAKE TINS PANTRY DESIGN,6,2010-12-01 08:26:00,2.5,17850.0,France\n"
        + "1,A,SET OF 3 CAKE TINS PANTRY DESIGN,2,2010-12-01 08:26:00,2.5,17850.0,France\n"
        + "C2,A,SET OF 3 CAKE TINS PANTRY DESIGN,-6,2010-12-02 08:26:00,2.5,17850.0,France\n"
        + "3,POST,POSTAGE,1,2010-12-02 08:26:00,2.5,17850.0,France\n"
        + "4,B7,JAM JAR,0,2010-12-02 08:26:00,2.5,17850.0,France\n"
        + "5,B7,JAM JAR,1,2010-12-02 08:26:00,2.5,,France\n"
        + "6,B7,,1,2010-12-02 08:26:00,2.5,17850.0,France\n"
    )
    summary = bring("online_retail", tmp_path / "retail.csv")
    assert summary.rejected == {
        "cancellation": 1,
        "no title": 1,
        "no user": 1,
        "not a product": 1,
        "quantity is not positive": 1,
    }
    assert (summary.duplicates, summary.provenance) == (1, "constructed")
    assert told(tmp_path / "out", "user_id", "action", "query") == [
        ("17850", "purchase", "cake tins"),
        ("17850", "search", "cake tins"),
    ]
    assert rows(tmp_path / "out", "users")[0]["profile"] == [("country", "France")]


@pytest.mark.parametrize("kind", [pa.int64(), pa.float64()])
def test_online_retail_whose_numbers_are_no_texts(bring, tmp_path, kind):
    number = pa.array([536365, 536366], kind)
    retail = {
        "InvoiceNo": number,
        "StockCode": number,
        "Description": ["RED MUG", "JAM JAR"],
        "Quantity": [6, 1],
        "InvoiceDate": pa.array([15_000, 15_001], pa.date32()),
        "UnitPrice": [2.5, 1.0],
        "CustomerID": pa.array([17850, None], kind),
        "Country": ["France", "Spain"],
    }
    pq.write_table(pa.table(retail), tmp_path / "retail.parquet")
    assert bring("online_retail", tmp_path / "retail.parquet").rejected == {"no user": 1}
    assert told(tmp_path / "out", "user_id", "action", "item_id", "request_id") == [
        ("17850", "purchase", "536365", "536365"),
        ("17850", "search", None, "536365"),
    ]


@pytest.mark.parametrize("index", [1_700_000_000_000, 10**13, -(2**63), 10**25, "soon"])
def test_kuaisearch_with_an_index_that_is_no_place(bring, tmp_path, index):
    search = {"user_id": 1, "session_id": 7, "time_index": 90, "query": "大衣"}
    write_json_lines(tmp_path / "recall.jsonl", [search, search | {"time_index": index}])
    assert bring("kuaisearch", tmp_path).rejected == {"time not understood": 1}
    assert [str(event["ts"]) for event in rows(tmp_path / "out")] == ["2000-01-01 01:30:00"]


def test_bestbuy_categories_that_are_numbers(bring, tmp_path):
    line = "u1,111,9,halo,2011-08-11 04:00:17,2011-08-11 03:59:04\n"
    (tmp_path / "searches.csv").write_text(BESTBUY + line)
    path = [{"id": 1, "name": 360}, {"id": 9, "name": "Xbox"}]
    (tmp_path / "categories.json").write_text(json.dumps([{"id": 9, "name": "Xbox", "path": path}]))
    bring("bestbuy", tmp_path)
    assert rows(tmp_path / "out", "items")[0]["category"] == ["360", "Xbox"]


@pytest.mark.parametrize(
    ("title", "phrase"),
    [
        ("WHITE HANGING HEART T-LIGHT HOLDER", "t-light holder"),
        ("LUNCH BAG  BLACK SKULL.", "lunch bag"),
        ("PACK OF 72 RETROSPOT CAKE CASES", "cake cases"),
        ("HOT WATER BOTTLE KEEP CALM", "hot water bottle"),
        ("GIN + TONIC DIET METAL SIGN", "gin"),
        ("DOORMAT KEEP CALM AND COME IN", "doormat"),
    ],
)
def test_head_phrases(title, phrase):
    assert head_phrase(title) == phrase


@given(st.text(max_size=40))
def test_head_phrase_takes_any_text(title):
    phrase = head_phrase(title)
    assert phrase == phrase.strip().lower()
    assert head_phrase(title) == phrase


def test_kuaisearch(bring, tmp_path):
    search = {"user_id": 1, "session_id": 7, "time_index": 90, "query": "广场舞服装"}
    write_json_lines(
        tmp_path / "rank.jsonl",
        [
            search | {"target_item_id": 58, "is_clicked": 1, "is_purchased": 1},
            search | {"target_item_id": 59, "is_clicked": 0, "is_purchased": 0},
        ],
    )
    recall = {"impressed_item_ids": [59, 58], "clicked_item_ids": [58], "purchased_item_ids": []}
    write_json_lines(tmp_path / "recall.jsonl", [search | recall])
    write_json_lines(tmp_path / "users.jsonl", [{"user_id": 1, "gender": "F", "fre_city": "天津"}])
    levels = {
        "category_level1_name": "女装",
        "category_level2_name": "皮草",
        "category_level3_name": "UNKNOWN",
    }
    write_json_lines(
        tmp_path / "items.jsonl", [{"item_id": 58, "item_title": "大衣", "brand_name": "金"} | levels]
    )
    summary = bring("kuaisearch", tmp_path)
    assert (summary.rows, summary.duplicates) == (6, 3)
    assert told(tmp_path / "out", "action", "query", "item_id", "position") == [
        ("click", "广场舞服装", "58", 2),
        ("purchase", "广场舞服装", "58", None),
        ("search", "广场舞服装", None, None),
    ]
    assert str(rows(tmp_path / "out")[0]["ts"]) == "2000-01-01 01:30:00"
    assert rows(tmp_path / "out", "items")[0]["category"] == ["女装", "皮草"]
    assert rows(tmp_path / "out", "users")[0]["profile"] == [("gender", "F"), ("city", "天津")]


QUERY = {"query_id": "q1", "client_id": "c1", "user_query": "ps4", "timestamp": "2024-12-10T00:00:00Z"}
EVENT = {"query_id": "q1", "client_id": "c1", "user_id": "", "timestamp": "2024-12-10T00:00:05Z"}
OBJECT = {
    "event_attributes": {"object": {"object_id": "B1", "description": "Pad"}, "position": {"ordinal": 3}}
}
UBI = [
    QUERY,
    EVENT | {"action_name": "view_search_results"},
    EVENT | {"action_name": "item_click"} | OBJECT,
    EVENT | {"action_name": "add_to_cart", "user_id": "u9"} | OBJECT,
    EVENT | {"action_name": "impression"} | OBJECT,
]


def check_ubi(summary, out):
    assert summary.rejected == {"unknown action": 1}
    assert summary.duplicates == 1  # the query and the view of its results are one search
    assert told(out, "user_id", "action", "query", "item_id", "request_id", "position") == [
        ("c1", "search", "ps4", None, "q1", None),
        ("c1", "click", "ps4", "B1", "q1", 3),
        ("u9", "cart", "ps4", "B1", "q1", 3),
    ]
    assert rows(out, "items")[0]["title"] == "Pad"


def test_ubi_bulk_format(bring, tmp_path):
    lines = [line for record in UBI for line in ({"index": {"_index": "ubi_events"}}, record)]
    check_ubi(bring("ubi", write_json_lines(tmp_path / "ubi.ndjson", lines)), tmp_path / "out")


def test_ubi_parquet_in_a_folder(bring, tmp_path):
    (tmp_path / "log").mkdir()
    pq.write_table(pa.Table.from_pylist(UBI[:1]), tmp_path / "log" / "queries.parquet")
    pq.write_table(pa.Table.from_pylist(UBI[2:] + UBI[1:2]), tmp_path / "log" / "events.parquet")
    check_ubi(bring("ubi", tmp_path / "log"), tmp_path / "out")


SEARCHED = QUERY | {"action_name": "search"}


@pytest.mark.parametrize(
    ("others", "time"),
    [
        ([SEARCHED | {"timestamp": "2024-12-10T01:00:00+02:00"}], "2024-12-09 23:00:00"),
        ([SEARCHED | {"timestamp": "2024-12-10T00:00:01.5Z"}], "2024-12-10 00:00:00"),
        ([SEARCHED | {"timestamp": 1733702400000}], "2024-12-09 00:00:00"),
        ([SEARCHED | {"user_query": "ps4 "}, SEARCHED | {"user_query": "PS4"}], "2024-12-10 00:00:00"),
    ],
)
def test_ubi_records_of_one_search_in_other_zones_and_spellings(bring, tmp_path, others, time):
    assert bring("ubi", write_json_lines(tmp_path / "log.jsonl", [QUERY, *others])).rejected == {}
    assert [(event["query"].lower(), str(event["ts"])) for event in rows(tmp_path / "out")] == [("ps4", time)]


@pytest.mark.parametrize(
    ("time", "reason"),
    [
        ("", "time not understood"),
        ("N/A", "time not understood"),
        (None, "no time"),
        ("0001-01-01T00:00:00Z", "time before 1990"),
    ],
)
def test_ubi_records_of_one_search_without_a_time_are_rejected_alone(bring, tmp_path, time, reason):
    log = write_json_lines(tmp_path / "log.jsonl", [QUERY | {"timestamp": time}, SEARCHED])
    assert bring("ubi", log).rejected == {reason: 1}
    assert [str(event["ts"]) for event in rows(tmp_path / "out")] == ["2024-12-10 00:00:00"]


def test_ubi_parquet_whose_texts_are_bytes(bring, tmp_path):
    table = pa.Table.from_pylist([QUERY | {"user_query": "手机"}, QUERY | {"query_id": "q2"}])
    texts = pa.array(["手机".encode(), b"caf\xe9"], pa.binary())
    pq.write_table(table.set_column(2, "user_query", texts), tmp_path / "log.parquet")
    assert bring("ubi", tmp_path / "log.parquet").rejected == {"invalid UTF-8": 1}
    assert told(tmp_path / "out", "query") == [("手机",)]


def test_ubi_items_that_have_an_internal_id_only(bring, tmp_path):
    thing = {"event_attributes": {"object": {"internal_id": "77", "description": "Pad"}}}
    bring("ubi", write_json_lines(tmp_path / "log.jsonl", [EVENT | {"action_name": "item_click"} | thing]))
    assert told(tmp_path / "out", "item_id") == [("77",)]
    assert [(item["item_id"], item["title"]) for item in rows(tmp_path / "out", "items")] == [("77", "Pad")]


def test_ubi_that_is_something_else(bring, tmp_path):
    with pytest.raises(SourceError, match="expected UBI objects"):
        bring("ubi", write_json_lines(tmp_path / "log.ndjson", [{"a": 1}]))


def parameter(key, **value):
    return {"key": key, "value": value}


ITEM = {"item_id": "s1", "item_name": "Mug", "item_brand": "(not set)", "item_category": "Home", "price": 5.5}
GA4 = [
    {
        "event_name": "view_search_results",
        "event_timestamp": "1700000000000000",
        "user_id": None,
        "user_pseudo_id": "p1",
        "event_params": [
            parameter("search_term", string_value="mug ☕"),
            parameter("ga_session_id", int_value=7),
        ],
        "items": [],
    },
    {
        "event_name": "add_to_cart",
        "event_timestamp": "1700000001000000",
        "user_pseudo_id": "p1",
        "user_id": "u1",
        "event_params": [],
        "items": [ITEM, ITEM | {"item_id": "s2"}],
    },
    {
        "event_name": "purchase",
        "event_timestamp": "1700000002000000",
        "user_pseudo_id": "p1",
        "event_params": [parameter("transaction_id", string_value="T1")],
        "items": [ITEM],
    },
    {
        "event_name": "page_view",
        "event_timestamp": "1700000003000000",
        "user_pseudo_id": "p1",
        "event_params": [],
    },
]


def check_ga4(out):
    assert told(out, "user_id", "action", "query", "item_id", "request_id", "session_id") == [
        ("p1", "search", "mug ☕", None, None, "7"),
        ("p1", "purchase", None, "s1", "T1", None),
        ("u1", "cart", None, "s1", None, None),
        ("u1", "cart", None, "s2", None, None),
    ]
    item = rows(out, "items")[0]
    assert (item["title"], item["category"], item["brand"], item["price"]) == ("Mug", ["Home"], None, 5.5)


def test_ga4_json_lines(bring, tmp_path):
    summary = bring("ga4", write_json_lines(tmp_path / "ga4.jsonl", GA4))
    assert summary.rejected == {"unknown action": 1}
    check_ga4(tmp_path / "out")


def test_ga4_late_rows(bring, tmp_path):
    bring("ga4", write_json_lines(tmp_path / "day1.jsonl", GA4[1:]))
    late = bring("ga4", write_json_lines(tmp_path / "day2.jsonl", GA4[:2]))
    assert (late.new_events, late.duplicates) == (1, 2)
    check_ga4(tmp_path / "out")


def test_ga4_parquet(bring, tmp_path):
    pq.write_table(pa.Table.from_pylist(GA4), tmp_path / "ga4.parquet")
    bring("ga4", tmp_path / "ga4.parquet")
    check_ga4(tmp_path / "out")


def test_ga4_parquet_whose_texts_are_bytes(bring, tmp_path):
    value = pa.struct([("string_value", pa.binary()), ("int_value", pa.int64())])
    kind = pa.list_(pa.struct([("key", pa.string()), ("value", value)]))
    told_by = [[{"key": "search_term", "value": {"string_value": "手机".encode()}}]]
    table = pa.Table.from_pylist(GA4[:1]).drop_columns(["event_params", "items"])
    pq.write_table(table.append_column("event_params", pa.array(told_by, kind)), tmp_path / "ga4.parquet")
    bring("ga4", tmp_path / "ga4.parquet")
    assert told(tmp_path / "out", "query") == [("手机",)]


def test_ga4_items_keep_what_any_of_their_events_says(bring, tmp_path):
    plain = {key: value for key, value in ITEM.items() if key != "item_category"}
    view = GA4[1] | {"event_name": "view_item", "items": [ITEM]}
    bring("ga4", write_json_lines(tmp_path / "ga4.jsonl", [view, GA4[2] | {"items": [plain]}]))
    (item,) = rows(tmp_path / "out", "items")
    assert (item["title"], item["category"]) == ("Mug", ["Home"])


def test_ga4_without_its_keys(bring, tmp_path):
    with pytest.raises(SourceError, match="expected keys event_timestamp, event_params"):
        bring("ga4", write_json_lines(tmp_path / "ga4.jsonl", [{"event_name": "search"}]))


def test_files_with_a_map(bring, tmp_path):
    (tmp_path / "log.csv").write_text(
        "visitor,when,what,sku\nv1,2024-01-01 10:00,view,7\nv1,2024-01-02,buy,7\n"
    )
    (tmp_path / "items.csv").write_text("sku,name,cat,colour\n7,Mug,Home > Kitchen,red\n8,Cup,,\n")
    (tmp_path / "users.csv").write_text("visitor,city\nv1,Delft\n")
    roles = {
        "user_id": "visitor",
        "ts": "when",
        "action": "what",
        "item_id": "sku",
        "actions": {"view": "click", "buy": "purchase"},
        "items": {
            "path": "items.csv",
            "item_id": "sku",
            "title": "name",
            "category": "cat",
            "attributes": ["colour"],
        },
        "users": {"path": "users.csv", "user_id": "visitor"},
    }
    bring("files", tmp_path / "log.csv", columns=roles)
    assert told(tmp_path / "out", "action", "item_id") == [("click", "7"), ("purchase", "7")]
    assert rows(tmp_path / "out", "items")[0]["category"] == ["Home", "Kitchen"]
    assert rows(tmp_path / "out", "items")[0]["attributes"] == [("colour", "red")]
    assert rows(tmp_path / "out", "users") == [{"user_id": "v1", "profile": [("city", "Delft")]}]


def test_files_with_a_constant_action_and_dotted_keys(bring, tmp_path):
    log = write_json_lines(tmp_path / "log.jsonl", [{"who": {"id": 5}, "t": 1700000000, "q": "手机"}])
    bring("files", log, columns={"user_id": "who.id", "ts": "t", "action": "search", "query": "q"})
    assert told(tmp_path / "out", "user_id", "action", "query") == [("5", "search", "手机")]


def test_files_parquet_with_real_times(bring, tmp_path):
    table = pa.table(
        {
            "user_id": ["u"],
            "ts": pa.array([0], pa.timestamp("ns")).cast("int64"),
            "action": ["search"],
            "query": ["tea"],
        }
    )
    table = table.set_column(1, "ts", pa.array([1700000000000], pa.timestamp("ms", tz="Europe/Paris")))
    pq.write_table(table, tmp_path / "log.parquet")
    bring("files", tmp_path / "log.parquet")
    assert str(rows(tmp_path / "out")[0]["ts"]) == "2023-11-14 22:13:20"


@pytest.mark.data
@pytest.mark.parametrize(
    ("source", "path", "lines", "least"),
    [
        ("bestbuy", "bestbuy/searches.csv", 34_037, 60_000),
        ("online_retail", "online_retail/uci_online_retail.parquet", 541_909, 600_000),
        ("kuaisearch", "kuaisearch", 1_026, 800),
        ("ubi", "ubi/ubi_queries_events.ndjson", 3_921, 1_200),
    ],
)
def test_the_real_logs(bring, shared, source, path, lines, least):
    summary = bring(source, shared / path)
    assert summary.rows == lines
    assert summary.events > least
    assert bring(source, shared / path).fingerprint == summary.fingerprint


def test_ubi_hints_that_were_shown_are_nobodys_query(bring, tmp_path):
    hint = {"action_name": "hint_impression", "user_id": "u", "query_id": "r", "timestamp": "2026-01-01"}
    click = hint | {"action_name": "click", "event_attributes": {"object": {"object_id": "7"}}}
    lines = [hint | {"user_query": "apron"}, hint | {"user_query": "sled"}, click]
    bring("ubi", write_json_lines(tmp_path / "log.jsonl", lines))
    (clicked,) = [row for row in rows(tmp_path / "out") if row["action"] == "click"]
    assert clicked["query"] is None
