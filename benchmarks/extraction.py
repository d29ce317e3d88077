"""Extraction: `vlq run` in its steady state against a loop of nothing but the arithmetic.

Ours is the real thing: Ray's workers, which fetch, decode, run the model, apply the lens (entropy, summed
probabilities and exact ties with it), encode, put, index and commit. Its images a second are taken from the commit
that ends the first quarter of the shards to the last commit, so process start and model loading are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks.bare import Task, bare_loop
from benchmarks.inputs import PROMPT, Case, small, wide
from benchmarks.measure import Figure, faster, in_turns, rate, spread
from benchmarks.timed_run import timed_run
from vlq.query.cache.reader import Cache
from vlq.workers.machine import cpu_count

LEAST = 0.85
ROUNDS = 3


def run(work: Path, *, quick: bool = False, images: int = 0) -> Iterator[Figure]:
    for case in (small(work, quick=quick), wide(work, quick=quick)):
        yield from measure(work, case, 1 if quick else ROUNDS)


def measure(work: Path, case: Case, rounds: int) -> Iterator[Figure]:
    """The case's figure, and the same with VLQ's own top-k in the loop."""
    cache = work / "extraction-cache"
    timed_run(case, cache)  # the first one finds nothing in the page cache; and it pins threads, which the loop takes
    pinned = Cache.open(str(cache)).run
    task = Task(
        model=str(case.model),
        images=str(case.images),
        prompt=PROMPT,
        k=pinned.k,
        batch_size=pinned.batch_size,
        processes=max(1, cpu_count() // pinned.threads),
        threads=pinned.threads,
    )
    runs, loops, with_own = in_turns(
        rounds,
        lambda: timed_run(case, cache),
        lambda: bare_loop(task),
        lambda: bare_loop(replace(task, top="vlq")),
    )
    ours, theirs = [timed.steady for timed in runs], [loop.steady for loop in loops]
    about = (
        f"{case.count} images, {pinned.layers} layers, {pinned.grid[0]} x {pinned.grid[1]} patches and "
        f"{len(pinned.prompt_ids)} prompt tokens, vocabulary {pinned.vocabulary_size:,}, k {pinned.k}, batches of "
        f"{pinned.batch_size}, {task.processes} workers of {task.threads} threads; run {spread(ours)}, "
        f"loop {spread(theirs)} with blocks of {loops[0].block} positions"
    )
    yield rate(case.name, median(ours), median(theirs), "bare loop", least=LEAST, note=about)
    own = [loop.steady for loop in with_own]
    yield rate(f"{case.name}, with VLQ's top-k in the loop", median(ours), median(own), "bare loop")
    used = [timed.cpu for timed in runs if timed.cpu is not None]
    if used:  # says the same where the machine is quiet, and still does where it isn't
        cpu = median(used), median(loop.cpu for loop in loops)
        yield faster(f"{case.name}, CPU time an image", *cpu, "bare loop", note=f"run {spread(used)}")
