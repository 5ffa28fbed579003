"""UCI Online Retail: a gift shop's invoices; every query is the head noun phrase of a title.

The rule of `head_phrase`, for "SET OF 3 CAKE TINS PANTRY DESIGN" -> "cake tins":

1. lower case; counts and measures go ("set of 3", "pack of 72", "3 tier", "50's");
2. the title ends before "with", "in", "for", "and" and the like, unless nothing would be left;
3. colours, sizes and pattern names go ("red", "large", "retrospot", "design");
4. the head is the last word that names a product (`NOUNS`); the phrase is the head and the word before it,
   or the whole compound if it is one of `COMPOUNDS` ("hot water bottle"); without such a word, the last two
   words.

Each invoice, title phrase and customer is one search at the invoice's time. Cancellations, adjustments and
lines that are not products (postage, fees) are rejected with a reason.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from aigq.errors import SourceError
from aigq.sources.workspace import Workspace, sql
from aigq.tables import Provenance

COLUMNS = (
    "InvoiceNo",
    "StockCode",
    "Description",
    "Quantity",
    "InvoiceDate",
    "UnitPrice",
    "CustomerID",
    "Country",
)
_IDS = ("InvoiceNo", "StockCode", "CustomerID")
NOT_PRODUCTS = ("POST", "DOT", "M", "C2", "D", "S", "BANK CHARGES", "AMAZONFEE", "CRUK", "B", "PADS")

_COUNT = re.compile(
    r"\b(?:set|pack|box|bag|pair|piece)s?\s*(?:of|/)\s*\d+|\b(?:set|pack)\s*\d+"
    r"|\bpack of\b|\bset of\b|\bpair of\b"
    r"|\bs/\d+|\d+\s*(?:cm|m|g|pc|pcs|piece|tier|led|drawer|hook|bulb|asst)\b|\b\d+'?s\b|\d+"
)
_STOP = re.compile(r"\b(?:with|in|for|and|on|to|from|w|by|made)\b|[+&,(]")
_STYLES = """
red pink blue white black green ivory silver gold yellow purple cream orange brown grey gray turquoise
amber copper multicolour multicoloured pastel coloured colour clear small large medium mini big giant tall
round square oval assorted asst asstd design designs print retrospot polkadot spotty spot paisley vintage
retro antique classic traditional funky new style finish regency baroque gingham spaceboy woodland skull
skulls suki dolly girl scandinavian victorian edwardian english french rustic natural bakelike skullstripe
charm pantry union flag keep calm apple apples strawberry i love the your a an s t's is of
"""
STYLES = frozenset(_STYLES.split())
_NOUNS = """
bag bags holder holders cakestand bunting ornament ornaments tin tins case cases chalkboard set kit
shopper box boxes teacup frame frames mould moulds clock light lights napkin napkins ribbon ribbons card
cards pad bowl bowls bottle bottles sign signs peg pegs doormat rack cutter cutters plasters warmer
harmonica candle candles block game drawer cabinet necklace bracelet earrings decoration decorations art
mug mugs cover wrap egg eggs cushion cushions mirror ring garland hook hooks jar jars lantern lanterns
purse magnet magnets book basket baskets knob reel tape sticker stickers hanger wreath doily doilies
tissues toy jigsaw pan towel parasol umbrella apron wallet doorstop plant bin chain jug lamp lampshade
watering mobile shelf coaster coasters sketchbook soap calendar chandelier candleholder tray trays plate
plates notebook pencil pencils pen pens incense bell bells kettle teapot cup cups dish spoon spoons fork
cutlery tablecloth scales thermometer lamps throw slippers scarf gloves hat brooch hairclip hairband
keyring key-ring charm charms letter letters tile tiles photo trinket stand drop crystal star stars heart
hearts tree tidy picture playhouse puzzle skittles dominoes ball balls balloon balloons tea-light t-light
straws parasols planter pot pots seeds birdhouse feeder trowel gnome sack stocking crackers cracker
postcard wallpaper alarm radio torch fan tube
"""
NOUNS = frozenset(_NOUNS.split())
COMPOUNDS = (
    "hot water bottle",
    "paper chain kit",
    "luggage tag cover",
    "kneeling pad",
    "jam making set",
    "t-light holder",
    "knitting nancy",
    "building block word",
    "charlotte bag",
    "wicker heart",
)


def head_phrase(title: str) -> str:
    """The query that a title stands for; see the rule above."""
    text = (
        title.lower()
        .replace("t light", "t-light")
        .replace("heart of wicker", "wicker heart")
        .replace(".", " ")
    )
    text = _COUNT.sub(" ", text)
    for compound in COMPOUNDS:
        if compound in text:
            return compound
    start = _STOP.split(text, maxsplit=1)[0]
    for part in (start, text):
        words = [word for word in re.findall(r"[a-z][a-z'-]*", part) if word not in STYLES]
        if words:
            break
    heads = [place for place, word in enumerate(words) if word in NOUNS]
    end = heads[-1] + 1 if heads else len(words)
    return " ".join(words[max(0, end - 2) : end]) or " ".join(re.findall(r"[a-z0-9'-]+", title.lower()))


def load(workspace: Workspace, path: Path | None, columns: Mapping[str, Any] | None = None) -> Provenance:
    """Read the table as Parquet or CSV with the columns of UCI's spreadsheet."""
    if path is None:
        raise SourceError("online_retail: expected the path of the Parquet or CSV file; found none")
    if path.suffix == ".parquet":
        workspace.parquet("retail_file", path, COLUMNS)
    else:
        workspace.csv("retail_file", path, COLUMNS)
    # numbers of invoices, items and customers may be stored as integers, or as floats where some are missing
    texts = ", ".join(f"regexp_replace({name}::VARCHAR, '\\.0$', '') AS {name}" for name in _IDS)
    workspace.db.execute(f"CREATE OR REPLACE VIEW retail AS SELECT * REPLACE ({texts}) FROM retail_file")
    titles = [
        row[0]
        for row in workspace.rows("SELECT DISTINCT Description FROM retail WHERE Description IS NOT NULL")
    ]
    table = pa.table(
        {"Description": pa.array(titles, pa.string()), "phrase": [head_phrase(title) for title in titles]}
    )
    workspace.db.register("phrase_table", table)
    workspace.db.execute("CREATE OR REPLACE TABLE phrases AS SELECT * FROM phrase_table")
    codes = ", ".join(sql(code) for code in NOT_PRODUCTS)
    formats = "['%Y-%m-%d %H:%M:%S', '%m/%d/%Y %H:%M', '%Y-%m-%d']"
    time = f"strftime(try_strptime(InvoiceDate::VARCHAR, {formats}), '%Y-%m-%d %H:%M:%S')"
    workspace.db.execute(f"""
        CREATE OR REPLACE VIEW raw AS
        SELECT {sql(path.name)} AS file, _row AS row, concat_ws(',', {", ".join(COLUMNS)}) AS content,
               CASE WHEN InvoiceNo LIKE 'C%' THEN 'cancellation'
                    WHEN upper(StockCode) IN ({codes}) OR StockCode LIKE 'gift%' OR InvoiceNo LIKE 'A%'
                        THEN 'not a product'
                    WHEN coalesce(try_cast(Quantity AS DOUBLE), 0) <= 0 THEN 'quantity is not positive'
                    WHEN phrase IS NULL OR phrase = '' THEN 'no title'
               END AS reason,
               CustomerID AS user_id, {time} AS ts,
               'purchase' AS action,
               phrase AS query, StockCode AS item_id, InvoiceNo AS request_id,
               NULL::VARCHAR AS position, NULL::VARCHAR AS session_id, {time} AS search_ts
        FROM retail LEFT JOIN phrases USING (Description)
        UNION ALL
        SELECT file, row, content, reason, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM malformed
    """)
    workspace.db.execute(f"""
        CREATE OR REPLACE VIEW raw_items AS
        SELECT StockCode AS item_id, mode(trim(Description) ORDER BY Description) AS title,
               NULL::VARCHAR[] AS category, NULL::VARCHAR AS brand, NULL::MAP(VARCHAR, VARCHAR) AS attributes,
               median(try_cast(UnitPrice AS DOUBLE)) AS price
        FROM retail
        WHERE try_cast(Quantity AS DOUBLE) > 0 AND InvoiceNo NOT LIKE 'C%' AND InvoiceNo NOT LIKE 'A%'
              AND Description IS NOT NULL AND upper(StockCode) NOT IN ({codes}) AND StockCode NOT LIKE 'gift%'
        GROUP BY StockCode
    """)
    workspace.db.execute("""
        CREATE OR REPLACE VIEW raw_users AS
        SELECT CustomerID AS user_id,
               MAP {'country': mode(Country ORDER BY Country)} AS profile
        FROM retail WHERE CustomerID IS NOT NULL AND Country IS NOT NULL GROUP BY 1
    """)
    return "constructed"
