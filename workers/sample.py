"""What a few images take and become: read as a worker reads a shard, and encoded in memory as it writes one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from vlq.query.cache.reader import Cache
from vlq.query.cache.sums import entropies, summed_sites
from vlq.query.errors import InputError
from vlq.query.image.tables import reason
from vlq.query.schema import Commit, Run
from vlq.query.stores.objects import ObstoreStore
from vlq.workers.machine import forget_most, resident

if TYPE_CHECKING:
    from vlq.workers.extract import Prepared
    from vlq.workers.images import Fetch
    from vlq.workers.lens import Lens
    from vlq.workers.models.base import LensModel

TIMED = 2
"""Batches that are timed, after one that warms up."""


MERGING = 2
"""Merging rows takes about so many times as long as writing them."""


@dataclass
class Spent:
    """What a piece of work took."""

    seconds: float = 0.0
    cpu: float = 0.0  # seconds, of all cores together
    memory: int | None = None  # bytes on top of those before, at most; None where the system does not say


@contextmanager
def spent(memory: bool = False) -> Iterator[Spent]:
    """What is spent in the context, once it is left; memory only if that is wanted, as it cannot be in two at once."""
    found = Spent()
    before = resident() if memory and forget_most() else None
    start, cpu = time.perf_counter(), time.process_time()
    yield found
    found.seconds, found.cpu = time.perf_counter() - start, time.process_time() - cpu
    if before is not None and (most := resident(most=True)) is not None:
        found.memory = max(0, most - before)


@dataclass(frozen=True)
class Cost:
    """Of one image."""

    seconds: float
    cpu: float  # seconds, of all cores together


@dataclass(frozen=True)
class Sizes:
    """Bytes in a cache."""

    arrays: float  # of an image
    postings: float  # of an image
    index: float  # of an image, about
    shard: float  # of a shard, beside its images': summed probabilities, metadata, its record


@dataclass(frozen=True)
class Sample:
    """A few images, read and encoded."""

    images: int  # with readings
    errors: tuple[tuple[str, str], ...]  # name and reason of those without
    grids: tuple[tuple[int, int], ...]  # each that there is, the one of fewest patches first
    sizes: Sizes
    preparing: Cost  # fetching, decoding, preprocessing
    reading: Cost  # in the model and the lens, on average
    writing: Cost  # encoding
    merging: Cost  # into the index, about
    summing: Cost  # of a shard: reading its sums and entropies, and adding them up for the index
    warming: float  # seconds that the first batch takes longer in the model than another one
    memory: float | None  # bytes that a worker takes at most beside its loaded model; None as in `Spent`
    gpu_memory: int | None  # bytes on the GPU, the model's included, at most; None on a CPU


def read_sample(model: LensModel, lens: Lens, run: Run, rows: pa.Table, calls: int, fetched: Fetch) -> Sample:
    """Read images of the plan's `rows`, at even distances: a batch to warm up, and TIMED more. A worker has so many
    `calls` under way at once.

    Raises InputError if one cannot be fetched or none can be read, RunError as a worker does.
    """
    _forget_gpu_memory(model)
    rows = _spread(rows, (1 + TIMED) * run.batch_size)
    prepared, preparing = _prepare(model, run, rows, fetched)
    names = rows["image"].to_pylist()
    errors = tuple((name, image.error) for name, image in zip(names, prepared, strict=True) if image.error is not None)
    good = [row for row, image in enumerate(prepared) if image.error is None]
    if not good:
        raise InputError(
            f"None of the {len(errors)} images that were tried can be read. {': '.join(errors[0])}",
            "Give images that can be read: a run would only record each with its reason.",
        )

    def read(which: Sequence[int]) -> _Part:
        return _read(model, lens, run, rows.take(pa.array(which)), [prepared[row] for row in which])

    first = read(good[: run.batch_size])
    timed = read(good[run.batch_size :] or good)  # where there is but one batch, it is read twice
    grids = {image.grid for image in prepared if image.grid is not None}
    return Sample(
        images=len(good),
        errors=errors,
        grids=tuple(sorted(grids, key=lambda grid: (grid[0] * grid[1], grid))),
        sizes=timed.sizes,
        preparing=preparing,
        reading=timed.reading,
        writing=timed.writing,
        merging=timed.merging,
        summing=timed.summing,
        warming=max(0.0, first.reading.seconds - timed.reading.seconds) * first.images,
        memory=timed.memory_of(run.shard_size, sum(_bytes_of(prepared[row]) for row in good) / len(good), calls),
        gpu_memory=_gpu_memory(model),
    )


def _spread(rows: pa.Table, count: int) -> pa.Table:
    """So many rows at even distances, or all."""
    places = np.linspace(0, rows.num_rows - 1, min(count, rows.num_rows)).round().astype(np.int64)
    return rows.take(pa.array(places))


def _prepare(model: LensModel, run: Run, rows: pa.Table, fetched: Fetch) -> tuple[list[Prepared], Cost]:
    from vlq.workers.extract import prepare, prompts_of

    prepared = []
    names, uris = rows["image"].to_pylist(), rows["uri"].to_pylist()
    with spent() as found:
        for name, uri, prompt in zip(names, uris, prompts_of(run, rows), strict=True):
            try:
                prepared.append(prepare(model, uri, prompt, fetched))
            except OSError as error:
                hint = getattr(error, "hint", None)
                raise InputError(
                    f"{name} cannot be fetched: {reason(error)}.",
                    " ".join(["A run would try its shard four times, and give it up then.", *([hint] if hint else [])]),
                ) from error
    return prepared, Cost(found.seconds / len(prepared), found.cpu / len(prepared))


def _bytes_of(image: Prepared) -> int:
    """What an image takes that waits for the model."""
    return sum(values.nbytes for values in image.encoded.values.values()) if image.encoded is not None else 0


def _forget_gpu_memory(model: LensModel) -> None:
    """What was taken before: checks at load take more than images do."""
    import torch

    if model.device.type == "cuda":
        torch.cuda.empty_cache()
        for device in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(device)


def _gpu_memory(model: LensModel) -> int | None:
    import torch

    if model.device.type != "cuda":
        return None
    return sum(torch.cuda.max_memory_reserved(device) for device in range(torch.cuda.device_count()))


@dataclass(frozen=True)
class _Part:
    """Some of the images, as if they were a shard."""

    images: int
    sizes: Sizes
    reading: Cost
    writing: Cost
    merging: Cost
    summing: Cost
    arrays: int  # bytes of the arrays, in memory
    read_memory: int | None  # bytes taken while they were read
    write_memory: float | None  # bytes taken for each while they were written

    def memory_of(self, images: int, waiting: float, calls: int) -> float | None:
        """About how many bytes a worker takes for shards of so many images, each of which takes some while it waits,
        with so many calls under way.

        One shard is read, whose readings are there twice at the end: image by image, and together. Others are written,
        or their images wait.
        """
        if self.read_memory is None or self.write_memory is None:
            return None
        each = self.arrays / self.images
        read = max(0.0, self.read_memory + 2 * each * (images - self.images))
        return read + (waiting + (calls - 1) * max(self.write_memory, waiting)) * images


def _read(model: LensModel, lens: Lens, run: Run, rows: pa.Table, prepared: Sequence[Prepared]) -> _Part:
    from obstore.store import MemoryStore

    from vlq.workers.extract import read_decoded
    from vlq.workers.indexing.postings import postings_bytes, postings_of
    from vlq.workers.shard import commit, put_shard
    from vlq.workers.worker import fitting_batches

    images = rows.num_rows
    turns: list[Spent] = []

    @contextmanager
    def busy() -> Iterator[None]:
        with spent() as turn:
            yield
        turns.append(turn)

    with fitting_batches(run), spent(memory=True) as whole:
        arrays, table = read_decoded(model, lens, run, rows, iter(prepared), busy)
    store = ObstoreStore("memory://", MemoryStore())
    records: list[Commit] = []
    with spent(memory=True) as writing:
        for start in range(0, images, run.shard_size):
            shard = {
                name: values if name.startswith("sum/") else values[start : start + run.shard_size]
                for name, values in arrays.items()
            }
            record = put_shard(store, run, len(records), 0, shard, table.slice(start, run.shard_size))
            records.append(commit(store, record)[0])
    tables = [*postings_of(run, 0, arrays).values(), table]
    merged = sum(len(postings_bytes(rows)) - len(postings_bytes(rows.slice(0, 0))) for rows in tables)
    with spent() as rewriting:
        for rows in tables:
            postings_bytes(rows)

    with spent() as adding:
        entropies(Cache(store.url, store, run), records, summed_sites(run))

    seconds, cpu = sum(turn.seconds for turn in turns), sum(turn.cpu for turn in turns)
    return _Part(
        images=images,
        sizes=_sizes(records, images, merged),
        reading=Cost(seconds / images, cpu / images),
        writing=Cost((whole.seconds - seconds + writing.seconds) / images, (whole.cpu - cpu + writing.cpu) / images),
        merging=Cost(MERGING * rewriting.seconds / images, MERGING * rewriting.cpu / images),
        summing=Cost(adding.seconds / len(records), adding.cpu / len(records)),
        arrays=sum(array.nbytes for array in arrays.values()),
        read_memory=whole.memory,
        write_memory=None if writing.memory is None else writing.memory / min(images, run.shard_size),
    )


def _sizes(records: Sequence[Commit], images: int, merged: int) -> Sizes:
    """`merged` are the bytes of their rows in the index, where each table is one file for all shards."""
    objects = [
        (stored.key.removeprefix(f"{record.prefix}/"), stored.size) for record in records for stored in record.objects
    ]
    shard = sum(size for key, size in objects if key.startswith("sum/") or key.endswith("zarr.json"))
    tables = sum(record.images_table.size for record in records)
    return Sizes(
        arrays=(sum(size for _, size in objects) - shard + tables) / images,
        postings=sum(stored.size for record in records for stored in record.postings.values()) / images,
        index=merged / images,
        shard=(shard + sum(len(record.to_bytes()) for record in records)) / len(records),
    )
