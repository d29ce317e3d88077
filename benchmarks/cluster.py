"""A large cluster, simulated: 10,000 shards over 64 workers that read nothing. What is measured is the driver.

Planning, dispatch, the look for another run's commit and the create-only commit are the real ones; the cache is on a
local disk, and all workers share this machine. Nothing is indexed beside: these shards hold nothing.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import Figure, at_most, cpu_seconds, figures_of
from vlq.query.schema import RUN as RUN_KEY
from vlq.query.schema import Commit, Run, Stored
from vlq.query.store import open_store
from vlq.workers.worker import Description, Done, Setup, run_of, unpacked

IDLE_SECONDS = 5.0
"""How long it is looked what all processes use when nothing is to be done."""

MARKER = "VLQ_BENCHMARK_CLUSTER"
"""An environment variable that tells the run's processes from all others."""

LEAST = 200
MOST_GROWTH = 16.0  # MiB
SHARD_SIZE = 32
RUN = Run("none", "None", "0" * 64, "<image>", (1,), 2, (24, 24), 576, 20, ("patch",), 32_064, "0" * 64, "float16")


def run(work: Path, *, quick: bool = False, images: int = 0) -> Iterator[Figure]:
    shards, workers = (1_000, 8) if quick else (10_000, 64)
    command = [sys.executable, "-m", "benchmarks.cluster", str(shards), str(workers), str(work / "cluster-cache")]
    told = figures_of(command, **{MARKER: str(uuid.uuid4())})
    rate = shards / told["seconds"]
    name = f"{shards:,} shards over {workers} workers that read nothing"
    yield Figure(
        name,
        rate,
        "shards/s",
        LEAST,
        "aim",
        rate / LEAST,
        f"at least {LEAST} shards/s",
        rate >= LEAST,
        f"planned in {told['planned']:.2f} s, committed in {told['seconds'] - told['planned']:.1f} s; "
        f"of CPU time a shard the driver used {told['cpu'] / shards * 1000:.1f} ms, the workers and Ray "
        f"{told['others'] / shards * 1000:.1f} ms; while nothing is to be done they use {told['idle']:.2f} of a core",
    )
    note = f"{told['early']:.0f} MiB when a tenth was done, {told['late']:.0f} MiB when all was"
    yield at_most("the driver's memory grows by", told["late"] - told["early"], "MiB", MOST_GROWTH, note=note)


class IdleWorker:
    """Commits a shard without reading it."""

    def __init__(self, setup: Setup) -> None:
        pass

    def node(self) -> str:
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def start(self) -> Description:
        from vlq.workers.shard import commit, find_commit  # starting 64 processes is not what is measured

        self._commit, self._find = commit, find_commit
        return Description(RUN, b"", None)

    def extract(self, url: str, run_record: bytes, shard: int, packed_rows: bytes) -> Done:
        store, run, rows = open_store(url), run_of(run_record), unpacked(packed_rows)
        found = self._find(store, run, shard)
        if found is not None:
            return Done(shard, found.images, fresh=False)
        objects = tuple(Stored(f"shards/{shard:08d}/{number}", 1, "0" * 64) for number in range(12))
        first = rows["image_id"][0].as_py()
        record = Commit(run.digest, shard, first, rows.num_rows, {}, f"shards/{shard:08d}", (), objects, objects[0], {})
        held, is_ours = self._commit(store, record)
        return Done(shard, held.images, size=held.size, fresh=is_ours, busy=1e-3)


class Watched:
    """A tracker that takes the driver's memory when a tenth is done and when all is."""

    def __init__(self) -> None:
        self.early = self.late = 0.0

    def say(self, text: str) -> None:
        pass

    phase = say

    def images(self, done: int, total: int, errors: int, fresh: int, doing: str = "reading") -> None:
        if not self.early and done >= total / 10:
            self.early = resident()
        if done == total:
            self.late = resident()


def resident() -> float:
    """MiB of this process in memory."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def main() -> None:
    import pyarrow as pa
    import ray

    import vlq.workers.indexing.compactor
    import vlq.workers.pool
    from benchmarks.cluster import IdleWorker  # by a name that workers can import it under
    from vlq.workers.job import dispatch
    from vlq.workers.plan import settle
    from vlq.workers.pool import Pool

    shards, workers, cache = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    shutil.rmtree(cache, ignore_errors=True)
    store = open_store(cache, create=True)
    store.create(RUN_KEY, RUN.to_bytes())
    count = shards * SHARD_SIZE
    names = [f"{number:08d}.jpg" for number in range(count)]
    uris = [f"s3://bucket/images/{name}" for name in names]
    corpus = pa.table({"image_id": pa.array(range(count), pa.uint32()), "image": names, "uri": uris})

    vlq.workers.pool.ShardWorker = IdleWorker  # type: ignore[assignment, misc]
    vlq.workers.indexing.compactor.FIRST = shards + 1
    ray.init("local", num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    with Pool() as pool:
        pool.start(Setup("none", None, 20, ("patch",), "cpu", "float16", 1, 8, SHARD_SIZE), lambda: workers)
        deadline = time.monotonic() + 500
        while len(ready(pool)) < workers:  # starting 64 processes is not what is measured
            assert time.monotonic() < deadline
            time.sleep(0.5)
        idle = others()
        time.sleep(IDLE_SECONDS)
        idle = (others() - idle) / IDLE_SECONDS
        watched = Watched()
        before = others()
        start, spent = time.perf_counter(), time.process_time()
        head, plan = settle(store, RUN, corpus, watched.say)
        planned = time.perf_counter() - start
        _, failures = dispatch(pool, store, RUN, head, plan, watched)
        seconds, cpu = time.perf_counter() - start, time.process_time() - spent
        spent_by_others = others() - before
    assert not failures
    told = {"planned": planned, "seconds": seconds, "early": watched.early, "late": watched.late}
    print(json.dumps(told | {"cpu": cpu, "others": spent_by_others, "idle": idle}))


def others() -> float:
    """CPU seconds of the workers and of Ray's processes by now."""
    return (cpu_seconds(MARKER) or 0.0) - time.process_time()


def ready(pool: Any) -> list[Any]:
    """Workers whose calls to start have ended."""
    import ray

    calls = list(pool._calls)
    _, under_way = ray.wait(calls, num_returns=len(calls), timeout=0.0) if calls else ([], [])
    starting = [pool._calls[call][0] for call in under_way]
    return [worker for worker in pool._workers if worker not in starting]


if __name__ == "__main__":
    main()
