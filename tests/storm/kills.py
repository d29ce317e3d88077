"""kill -9 at random moments, resumed each time, until the cache is done: its bytes are those of an undisturbed one.

Which moments these are is told by a seed as far as a moment can be: how long after a process began, or after a worker
took up its work. What it was doing then is counted.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from vlq.query.cache.records import latest_head
from vlq.query.schema import head_key
from vlq.query.store import open_store

from ..workers.conftest import make_model, save_images
from ..workers.runs import below, commits, contents, finished, start, title, vlq, wait_until_gone, workers_of

IN_THE_WORK = 1.0
"""Seconds within which a worker that is at work is killed."""

WHILE_STARTING = 6.0
"""Seconds within which a worker that was just made is killed, if it isn't at work before."""

KILLS_A_RUN = 12
"""Workers killed within one run; then it may finish, and its cache is compared."""


@dataclass
class Job:
    """A model, its images, and what a run of them leaves that nobody disturbs."""

    work: Path
    model: Path
    images: Path
    count: int
    undisturbed: dict[str, bytes]
    seconds: float  # that the undisturbed run took
    unsealed: Path  # the same cache before its index was begun
    index: str  # key of that index's manifest

    @classmethod
    def make(cls, work: Path, count: int) -> Job:
        """Of `count` images, one of which is broken."""
        model, images = make_model(work / "model"), save_images(work / "images", count)
        (images / "0005.png").write_bytes(b"")
        began = time.monotonic()
        finished(start(model, images, work / "undisturbed", "--workers", "2"))
        return cls.of(work, model, images, work / "undisturbed", time.monotonic() - began)

    @classmethod
    def of(cls, work: Path, model: Path, images: Path, undisturbed: Path, seconds: float) -> Job:
        head = latest_head(open_store(str(undisturbed)))
        assert head is not None
        assert head.index is not None
        unsealed = work / "unsealed"
        shutil.copytree(undisturbed, unsealed)
        (unsealed / head_key(head.number)).unlink()
        (unsealed / head.index).unlink()
        shutil.rmtree((unsealed / head.index).with_suffix(""))
        count = len(list(images.iterdir()))
        return cls(work, model, images, count, contents(undisturbed), seconds, unsealed, head.index)

    @property
    def shards(self) -> int:
        return -(-self.count // 2)

    def of_index(self, keys: Iterable[str]) -> int:
        """How many of the keys are of the last index."""
        return sum(key.startswith(self.index.removesuffix(".json")) for key in keys)

    def run(self, cache: Path) -> subprocess.Popen[str]:
        return start(self.model, self.images, cache, "--workers", "2")

    def begin(self, command: str, cache: Path) -> subprocess.Popen[str]:
        """What makes the index of a complete cache."""
        return self.run(cache) if command == "run" else vlq(command, "--cache", cache)


@dataclass
class Outcome:
    """What came of the kills of one kind of process."""

    killed: int = 0
    doing: Counter[str] = field(default_factory=Counter)  # what was killed in the middle of what
    caches: int = 0  # that were gone on with until they were done, and compared
    wrong: list[str] = field(default_factory=list)  # what should not have happened

    def compare(self, job: Job, cache: Path) -> None:
        self.caches += 1
        found = contents(cache)
        differing = sorted(key for key in {*found, *job.undisturbed} if found.get(key) != job.undisturbed.get(key))
        if differing:
            self.wrong.append(f"{cache.name}: {', '.join(differing)} differ")
        shutil.rmtree(cache)


def kill(pid: int) -> bool:
    """Whether the process was there to be killed."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def kill_workers(job: Job, rng: random.Random, count: int) -> Outcome:
    """Kill workers of runs. Of their shards the run itself takes care; a run that gives some up is started again."""
    outcome = Outcome()
    while outcome.killed < count and not outcome.wrong:
        cache = job.work / f"workers-{outcome.caches}"
        left = min(KILLS_A_RUN, count - outcome.killed)
        while True:
            process = job.run(cache)
            killer = threading.Thread(target=_kill_workers_of, args=(process, rng, left, outcome))
            before = outcome.killed
            killer.start()
            _, said = process.communicate(timeout=900)
            killer.join()
            left -= outcome.killed - before
            if process.returncode == 0:
                break
            if process.returncode != 2 or "Traceback" in said:
                outcome.wrong.append(f"exit code {process.returncode}: {said}")
                return outcome
        outcome.compare(job, cache)
    return outcome


def _kill_workers_of(process: subprocess.Popen[str], rng: random.Random, count: int, outcome: Outcome) -> None:
    for _ in range(count):
        starting = rng.random() < 0.2
        victim, seconds, among = None, rng.random(), rng.random()
        while process.poll() is None and victim is None:
            time.sleep(0.02)
            found = workers_of(process.pid)
            ready = [pid for pid in found if "ShardWorker.extract" in title(pid)]
            wanted = [pid for pid in found if pid not in ready] if starting else ready
            victim = wanted[int(among * len(wanted))] if wanted else None
        time.sleep(seconds * (WHILE_STARTING if starting else IN_THE_WORK))
        if process.poll() is not None or victim is None:
            return
        doing = title(victim).partition("ShardWorker")[2].strip(" .:") or "waiting"
        if kill(victim):
            outcome.killed += 1
            outcome.doing[{"extract": "at a shard", "start": "loading the model"}.get(doing, "between two calls")] += 1


def kill_drivers(job: Job, rng: random.Random, count: int) -> Outcome:
    """Kill drivers, and start the same command again at once, while what they started may still be there."""
    outcome = Outcome()
    orphans: list[int] = []
    while outcome.killed < count and not outcome.wrong:
        cache = job.work / f"drivers-{outcome.caches}"
        while True:
            process = job.run(cache)
            if outcome.killed < count:
                _come_to_a_moment(process, cache, job, rng)
                if process.poll() is None:
                    orphans += below(process.pid)
                    outcome.doing[_stage(cache, job)] += 1
                    outcome.killed += kill(process.pid)
                    process.communicate()
                    continue
            _, said = process.communicate(timeout=900)
            if process.returncode != 0:
                outcome.wrong.append(f"exit code {process.returncode}: {said}")
                return outcome
            break
        outcome.compare(job, cache)
    wait_until_gone([pid for pid in orphans if "ray" in title(pid)], 120)
    return outcome


def _come_to_a_moment(process: subprocess.Popen[str], cache: Path, job: Job, rng: random.Random) -> None:
    """Wait until a driver has been starting for so long, or so many of its shards are committed. It may end before."""
    if rng.random() < 0.2:
        time.sleep(rng.uniform(0, WHILE_STARTING))
        return
    wanted = rng.randint(commits(cache), job.shards)
    while process.poll() is None and commits(cache) < wanted:
        time.sleep(0.02)
    time.sleep(rng.uniform(0, IN_THE_WORK))


def _stage(cache: Path, job: Job) -> str:
    shards = commits(cache)
    if not shards:
        return "before the first shard"
    return "between the shards" if shards < job.shards else "at the index"


INDEXING = {"run": "indexing", "index": "reading arrays", "compact": "merging"}
"""Commands that make the index of a complete cache, and what each says when it begins with that."""


def kill_indexing(job: Job, rng: random.Random, count: int, command: str) -> Outcome:
    """Kill one of INDEXING at moments between its beginning and the new head."""
    outcome = Outcome()
    seconds, whole = 0.0, job.of_index(job.undisturbed)
    cache = job.work / "indexing"
    while outcome.killed < count and not outcome.wrong:
        if not cache.exists():
            shutil.copytree(job.unsealed, cache)
        process = job.begin(command, cache)
        assert process.stderr is not None
        while (line := process.stderr.readline()) and INDEXING[command] not in line:
            pass
        began = time.time()
        try:
            # The first one is left alone: it tells how long there is.
            process.communicate(timeout=rng.uniform(0, seconds) if seconds else 900)
        except subprocess.TimeoutExpired:
            kill(process.pid)
            process.communicate()
            made = job.of_index(contents(cache))
            stage = "before its files" if not made else "between its files" if made < whole else "after its files"
            outcome.killed += 1
            outcome.doing[stage] += 1
            continue
        seconds = seconds or (cache / "commits" / "head-00000002.json").stat().st_mtime - began
        if process.returncode != 0:
            outcome.wrong.append(f"exit code {process.returncode}")
        outcome.compare(job, cache)
    if cache.exists():
        finished(job.begin(command, cache))
        outcome.compare(job, cache)
    return outcome


def storm(work: Path, seed: int, count: int, images: int) -> Iterator[tuple[str, Outcome]]:
    """`count` kills: half of them of workers, a tenth of drivers, the others of what makes an index."""
    job = Job.make(work, images)
    drivers, runs, commands = count // 10, count // 10, 3 * count // 20
    yield "a worker", kill_workers(job, random.Random(f"workers/{seed}"), count - drivers - runs - 2 * commands)
    yield "the driver", kill_drivers(job, random.Random(f"drivers/{seed}"), drivers)
    for command, times in (("run", runs), ("index", commands), ("compact", commands)):
        what = "a run at its index" if command == "run" else f"`vlq {command}`"
        yield what, kill_indexing(job, random.Random(f"{command}/{seed}"), times, command)
