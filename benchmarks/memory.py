"""Host memory of one worker with shards of LLaVA-1.5's size: 32 images, 33 layers, 576 patches, k 20, 32,064 tokens.

The model is of the real class with random weights, its decoder 32 blocks deep but narrow: the readings have their full
size, and what is counted is what comes on top of the loaded model. Two shards are under way at once, as in a run. In
float32, whose log-probabilities are twice as large as half precision's: CPUs are slow at that.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.inputs import PROMPT, build_wide, made, save_photos
from benchmarks.measure import Figure, at_most, figures_of

MOST = 4.0  # GiB
SHARDS = 2


def run(work: Path, *, quick: bool = False, images: int = 0) -> Iterator[Figure]:
    size = 4 if quick else 32
    model = made(work / "deep-random-model", lambda folder: build_wide(folder, layers=32, width=64))
    photos = made(work / f"photos-{size * SHARDS}", lambda folder: save_photos(folder, size * SHARDS))
    command = [
        sys.executable,
        "-m",
        "benchmarks.memory",
        str(model),
        str(photos),
        str(work / "memory-cache"),
        str(size),
    ]
    told = figures_of(command)
    note = f"{told['loaded']:.2f} GiB with the model and the libraries, {told['peak']:.2f} GiB at most"
    name = f"a worker, beside its model, with shards of {size} images"
    yield at_most(name, told["peak"] - told["loaded"], "GiB", MOST, note=note)


def gib(size: int | None) -> float:
    """Bytes as GiB. Raises RuntimeError where the system does not say how many there are."""
    if size is None:
        raise RuntimeError("this system does not say how much memory a process takes")
    return size / 2**30


def main() -> None:
    from vlq.query.schema import RUN
    from vlq.query.store import open_store
    from vlq.workers.corpus import list_images
    from vlq.workers.machine import resident
    from vlq.workers.models import load
    from vlq.workers.models.vocabulary import vocabulary_hash, vocabulary_table
    from vlq.workers.plan import first_plan
    from vlq.workers.worker import Setup, ShardWorker, describe_run, packed

    model, photos, cache, size = sys.argv[1:]
    shutil.rmtree(cache, ignore_errors=True)
    setup = Setup(model, PROMPT, 20, ("patch", "prompt"), "cpu", "float32", 2, 8, int(size))
    worker = ShardWorker(setup)
    worker._model = load(model, prompt=PROMPT, device="cpu", dtype="float32")
    table = vocabulary_table(worker._model.tokenizer, worker._model.vocabulary_size)
    run = describe_run(setup, worker._model, vocabulary_hash(table))
    store = open_store(cache, create=True)
    store.create(RUN, run.to_bytes())
    plan = first_plan(list_images(photos, None), run.shard_size)
    loaded = gib(resident())
    with ThreadPoolExecutor(2) as calls:
        shards = ((cache, run.to_bytes(), shard, packed(rows)) for shard, rows in plan.rows())
        list(calls.map(lambda shard: worker.extract(*shard), shards))
    print(json.dumps({"loaded": loaded, "peak": gib(resident(most=True))}))


if __name__ == "__main__":
    main()
