"""DuckDB: runs statements over a snapshot's files, and reads the vocabulary."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import duckdb

from vlq.query.arrow import named_rows, rows_of
from vlq.query.cache.copies import unreadable
from vlq.query.cache.reader import Cache, Snapshot
from vlq.query.deadline import Deadline
from vlq.query.errors import CorruptCache, VlqError
from vlq.query.forks import check_process
from vlq.query.language.compile import VOCABULARY, Derived, Keys, Statement
from vlq.query.language.tokens import Vocabulary
from vlq.query.language.truth import labels_sql
from vlq.query.mistakes.values import EMPTY_CACHE, OVERFLOW
from vlq.query.resident import Resident
from vlq.query.summary import Rows

if TYPE_CHECKING:
    import pyarrow

T = TypeVar("T")

PARSED = 256
"""So many statements are kept as they are parsed, each about 15 KB."""

DESCRIBED = 1024
"""Of so many statements it is kept which columns they give, each about 2 KB."""

WHOLE = "TINYINT", "SMALLINT", "INTEGER", "BIGINT"
PLAIN = {"BOOLEAN", "VARCHAR", "FLOAT", "DOUBLE", *WHOLE, *(f"U{name}" for name in WHOLE)}
"""Types of which, and of lists of which, Arrow makes the same values of Python's as DuckDB."""

Made = list[tuple[Derived, "pyarrow.Table"]]
"""Tables that Python made for one answer, so that its rows and what is summed up of them share them."""

UNREADABLE = duckdb.IOException, duckdb.InvalidInputException, duckdb.SerializationException
"""What DuckDB raises where a file is not what it should be, beside plain errors of Thrift."""


class Engine:
    """One in-memory database. Threads may ask at once: each question gets a cursor of its own."""

    def __init__(self) -> None:
        self._connection = duckdb.connect(
            config={"autoinstall_known_extensions": False, "autoload_known_extensions": False}
        )
        self._image_columns: dict[tuple[str, ...], Mapping[str, str]] = {}
        self._labels: dict[tuple[str, ...], list[str]] = {}
        # Values are parameters, so questions that differ in them alone are one statement: of a short answer, parsing it
        # takes a tenth of the time.
        self._parsed = lru_cache(PARSED)(self._parse)
        # Every condition, order or group asks what columns its table has, each time that it is bound.
        self._described: dict[tuple[str, str, tuple[str, ...]], Mapping[str, str]] = {}
        self.resident = Resident(self._connection)
        self._thread = threading.local()  # `deadline`: its questions', if they have one
        # Files are immutable, so what was read of their footers holds.
        self._connection.execute("SET GLOBAL parquet_metadata_cache = true")

    def limit(self, memory: int, threads: int | None = None) -> None:
        """Bound what all questions together take: bytes of memory, and cores."""
        self._connection.execute(f"SET GLOBAL memory_limit = '{memory} bytes'")
        self.resident.limit(memory)
        if threads is not None:
            self._connection.execute(f"SET GLOBAL threads = {threads:d}")

    @contextmanager
    def within(self, deadline: Deadline) -> Iterator[None]:
        """What this thread asks has a deadline. Raises LimitReached when it is over."""
        self._thread.deadline = deadline
        try:
            with deadline.running():
                yield
        finally:
            self._thread.deadline = None

    def cursor(self) -> duckdb.DuckDBPyConnection:
        check_process()
        cursor = self._connection.cursor()
        self._watch(cursor)
        return cursor

    def _watch(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """Have a cursor keep to this thread's deadline. Raises LimitReached if it is over."""
        deadline: Deadline | None = getattr(self._thread, "deadline", None)
        if deadline is not None:
            deadline.watch(cursor)

    def _parse(self, sql: str) -> duckdb.Statement:
        (statement,) = self._connection.extract_statements(sql)
        return statement

    def vocabulary(self, cache: Cache) -> Vocabulary:
        """The cache's vocabulary. Raises CorruptCache."""
        try:
            return Vocabulary(self.cursor, cache.vocabulary(), cache.tokenizer())
        except (duckdb.Error, FileNotFoundError) as error:
            raise CorruptCache(f"The vocabulary of {cache.called} cannot be read.", "Run: vlq verify") from error

    def image_columns(self, snapshot: Snapshot) -> Mapping[str, str]:
        """The image table's columns: their DuckDB types by name."""
        files = tuple(snapshot.files("images"))
        if files not in self._image_columns:
            statement = Statement("SELECT * FROM read_parquet($images)", {}, {"images": None})
            self._image_columns = {files: self.describe(statement, snapshot)}
        return self._image_columns[files]

    def describe(self, statement: Statement, snapshot: Snapshot) -> Mapping[str, str]:
        """The columns that a statement would give: their DuckDB types by name. Raises as `rows` does."""
        if statement.loaded:  # Python makes tables for it, of which it is not known whether they are the same ones
            return self._describe(statement, snapshot)
        digests = tuple(of.digest for of, _, _ in statement.reads(snapshot).values())
        asked = statement.sql, repr(statement.parameters), digests
        if (known := self._described.get(asked)) is None:
            known = self._describe(statement, snapshot)
            if len(self._described) >= DESCRIBED:
                self._described.clear()
            self._described[asked] = known
        return known

    def _describe(self, statement: Statement, snapshot: Snapshot) -> Mapping[str, str]:
        def ask() -> list[tuple[Any, ...]]:
            cursor = self._prepared(statement, snapshot, rows=False)
            return cursor.execute(f"DESCRIBE {statement.sql}", _parameters(statement, snapshot)).fetchall()

        described = _answered(statement, snapshot, ask)
        return {name: type for name, type, *_ in described}

    def labels(self, snapshot: Snapshot) -> list[str]:
        """What objects are labelled, each label once. The image table must have objects."""
        files = tuple(snapshot.files("images"))
        if files not in self._labels:
            statement = Statement(labels_sql("read_parquet($images)"), {}, {"images": None})
            found = [label for (label,) in self.rows(statement, snapshot)[1] if label is not None]
            self._labels = {files: found}
        return self._labels[files]

    def find_image(self, image: str | int, snapshot: Snapshot) -> list[int]:
        """The numbers of the images of that name or number that have readings."""
        column = "image" if isinstance(image, str) else "image_id"
        statement = Statement(
            f"SELECT image_id FROM read_parquet($images) WHERE error IS NULL AND {column} = $wanted ORDER BY image_id",
            {"wanted": image},
            {"images": None},
        )
        return [number for (number,) in self.rows(statement, snapshot)[1]]

    def rows(
        self, statement: Statement, snapshot: Snapshot, made: Made | None = None
    ) -> tuple[list[str], list[tuple[Any, ...]]]:
        """The columns' names and the rows. Raises CacheError if nothing is cached yet, CorruptCache."""

        def ask() -> tuple[list[str], list[tuple[Any, ...]]]:
            cursor = self._prepared(statement, snapshot, made)
            with self._read(statement, snapshot, cursor) as (parsed, parameters):
                cursor.execute(parsed, parameters)
            return [name for name, *_ in cursor.description or ()], cursor.fetchall()

        return _answered(statement, snapshot, ask)

    def many_rows(self, statement: Statement, snapshot: Snapshot, made: Made | None = None) -> tuple[list[str], Rows]:
        """The columns' names, and the rows by column. Raises as `rows` does.

        Of a few rows it takes longer than `rows`, of a million half the time, as Arrow makes Python's values of whole
        columns. Where it makes other values than DuckDB, of times for example, they are DuckDB's.
        """

        def ask() -> tuple[list[str], Rows]:
            cursor = self._prepared(statement, snapshot, made)
            with self._read(statement, snapshot, cursor) as (parsed, parameters):
                found = cursor.sql(parsed, params=parameters)
                if all(str(kind).removesuffix("[]") in PLAIN for kind in found.types):
                    return found.columns, rows_of(found.to_arrow_table())
                return found.columns, named_rows(found.columns, found.fetchall())

        return _answered(statement, snapshot, ask)

    def arrow(self, statement: Statement, snapshot: Snapshot, made: Made | None = None) -> pyarrow.Table:
        """The rows as an Arrow table. Raises as `rows` does."""

        def ask() -> pyarrow.Table:
            cursor = self._prepared(statement, snapshot, made)
            with self._read(statement, snapshot, cursor) as (parsed, parameters):
                return cursor.sql(parsed, params=parameters).to_arrow_table()

        return _answered(statement, snapshot, ask)

    def batches(
        self, statement: Statement, snapshot: Snapshot, rows_at_once: int, made: Made | None = None
    ) -> Iterator[pyarrow.RecordBatch]:
        """The rows as Arrow, in batches of so many rows at most, and at least one. Raises as `rows` does."""
        import pyarrow as pa

        def ask() -> tuple[duckdb.DuckDBPyConnection, pyarrow.RecordBatchReader]:
            cursor = self._prepared(statement, snapshot, made)
            with self._read(statement, snapshot, cursor) as (parsed, parameters):
                return cursor, cursor.sql(parsed, params=parameters).to_arrow_reader(rows_at_once)

        cursor, reader = _answered(statement, snapshot, ask)
        empty = True
        while True:
            self._watch(cursor)
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                break
            except (duckdb.OutOfRangeException, pa.ArrowException) as error:
                if "Out of Range Error" not in str(error):
                    raise
                raise _overflow(error) from error
            empty = False
            yield batch
        if empty:
            yield pa.RecordBatch.from_pylist([], reader.schema)

    @contextmanager
    def _read(
        self, statement: Statement, snapshot: Snapshot, cursor: duckdb.DuckDBPyConnection
    ) -> Iterator[tuple[duckdb.Statement, dict[str, Any]]]:
        """The statement as DuckDB runs it, and its parameters: of files, or of what is in memory of them."""
        reads = statement.reads(snapshot)
        files = {name: files_of(*table) for name, table in reads.items()}
        with self.resident.of(reads, files, cursor) as held:
            sql = statement.sql
            for name, table in held.items():
                sql = sql.replace(f"read_parquet(${name})", table)
            read = {name: paths for name, paths in files.items() if name not in held}
            yield self._parsed(sql), {**statement.parameters, **read}

    def plan(self, statement: Statement, snapshot: Snapshot) -> str:
        """DuckDB's plan of the statement, as text."""

        def ask() -> str:
            cursor = self._prepared(statement, snapshot)
            cursor.execute(f"EXPLAIN {statement.sql}", _parameters(statement, snapshot))
            return "\n".join(text for _, text in cursor.fetchall()).rstrip()

        return _answered(statement, snapshot, ask)

    def _prepared(
        self, statement: Statement, snapshot: Snapshot, made: Made | None = None, *, rows: bool = True
    ) -> duckdb.DuckDBPyConnection:
        """A cursor that knows the tables that Python makes for the statement; without `rows` those made of none."""
        cursor = self.cursor()
        for name, loaded in statement.loaded.items():
            if not isinstance(loaded, Derived):
                table = loaded(snapshot)
            elif (table := next((table for known, table in made or () if known == loaded), None)) is None:
                of = loaded.snapshot or snapshot
                source = loaded.source
                if not rows:
                    source = replace(source, sql=f"SELECT * FROM (\n{source.sql}\n) LIMIT 0")
                table = loaded.make(of, self.arrow(source, of, made))
                if made is not None:
                    made.append((loaded, table))
            cursor.register(name, table)
        return cursor


def _overflow(error: Exception) -> VlqError:
    """What is said of numbers that DuckDB cannot calculate with."""
    return OVERFLOW.error(reason=str(error).splitlines()[0].removeprefix("Out of Range Error: "))


def _parameters(statement: Statement, snapshot: Snapshot) -> dict[str, Any]:
    """The statement's values, and the files of the tables that it reads."""
    reads = statement.reads(snapshot)
    return {**statement.parameters, **{name: files_of(*table) for name, table in reads.items()}}


def files_of(snapshot: Snapshot, table: str, keys: Keys = None) -> list[str]:
    """The paths of a table's files here. Raises CacheError if nothing is cached yet."""
    files = [snapshot.cache.vocabulary()] if table == VOCABULARY else snapshot.files(table, keys)
    if not files:
        raise EMPTY_CACHE.error(url=snapshot.cache.called)
    return files


def _answered(statement: Statement, snapshot: Snapshot, ask: Callable[[], T]) -> T:
    """What is answered. Where files cannot be read, the caches' copies are checked and it is asked once more."""
    for attempt in (1, 2):
        try:
            return ask()
        except duckdb.OutOfRangeException as error:
            raise _overflow(error) from error
        except duckdb.Error as error:
            if not isinstance(error, UNREADABLE) and "TProtocolException" not in str(error):
                raise
            asked = {snapshot.cache, *(of.cache for of, _, _ in statement.others.values())}
            distrusted = [cache.copies.distrust() for cache in asked]
            if attempt == 2 or not any(distrusted):
                raise unreadable(snapshot.cache.called, error) from error
    raise AssertionError("unreachable")
