"""A cache of LLaVA-1.5's size (33 layers, 24 x 24 patches, k 20, 32,064 tokens), and what an image takes of it.

Written by the real writer from made-up readings, and kept in the work folder by a hash of what decides its bytes.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

import pyarrow as pa

import vlq.query.schema
import vlq.workers.encode
import vlq.workers.indexing.counts
import vlq.workers.indexing.index
import vlq.workers.indexing.postings
from benchmarks import readings
from benchmarks.inputs import made
from benchmarks.measure import Figure, at_most
from benchmarks.readings import World, shard_readings
from vlq.query.cache.reader import Cache
from vlq.query.cache.tables import parquet_bytes
from vlq.query.schema import RUN, VOCABULARY, Head, Run, digest_of, head_key, plan_key
from vlq.query.store import Store, open_store
from vlq.workers.extract import GRID, TRANSFORM
from vlq.workers.indexing.index import compact
from vlq.workers.machine import cpu_count
from vlq.workers.models.vocabulary import vocabulary_hash
from vlq.workers.plan import Plan, first_plan
from vlq.workers.shard import write_shard

INDEX_KIB = 330

RUN_OF = Run(
    model="synthetic",
    model_class="LlavaForConditionalGeneration",
    model_hash="0" * 64,
    prompt="<image>",
    prompt_ids=(),
    layers=33,
    grid=(24, 24),
    patches=576,
    k=20,
    at=("patch",),
    vocabulary_size=32_064,
    vocabulary_hash="",
    dtype="bfloat16",
)


def run(work: Path, *, quick: bool = False, images: int = 500) -> Iterator[Figure]:
    start = perf_counter()
    cache = Cache.open(str(make(work, 32 if quick else images)))
    seconds = perf_counter() - start
    yield from sizes(cache, f"made in {seconds:.0f} s" if seconds > 5 else "kept from an earlier run")


def make(work: Path, images: int, ends: int | None = None) -> Path:
    """The cache's folder. Images from the number `ends` on show no object of the first kind."""
    workers = (
        vlq.workers.indexing.counts,
        vlq.workers.encode,
        vlq.workers.indexing.index,
        vlq.workers.indexing.postings,
    )
    modules = (readings, vlq.query.schema, *workers)
    sources = [Path(str(module.__file__)).read_bytes() for module in modules] + [Path(__file__).read_bytes()]
    digest = hashlib.sha256(b"".join(sources)).hexdigest()[:12]
    name = f"synthetic-{images}-{digest}" if ends is None else f"synthetic-{images}-{ends}-{digest}"
    return made(work / name, lambda folder: fill(folder, images, ends))


def fill(folder: Path, images: int, ends: int | None) -> None:
    """Write shards in as many processes as there are cores, then the index."""
    store, run, plan, head = begin(folder, images)
    with ProcessPoolExecutor(cpu_count(), mp_context=get_context("spawn")) as pool:
        shards = ((folder, run, shard, rows, ends) for shard, rows in plan.rows())
        for _ in pool.map(write_one, *zip(*shards, strict=True)):
            pass
    seal(store, run, head)


def begin(folder: Path, images: int) -> tuple[Store, Run, Plan, Head]:
    """A cache that has a plan, and no shard yet."""
    vocabulary = vocabulary_table(World(RUN_OF.vocabulary_size))
    data = parquet_bytes(vocabulary)
    run = replace(RUN_OF, vocabulary_hash=vocabulary_hash(vocabulary), checksums={VOCABULARY: digest_of(data)})
    store = open_store(str(folder))
    store.create(VOCABULARY, data)
    store.create(RUN, run.to_bytes())
    names = [f"{number:06d}.jpg" for number in range(images)]
    corpus = pa.table(
        {
            "image_id": pa.array(range(images), pa.uint32()),
            "image": names,
            "uri": [f"file:///images/{name}" for name in names],
        }
    )
    plan = first_plan(corpus, run.shard_size)
    data = parquet_bytes(plan.table)
    head = Head(1, plan_key(digest_of(data)[:16]), plan.shards, images, False, None)
    store.create(head.plan, data)
    store.create(head_key(1), head.to_bytes())
    return store, run, plan, head


def seal(store: Store, run: Run, head: Head) -> None:
    """Index a cache of which every shard is written."""
    key, _ = compact(store, run, head)
    store.create(head_key(2), replace(head, number=2, sealed=True, index=key).to_bytes())


def write_one(folder: Path, run: Run, shard: int, rows: pa.Table, ends: int | None) -> None:
    first, count = rows["image_id"][0].as_py(), rows.num_rows
    arrays = shard_readings(World(run.vocabulary_size), run, range(first, first + count), ends)
    write_shard(open_store(str(folder)), run, shard, first, arrays, image_table(run, rows))


def vocabulary_table(world: World) -> pa.Table:
    pieces = world.pieces()
    return pa.table(
        {
            "id": pa.array(range(len(pieces)), pa.uint32()),
            "piece": pieces,
            "text": [piece.replace("▁", " ") for piece in pieces],
            "word_start": [True] * len(pieces),
            "special": [False] * len(pieces),
        }
    )


def image_table(run: Run, rows: pa.Table) -> pa.Table:
    """Whole images of 336 x 336 pixels."""
    count = rows.num_rows
    transform = {"scale_x": 1.0, "scale_y": 1.0, "offset_x": 0.0, "offset_y": 0.0, "width": 336, "height": 336}
    grid = {"rows": run.grid[0], "columns": run.grid[1]}
    return pa.table(
        {
            "image_id": rows["image_id"],
            "image": rows["image"],
            "uri": rows["uri"],
            "sha256": [hashlib.sha256(uri.encode()).hexdigest() for uri in rows["uri"].to_pylist()],
            "width": pa.array([336] * count, pa.uint32()),
            "height": pa.array([336] * count, pa.uint32()),
            "transform": pa.array([transform] * count, TRANSFORM),
            "grid": pa.array([grid] * count, GRID),
            "error": pa.nulls(count, pa.string()),
        }
    )


def sizes(cache: Cache, note: str) -> Iterator[Figure]:
    """KiB an image takes: each array, the shards' postings, each table of the index."""
    snapshot = cache.snapshot()
    images, run = snapshot.images, cache.run
    arrays: Counter[str] = Counter()
    postings = 0
    for shard in range(math.ceil(images / run.shard_size)):
        commit = cache.commit(shard)
        postings += sum(stored.size for stored in commit.postings.values())
        for stored in commit.objects:
            arrays["/".join(stored.key.split("/")[2:4])] += stored.size
    assert snapshot.manifest is not None
    tables = {
        name: sum(stored.size for stored in files)
        for name, files in snapshot.manifest.tables.items()
        if name != "images"
    }
    kib = 1024 * images
    for name, size in arrays.items():
        if "/" in name and "zarr.json" not in name:
            yield Figure(f"array {name}", size / kib, "KiB/image")
    yield Figure("arrays", sum(arrays.values()) / kib, "KiB/image", note=f"{images} images, {note}")
    yield Figure("postings of the shards, which the index merges", postings / kib, "KiB/image")
    for name, size in tables.items():
        yield Figure(f"index table {name}", size / kib, "KiB/image")
    yield at_most("index", sum(tables.values()) / kib, "KiB/image", INDEX_KIB)


if __name__ == "__main__":
    raise SystemExit("python -m benchmarks synthetic")
