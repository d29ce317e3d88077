"""The storm: every fault that a run is to survive, in full counts. What docs/faults.md says was measured is its output.

python -m tests.storm [kills] [hostile] [drivers] [servers] [--seed 0] [--kills 200] [--hostile 1000] [--pairs 10]
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from vlq.query.summary import count

from ..workers.runs import finished
from . import hostile, kills, objects

Row = tuple[str, str, str, list[str]]  # the fault, how often, what was seen, what went wrong


def kill_nine(work: Path, given: argparse.Namespace) -> Iterator[Row]:
    for what, outcome in kills.storm(work, given.seed, given.kills, given.images):
        doing = ", ".join(f"{times} {moment}" for moment, times in outcome.doing.most_common())
        seen = f"{doing}; {count(outcome.caches, 'cache')} compared"
        yield f"kill -9: {what}", str(outcome.killed), seen, outcome.wrong


def hostile_images(work: Path, given: argparse.Namespace) -> Iterator[Row]:
    outcome = hostile.storm(work, given.seed, given.hostile)
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(outcome.kinds.items()))
    seen = f"{kinds}; {outcome.unread} recorded as unreadable, the others read"
    seen += f"; the worker grew by {outcome.grown:.2f} GiB, bound {hostile.BOUND} GiB"
    yield "hostile images in one run", str(given.hostile), seen, outcome.wrong


def two_drivers(work: Path, given: argparse.Namespace) -> Iterator[Row]:
    """Pairs of runs, the second begun within a run's time of the first."""
    job, rng = kills.Job.make(work, given.images), random.Random(f"drivers/{given.seed}")
    outcome = kills.Outcome()
    for pair in range(given.pairs):
        cache = work / f"pair-{pair}"
        first = job.run(cache)
        time.sleep(rng.uniform(0, job.seconds) if pair else 0)
        second = job.run(cache)
        for process in (first, second):
            try:
                finished(process)
            except AssertionError as error:
                outcome.wrong.append(str(error))
        outcome.compare(job, cache)
    seen = f"{count(outcome.caches, 'cache')} compared"
    yield "two drivers on one cache", f"{given.pairs} pairs", seen, outcome.wrong


def servers(work: Path, given: argparse.Namespace) -> Iterator[Row]:
    for name, faults, outcome in objects.storm(work, given.seed, given.images):
        happened = ", ".join(f"{count} {fault}" for fault, count in sorted(faults.happened.items()))
        usual, took = outcome.seconds
        seen = f"of {faults.requests.total()} requests: {happened}; {took:.0f} s, {usual:.0f} s on a good day"
        yield f"S3: {name}", str(faults.happened.total()), seen, [f"{key} differs" for key in outcome.differing]


PARTS: dict[str, Callable[[Path, argparse.Namespace], Iterator[Row]]] = {
    "hostile": hostile_images,
    "kills": kill_nine,
    "drivers": two_drivers,
    "servers": servers,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.storm", description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--hostile", type=int, default=1000, help="images")
    parser.add_argument("--pairs", type=int, default=10, help="of drivers at once")
    parser.add_argument("--images", type=int, default=140, help="of every other run")
    given = parser.parse_args()
    if unknown := sorted({*given.parts} - {*PARTS}):
        parser.error(f"there is no part {unknown[0]}; there is {', '.join(PARTS)}")
    failed = 0
    print(
        f"Seed {given.seed}.\n\n| fault | times | seen | ends as if undisturbed |\n| --- | --- | --- | --- |",
        flush=True,
    )
    for part in given.parts or PARTS:
        with tempfile.TemporaryDirectory(prefix="vlq-storm-") as work:
            for fault, times, seen, wrong in PARTS[part](Path(work), given):
                print(f"| {fault} | {times} | {seen} | {'no' if wrong else 'yes'} |", flush=True)
                failed += bool(wrong)
                for line in wrong:
                    print(line, file=sys.stderr, flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
