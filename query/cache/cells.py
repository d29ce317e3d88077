"""What the patches of whole images read: the index table `patch_cells`, for functions that look beside a token."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vlq.query.cache.reader import Snapshot
from vlq.query.errors import CorruptCache
from vlq.query.schema import PATCH_CELLS

PART_BYTES = 256 * 1024 * 1024
"""Cells that are held at once: those of about 7,000 images of LLaVA-1.5's size."""


class Cells:
    """The cells of some images, a part of the images at a time.

    `images` are ids of images with readings, ascending, and `patches` is how many the largest of them has: behind those
    of a smaller one, and at patches that were not read, there is `Run.no_id`. Iterating gives, part by part, which of
    them it holds, and the ids that their patches read at rank 1: (image, layer, patch). What fits into one part is read
    once, however often it is iterated. Raises CacheError if the index is older than the table, CorruptCache.
    """

    def __init__(self, snapshot: Snapshot, images: np.ndarray, patches: int) -> None:
        run = snapshot.cache.run
        self._url = snapshot.cache.called
        self._paths = snapshot.files(PATCH_CELLS)
        self._images = images
        self._shape = (run.layers, patches)
        self._none = run.no_id
        self._dtype = np.dtype(run.id_dtype).newbyteorder("<")
        self._step = max(1, PART_BYTES // (run.layers * max(1, patches) * self._dtype.itemsize))
        self._only: np.ndarray | None = None

    def __iter__(self) -> Iterator[tuple[slice, np.ndarray]]:
        for start in range(0, len(self._images), self._step):
            part = slice(start, min(start + self._step, len(self._images)))
            cells = self._read(self._images[part]) if self._only is None else self._only
            if len(self._images) <= self._step:
                self._only = cells
            yield part, cells

    def _read(self, images: np.ndarray) -> np.ndarray:
        cells = np.full((len(images), *self._shape), self._none, self._dtype)
        found = 0
        try:
            for path in self._paths:
                for held, width, read in _row_groups(path, images):
                    place = np.searchsorted(images, held).clip(max=len(images) - 1)
                    wanted = images[place] == held
                    for size in np.unique(width[wanted]):  # images of as many patches
                        at = wanted & (width == size)
                        rows = _rows(read, width, at).view(self._dtype).reshape(at.sum(), self._shape[0], -1)
                        cells[place[at], :, : rows.shape[2]] = rows
                    found += wanted.sum()
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise CorruptCache(f"{PATCH_CELLS} of {self._url} cannot be read: {reason}", "Run: vlq index") from error
        if found != len(images):
            raise CorruptCache(f"{PATCH_CELLS} of {self._url} lacks images that have readings.", "Run: vlq index")
        return cells


def _row_groups(path: str, images: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of the row groups that may hold some of the images: the images' ids, how many bytes each has, and the bytes."""
    status = os.stat(path)
    metadata, low, high = _footer(path, status.st_mtime_ns, status.st_size)
    groups = np.flatnonzero(np.searchsorted(images, low) < np.searchsorted(images, high, "right"))
    if not len(groups):
        return
    with pq.ParquetFile(path, metadata=metadata) as file:
        rows = file.read_row_groups(groups.tolist(), use_threads=False)
    for batch in rows.to_batches():
        column = batch["top1"]
        _, ends, data = column.buffers()
        ends = np.frombuffer(ends, np.int32)[column.offset : column.offset + len(column) + 1]
        yield batch["image"].to_numpy(), np.diff(ends), np.frombuffer(data, np.uint8)[ends[0] : ends[-1]]


def _rows(data: np.ndarray, width: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The bytes of the chosen ones of some rows that lie behind each other; a copy if not all are chosen."""
    return data if chosen.all() else data[np.repeat(chosen, width)]


@lru_cache(maxsize=1024)
def _footer(path: str, changed: int, size: int) -> tuple[pq.FileMetaData, np.ndarray, np.ndarray]:
    """A file's footer, with the lowest and the highest image of each of its row groups."""
    metadata = pq.read_metadata(path)
    groups = range(metadata.num_row_groups if metadata.num_rows else 0)
    spans = [metadata.row_group(group).column(0).statistics for group in groups]
    low, high = (np.array([getattr(span, end) for span in spans], np.uint32) for end in ("min", "max"))
    return metadata, low, high


def numbered(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids of images, each as often as it likes -> those that there are, ascending, and the place of each among them."""
    there = np.bincount(image) > 0
    return np.flatnonzero(there), (np.cumsum(there) - 1)[image]


def read_by(ids: np.ndarray, counted: np.ndarray, vocabulary: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids of tokens (row, cell) and which of the cells count -> row, token and number of cells for each token that a
    row has.

    Ordered by row, then by token.
    """
    keys: np.ndarray = np.arange(len(ids), dtype=np.uint32 if len(ids) * vocabulary <= 2**32 else np.uint64)
    keys *= vocabulary
    keys = np.repeat(keys, counted.sum(1))
    keys += np.take(ids, np.flatnonzero(counted))
    keys.sort()
    new = np.ones(len(keys), bool)
    new[1:] = keys[1:] != keys[:-1]
    starts = np.flatnonzero(new)
    first = keys[starts].astype(np.int64)
    row = first // vocabulary
    return row, first - row * vocabulary, np.diff(starts, append=len(keys))
