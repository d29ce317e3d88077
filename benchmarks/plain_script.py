"""Extraction against the script that people write today (`lens_script.py`): the same images, model and cores."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.inputs import PROMPT, Case, small, wide
from benchmarks.measure import Figure, in_turns, process, rate, spread
from benchmarks.timed_run import timed_run

LEAST = 3.0
ROUNDS = 3
K = 20


def run(work: Path, *, quick: bool = False, images: int = 0) -> Iterator[Figure]:
    for case, least in ((small(work, quick=quick), LEAST), (wide(work, quick=quick), None)):
        yield from measure(work, case, 1 if quick else ROUNDS, least)


def measure(work: Path, case: Case, rounds: int, least: float | None) -> Iterator[Figure]:
    """Images a second from the first image to the sealed index, and with everything that comes before."""
    runs, scripts = in_turns(
        rounds,
        lambda: timed_run(case, work / "plain-cache"),
        lambda: plain_script(case, work / "plain-files"),
    )
    ours = [case.count / timed.sealed for timed in runs]
    theirs = [case.count / loop for loop, _ in scripts]
    note = f"{case.count} images; run {spread(ours)}, script {spread(theirs)}"
    yield rate(f"{case.name}, start-up left out", median(ours), median(theirs), "script", least=least, note=note)
    yield rate(
        f"{case.name}, start-up included",
        median(case.count / timed.whole for timed in runs),
        median(case.count / whole for _, whole in scripts),
        "script",
    )


def plain_script(case: Case, out: Path) -> tuple[float, float]:
    """Seconds of the script's loop, and of its process."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    command = [sys.executable, "-m", "benchmarks.lens_script", str(case.images), str(case.model), str(out), PROMPT]
    start = time.perf_counter()
    printed = process([*command, str(K)])
    return float(printed.split()[-1]), time.perf_counter() - start
