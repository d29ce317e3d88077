"""A shard's arrays, read without zarr-python, which spends more on a chunk than it takes to decompress it.

The format is that of Zarr's sharding codec: see `vlq.workers.encode`, which writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial

import google_crc32c
import numpy as np
from numcodecs import Blosc, Zstd

from vlq.query.cache.copies import damaged, missing
from vlq.query.errors import CorruptCache
from vlq.query.schema import ArraySpec, Commit, Stored, digest_of
from vlq.query.store import Store, at_once

NO_CHUNK = 2**64 - 1
"""Stands in an index for a chunk that holds nothing but the fill value and is left out."""

CHECKSUM = 4
"""Bytes of one, behind each chunk and behind the index."""


def whole(store: Store, commit: Commit, spec: ArraySpec) -> np.ndarray:
    """All of one of a committed shard's arrays. Raises CorruptCache if its object is not what was written."""
    values = _filled(spec, spec.shape)
    if (stored := _stored(commit, spec)) is None:
        return values
    try:
        data = store.read(stored.key)
    except FileNotFoundError as error:
        raise missing(store, stored.key) from error
    if digest_of(data) != stored.sha256:
        raise damaged(store, stored.key)
    chunks = values.reshape(-1, *spec.chunk[spec.depth :])
    index = _pairs(data[-_size_of_index(len(chunks)) : -CHECKSUM])
    for chunk, (offset, length) in zip(chunks, index.tolist(), strict=True):
        if offset != NO_CHUNK:
            _decode(spec, data[offset : offset + length - CHECKSUM], chunk)
    return values.astype(spec.dtype, copy=False)


def of_image(store: Store, commit: Commit, specs: Sequence[ArraySpec], row: int) -> list[np.ndarray]:
    """The values of one image of a committed shard, its `row`-th, in several of its arrays, read side by side.

    Of each array a range with where its chunks lie, which is kept for the shards that were asked for last, and one with
    the image's chunk. Raises CorruptCache if these are not what was written: both have checksums.
    """
    return at_once(store, partial(_of_image, store, commit, row), specs)


def _of_image(store: Store, commit: Commit, row: int, spec: ArraySpec) -> np.ndarray:
    values = _filled(spec, spec.shape[1:])
    if (stored := _stored(commit, spec)) is None:
        return values
    chunks = values.reshape(-1, *spec.chunk[spec.depth :])
    indexes = _indexes(store, commit.prefix)
    if spec.name not in indexes:
        size = _size_of_index(spec.shape[0] * len(chunks))
        indexes[spec.name] = _pairs(_range(store, stored, spec, stored.size - size, size))
    index = indexes[spec.name][row * len(chunks) : (row + 1) * len(chunks)]
    for chunk, (offset, length) in zip(chunks, index.tolist(), strict=True):
        if offset != NO_CHUNK:
            _decode(spec, _range(store, stored, spec, offset, length), chunk)
    return values.astype(spec.dtype, copy=False)


@lru_cache(maxsize=256)
def _indexes(store: Store, prefix: str) -> dict[str, np.ndarray]:
    """Where a shard's chunks lie, as far as it was read, by array. A prefix names its content: it is never stale."""
    return {}


def _filled(spec: ArraySpec, shape: tuple[int, ...]) -> np.ndarray:
    return np.full(shape, spec.fill, np.dtype(spec.dtype).newbyteorder("<"))


def _stored(commit: Commit, spec: ArraySpec) -> Stored | None:
    """The array's object; None if all of it is fill value."""
    key = f"{commit.prefix}/{spec.object_key}"
    return next((stored for stored in commit.objects if stored.key == key), None)


def _size_of_index(chunks: int) -> int:
    """Bytes, at the object's end."""
    return 16 * chunks + CHECKSUM


def _pairs(index: bytes) -> np.ndarray:
    """(chunk, 2) the offset and the length of each, with its checksum."""
    return np.frombuffer(index, "<u8").reshape(-1, 2)


def _range(store: Store, stored: Stored, spec: ArraySpec, start: int, length: int) -> bytes:
    """A part of an object that has a checksum at its end, without that."""
    try:
        data = store.read_range(stored.key, start, length)
    except FileNotFoundError as error:
        raise missing(store, stored.key) from error
    if len(data) != length:
        raise damaged(store, stored.key)
    if int(google_crc32c.value(data[:-CHECKSUM])) != int.from_bytes(data[-CHECKSUM:], "little"):
        raise CorruptCache(f"The array {spec.name} is damaged: its checksum is another.", "Run: vlq verify")
    return data[:-CHECKSUM]


def _decode(spec: ArraySpec, data: bytes, chunk: np.ndarray) -> None:
    (Zstd() if np.issubdtype(np.dtype(spec.dtype), np.integer) else Blosc()).decode(data, chunk)
