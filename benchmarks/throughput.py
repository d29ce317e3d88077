"""Scheduling: how much of their time workers spend in the model, where the model takes 100 ms an image.

The job is the real one, with its decoding, lens, encoding and commits; only the model sleeps beside its forward pass,
so that workers outnumber cores without being slowed down by each other's arithmetic. The other side is the sleeping.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.inputs import PROMPT, made, save_photos, small
from benchmarks.measure import Figure, figures_of, rate
from vlq.workers.worker import Description, ShardWorker

SECONDS_AN_IMAGE = 0.1
SHARD_SIZE = 32
LEAST = 0.95


@dataclass(frozen=True)
class Told:
    """What a run told of itself."""

    busy: float  # share of the workers' time in the model
    seconds: float  # from the first shard given out to the last commit
    idle: float  # worker seconds a shard outside the model
    starved: float  # seconds of a shard in which the model waited for its images
    writing: float  # seconds of a shard after the model, in which it is encoded and put


def run(work: Path, *, quick: bool = False, images: int = 0) -> Iterator[Figure]:
    model = small(work, quick=True).model
    for workers in (1, 2, 4):
        count = workers * SHARD_SIZE * (3 if quick else 12)
        folder = made(work / f"photos-{count}", lambda folder, count=count: save_photos(folder, count))  # type: ignore[misc]
        command = [sys.executable, "-m", "benchmarks.throughput", str(workers), str(folder), str(model)]
        told = Told(**figures_of([*command, str(work / "throughput-cache")]))
        note = (
            f"{count // SHARD_SIZE} shards of {SHARD_SIZE} images: models at work {told.busy:.1%} of the time, "
            f"{told.idle * 1000:.0f} ms a shard outside them: {told.starved * 1000:.0f} ms while images came, the rest "
            f"between shards and at both ends (the last shard was written in {told.writing * 1000:.0f} ms)"
        )
        ideal = workers / SECONDS_AN_IMAGE
        name = f"{workers} worker{'s' if workers > 1 else ''}"
        yield rate(name, count / told.seconds, ideal, "the model alone", least=LEAST, note=note)


class SleepingWorker(ShardWorker):
    """A worker whose model takes its time."""

    def start(self) -> Description:
        description = super().start()
        forward = self._model.forward

        def slowly(images: Sequence[Any], visit: Any, *more: Any) -> None:
            start = time.perf_counter()
            forward(images, visit, *more)
            time.sleep(max(0.0, len(images) * SECONDS_AN_IMAGE - (time.perf_counter() - start)))

        self._model.forward = slowly
        return description


class Stopwatch:
    """A tracker that remembers when the first and the last image came."""

    def __init__(self) -> None:
        self.first = self.last = 0.0

    def say(self, text: str) -> None:
        print(text, file=sys.stderr)

    def phase(self, text: str) -> None:
        pass

    def images(self, done: int, total: int, errors: int, fresh: int, doing: str = "reading") -> None:
        self.last = time.perf_counter()
        self.first = self.first or self.last


class Stages(logging.Handler):
    """Remembers what shards spent their time with, as the run's log tells it."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.seconds: list[dict[str, float]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if seconds := getattr(record, "fields", {}).get("seconds"):
            self.seconds.append(seconds)


def main() -> None:
    import ray

    import vlq.workers.pool
    from benchmarks.throughput import SleepingWorker  # by a name that workers can import it under
    from vlq.workers.job import run_job
    from vlq.workers.plan import RunOptions

    workers, images, model, cache = sys.argv[1:]
    count = int(workers)
    shutil.rmtree(cache, ignore_errors=True)
    vlq.workers.pool.ShardWorker = SleepingWorker  # type: ignore[misc]
    # More places than cores: sleeping takes none.
    ray.init("local", num_cpus=2 * count, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    watch, stages = Stopwatch(), Stages()
    log = logging.getLogger("vlq.workers.watch")
    log.setLevel(logging.INFO)
    log.addHandler(stages)
    options = RunOptions(images, model, cache, prompt=PROMPT, shard_size=SHARD_SIZE, workers=count)
    outcome = run_job(options, watch)
    assert outcome.busy is not None
    seconds = watch.last - watch.first
    idle = (1 - outcome.busy) / outcome.busy * SECONDS_AN_IMAGE * SHARD_SIZE
    starved = sum(shard["starved"] for shard in stages.seconds) / len(stages.seconds)
    print(json.dumps(asdict(Told(outcome.busy, seconds, idle, starved, stages.seconds[-1]["writing"]))))


if __name__ == "__main__":
    main()
