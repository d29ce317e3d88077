"""The objects that are joined by hand are those that zarr-python writes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from vlq.query.schema import Run, array_specs
from vlq.workers.encode import encode_group

from ..synthetic import make_run, random_readings


def written_by_zarr(run: Run, readings: Mapping[str, np.ndarray], images: int) -> dict[str, bytes]:
    objects: dict[str, Buffer] = {}
    group = zarr.create_group(store=MemoryStore(objects), attributes={"vlq": {"run": run.digest}})
    for spec in array_specs(run, images, run.positions):
        size = np.dtype(spec.dtype).itemsize
        is_float = np.dtype(spec.dtype).kind == "f"
        blosc = BloscCodec(typesize=size, cname="zstd", clevel=3, shuffle="shuffle")
        group.create_array(
            spec.name,
            shape=spec.shape,
            dtype=spec.dtype,
            chunks=(1, *spec.shape[1:]),
            shards=spec.shape,
            compressors=(blosc if is_float else ZstdCodec(level=3), Crc32cCodec()),
            fill_value=spec.fill,
            dimension_names=spec.axes,
        )[...] = readings[spec.name]
    return {key: buffer.to_bytes() for key, buffer in objects.items()}


@pytest.mark.parametrize("changes", [{}, {"dtype": "bfloat16", "vocabulary_size": 70_000}, {"at": ("prompt",)}])
@pytest.mark.parametrize("failed", [(), (1,), (0, 1, 2, 3, 4)])
def test_the_bytes_are_zarrs_own(changes: dict[str, object], failed: tuple[int, ...]) -> None:
    run = make_run(**changes)
    readings = random_readings(run, 5, np.random.default_rng(0), failed)
    assert encode_group(run, readings, 5, run.positions) == written_by_zarr(run, readings, 5)
