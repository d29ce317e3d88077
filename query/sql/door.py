"""The process in which a statement of `vlq sql` runs: it can read what it was handed, and nothing else.

Its own process, because SQL of others must be stopped whatever it does: DuckDB looks for an interrupt only between
steps, of which one may take minutes, and does not count all of the memory that texts take. So the system ends what
runs too long and denies what is too much, and a process that dies takes nobody with it.

In this process DuckDB reads files through `Files`, which has those of the snapshot by names of its own and cannot
write; the local file system and the network are closed, and the configuration is locked. Before a statement is run,
its syntax tree is looked through: DuckDB's own word for it, SELECT, is not enough, since a WITH may hold a COPY.

    cd SCRATCH && python -m vlq.query.sql.door  request.json -> an Arrow stream on stdout; or exit 1, and JSON on stderr
"""

from __future__ import annotations

import json
import mmap
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any, BinaryIO

import duckdb
import pyarrow as pa
from fsspec import AbstractFileSystem

GRACE = 2.0
"""Seconds that a statement has to notice that it was interrupted."""

SLACK = 256 * 2**20
"""Bytes beyond the limit of memory that the process may take: what moves a result from DuckDB to the pipe."""

ROWS_AT_ONCE = 10_000

AS_TEXT = ("INTERVAL", "UNION(")
"""Types that neither Parquet files nor data frames have: what holds them is given as DuckDB writes it."""

QUERIES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE"}
SOURCES = {"BASE_TABLE", "SUBQUERY", "JOIN", "TABLE_FUNCTION", "EXPRESSION_LIST", "EMPTY", "PIVOT", "SHOW_REF"}
SORTED = {"ORDER_MODIFIER", "LIMIT_MODIFIER", "DISTINCT_MODIFIER", "ORDER_DEFAULT", "ASCENDING", "DESCENDING"}
KNOWN = QUERIES | SOURCES | SORTED
"""The types of whatever in a syntax tree is no expression. What is of any other type is refused."""

TABLE_FUNCTIONS = {"range", "generate_series", "unnest"}
"""Functions that may stand for a table: they read nothing."""

REFUSED_FUNCTIONS = {"current_setting", "getenv", "getvariable", "json_serialize_plan", "pg_get_viewdef", "write_log"}
"""Functions of an expression that tell of the machine, or do something. A plan holds the values of those in it."""


class Refused(Exception):
    """The statement is not run, or its answer not given. `span` is a start and a length in bytes of its text."""

    def __init__(self, kind: str, message: str, hint: str | None = None, span: tuple[int, int] | None = None) -> None:
        super().__init__(message)
        self.kind, self.message, self.hint, self.span = kind, message, hint, span


# --- what is asked ---------------------------------------------------------------------------------------------


def check(connection: duckdb.DuckDBPyConnection, sql: str, tables: Sequence[str]) -> None:
    """Raises Refused unless the text is one SELECT that reads `tables` and does nothing else."""
    statements = connection.extract_statements(sql)
    if not statements:
        raise Refused("sql", "Nothing is asked.", "Ask something, such as SELECT count(*) FROM images")
    if len(statements) > 1:
        first = len(statements[0].query.encode())
        raise Refused("refused", f"Expected one statement. Got {len(statements)}.", None, (first, 0))
    try:
        kind = statements[0].type.name
    except ValueError:  # DuckDB has types that its Python does not know, such as that of UPDATE EXTENSIONS
        kind = "something else"
    if kind == "MULTI":
        hint = "Write SELECT * FROM (PIVOT ... ON ... IN (...) USING ...)"
        raise Refused("refused", "Expected a SELECT. Got a PIVOT that is several statements.", hint)
    if kind != "SELECT":
        raise Refused("refused", f"Expected a SELECT. Got {kind.replace('_', ' ')}.")
    ((text,),) = connection.execute("SELECT json_serialize_sql($1)", [sql]).fetchall()
    tree = json.loads(text)
    if tree.get("error", True):
        raise Refused("refused", f"Expected a SELECT. {tree.get('error_message', '')}")
    parts = list(nodes(tree["statements"]))
    named = {entry["key"].lower() for part in parts for entry in part.get("map", ()) if "key" in entry}
    # Behind the query that has the WITH, its name would be DuckDB's own view of that name, or a file's.
    own = connection.execute("SELECT lower(view_name) FROM duckdb_views() WHERE internal").fetchall()
    unclear = sorted(name for name in named if (name,) in own or not re.fullmatch(r"\w+", name))
    if unclear:
        raise Refused("refused", f"{', '.join(unclear)} is no name for a WITH here.", "Give it another one.")
    for part in parts:
        check_part(part, tables, named)


def nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object of a JSON value."""
    waiting = [tree]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def check_part(part: Mapping[str, Any], tables: Sequence[str], named: set[str]) -> None:
    """Raises Refused for a part of a syntax tree that is none of those of a SELECT from `tables` and WITHs `named`."""
    kind, place = part.get("type"), span_of(part)
    if "class" in part:
        if part["class"] == "FUNCTION" and part["function_name"].lower() in REFUSED_FUNCTIONS:
            raise Refused("refused", f"{part['function_name']} is not for use here.", None, place)
        return
    if "info_type" in part or (isinstance(kind, str) and kind not in KNOWN):
        raise Refused("refused", "Expected a SELECT. Got something in it that does more than select.", None, place)
    if kind == "SHOW_REF" and part.get("query") is None:
        raise Refused("refused", "SHOW is not for use here.", "The tables and their columns: vlq sql")
    if kind == "TABLE_FUNCTION":
        function = part["function"]
        if function["function_name"].lower() not in TABLE_FUNCTIONS or function["schema"] or function["catalog"]:
            hint = f"There is {', '.join(tables)}, and {', '.join(sorted(TABLE_FUNCTIONS))} of values."
            raise Refused("refused", f"{function['function_name']} is no table to read here.", hint, place)
    if kind == "BASE_TABLE":
        schema, name = part["schema_name"].lower(), part["table_name"].lower()
        is_named = name in named and schema in ("", "recurring")
        if part["catalog_name"] or not (is_named or (not schema and name in tables)):
            shown = ".".join(path for path in (part["catalog_name"], part["schema_name"], part["table_name"]) if path)
            near = get_close_matches(name, tables, 1)
            hint = f"Did you mean {near[0]}? " if near else ""
            raise Refused("refused", f"There is no table {shown}.", f"{hint}There is {', '.join(tables)}.", place)


def span_of(part: Mapping[str, Any]) -> tuple[int, int] | None:
    start = part.get("query_location")
    return None if start is None or start >= 2**63 else (start, part.get("query_location_length", 0))


# --- what it may do --------------------------------------------------------------------------------------------


class Files(AbstractFileSystem):  # type: ignore[misc]
    """The files that were handed over, by their names here, read only.

    A file is a memory map: threads share it, and reading from it never lets another thread in between seek and read.
    """

    protocol = "vlq"
    cachable = False

    def __init__(self, paths: Mapping[str, str]) -> None:
        super().__init__()
        self._paths = dict(paths)

    def _path(self, name: str) -> str:
        try:
            return self._paths[name]
        except KeyError:
            raise FileNotFoundError(name) from None

    def open(self, name: str, mode: str = "rb", **options: Any) -> mmap.mmap:
        if mode != "rb":
            raise PermissionError(f"{name} is read only")
        with open(self._path(name), "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def exists(self, name: str, **options: Any) -> bool:
        return name in self._paths

    isfile = exists

    def info(self, name: str, **options: Any) -> dict[str, Any]:
        return {"name": name, "size": os.path.getsize(self._path(name)), "type": "file"}

    def modified(self, name: str) -> datetime:
        return datetime.fromtimestamp(0, UTC)  # what is read is immutable

    def glob(self, name: str, **options: Any) -> list[str]:
        return [name] if name in self._paths else []


def opened(request: Mapping[str, Any]) -> duckdb.DuckDBPyConnection:
    """A database that has the request's views and can reach nothing else. Raises Refused if a file is damaged."""
    limits, scratch = request["limits"], os.getcwd()
    names = {
        table: [f"vlq://{table}/{i}.parquet" for i in range(len(paths))] for table, paths in request["files"].items()
    }
    connection = duckdb.connect(
        config={
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_community_extensions": False,
            "allow_persistent_secrets": False,
            "python_enable_replacements": False,
            "home_directory": scratch,
            "errors_as_json": True,
            "memory_limit": f"{limits['memory']}B",
            "temp_directory": os.path.join(scratch, "spilled") if limits["temp"] else "",
            "max_temp_directory_size": f"{limits['temp']}B",
            **({"threads": limits["threads"]} if limits["threads"] else {}),
        }
    )
    paths = {name: path for table in names for name, path in zip(names[table], request["files"][table], strict=True)}
    connection.register_filesystem(Files(paths))
    connection.execute(f"SET allowed_paths = {list(paths)}")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    for name, sql in request["views"].items():
        try:
            connection.execute(f"CREATE VIEW {name} AS {sql.format(**names)}")
        except duckdb.Error as error:
            raise Refused("corrupt", said(error)["exception_message"].splitlines()[0]) from None
    return connection


def bound_memory(limit: int) -> None:
    """Have the system deny this process more than `limit` bytes beyond what it has now (Linux)."""
    with suppress(ImportError, OSError, ValueError, StopIteration):
        import resource

        with open("/proc/self/status") as status:
            now = next(int(line.split()[1]) for line in status if line.startswith("VmData"))
        resource.setrlimit(resource.RLIMIT_DATA, (now * 1024 + limit + SLACK,) * 2)


def bound_time(connection: duckdb.DuckDBPyConnection, seconds: float) -> None:
    """Interrupt what the connection does in so many seconds."""
    timer = threading.Timer(seconds, connection.interrupt)
    timer.daemon = True
    timer.start()


# --- the answer ------------------------------------------------------------------------------------------------


def answer(request: Mapping[str, Any], sink: BinaryIO) -> None:
    """Write the statement's rows as an Arrow stream. Raises Refused, duckdb.Error."""
    limits = request["limits"]
    signal.setitimer(signal.ITIMER_REAL, limits["timeout"] + GRACE)  # its signal ends a process that goes on
    connection = opened(request)
    bound_memory(limits["memory"])
    bound_time(connection, limits["timeout"])
    check(connection, request["sql"], request["tables"])
    reader = selected(connection, request["sql"])
    rows = size = 0
    with pa.ipc.new_stream(sink, reader.schema) as writer:
        for batch in reader:
            rows += batch.num_rows
            size += batch.nbytes
            if rows > limits["max_rows"]:
                raise Refused("rows", "")
            if size > limits["memory"]:
                raise Refused("size", "")
            writer.write_batch(batch)


def selected(connection: duckdb.DuckDBPyConnection, sql: str) -> pa.RecordBatchReader:
    """The statement's rows, as they come. Raises duckdb.Error, which says where the mistake is if it can; Refused."""
    try:
        found = connection.sql(sql)
    except (duckdb.BinderException, duckdb.CatalogException):
        connection.execute(sql)  # fails in the same way, but its error knows the place
        raise
    names = found.columns
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise Refused("sql", f"Several columns are named {', '.join(repeated)}.", "Name them apart with AS.")
    rare = [any(name in str(kind) for name in AS_TEXT) for kind in found.types]
    if any(rare):
        columns = ['"' + name.replace('"', '""') + '"' for name in names]
        shown = (f"{name}::VARCHAR AS {name}" if text else name for name, text in zip(columns, rare, strict=True))
        found = found.project(", ".join(shown))
    return found.to_arrow_reader(ROWS_AT_ONCE)


def said(error: duckdb.Error) -> dict[str, Any]:
    """What DuckDB says of an error: its `exception_message`, and where it can its `location`."""
    text = str(error)
    with suppress(ValueError):
        values = json.loads(text[text.index("{") :])
        if isinstance(values, dict) and "exception_message" in values:
            return values
    return {"exception_message": text.partition(": ")[2] or text}


def report(error: BaseException) -> dict[str, Any]:
    """An error as the asking process takes it."""
    match error:
        case Refused():
            return {"kind": error.kind, "message": error.message, "hint": error.hint, "span": error.span}
        case duckdb.InterruptException():
            return {"kind": "time", "message": "", "hint": None, "span": None}
        case duckdb.OutOfMemoryException() | MemoryError():
            return {"kind": "memory", "message": "", "hint": None, "span": None}
        case RecursionError():
            return {"kind": "refused", "message": "The statement is nested too deeply.", "hint": None, "span": None}
        case duckdb.Error():
            values = said(error)
            message, _, hint = values["exception_message"].expandtabs(2).partition("\n")
            hint = hint.replace("Candidate bindings:", "There is")
            span = json.loads(values["location"]) if "location" in values else None
            kind = "corrupt" if isinstance(error, duckdb.IOException) else "sql"
            return {"kind": kind, "message": message, "hint": hint.strip() or None, "span": span}
    raise error


def main() -> None:
    """Answer the request in this folder."""
    sys.setrecursionlimit(10_000)  # syntax trees are deeper than their text looks
    try:
        with open("request.json") as file:
            request = json.load(file)
        answer(request, sys.stdout.buffer)
        sys.stdout.buffer.flush()
        code = 0
    except Exception as error:
        print(json.dumps(report(error)), file=sys.stderr)
        code = 1
    sys.stderr.flush()
    os._exit(code)  # what is still running is not waited for


if __name__ == "__main__":
    main()
