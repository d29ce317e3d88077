"""Images inside a column of a Parquet file, as Hugging Face's datasets are kept: a URI for each, and its bytes.

The column is of bytes, of structs of `bytes` and `path`, or of lists of such structs. A URI is
`parquet://COLUMN/ROW::URL`, written as fsspec chains them, and of lists `parquet://COLUMN/ROW/ITEM::URL`.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from vlq.query.stores.location import path_here

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

SCHEME = "parquet://"

BYTES, PATH = "bytes", "path"
"""What the structs of Hugging Face's columns of images have."""

AT_ONCE = 32
"""Rows of a column that are read together: of what lies behind, a file with one group of rows is not read yet."""

KEPT = 2
"""So many of these are kept: threads that ask for images ask for one a little before another."""

OPEN = 4
"""Files that are kept open."""


def holds_images(kind: pa.DataType) -> bool:
    """Whether a column of this type may have images in it."""
    import pyarrow as pa

    if is_list(kind) and pa.types.is_struct(kind.value_type):
        kind = kind.value_type
    if pa.types.is_struct(kind) and kind.get_field_index(BYTES) >= 0:
        kind = kind.field(BYTES).type
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether a column of this type has lists."""
    import pyarrow as pa

    return any(test(kind) for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def columns_of_images(schema: pa.Schema, names: Sequence[str]) -> dict[str, bool]:
    """The columns that hold images, and whether these have paths as well.

    A column of bytes alone may hold anything, and does hold images where it is the first that has one of the names.
    """
    import pyarrow as pa

    found = {}
    for field in schema:
        kind = field.type.value_type if is_list(field.type) else field.type
        if not pa.types.is_struct(kind) or not holds_images(kind):
            continue
        has_paths = kind.get_field_index(PATH) >= 0
        if has_paths or kind == field.type:  # of lists their paths tell how long they are
            found[field.name] = has_paths
    column = next((name for name in names if name in schema.names), None)
    if column is not None and column not in found and holds_images(schema.field(column).type):
        found[column] = False
    return found


def has_images(parquet: pq.ParquetFile, column: str) -> bool:
    """Whether such a column has any image's bytes in it, as far as the file's footer tells."""
    groups = (parquet.metadata.row_group(group) for group in range(parquet.num_row_groups))
    chunks = (group.column(at) for group in groups for at in range(group.num_columns))
    # Of lists it has two words between, which differ with what wrote it.
    named = re.compile(rf"{re.escape(column)}((\.\w+\.\w+)?\.{BYTES})?")
    of_bytes = [chunk for chunk in chunks if named.fullmatch(chunk.path_in_schema)]
    nulls = [chunk.statistics and chunk.statistics.null_count for chunk in of_bytes]  # None: not counted
    return any(known is None or known < chunk.num_values for known, chunk in zip(nulls, of_bytes, strict=True))


def uri_of(table: str, column: str, row: int, item: int | None = None) -> str:
    """The URI of the image in a row of a column of a Parquet file at a URL, or of an item of the list that is there."""
    return f"{SCHEME}{quote(column, safe='')}/{row}{'' if item is None else f'/{item}'}::{table}"


def embedded(uri: str) -> bytes | None:
    """The bytes of the image at such a URI; None if its row has none.

    Raises IndexError if there is no such row, item or column; whatever keeps the file from being read.
    """
    place, _, table = uri.removeprefix(SCHEME).partition("::")
    column, row, *item = place.split("/")
    # A file that is written anew is another one.
    path = path_here(table)
    version = 0 if path is None else os.stat(path).st_mtime_ns
    value = _opened(table, unquote(column), version).value(int(row))
    for at in item:
        if int(at) >= len(value or ()):
            raise IndexError(f"there is no item {at} in row {row}")
        value = value[int(at)]
    data: bytes | None = value[BYTES] if isinstance(value, dict) else value
    return data


@lru_cache(OPEN)
def _opened(table: str, column: str, version: int) -> _Column:
    return _Column(table, column)


class _Column:
    """A column of a Parquet file, of which a row is asked for after another, by several threads."""

    def __init__(self, table: str, column: str) -> None:
        import pyarrow.parquet as pq

        from vlq.query.image.tables import file_system

        files, path = file_system(table)
        self._file = pq.ParquetFile(files.open(path, "rb"))
        self._column = column
        groups = (self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups))
        self._ends = list(accumulate(groups))
        if column not in self._file.schema_arrow.names:
            raise IndexError(f"{table} has no column {column}")
        self._lock = Lock()
        self._group = -1  # the one that is being read
        self._rest: Iterator[Any] = iter(())  # its batches that are not read yet
        self._kept: deque[tuple[int, Any]] = deque(maxlen=KEPT)  # those read last, and their first rows
        self._next = 0  # the row behind them

    def value(self, row: int) -> Any:
        if not 0 <= row < (self._ends[-1] if self._ends else 0):
            raise IndexError(f"there is no row {row}")
        with self._lock:
            while (found := self._at(row)) is None:
                self._read_on(row)
            first, batch = found
            return batch.column(0)[row - first].as_py()

    def _at(self, row: int) -> tuple[int, Any] | None:
        return next(((first, batch) for first, batch in self._kept if first <= row < first + batch.num_rows), None)

    def _read_on(self, row: int) -> None:
        """Read the next rows, from the beginning of the row's group where they lie behind it or in another one."""
        group = bisect_right(self._ends, row)
        if group != self._group or row < self._next:
            self._group, self._next = group, self._ends[group - 1] if group else 0
            self._rest = self._file.iter_batches(AT_ONCE, row_groups=[group], columns=[self._column])
        batch = next(self._rest)
        self._kept.append((self._next, batch))
        self._next += batch.num_rows
