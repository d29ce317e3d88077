"""`vlq sql`: a SELECT of the user's over a cache's views, run where it can do no harm (`door`), within limits."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from propcache.api import cached_property

from vlq.query.answers.answer import Answer
from vlq.query.arrow import rows_of, whole_numbers
from vlq.query.cache.reader import Cache, Snapshot
from vlq.query.engine import files_of
from vlq.query.errors import CorruptCache, LimitReached, SqlMistake, VlqError
from vlq.query.limits import Limits
from vlq.query.schema import PUBLIC_URI
from vlq.query.sql.views import View, views_of
from vlq.query.summary import Rows, Summary, count

if TYPE_CHECKING:
    import pyarrow as pa

INHERITED = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ", "TMPDIR")
"""What the process that runs a statement gets of the environment. Credentials are not among it."""


class SqlAnswer(Answer):
    """What a statement selects."""

    def __init__(self, sql: str, table: pa.Table, snapshot: Snapshot) -> None:
        self._sql, self._table, self._snapshot = sql, table, snapshot

    @property
    def query(self) -> str:
        return self._sql

    @property
    def columns(self) -> list[str]:
        names: list[str] = self._table.column_names
        return names

    @cached_property
    def rows(self) -> Rows:
        return rows_of(self._table)

    @property
    def summary(self) -> Summary:
        """How many `rows` there are."""
        return {"rows": self._table.num_rows}

    @property
    def headline(self) -> str:
        return count(self._table.num_rows, "row")

    @property
    def tokens(self) -> list[dict[str, Any]]:
        """None: what a statement asks for is not looked into."""
        return []

    @property
    def notes(self) -> list[str]:
        return self._snapshot.notes

    def arrow(self) -> pa.Table:
        return self._table


def ask(cache: Cache, sql: str, limits: Limits) -> SqlAnswer:
    """What a statement selects from the views of a cache.

    Raises SqlMistake if it is no SELECT of these, LimitReached if it was stopped, CacheError, CorruptCache.
    """
    bounds = limits.checked()
    check_text(sql)
    snapshot = cache.snapshot()
    tables = views_of(cache.run)
    if cache.is_served:
        hidden = f"SELECT * REPLACE ({PUBLIC_URI.format('uri')} AS uri) FROM ({tables['images'].sql})"
        tables = {**tables, "images": replace(tables["images"], sql=hidden)}
    views = mentioned(sql, tables)
    request = {
        "sql": sql,
        "tables": list(tables),
        "views": {name: view.sql for name, view in views.items()},
        "files": {view.table: files_of(snapshot, view.table) for view in views.values()},
        "limits": bounds,
    }
    with TemporaryDirectory(prefix="vlq-sql-") as scratch:
        code, table, error = answered(request, scratch)
    if code or table is None:
        failed = failure(code, error, sql, limits, cache.called)
        if isinstance(failed, CorruptCache) and cache.copies.distrust():
            for view in views.values():
                files_of(snapshot, view.table)  # raises what is wrong with them
        raise failed
    return SqlAnswer(sql, whole_numbers(table), snapshot)


def check_text(sql: str) -> None:
    """Raises SqlMistake for a text that has no bytes."""
    if sql != sql.encode(errors="replace").decode():
        raise SqlMistake("The statement holds half of a character.")


def mentioned(sql: str, views: Mapping[str, View]) -> dict[str, View]:
    """The views whose names are in a text: no others can be read by it, and so their files need not be fetched."""
    words = set(re.findall(r"\w+", sql.lower()))
    return {name: view for name, view in views.items() if name in words}


# --- the process -----------------------------------------------------------------------------------------------


def answered(request: Mapping[str, Any], scratch: str) -> tuple[int, pa.Table | None, bytes]:
    """What comes of a request in a process of its own: its exit code, its table if that is whole, and its stderr."""
    with open(os.path.join(scratch, "request.json"), "w") as file:
        json.dump(request, file)
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
    environment["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # another one reserves a gigabyte at once
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "vlq.query.sql.door"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=scratch,
        env=environment,
        start_new_session=True,  # Ctrl-C is for the one that asks
    ) as process:
        try:
            # Arrow could read the pipe itself, but would take Ctrl-C for the end of it.
            output, error = process.communicate()
        finally:
            process.kill()
    import pyarrow as pa

    try:
        return process.returncode, pa.ipc.open_stream(output).read_all(), error
    except (pa.ArrowInvalid, OSError):  # cut off
        return process.returncode, None, error


def failure(code: int, error: bytes, sql: str, limits: Limits, url: str) -> VlqError:
    """The error of a process that gave no answer."""
    try:
        told = json.loads(error)
    except ValueError:
        told = {"kind": "time" if code == -signal.SIGALRM else "memory" if code < 0 else "lost", "span": None}
    match told["kind"]:
        case "time":
            return LimitReached(
                f"The statement was stopped after {limits.timeout:g} seconds.", "More time: --timeout SECONDS"
            )
        case "memory":
            return LimitReached(
                f"The statement needs more than {limits.shown_memory} of memory.",
                "More memory: --memory 16GB. What does not fit can go to disk: --temp 50GB",
            )
        case "rows":
            return LimitReached(
                f"The answer has more than {limits.max_rows:,} rows.", "Add a LIMIT, or let it be: --max-rows N"
            )
        case "size":
            return LimitReached(
                f"The answer is larger than {limits.shown_memory}.", "Select less, or let it be: --memory 16GB"
            )
        case "corrupt":
            return CorruptCache(f"The index of {url} cannot be read: {told['message']}", "Run: vlq index")
        case "lost":
            last = error.decode(errors="replace").strip().rpartition("\n")[2] or f"exit code {code}"
            return VlqError(f"The process that ran the statement ended: {last}")
    return SqlMistake(told["message"], told["hint"], query=sql, span=characters(sql, told["span"]))


def characters(sql: str, span: tuple[int, int] | None) -> tuple[int, int] | None:
    """A start and a length in bytes of UTF-8 as a start and an end in characters."""
    if span is None:
        return None
    data = sql.encode()
    start, end = (len(data[:place].decode(errors="replace")) for place in (span[0], sum(span)))
    return start, end
