"""Many sorted files of postings -> their rows in one order.

Every shard's postings are sorted by token and then by image, and shards hold ascending images. So the merged order is,
token by token, the shards' rows one after another: a stable sort by token alone. It is done in ranges of tokens, so
memory does not grow with the corpus; and many files are first merged into fewer, so each is read but once a pass. In a
table without tokens, which is sorted by image, the shards' rows simply follow each other.
"""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vlq.query.errors import CorruptCache, StoreError
from vlq.workers.postings import ROW_GROUP, row_group, stable_order

ROWS_AT_ONCE = 4 * 1024 * 1024
"""Rows that are sorted in memory (about 30 bytes each, twice)."""

FAN_IN = 128
"""Files that are merged at once: 4,096 images in a pass. Each takes 7 MiB, a row group of it and what Arrow keeps."""

T = TypeVar("T")

Passed = Callable[[int, int], None]
"""Told how many rows have been gone through, and of how many."""


def _silent(done: int, of: int) -> None:
    pass


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder. Raises StoreError if its disk is full."""
    try:
        with tempfile.TemporaryDirectory(prefix="vlq-index-") as folder:
            yield Path(folder)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise StoreError(
            f"No space left in {tempfile.gettempdir()}, where the index is merged.",
            "Free some, or name another folder: $TMPDIR. The same command goes on.",
        ) from error


def merged(paths: Sequence[str], progress: Passed = _silent) -> Iterator[pa.Table]:
    """All rows of token-sorted files in the order of (token, file), at most ROWS_AT_ONCE at a time.

    Of files without tokens the rows of one after the other. Of no rows one empty table.
    """
    if "token" not in pq.read_schema(paths[0]).names:
        yield from in_order(paths, progress)
        return
    passes = [len(paths)]
    while passes[-1] > FAN_IN:
        passes.append(-(-passes[-1] // FAN_IN))
    done, total = 0, len(passes) * sum(_metadata(path).num_rows for path in paths)
    with scratch() as folder:
        for number, files in enumerate(passes[1:]):
            fewer = [str(folder / f"{number}-{file}.parquet") for file in range(files)]
            for file, path in enumerate(fewer):
                several = paths[file * FAN_IN : (file + 1) * FAN_IN]
                with pq.ParquetWriter(path, pq.read_schema(several[0]), compression="lz4") as writer:
                    for rows in _merged(several):
                        writer.write_table(rows, row_group_size=row_group(rows.schema))
                        done += rows.num_rows
                        progress(done, total)
                if number:
                    for merged_before in several:
                        Path(merged_before).unlink()
            paths = fewer
        for rows in _merged(paths):
            yield rows
            done += rows.num_rows
            progress(done, total)


def _merged(paths: Sequence[str]) -> Iterator[pa.Table]:
    files = [TokenSorted(path) for path in paths]
    counts = np.zeros(0, dtype=np.int64)
    for file in files:
        counts = _added(counts, file.counts())
    for _, high in list(token_ranges(counts, ROWS_AT_ONCE)) or [(0, 0)]:
        for rows in _taken(files, high):
            yield rows.take(pa.array(stable_order(rows["token"].to_numpy())))


def _taken(files: Sequence[TokenSorted], high: int) -> Iterator[pa.Table]:
    """What is left of tokens below `high`, file by file: in one piece, unless one token alone has too many rows."""
    pieces: list[pa.Table] = []
    room = ROWS_AT_ONCE
    for file in files:
        while True:
            piece = file.take(high, room)
            pieces.append(piece)
            room -= piece.num_rows
            if room:
                break
            yield pa.concat_tables(pieces).combine_chunks()
            pieces, room = [], ROWS_AT_ONCE
    if room < ROWS_AT_ONCE or not high:
        yield pa.concat_tables(pieces).combine_chunks()


def in_order(paths: Sequence[str], progress: Passed) -> Iterator[pa.Table]:
    """The rows of files, file by file, so many at a time that row groups fill; of no rows one empty table."""
    schema = pq.read_schema(paths[0])
    at_once = max(1, ROWS_AT_ONCE * row_group(schema) // ROW_GROUP)
    total = sum(_metadata(path).num_rows for path in paths)
    rows = Rows(paths)
    done = 0
    while (found := rows.take(at_once)) is not None:
        yield found
        done += found.num_rows
        progress(done, total)
    if not total:
        yield schema.empty_table()


def _added(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    longer, shorter = (a, b) if len(a) >= len(b) else (b, a)
    longer = longer.copy()
    longer[: len(shorter)] += shorter
    return longer


def token_ranges(counts: np.ndarray, limit: int) -> Iterator[tuple[int, int]]:
    """Half-open ranges of tokens that together hold at most `limit` rows, or one token that alone holds more."""
    low, rows = 0, 0
    for token in np.flatnonzero(counts):
        if rows and rows + counts[token] > limit:
            yield low, int(token)
            low, rows = int(token), 0
        rows += int(counts[token])
    if rows:
        yield low, len(counts)


def _metadata(path: str) -> pq.FileMetaData:
    return _readable(path, pq.read_metadata)


def _readable(path: str, read: Callable[[str], T]) -> T:
    """What is read of a Parquet file. Raises CorruptCache if it is none."""
    try:
        return read(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise CorruptCache(f"{path} is not a readable Parquet file.", "Run: vlq verify") from error


class TokenSorted:
    """A token-sorted Parquet file, of which rows are taken from the first to the last. Raises CorruptCache."""

    def __init__(self, path: str) -> None:
        self._file = _readable(path, pq.ParquetFile)
        self._groups = range(self._file.metadata.num_row_groups if self._file.metadata.num_rows else 0)
        self._coming = iter(self._groups)
        self._rest = self._file.schema_arrow.empty_table()  # read, and not taken yet

    def counts(self) -> np.ndarray:
        """Rows per token, as an array that ends at the highest token."""
        total = np.zeros(0, dtype=np.int64)
        for group in self._groups:
            tokens = self._file.read_row_group(group, columns=["token"])["token"].to_numpy()
            total = _added(total, np.bincount(tokens))
        return total

    def take(self, high: int, most: int) -> pa.Table:
        """The next rows, at most so many, of tokens below `high`."""
        taken = []
        while True:
            end = min(most, int(np.searchsorted(self._rest["token"].to_numpy(), high)))
            taken.append(self._rest.slice(0, end))
            self._rest = self._rest.slice(end)
            most -= end
            if self._rest.num_rows or not most or (group := next(self._coming, None)) is None:
                return pa.concat_tables(taken)
            self._rest = self._file.read_row_group(group)


class Rows:
    """The rows of files, read one after another."""

    def __init__(self, paths: Iterable[str]) -> None:
        files = (pq.ParquetFile(path) for path in paths)
        self._batches = (batch for file in files for batch in file.iter_batches(row_group(file.schema_arrow)))
        self._rest: list[pa.RecordBatch] = []

    def take(self, count: int) -> pa.Table | None:
        """The next `count` rows, fewer at the end; None if there are none."""
        have = sum(batch.num_rows for batch in self._rest)
        while have < count and (batch := next(self._batches, None)) is not None:
            self._rest.append(batch)
            have += batch.num_rows
        if not self._rest:
            return None
        table = pa.Table.from_batches(self._rest)
        self._rest = table.slice(count).to_batches()
        return table.slice(0, count).combine_chunks()
