"""Two sides, measured in turns in one run: both meet the same noise, and medians leave most of it out."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from vlq.workers.machine import cpu_count

LIBRARIES = ("vlq", "torch", "transformers", "ray", "numpy", "zarr", "numcodecs", "pyarrow", "duckdb", "pillow")


@dataclass(frozen=True)
class Figure:
    """One aim: what VLQ does, what the other side does, and how many times better VLQ must be.

    `ratio` is already the right way round: higher is better.
    """

    name: str
    ours: float
    unit: str
    theirs: float | None = None
    other: str = ""  # what the other side is
    ratio: float | None = None
    aim: str = ""  # in words; empty if the figure only stands beside others
    met: bool | None = None
    note: str = ""

    def __str__(self) -> str:
        text = f"  {self.name}: {number(self.ours)} {self.unit}"
        if self.theirs is not None:
            text += f"; {self.other}: {number(self.theirs)} {self.unit}"
        if self.ratio is not None:
            text += f"; ratio {number(self.ratio)}"
        if self.aim:
            text += f" (aim: {self.aim}{'' if self.met is None else ', met' if self.met else ', MISSED'})"
        return text + (f"\n      {self.note}" if self.note else "")


def faster(name: str, ours: float, theirs: float, other: str, *, least: float | None = None, note: str = "") -> Figure:
    """Seconds or milliseconds against each other: theirs over ours."""
    return _compared(name, ours, theirs, other, "ms", theirs / ours, least, note)


def rate(name: str, ours: float, theirs: float, other: str, *, least: float | None = None, note: str = "") -> Figure:
    """Images a second against each other: ours over theirs."""
    return _compared(name, ours, theirs, other, "images/s", ours / theirs, least, note)


def _compared(
    name: str, ours: float, theirs: float, other: str, unit: str, ratio: float, least: float | None, note: str
) -> Figure:
    aim = "" if least is None else f"ratio of at least {number(least)}"
    return Figure(name, ours, unit, theirs, other, ratio, aim, None if least is None else ratio >= least, note)


def at_most(name: str, ours: float, unit: str, most: float, *, note: str = "") -> Figure:
    """One side alone, held against a bound."""
    return Figure(name, ours, unit, aim=f"at most {number(most)} {unit}", met=ours <= most, note=note)


def number(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def in_turns(rounds: int, *sides: Callable[[], Any]) -> list[list[Any]]:
    """Call the sides one after another, A B A B ...; returns each side's results."""
    results: list[list[Any]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, kept in zip(sides, results, strict=True):
            kept.append(side())
    return results


def milliseconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000


def process(command: Sequence[str], **environment: str) -> str:
    """What a command prints. Its complaints are shown only if it fails."""
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        env={**os.environ, **quiet, **environment},
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed:\n{done.stderr}")
    return done.stdout


def figures_of(command: Sequence[str], **environment: str) -> dict[str, Any]:
    """What a command prints as JSON in a line of its own. Ray may warn of something after it."""
    lines = [line for line in process(command, **environment).splitlines() if line.startswith("{")]
    return dict(json.loads(lines[-1]))


def cpu_seconds(variable: str) -> float | None:
    """CPU time by now of all living processes that inherited this environment variable's value. None but on Linux."""
    marker = f"{variable}={os.environ[variable]}".encode()
    ticks = 0
    try:
        for folder in Path("/proc").iterdir():
            if not folder.name.isdecimal():
                continue
            try:
                if marker in (folder / "environ").read_bytes().split(b"\0"):
                    fields = (folder / "stat").read_text().rpartition(")")[2].split()
                    ticks += int(fields[11]) + int(fields[12])  # in user and in system mode
            except OSError:  # it ended meanwhile, or is another user's
                continue
    except OSError:
        return None
    return ticks / os.sysconf("SC_CLK_TCK") if ticks else None


def spread(values: Sequence[float]) -> str:
    """The median, and what lies around it."""
    return f"{number(median(values))} ({number(min(values))} to {number(max(values))} in {len(values)})"


def machine() -> dict[str, Any]:
    """Cores and versions: what figures depend on."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "cores": cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "machine": platform.machine(),
        "versions": versions,
    }


def as_json(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    return [asdict(figure) for figure in figures]
