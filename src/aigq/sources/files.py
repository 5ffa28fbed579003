"""Any CSV, JSON-lines or Parquet log, with a map that says which of its columns is what.

    columns = {
        "user_id": "visitor", "ts": "time", "action": "event", "query": "q", "item_id": "sku",
        "request_id": ..., "position": ..., "session_id": ...,       # optional
        "actions": {"view": "click", "buy": "purchase"},           # optional: the log's own names
        "provenance": "typed",                                       # or constructed
        "items": {"path": "items.csv", "item_id": "sku", "title": "name", "category": "cat", "brand": ...,
                  "price": ..., "attributes": ["colour", "size"]},
        "users": {"path": "users.csv", "user_id": "visitor", "profile": ["city", "age"]},
    }

`action` may be a constant instead of a column: {"action": "search"}. Without a map, the columns have the
names of the events table. A category is a list, a JSON list, or text with ">" between its levels. Keys of
JSON objects and fields of Parquet structs may be dotted; a name of CSV with dots is that name.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import duckdb

from aigq.errors import SourceError, suggestion
from aigq.sources.ubi import action_sql
from aigq.sources.workspace import NOT_JSON, Workspace, quoted, sql, text_of_bytes
from aigq.tables import ACTIONS, EVENTS, Provenance

_OPTIONS = ("actions", "provenance", "items", "users")
_ITEM_COLUMNS = ("item_id", "title", "category", "brand", "price")
_PARTS = {"items": ("path", *_ITEM_COLUMNS, "attributes"), "users": ("path", "user_id", "profile")}
_NULL_MAP = "NULL::MAP(VARCHAR, VARCHAR)"
Reader = Callable[[str | None], str]


def load(workspace: Workspace, path: Path | None, columns: Mapping[str, Any] | None = None) -> Provenance:
    """Read the log `path`, and the items and users files that `columns` names (in its folder)."""
    if path is None:
        raise SourceError("files: expected the path of a CSV, JSON-lines or Parquet file; found none")
    roles = _checked(columns) if columns else {name: name for name in EVENTS.names}
    provenance = roles.get("provenance", "typed")
    if provenance not in ("typed", "constructed"):
        raise SourceError(f"files: provenance is typed or constructed; found {provenance!r}")
    found = _open(workspace, "log", path)
    if columns is None:
        roles = {name: name for name in roles if name in found}
    constant = roles.get("action") in ACTIONS and roles.get("action") not in found
    needed = {"user_id": "user_id", "ts": "ts", "action": "action"} | {
        key: name for key, name in roles.items() if key in EVENTS.names
    }
    _require(
        workspace,
        "log",
        path,
        found,
        [name for key, name in needed.items() if not (key == "action" and constant)],
        "" if columns else "; say which column is what in a column map: --columns",
    )
    given = [
        str(roles[name]) for name in EVENTS.names if name in roles and not (name == "action" and constant)
    ]
    _need_plain(workspace, "log", path, given)
    read = _reader(workspace, "log", found)
    spellings = {str(key).lower(): str(value) for key, value in dict(roles.get("actions") or {}).items()}
    action = sql(str(roles["action"])) if constant else read(needed["action"])
    if not constant:
        action = action_sql(action, {name: name for name in ACTIONS} | spellings)
    rest = ", ".join(
        f"{read(roles.get(name))} AS {name}"
        for name in ("query", "item_id", "request_id", "position", "session_id")
    )
    content, bad = _content(workspace, "log")
    workspace.db.execute(f"""
        CREATE OR REPLACE VIEW raw AS
        SELECT {sql(path.name)} AS file, _row AS row, {content} AS content, {bad} AS reason,
               {read(needed["user_id"])} AS user_id, {read(needed["ts"])} AS ts, {action} AS action, {rest},
               NULL::VARCHAR AS search_ts
        FROM log
        UNION ALL
        SELECT file, row, content, reason, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
        FROM malformed WHERE view = 'log'
    """)
    if roles.get("items"):
        _items(workspace, path.parent, dict(roles["items"]))
    if roles.get("users"):
        _users(workspace, path.parent, dict(roles["users"]))
    return "constructed" if provenance == "constructed" else "typed"


def _checked(columns: Mapping[str, Any]) -> dict[str, Any]:
    """The column map without its empty keys. Raises SourceError where it is not what `load` can use."""
    roles = _known("the column map", columns, (*EVENTS.names, *_OPTIONS))
    for key in EVENTS.names:
        _need("the column map", roles, key, str, "a column's name")
    _need("the column map", roles, "actions", Mapping, "a map such as {view: click}")
    for name, action in dict(roles.get("actions", {})).items():
        if action not in ACTIONS:
            raise SourceError(
                f"files: `actions` of the column map makes {name} {action!r}, which is no action; "
                f"{suggestion(str(action), ACTIONS)}"
            )
    for part, keys in _PARTS.items():
        _need("the column map", roles, part, Mapping, "a map such as {path: FILE}")
        if part not in roles:
            continue
        inner = roles[part] = _known(f"`{part}` of the column map", roles[part], keys)
        for key in keys[:-1]:
            _need(f"`{part}` of the column map", inner, key, str, "a text")
        _need(f"`{part}` of the column map", inner, keys[-1], list, "a list of columns")
        if "path" not in inner:
            raise SourceError(f"files: `{part}` of the column map needs a path")
    return roles


def _known(where: str, content: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    unknown = [key for key in content if key not in keys]
    if unknown:
        raise SourceError(f"files: unknown key {unknown[0]!r} in {where}; known: {', '.join(keys)}")
    return {key: value for key, value in content.items() if value is not None}


def _need(where: str, content: Mapping[str, Any], key: str, kind: type, wanted: str) -> None:
    if key in content and not isinstance(content[key], kind):
        raise SourceError(f"files: {key} in {where} must be {wanted}; found {content[key]!r}")


def _open(workspace: Workspace, table: str, path: Path) -> list[str]:
    """Make `table` and give the names of its columns; of a JSON file, the keys of its objects."""
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix == ".parquet":
        workspace.parquet(table, path)
    elif suffix in (".jsonl", ".ndjson", ".json"):
        workspace.json_rows(table, [path])
        return sorted(
            row[0] for row in workspace.rows(f"SELECT DISTINCT unnest(json_keys(json)) FROM {table}")
        )
    else:
        workspace.csv(table, path)
    return [name for name in workspace.columns(table) if not name.startswith("_")]


def _require(
    workspace: Workspace, table: str, path: Path, found: list[str], needed: list[str], advice: str = ""
) -> None:
    """Raise SourceError when a column is not there; of a path into JSON only the first key is known."""
    plain = not _is_json(workspace, table)
    structs = {name for name, kind in workspace.columns(table).items() if kind.startswith("STRUCT")}

    def there(name: str) -> bool:
        first = name.split(".")[0]
        return name in found or (first in structs if plain else first in found)

    missing = [name for name in needed if not there(name)]
    if missing and found:
        raise SourceError(f"{path}: expected column {missing[0]!r}; found {', '.join(found[:12])}{advice}")


def _reader(workspace: Workspace, table: str, keys: list[str]) -> Reader:
    """A function from a column's name to the SQL that reads it; `keys` are those that `_open` found."""
    if _is_json(workspace, table):
        return lambda name: "NULL::VARCHAR" if name is None else f"(json ->> {_path(name, keys)})"

    def read(name: str | None) -> str:
        if name is None:
            return "NULL::VARCHAR"
        column, kind = _column(workspace, table, name)
        if kind.startswith(("TIMESTAMP", "DATE")):
            return f"coalesce(TRY_CAST({column} AS TIMESTAMPTZ)::VARCHAR, {column}::VARCHAR)"
        if kind in ("FLOAT", "DOUBLE"):
            return _number(column)
        if kind == "BLOB":
            return text_of_bytes(column)
        return f"({column}::VARCHAR)"

    return read


def _is_json(workspace: Workspace, table: str) -> bool:
    return list(workspace.columns(table)) == ["file", "_row", "line", "json"]


def _path(name: str, keys: list[str]) -> str:
    """The SQL literal of a JSON path; a key that has the dots itself is that key."""
    return sql(f'$."{name}"' if "." in name and name in keys else f"$.{name}")


def _column(workspace: Workspace, table: str, name: str) -> tuple[str, str]:
    """The SQL of a column, or of a field in a struct such as `user.id`, and its type."""
    kinds = workspace.columns(table)
    if name in kinds:
        return quoted(name), kinds[name]
    first, *inner = map(quoted, name.split("."))
    column = ".".join([f"({first})", *inner])
    try:
        return column, workspace.columns(f"(SELECT {column} AS value FROM {table})")["value"]
    except duckdb.Error:
        raise SourceError(f"files: expected column {name!r}; {first} has no such field") from None


def _number(column: str) -> str:
    """A float as text. A column of whole numbers with gaps is stored as floats: 17850.0 and NaN."""
    whole = f"{column} = trunc({column}) AND abs({column}) < 9e15"
    return (
        f"CASE WHEN isnan({column}) THEN NULL WHEN {whole} THEN TRY_CAST({column} AS BIGINT)::VARCHAR "
        f"ELSE {column}::VARCHAR END"
    )


def _content(workspace: Workspace, table: str) -> tuple[str, str]:
    if _is_json(workspace, table):
        return "line", NOT_JSON
    columns = workspace.columns(table)
    names = ", ".join(f"{quoted(name)}::VARCHAR" for name in columns if not name.startswith("_"))
    return f"concat_ws(',', {names})", "NULL::VARCHAR"


def _items(workspace: Workspace, folder: Path, roles: dict[str, Any]) -> None:
    path = folder / str(roles.get("path"))
    found = _open(workspace, "item_file", path)
    named = [str(name) for name in roles.get("attributes") or []]
    key = str(roles.get("item_id", "item_id"))
    plain = [key, *(str(roles[name]) for name in _ITEM_COLUMNS[1:] if roles.get(name))]
    _require(workspace, "item_file", path, found, [*plain, *named])
    _need_plain(workspace, "item_file", path, [name for name in plain if name != roles.get("category")])
    read = _reader(workspace, "item_file", found)
    category, odd = _category(workspace, path, roles.get("category"), read)
    content, bad = _content(workspace, "item_file")
    workspace.db.execute(f"""
        CREATE OR REPLACE VIEW raw_items AS
        SELECT {sql(path.name)} AS file, _row AS row, {content} AS content, coalesce({bad}, {odd}) AS reason,
               {_id(workspace, "item_file", read(key))} AS item_id, {read(roles.get("title"))} AS title,
               {category} AS category, {read(roles.get("brand"))} AS brand, {_map(named, read)} AS attributes,
               try_cast({read(roles.get("price"))} AS DOUBLE) AS price
        FROM item_file
        UNION ALL
        SELECT file, row, content, reason, NULL, NULL, NULL, NULL, NULL, NULL
        FROM malformed WHERE view = 'item_file'
    """)


def _category(workspace: Workspace, path: Path, name: str | None, read: Reader) -> tuple[str, str]:
    """The SQL of a category's levels, root to leaf, and of the reason to refuse a row for it."""
    if name is not None and not _is_json(workspace, "item_file"):
        column, kind = _column(workspace, "item_file", name)
        if kind.endswith("[]"):
            if not kind.removesuffix("[]").isalnum():
                raise SourceError(
                    f"{path}: expected texts or lists of texts in column {name!r}; found {kind}"
                )
            level = text_of_bytes("level") if kind == "BLOB[]" else "level::VARCHAR"
            return f"list_transform({column}, lambda level: {level})", "NULL::VARCHAR"
        _need_plain(workspace, "item_file", path, [name])
    text = read(name)
    is_json = f"({text} LIKE '[%' OR {text} LIKE '{{%') AND json_valid({text})"
    inner = f"json_type({text}, '$[*]')"
    nested = f"{text} LIKE '{{%' OR list_has_any({inner}, ['OBJECT', 'ARRAY'])"
    return (
        f"CASE WHEN {is_json} THEN try_cast({text} AS JSON) ->> '$[*]' ELSE string_split({text}, '>') END",
        f"CASE WHEN {is_json} THEN CASE WHEN {nested} THEN 'category not understood' END END",
    )


def _users(workspace: Workspace, folder: Path, roles: dict[str, Any]) -> None:
    path = folder / str(roles.get("path"))
    found = _open(workspace, "user_file", path)
    key = str(roles.get("user_id", "user_id"))
    fields = roles.get("profile") or [name for name in found if name != key]
    _require(workspace, "user_file", path, found, [key, *map(str, fields)])
    _need_plain(workspace, "user_file", path, [key])
    read = _reader(workspace, "user_file", found)
    content, bad = _content(workspace, "user_file")
    workspace.db.execute(f"""
        CREATE OR REPLACE VIEW raw_users AS
        SELECT {sql(path.name)} AS file, _row AS row, {content} AS content, {bad} AS reason,
               {_id(workspace, "user_file", read(key))} AS user_id,
               {_map([str(name) for name in fields], read)} AS profile
        FROM user_file
        UNION ALL
        SELECT file, row, content, reason, NULL, NULL FROM malformed WHERE view = 'user_file'
    """)


def _need_plain(workspace: Workspace, table: str, path: Path, names: list[str]) -> None:
    """Raise SourceError where a column holds lists or structs. Objects of JSON differ from row to row."""
    if _is_json(workspace, table):
        return
    for name in names:
        kind = _column(workspace, table, name)[1]
        if kind.endswith("]") or kind.startswith(("STRUCT", "MAP")):
            raise SourceError(f"{path}: expected texts or numbers in column {name!r}; found {kind}")


def _id(workspace: Workspace, table: str, value: str) -> str:
    """SQL of an id, null where JSON has a list or an object in its place."""
    if not _is_json(workspace, table):
        return value
    kind = f"json_type({value.replace('->>', '->')})"
    return f"CASE WHEN {kind} NOT IN ('OBJECT', 'ARRAY') THEN {value} END"


def _map(names: list[str], read: Reader) -> str:
    entries = ", ".join(f"{{'k': {sql(name)}, 'v': {read(name)}}}" for name in names)
    return f"map_from_entries(list_filter([{entries}], lambda entry: entry.v <> ''))" if names else _NULL_MAP
