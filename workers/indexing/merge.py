"""Many sorted files of postings -> their rows in one order.

Every shard's postings are sorted by token and then by image, and shards hold ascending images. So the merged order is,
token by token, the shards' rows one after another: a stable sort by token alone. It is cut by token into parts that
know nothing of each other: several processes write them at once, and memory does not grow with the corpus. Many files
are first merged into fewer, so each is read but once a pass. In a table without tokens, which is sorted by image, the
shards' rows simply follow each other.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vlq.query.errors import CorruptCache
from vlq.workers.indexing.postings import ROW_GROUP, changes, open_writer, row_group, stable_order
from vlq.workers.indexing.processes import Processes
from vlq.workers.scratch import scratch

ROWS_AT_ONCE = 4 * 1024 * 1024
"""Rows that are sorted in memory (about 30 bytes each, twice)."""

FAN_IN = 128
"""Files that are merged at once: 4,096 images in a pass. Each takes 7 MiB, a row group of it and what Arrow keeps."""

FILE_GROUPS = 32
"""Row groups of a file of the index, 10 to 13 MB. DuckDB looks at each one of a file that it reads, for 15 microseconds
or more; a token mostly needs one file."""

PART_GROUPS = 96
"""Row groups that one process merges at once, into several files: where a part begins, every source has a row group
that is read for the part before, too."""

PART_BYTES = 64 * 1024 * 1024
"""A file of the index without tokens is closed beyond this size, and the next one begun."""

T = TypeVar("T")

Passed = Callable[[int, int], None]
"""Told how many rows have been gone through, and of how many."""


def _silent(done: int, of: int) -> None:
    pass


@dataclass(frozen=True)
class Source:
    """Rows in their one order: token-sorted files that follow each other."""

    paths: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]  # of each file: no token is below the first or reaches the second
    counts: np.ndarray  # rows by token, up to the highest one

    @classmethod
    def of(cls, path: str) -> Source:
        counts = rows_by_token(path)
        return cls((path,), ((0, len(counts)),), counts)

    def holding(self, low: int, high: int) -> tuple[str, ...]:
        """The files in which there may be rows of these tokens."""
        files = zip(self.paths, self.spans, strict=True)
        return tuple(path for path, (first, end) in files if first < high and low < end)


@dataclass(frozen=True)
class Part:
    """Rows of several sources that follow each other in the merged order, of tokens from `low` up to the last high."""

    sources: tuple[tuple[str, ...], ...]  # files
    low: int
    highs: tuple[int, ...]  # ascending: rows of tokens below each, from the one before, are sorted at once
    counts: tuple[int, ...]  # of these rows, to each high

    @property
    def count(self) -> int:
        """Rows."""
        return sum(self.counts)

    def cut(self, pieces: int) -> Iterator[Part]:
        """The part as several, of nearly as many highs each."""
        lows = (self.low, *self.highs)
        edges = [-(-number * len(self.highs) // pieces) for number in range(pieces + 1)]
        for first, end in pairwise(edges):
            yield Part(self.sources, lows[first], self.highs[first:end], self.counts[first:end])

    def rows(self) -> Iterator[pa.Table]:
        """At most as many at a time as a file has (`rows_of_file`); of no rows one empty table."""
        schema = pq.read_schema(self.sources[0][0])
        files = [TokenSorted(paths, self.low, schema) for paths in self.sources]
        most = rows_of_file(schema)
        for high in self.highs:
            for rows in _taken(files, high, most):
                yield rows.take(pa.array(order_of_runs(rows["token"].to_numpy())))

    def write(self, folder: Path, name: str) -> Iterator[Path]:
        """Write the rows as files of an index, under names that begin so."""
        schema = pq.read_schema(self.sources[0][0])
        for number, rows in enumerate(ahead(self.rows())):
            path = folder / f"{name}-{number}.parquet"
            with open_writer(str(path), schema) as writer:
                writer.write_table(rows, row_group_size=row_group(schema))
            yield path


@dataclass(frozen=True)
class Sequel:
    """All rows of image-sorted files, which follow each other."""

    paths: tuple[str, ...]
    count: int  # rows

    def write(self, folder: Path, name: str) -> Iterator[Path]:
        """Write the rows as files of an index not much larger than PART_BYTES, under names that begin so."""
        schema, number = pq.read_schema(self.paths[0]), 0
        writer: pq.ParquetWriter | None = None
        for rows in ahead(in_order(self.paths)):
            path = folder / f"{name}-{number}.parquet"
            if writer is None:
                writer = open_writer(str(path), schema)
            writer.write_table(rows, row_group_size=row_group(schema))
            if path.stat().st_size > PART_BYTES:
                writer.close()
                writer, number = None, number + 1
                yield path
        if writer is not None:
            writer.close()
            yield path


def order_of_runs(tokens: np.ndarray) -> np.ndarray:
    """`stable_order` of tokens that come in runs of equal ones, of which only the first ones are sorted."""
    starts = np.flatnonzero(changes(tokens))
    lengths = np.diff(starts, append=len(tokens))
    order = stable_order(tokens[starts])
    starts, lengths = starts[order], lengths[order]
    moved = starts - (lengths.cumsum() - lengths)  # of each run, how far it came
    return np.repeat(moved.astype(np.int32), lengths) + np.arange(len(tokens), dtype=np.int32)


def is_by_token(path: str) -> bool:
    """Whether a table's file is sorted by token."""
    return "token" in pq.read_schema(path).names


def merged(paths: Sequence[str]) -> Iterator[pa.Table]:
    """All rows of sorted files in their one order, a file's at most at a time; of no rows one empty table."""
    if not is_by_token(paths[0]):
        yield from in_order(paths)
        return
    with scratch() as folder, Processes(1) as alone:
        for part in parted(paths, folder, alone):
            yield from part.rows()


def merged_files(
    tables: Mapping[str, Sequence[str]], folder: Path, processes: Processes, progress: Passed = _silent
) -> Iterator[tuple[str, Path]]:
    """The same rows of several tables, of each from its sorted files, as those of an index: each file with its table.

    They are made in `folder`, and the caller's to remove. A table's come in their order; where they end depends on its
    rows alone. Large tables are begun first, for what comes last is then soon done.
    """
    rows = {table: sum(_metadata(path).num_rows for path in paths) for table, paths in tables.items()}
    passes = {table: passes_of(len(paths)) if is_by_token(paths[0]) else 1 for table, paths in tables.items()}
    total = sum(rows[table] * passes[table] for table in tables)
    done = 0

    def passed(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    pieces: list[tuple[str, Part | Sequel]] = []
    for table in sorted(tables, key=lambda table: sum(map(os.path.getsize, tables[table])), reverse=True):
        paths = tables[table]
        if is_by_token(paths[0]):
            (of_table := folder / table).mkdir()
            parts = parted(paths, of_table, processes, passed)
            pieces += [(table, part) for part in shared_out(parts, processes.count)]
        else:
            pieces.append((table, Sequel(tuple(paths), rows[table])))
    jobs = [(piece, folder, f"{table}-part-{number}") for number, (table, piece) in enumerate(pieces)]
    for (table, piece), files in zip(pieces, processes.map(write_files, jobs), strict=True):
        yield from ((table, path) for path in files)
        passed(piece.count)


def write_files(piece: Part | Sequel, folder: Path, name: str) -> list[Path]:
    """Write the rows as files of an index, under names that begin so."""
    return list(piece.write(folder, name))


def shared_out(parts: Sequence[Part], processes: int) -> list[Part]:
    """The parts, those cut that are more than one process' share of all: else one would work while others have nothing
    left. Cuts are where files end, so that these are the same."""
    share = max(1, sum(part.count for part in parts) / processes)
    return [piece for part in parts for piece in part.cut(min(len(part.highs), max(1, round(part.count / share))))]


def rows_of_file(schema: pa.Schema) -> int:
    """Rows of a file of an index table at most, which are sorted at once."""
    return min(ROWS_AT_ONCE, FILE_GROUPS * row_group(schema))


def rows_of_part(path: str) -> int:
    """Rows of a part at most, of a table that has a file like this one."""
    return PART_GROUPS * row_group(pq.read_schema(path))


def passes_of(files: int) -> int:
    """How often each row is gone through."""
    passes = 1
    while files > FAN_IN:
        files = -(-files // FAN_IN)
        passes += 1
    return passes


def parted(
    paths: Sequence[str], folder: Path, processes: Processes, progress: Callable[[int], None] = lambda done: None
) -> list[Part]:
    """The parts of token-sorted files' merged rows. Of more than FAN_IN files fewer are made first, in `folder`.

    `progress` is told of how many rows have been gone through for that, time and again.
    """

    def into_one(several: Sequence[Source], name: str) -> Source:
        parts = parts_of(several)
        jobs = [(part, folder / f"{name}-{number}.parquet") for number, part in enumerate(parts)]
        files = []
        for part, path in zip(parts, processes.map(write, jobs), strict=True):
            files.append(str(path))
            progress(part.count)
        spans = tuple((part.low, part.highs[-1]) for part in parts)
        return Source(tuple(files), spans, _added(source.counts for source in several))

    # Each when its turn comes: the counts of all are too many.
    sources = processes.map(Source.of, [(path,) for path in paths])
    for number in range(1, passes_of(len(paths))):
        fewer: list[Source] = []
        while several := list(islice(sources, FAN_IN)):
            fewer.append(into_one(several, f"{number}-{len(fewer)}"))
            if number > 1:
                for made in (path for source in several for path in source.paths):
                    Path(made).unlink()
        sources = iter(fewer)
    return parts_of(list(sources))


def parts_of(sources: Sequence[Source]) -> list[Part]:
    """Parts of PART_GROUPS row groups at most, but where a token of one source alone has more."""
    counts = _added(source.counts for source in sources)
    most = rows_of_part(sources[0].paths[0])
    parts = []
    for low, high in token_ranges(counts, most):
        if counts[low:high].sum() <= most:
            parts.append(_part(sources, low, high))
        else:  # of one token: its rows follow each other source by source
            rows = np.array([source.counts[low:high].sum() for source in sources])
            parts += [_part(sources[first:end], low, high) for first, end in token_ranges(rows, most)]
    return parts or [Part((sources[0].paths[:1],), 0, (0,), (0,))]


def _part(sources: Sequence[Source], low: int, high: int) -> Part:
    counts = _added(source.counts[low:high] for source in sources)
    most = rows_of_file(pq.read_schema(sources[0].paths[0]))
    ranges = list(token_ranges(counts, most))
    highs, rows = zip(*((low + end, int(counts[first:end].sum())) for first, end in ranges), strict=True)
    files = [found for source in sources if (found := source.holding(low, high))]
    return Part(tuple(files), low, highs, rows)


def write(part: Part, path: Path) -> Path:
    """Write a part's rows as a file that is merged again: faster than as one of an index, and larger."""
    schema = pq.read_schema(part.sources[0][0])
    with pq.ParquetWriter(path, schema, compression="lz4") as writer:
        for rows in ahead(part.rows()):
            writer.write_table(rows, row_group_size=row_group(schema))
    return path


def ahead(items: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same items; each is made, on a thread of its own, while the one before it is used."""
    with ThreadPoolExecutor(1) as maker:
        coming = maker.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = maker.submit(next, items, None)
            yield item


def _taken(files: Sequence[TokenSorted], high: int, most: int) -> Iterator[pa.Table]:
    """What is left of tokens below `high`, file by file, `most` rows at a time: in one piece, unless a token alone has
    more."""
    pieces: list[pa.Table] = []
    room = most
    for file in files:
        while True:
            piece = file.take(high, room)
            pieces.append(piece)
            room -= piece.num_rows
            if room:
                break
            yield pa.concat_tables(pieces).combine_chunks()
            pieces, room = [], most
    if room < most or not high:
        yield pa.concat_tables(pieces).combine_chunks()


def in_order(paths: Sequence[str]) -> Iterator[pa.Table]:
    """The rows of files, file by file, so many at a time that row groups fill; of no rows one empty table."""
    schema = pq.read_schema(paths[0])
    at_once = max(1, ROWS_AT_ONCE * row_group(schema) // ROW_GROUP)
    rows, is_empty = Rows(paths), True
    while (found := rows.take(at_once)) is not None:
        yield found
        is_empty = False
    if is_empty:
        yield schema.empty_table()


def _added(counts: Iterable[np.ndarray]) -> np.ndarray:
    """The sum of arrays of any lengths, which count from 0."""
    every = list(counts)
    total = np.zeros(max(map(len, every), default=0), np.int64)
    for some in every:
        total[: len(some)] += some
    return total


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


def rows_by_token(path: str) -> np.ndarray:
    """Rows per token of a file, as an array that ends at the highest token. Raises CorruptCache."""
    file = _readable(path, pq.ParquetFile)
    groups = (file.read_row_group(group, ["token"], use_threads=False)["token"].to_numpy() for group in _groups(file))
    return _added(np.bincount(tokens) for tokens in groups)


def _groups(file: pq.ParquetFile) -> range:
    return range(file.metadata.num_row_groups if file.metadata.num_rows else 0)


class TokenSorted:
    """Token-sorted Parquet files that follow each other, of which rows are taken from the first of token `low` or above
    to the last. Raises CorruptCache."""

    def __init__(self, paths: Sequence[str], low: int, schema: pa.Schema) -> None:
        self._coming = _from(paths, low)
        self._rest = schema.empty_table()  # read, and not taken yet

    def take(self, high: int, most: int) -> pa.Table:
        """The next rows, at most so many, of tokens below `high`."""
        taken = []
        while True:
            end = min(most, int(np.searchsorted(self._rest["token"].to_numpy(), high)))
            taken.append(self._rest.slice(0, end))
            self._rest = self._rest.slice(end)
            most -= end
            if self._rest.num_rows or not most or (rows := next(self._coming, None)) is None:
                return pa.concat_tables(taken)
            self._rest = rows


def _from(paths: Sequence[str], low: int) -> Iterator[pa.Table]:
    """Row group after row group, from the first row of token `low` or above."""
    for path in paths:
        file = _readable(path, pq.ParquetFile)
        token = file.schema_arrow.get_field_index("token")
        groups = _groups(file)
        for group in groups[bisect_left(groups, low, key=partial(_highest, file.metadata, token)) :]:
            rows = file.read_row_group(group, use_threads=False)  # processes are as many as there are cores
            yield rows.slice(int(np.searchsorted(rows["token"].to_numpy(), low)))


def _highest(metadata: pq.FileMetaData, column: int, group: int) -> int:
    return int(metadata.row_group(group).column(column).statistics.max)


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
