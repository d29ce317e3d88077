"""Rows that questions ask for again and again, in DuckDB's memory: planned and read in half the time that files take.

A cache's files never change, so neither do their rows. Those of a few tokens are held, and small tables whole, from the
second time on that they are asked for.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

import duckdb

from vlq.query.language.compile import Keys

if TYPE_CHECKING:
    from vlq.query.cache.reader import Snapshot

MOST = 64 * 2**20
"""Bytes of memory that all rows take."""

SHARE = 8
"""They take no more than one in so many of the bytes that all questions together may."""

MOST_ROWS = 2**18
"""Rows of one table: some 7 MB. What has more is scanned in a time in which a plan is nothing."""

LARGEST = 2 * 2**20
"""Bytes of the files of a table that is held whole."""

REMEMBERED = 1024
"""So many tables are known to have been asked for, or to be too large."""

Asked = tuple[str, str, Keys]
"""What a table is of: the digest of what a cache holds, the table's name, and whose rows are asked for."""


@dataclass
class Held:
    """A table in DuckDB's memory, and how many questions name it just now."""

    name: str
    users: int = 0


class Resident:
    """The tables that are held in a database's memory. Threads may ask at once."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._held: OrderedDict[Asked, Held] = OrderedDict()  # what was asked for last at the end
        self._seen: OrderedDict[Asked, bool] = OrderedDict()  # whether it may be held: not what was found too large
        self._lock = Lock()
        self._made = 0
        self.most = MOST  # bytes

    def limit(self, memory: int) -> None:
        """Bound what they take by the bytes that all questions together may."""
        self.most = min(MOST, memory // SHARE)

    @contextmanager
    def of(
        self,
        reads: Mapping[str, tuple[Snapshot, str, Keys]],
        files: Mapping[str, Sequence[str]],
        cursor: duckdb.DuckDBPyConnection,
    ) -> Iterator[Mapping[str, str]]:
        """The tables that stand for some of those that a statement reads, by their parameters. They stay until it runs:
        what runs is not disturbed when they go.

        `files` are those that are read otherwise; `cursor` makes what is missing.
        """
        used: dict[str, Held] = {}
        try:
            for parameter, (snapshot, table, keys) in reads.items():
                held = self._use((snapshot.digest, table, keys), files[parameter], cursor)
                if held is not None:
                    used[parameter] = held
            yield {parameter: held.name for parameter, held in used.items()}
        finally:
            with self._lock:
                for held in used.values():
                    held.users -= 1

    def _use(self, asked: Asked, files: Sequence[str], cursor: duckdb.DuckDBPyConnection) -> Held | None:
        with self._lock:
            if (held := self._held.get(asked)) is not None:
                self._held.move_to_end(asked)
                held.users += 1
                return held
            again = self._seen.get(asked)
            # Who makes it takes the mark away until it is there: nobody else makes the same, nor waits for it.
            self._seen[asked] = again is None
            self._seen.move_to_end(asked)
            if len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)
            if not again:
                return None
            self._made += 1
            held = Held(f"resident_{self._made}", 1)
        if not self._make(held.name, asked[2], files, cursor):
            return None
        with self._lock:
            self._held[asked] = held
            self._seen.pop(asked, None)
            self._shed()
        return held

    def _make(self, name: str, keys: Keys, files: Sequence[str], cursor: duckdb.DuckDBPyConnection) -> bool:
        """Whether the rows are held from now on. Raises as DuckDB does if the files cannot be read."""
        parameters: dict[str, object] = {"files": list(files)}
        where = ""
        if keys is not None:
            where = f" WHERE token IN ({', '.join(f'{key:d}' for key in sorted(keys))})"
        try:
            if keys is None and sum(map(os.path.getsize, files)) > LARGEST:
                return False
            cursor.execute(
                f"CREATE TABLE {name} AS SELECT * FROM read_parquet($files){where} LIMIT {MOST_ROWS + 1}", parameters
            )
            ((rows,),) = cursor.execute(f"SELECT count(*) FROM {name}").fetchall()
        except (duckdb.OutOfMemoryException, FileNotFoundError):  # who reads what is gone says what became of it
            return False
        if rows > MOST_ROWS:
            cursor.execute(f"DROP TABLE {name}")
            return False
        return True

    def _shed(self) -> None:
        """Let go what was not asked for longest, until the others take no more than they may."""
        cursor = self._connection.cursor()
        while self._size(cursor) > self.most:
            unused = next((asked for asked, held in self._held.items() if not held.users), None)
            if unused is None:
                break
            cursor.execute(f"DROP TABLE {self._held.pop(unused).name}")

    def __len__(self) -> int:
        return len(self._held)

    @property
    def size(self) -> int:
        """Bytes of memory that they take."""
        return self._size(self._connection.cursor())

    @staticmethod
    def _size(cursor: duckdb.DuckDBPyConnection) -> int:
        sql = "SELECT memory_usage_bytes FROM duckdb_memory() WHERE tag = 'IN_MEMORY_TABLE'"
        return int(cursor.execute(sql).fetchall()[0][0])
