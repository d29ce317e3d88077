"""A whole array of a shard, read without zarr-python, which spends more on a chunk than it takes to decompress it.

The format is that of Zarr's sharding codec: see `vlq.workers.encode`, which writes it.
"""

from __future__ import annotations

import numpy as np
from numcodecs import Blosc, Zstd

from vlq.query.copies import damaged, missing
from vlq.query.schema import ArraySpec, Commit, digest_of
from vlq.query.store import Store

NO_CHUNK = 2**64 - 1
"""Stands in an index for a chunk that holds nothing but the fill value and is left out."""

CHECKSUM = 4
"""Bytes of one, behind each chunk and behind the index."""


def whole(store: Store, commit: Commit, spec: ArraySpec) -> np.ndarray:
    """All of one of a committed shard's arrays. Raises CorruptCache if its object is not what was written."""
    values = np.full(spec.shape, spec.fill, np.dtype(spec.dtype).newbyteorder("<"))
    key = f"{commit.prefix}/{spec.object_key}"
    stored = next((stored for stored in commit.objects if stored.key == key), None)
    if stored is None:  # all of it is fill value
        return values
    try:
        data = store.read(key)
    except FileNotFoundError as error:
        raise missing(store, key) from error
    if digest_of(data) != stored.sha256:
        raise damaged(store, key)
    chunks = values.reshape(-1, *spec.chunk[spec.depth :])
    end = len(data) - CHECKSUM
    index = np.frombuffer(data[end - 16 * len(chunks) : end], "<u8").reshape(-1, 2)  # offset, length
    codec = Zstd() if np.issubdtype(values.dtype, np.integer) else Blosc()
    for chunk, (offset, length) in zip(chunks, index.tolist(), strict=True):
        if offset != NO_CHUNK:
            codec.decode(data[offset : offset + length - CHECKSUM], chunk)
    return values.astype(spec.dtype, copy=False)
