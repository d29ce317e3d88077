"""Time and memory of making the index, from 256 to 4,000 images of LLaVA-1.5's size, and what its tables take.

The shards are those of the synthetic cache, over and over, with other image numbers in their postings: as many rows and
tokens as so many images have. Each index is made by a command of its own, of whose processes the system keeps how much
memory they took.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measure import Figure, at_most, figures_of
from benchmarks.memory import memory
from benchmarks.synthetic import RUN_OF, make
from vlq.query.cache.reader import Cache
from vlq.query.cache.records import committed, latest_head
from vlq.query.cache.tables import parquet_bytes
from vlq.query.schema import RUN, VOCABULARY, Commit, Head, head_key, plan_key
from vlq.query.store import Store, open_store, put
from vlq.workers.indexing.index import compact, postings_from_arrays, rebuild
from vlq.workers.indexing.postings import postings_bytes
from vlq.workers.shard import commit, put_postings

SHARDS = (8, 32, 125)
LINEAR = 1.25  # times as long an image, at most, with sixteen times as many images
EXTRAPOLATED = 100_000


def run(work: Path, *, quick: bool = False, images: int = 500) -> Iterator[Figure]:
    base = Cache.open(str(make(work, 64 if quick else images)))
    yield postings_of_a_shard(base)
    told = {}
    for shards in SHARDS[:1] if quick else SHARDS:
        folder = work / "index"
        shutil.rmtree(folder, ignore_errors=True)
        repeated(base, folder, shards)
        told[shards] = {how: measured(how, folder) for how in ("compact", "index")}
        shutil.rmtree(folder)
        yield from figures(shards * RUN_OF.shard_size, told[shards])
    if not quick:
        yield from growth(told)


# --- a cache of any size ---------------------------------------------------------------------------------------


def repeated(base: Cache, folder: Path, shards: int) -> None:
    """A cache of so many shards, whole ones of `base` in turns; their arrays are links to the same files."""
    source, store = Path(base.url), open_store(str(folder), create=True)
    whole = [record for record in committed(base.store).values() if record.images == base.run.shard_size]
    for record in whole:
        for stored in [*record.objects, record.images_table]:
            (folder / stored.key).parent.mkdir(parents=True, exist_ok=True)
            os.link(source / stored.key, folder / stored.key)
    for key in (RUN, VOCABULARY):
        shutil.copy(source / key, folder / key)
    for shard in range(shards):
        commit(store, renumbered(store, base, whole[shard % len(whole)], shard))
    images = shards * base.run.shard_size
    plan = pa.table({"image_id": pa.array(range(images), pa.uint32())})  # which nothing here reads
    stored = put(store, plan_key("0" * 16), parquet_bytes(plan))
    store.create(head_key(1), Head(1, stored.key, shards, images, False, None).to_bytes())


def renumbered(store: Store, base: Cache, record: Commit, shard: int) -> Commit:
    """The record of a shard of the same readings as another, whose images have other numbers. Puts its postings."""
    first = shard * base.run.shard_size
    tables = {}
    for name, stored in record.postings.items():
        table = pq.read_table(base.local(stored))
        image = pa.array(table["image"].to_numpy() + (first - record.first_image), pa.uint32())
        tables[name] = table.set_column(table.schema.get_field_index("image"), "image", image)
    return replace(record, shard=shard, first_image=first, postings=put_postings(store, shard, tables))


# --- measured --------------------------------------------------------------------------------------------------


def postings_of_a_shard(base: Cache) -> Figure:
    """What a worker does for a shard's part of the index, on one thread."""
    record = base.commit(0)
    postings_from_arrays(base, record)  # the files are in the page cache then
    start = time.process_time()
    for rows in postings_from_arrays(base, record).values():
        postings_bytes(rows)
    spent = (time.process_time() - start) * 1000 / record.images
    return Figure("a shard's postings, from its arrays", spent, "ms of CPU time an image")


def measured(how: str, folder: Path) -> dict[str, Any]:
    return figures_of([sys.executable, "-m", "benchmarks.index", how, str(folder)])


def figures(images: int, told: dict[str, dict[str, Any]]) -> Iterator[Figure]:
    merged, made = told["compact"], told["index"]
    for name, seen in (("merged", merged), ("made of the arrays", made)):
        note = f"{seen['seconds']:.0f} s, {seen['cpu'] / images * 1000:.0f} ms of CPU time an image; "
        note += f"memory at most: {seen['peak']:.2f} GiB, {seen['before']:.2f} GiB before"
        note += f", and {seen['process']:.2f} GiB in each process that merges" if seen["process"] else ""
        yield Figure(f"{images:,} images, {name}", seen["seconds"] / images * 1000, "ms an image", note=note)
    kib = {name: size / images / 1024 for name, size in merged["tables"].items()}
    note = ", ".join(f"{name} {size:.3g}" for name, size in sorted(kib.items()))
    yield Figure(f"{images:,} images, tables of the index", sum(kib.values()), "KiB an image", note=note)


def growth(told: dict[int, dict[str, dict[str, Any]]]) -> Iterator[Figure]:
    least, most = min(told), max(told)
    for how, name in (("compact", "merging"), ("index", "making of the arrays")):
        few, many = told[least][how], told[most][how]
        times = (many["cpu"] / most) / (few["cpu"] / least)
        size = RUN_OF.shard_size
        hours = many["seconds"] / most / size * EXTRAPOLATED / 3600
        note = f"memory grew by {few['peak'] - few['before']:.2f} and by {many['peak'] - many['before']:.2f} GiB; "
        note += f"at this rate {hours:.1f} hours for {EXTRAPOLATED:,} images (extrapolated)"
        compared = f"{most * size:,} against {least * size:,} images"
        yield at_most(f"{name}: CPU time an image, {compared}", times, "times", LINEAR, note=note)


def main() -> None:
    how, folder = sys.argv[1:]
    cache = Cache.open(folder)
    head = latest_head(cache.store)
    assert head is not None
    shutil.rmtree(Path(folder) / "index", ignore_errors=True)
    before, start, spent = memory("VmRSS"), time.perf_counter(), cpu()
    if how == "compact":
        _, manifest = compact(cache.store, cache.run, head)
    else:
        _, manifest, _ = rebuild(cache.store, cache.run)
    told = {"seconds": time.perf_counter() - start, "cpu": cpu() - spent, "before": before}
    told["peak"] = memory("VmHWM")
    told["process"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # of the largest one
    tables = {name: sum(file.size for file in files) for name, files in manifest.tables.items()}
    print(json.dumps(told | {"tables": tables}))


def cpu() -> float:
    """Seconds of CPU time of this process and of those that it started and that have ended."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


if __name__ == "__main__":
    main()
