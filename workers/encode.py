"""A shard's Zarr v3 group as bytes, without touching any storage.

zarr-python writes the metadata, once per kind of shard. The chunks are joined here, in the format of Zarr's sharding
codec (https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/): zarr-python spends a quarter of a
millisecond on each chunk beside its compression, which for small images is more than all else that writing takes. The
bytes are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import google_crc32c
import numpy as np
import zarr
from numcodecs import Blosc, Zstd
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from vlq.query.cache.chunks import NO_CHUNK
from vlq.query.schema import RUN, ArraySpec, Run, array_specs

LEVEL = 3
"""Of zstd."""


def encode_group(
    run: Run, readings: Mapping[str, np.ndarray], images: int, lengths: Mapping[str, int]
) -> dict[str, bytes]:
    """The objects of a shard's group by key. `readings` are the arrays of `schema.array_specs`."""
    if absent := {spec.name for spec in array_specs(run, images, lengths)} - readings.keys():
        raise ValueError(f"expected all arrays, {', '.join(sorted(absent))} too")
    return encode_part(run, readings, images, lengths)


def encode_part(
    run: Run, readings: Mapping[str, np.ndarray], images: int, lengths: Mapping[str, int]
) -> dict[str, bytes]:
    """The objects of those arrays of a shard's group that there are, and all metadata."""
    objects = dict(_metadata(run.to_bytes(), images, tuple(lengths.items())))
    for spec in array_specs(run, images, lengths):
        if spec.name not in readings:
            continue
        values = readings[spec.name]
        if values.shape != spec.shape or values.dtype != np.dtype(spec.dtype):
            raise ValueError(f"{spec.name}: expected {spec.shape} {spec.dtype}, got {values.shape} {values.dtype}")
        if (data := _encode(spec, values)) is not None:
            objects[spec.object_key] = data
    return objects


@lru_cache(maxsize=16)
def _metadata(record: bytes, images: int, lengths: tuple[tuple[str, int], ...]) -> dict[str, bytes]:
    """The group's zarr.json and each array's, of a run (its record), a number of images, and positions by site."""
    run = Run.from_bytes(record, RUN)
    objects: dict[str, Buffer] = {}
    group = zarr.create_group(store=MemoryStore(objects), attributes={"vlq": {"run": run.digest}})
    for spec in array_specs(run, images, dict(lengths)):
        group.create_array(
            spec.name,
            shape=spec.shape,
            dtype=spec.dtype,
            chunks=spec.chunk,  # one image, all its layers: what a drill-down reads; of the sums one layer
            shards=spec.shape,  # one object per array
            compressors=(_compressors(spec)[0], Crc32cCodec()),  # so that no chunk is read that came to harm
            fill_value=spec.fill,
            dimension_names=spec.axes,
        )
    return {key: buffer.to_bytes() for key, buffer in objects.items()}


def _encode(spec: ArraySpec, values: np.ndarray) -> bytes | None:
    """One array's object: its chunks, where each lies, and a checksum over that. None if all of it is fill value."""
    compressor = _compressors(spec)[1]
    fill = np.full((), spec.fill, spec.dtype)
    little = np.ascontiguousarray(values, np.dtype(spec.dtype).newbyteorder("<"))
    several = little.reshape(-1, *spec.shape[spec.depth :])
    is_fill = np.isnan if np.isnan(fill) else fill.__eq__
    maybe_empty = is_fill(several.reshape(len(several), -1)[:, 0])  # mostly the first value tells already
    chunks = [
        None if maybe and np.all(is_fill(chunk)) else _checked(compressor.encode(chunk))
        for chunk, maybe in zip(several, maybe_empty, strict=True)
    ]
    index = np.full((len(chunks), 2), NO_CHUNK, "<u8")  # offset, length
    offset = 0
    for place, chunk in zip(index, chunks, strict=True):
        if chunk is not None:
            place[:] = offset, len(chunk)
            offset += len(chunk)
    if offset == 0:
        return None
    return b"".join([*(chunk for chunk in chunks if chunk is not None), _checked(index.tobytes())])


def _checked(data: bytes) -> bytes:
    """The bytes and their checksum."""
    return data + int(google_crc32c.value(data)).to_bytes(4, "little")


def _compressors(spec: ArraySpec) -> tuple[ZstdCodec | BloscCodec, Zstd | Blosc]:
    """The compressor as Zarr's metadata names it, and itself.

    Ids repeat as whole numbers; of floating-point numbers only the high bytes do, so these are shuffled apart.
    """
    dtype = np.dtype(spec.dtype)
    if np.issubdtype(dtype, np.integer):
        return ZstdCodec(level=LEVEL), Zstd(LEVEL)
    return (
        BloscCodec(typesize=dtype.itemsize, cname="zstd", clevel=LEVEL, shuffle="shuffle"),
        Blosc("zstd", LEVEL, Blosc.SHUFFLE),
    )
