import ibis
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aigq.history.engine import keep, put, read
from aigq.history.normalise import is_private, normalise_query, query_forms

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(texts)
@example("ΑΣ Σ")
@example("İstanbul")
@example("e\u200b\u0301")
def test_normalising_twice_changes_nothing(text):
    once = normalise_query(text)
    assert normalise_query(once) == once


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("  Gears  of\tWAR\n3 ", "gears of war 3"),
        ("Ｘｂｏｘ　３６０", "xbox 360"),
        ("Ürün ÇANTA", "ürün çanta"),
        ("苹果 手机壳", "苹果 手机壳"),
        ("👩‍👧 Gift 🎁", "👩‍👧 gift 🎁"),
        ("a\x00b\x07c", "a b c"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        (" \u3000 ", ""),
    ],
)
def test_one_spelling(raw, expected):
    assert normalise_query(raw) == expected


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        texts | st.text(st.characters(max_codepoint=127), max_size=30), min_size=1, max_size=40, unique=True
    )
)
@example(["A\x00\x1f B", "\x7f", "a@b.de", "ＡＢ  ", "+49 30 1234567", "x\x0b\x0cY", "ß Straße"])
def test_sql_and_python_agree(raw):
    con = ibis.duckdb.connect()
    table = keep(put(con, pa.table({"raw": pa.array(raw, pa.string())})))
    found = {row["raw"]: (row["query"], row["private"]) for row in read(query_forms(table))}
    con.disconnect()
    assert found == {text: (normalise_query(text) or None, is_private(text)) for text in raw}


@pytest.mark.parametrize(
    "text",
    [
        "mail me at Jane.Doe@example.co.uk",
        "+1 (415) 555-2671",
        "call 415-555-2671 now",
        "(415) 555 2671",
        "555-2671",
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "４１１１１１１１１１１１１１１１",
        "iban de89370400440532013000",
        "https://user:secret@shop.example/x",
        "https://shop.example/reset?token=abc",
        "www.shop.example/?a=1&api_key=zzz",
        "٠١٢٣٤٥٦٧٨٩",
        "555\u2011123\u20114567",
        "(555) 123\u22124567",
        "+43\u2013664\u20131234567",
        "4111\u20111111\u20111111\u20111111",
        "4111\u200d1111\u200d1111\u200c1111",
        "john@example\u3002com",
    ],
)
def test_contact_data_is_private(text):
    assert is_private(text)


@pytest.mark.parametrize(
    "text",
    ["xbox 360 250gb", "2 liter soft drink", "iphone 17 pro max 256", "call of duty 4", "10 15 stems",
     "galaxy s25+ 5g", "www.shop.example", "7.1 surround 1920x1080", "call of duty modern warfare 3 2011"],
)  # fmt: skip
def test_products_are_not_private(text):
    assert not is_private(text)
