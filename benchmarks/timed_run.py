"""`vlq run` with a stopwatch: a process of its own that prints what the tracker was told, and when."""

from __future__ import annotations

import json
import shutil
import sys
import time
import uuid
from dataclasses import astuple, dataclass
from pathlib import Path

from benchmarks.inputs import PROMPT, Case
from benchmarks.measure import cpu_seconds, figures_of

WARM_UP = 0.25
"""Of the shards: by then every worker has loaded its model and committed some."""


MARKER = "VLQ_BENCHMARK_RUN"
"""An environment variable that tells the run's processes from all others."""


@dataclass(frozen=True)
class Report:
    """What was told at one moment."""

    when: float
    images: int  # committed by then
    is_warm: bool
    cpu: float | None = None  # seconds that all processes had used by then


@dataclass(frozen=True)
class Timed:
    """A run's moments, in seconds from its process' start."""

    reports: list[Report]  # one a commit, and before them one of no images
    whole: float  # the process, from its start to its end
    sealed: float  # from the first report to the sealed index

    @property
    def _span(self) -> tuple[Report, Report]:
        """The end of the warm-up and the last commit."""
        return next(report for report in self.reports if report.is_warm), self.reports[-1]

    @property
    def steady(self) -> float:
        """Images a second in the steady state."""
        start, end = self._span
        return (end.images - start.images) / (end.when - start.when)

    @property
    def cpu(self) -> float | None:
        """Milliseconds of CPU time an image in the steady state: all processes of the run, Ray's own too."""
        start, end = self._span
        if start.cpu is None or end.cpu is None:
            return None
        return (end.cpu - start.cpu) * 1000 / (end.images - start.images)


def timed_run(case: Case, cache: Path) -> Timed:
    """Read the case's images into a new cache; it stays until the next run."""
    shutil.rmtree(cache, ignore_errors=True)
    command = [sys.executable, "-m", "benchmarks.timed_run", str(case.images), str(case.model), str(cache)]
    start = time.perf_counter()
    # Ray gives way to other processes, which the other side doesn't: whatever else runs would hit this one alone.
    environment = {MARKER: str(uuid.uuid4()), "RAY_worker_niceness": "0"}
    told = figures_of([*command, str(case.batch_size), str(case.shard_size)], **environment)
    whole = time.perf_counter() - start
    reports = [Report(*report) for report in told["reports"]]
    return Timed(reports, whole, told["end"] - reports[0].when)


class Stopwatch:
    """A tracker that remembers when it was told what."""

    def __init__(self) -> None:
        self.reports: list[Report] = []

    def say(self, text: str) -> None:
        print(text, file=sys.stderr)

    def phase(self, text: str) -> None:
        pass

    def images(self, done: int, total: int, errors: int, fresh: int, doing: str = "reading") -> None:
        warm = fresh >= WARM_UP * total
        # Adding up takes a moment, so it is done only where it is used.
        first = warm and not any(report.is_warm for report in self.reports)
        cpu = cpu_seconds(MARKER) if first or fresh == total else None
        self.reports.append(Report(time.perf_counter(), fresh, warm, cpu))


def main() -> None:
    from vlq.workers.job import run_job
    from vlq.workers.plan import RunOptions

    images, model, cache, batch_size, shard_size = sys.argv[1:]
    watch = Stopwatch()
    options = RunOptions(
        images=images, model=model, cache=cache, prompt=PROMPT, batch_size=int(batch_size), shard_size=int(shard_size)
    )
    run_job(options, watch)
    print(json.dumps({"reports": [astuple(report) for report in watch.reports], "end": time.perf_counter()}))


if __name__ == "__main__":
    main()
