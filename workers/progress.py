"""What long work shows: a bar on a terminal, a line every few seconds elsewhere, or JSON lines. All on stderr."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import UTC, datetime
from typing import Any, Protocol

LINE_EVERY = 5.0
"""Seconds between two lines where there is no terminal."""

BAR, NARROW = 20, 80
"""Columns of a bar, and of the terminal below which there is none."""

READING = "reading"
"""What a run does to images."""


class Tracker(Protocol):
    """Told how far a run is."""

    def say(self, text: str) -> None:
        """A line that stays."""

    def phase(self, text: str) -> None:
        """What is being done now."""

    def images(self, done: int, total: int, errors: int, fresh: int, doing: str = READING) -> None:
        """`done` of `total` images are done, `errors` of them had an error, `fresh` of them were done by this command;
        `doing` is what is done to them."""


@contextmanager
def tracker(*, as_json: bool = False) -> Iterator[Tracker]:
    """The tracker that fits where stderr goes. The log's warnings go there, too; as JSON, all of the log does."""
    if as_json:
        with _logged(_JsonLines(), logging.INFO):
            yield _Logged()
    elif _is_written_over():
        with _Bar() as bar, _logged(_Said(bar), logging.WARNING):
            yield bar
    else:
        lines = _Lines()
        with _logged(_Said(lines), logging.WARNING):
            yield lines


def _is_written_over() -> bool:
    """Whether stderr is a terminal where a line can take another one's place. On others a bar shows nothing at all."""
    return sys.stderr.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


@contextmanager
def printing_said(tracker: Tracker) -> Iterator[None]:
    """What others print meanwhile is said, as Ray's word of a worker that died: stdout is for answers."""
    with redirect_stdout(_Printed(tracker)):
        yield


class _Printed(io.TextIOBase):
    """What is printed is said, line by line."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def write(self, text: str) -> int:
        for line in text.splitlines():
            if line.strip():
                self._tracker.say(line)
        return len(text)


@contextmanager
def _logged(handler: logging.Handler, level: int) -> Iterator[None]:
    """What modules of this room log is handled so."""
    logger = logging.getLogger("vlq.workers")
    before = logger.level, logger.propagate
    logger.setLevel(level)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before


class _Said(logging.Handler):
    """Log lines as lines of a tracker."""

    def __init__(self, shown: Tracker) -> None:
        super().__init__()
        self._shown = shown

    def emit(self, record: logging.LogRecord) -> None:
        self._shown.say(record.getMessage())


class _JsonLines(logging.Handler):
    """Log lines as JSON: time, level, event, and the `fields` that a line was given."""

    def emit(self, record: logging.LogRecord) -> None:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": when, "level": record.levelname.lower(), "event": record.getMessage()}
        print(json.dumps(line | getattr(record, "fields", {}), ensure_ascii=False), file=sys.stderr, flush=True)


class _Logged:
    """A tracker that logs."""

    def __init__(self) -> None:
        self._log = logging.getLogger(__name__)

    def say(self, text: str) -> None:
        self._log.info("%s", text)

    phase = say

    def images(self, done: int, total: int, errors: int, fresh: int, doing: str = READING) -> None:
        fields: dict[str, int | str] = {"done": done, "total": total, "errors": errors, "fresh": fresh}
        fields |= {} if doing == READING else {"doing": doing}
        self._log.info("progress", extra={"fields": fields})


@contextmanager
def steps() -> Iterator[Callable[[str, int, int], None]]:
    """A function to tell what is being done, how many steps of it are done, and of how many."""
    with tracker() as shown:
        last_text, last_time = "", float("-inf")
        every = 0.1 if _is_written_over() else LINE_EVERY

        def step(text: str, done: int, total: int) -> None:
            nonlocal last_text, last_time
            now = time.monotonic()
            if text != last_text or done == total or now - last_time >= every:
                last_text, last_time = text, now
                shown.phase(f"{text}: {done:,} of {total:,}" if total else text)

        yield step


def seldom(shown: Tracker) -> Callable[[str, int, int], None]:
    """The same for a part of a run, which tells only what takes long, every few seconds."""
    last = time.monotonic()

    def step(text: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= LINE_EVERY:
            last = now
            shown.phase(f"{text}: {done:,} of {total:,}")

    return step


class _Bar:
    """A bar with images/s, errors so far and time left. A narrow terminal has the words alone, in lines that fit."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.table import Column

        console = Console(stderr=True)
        is_narrow = console.width < NARROW
        self._progress = Progress(
            SpinnerColumn(),
            *([] if is_narrow else [BarColumn(BAR)]),
            TextColumn("{task.description} {task.fields[figures]}", table_column=Column(no_wrap=False)),
            *([] if is_narrow else [TimeElapsedColumn()]),
            console=console,
            transient=True,
        )
        self._rate = _Rate()
        self._task: Any = None

    def __enter__(self) -> _Bar:
        self._progress.start()
        self._task = self._progress.add_task("starting", total=None, figures="")
        return self

    def __exit__(self, *raised: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, markup=False)

    def phase(self, text: str) -> None:
        self._progress.update(self._task, description=text)

    def images(self, done: int, total: int, errors: int, fresh: int, doing: str = READING) -> None:
        self._progress.update(
            self._task,
            description=doing,
            completed=done,
            total=total,
            figures=self._rate.figures(done, total, errors, fresh, doing),
        )


class _Lines:
    """Plain lines, not too many."""

    def __init__(self) -> None:
        self._rate = _Rate()
        self._said = float("-inf")

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    phase = say

    def images(self, done: int, total: int, errors: int, fresh: int, doing: str = READING) -> None:
        now = time.monotonic()
        figures = self._rate.figures(done, total, errors, fresh, doing)
        if now - self._said >= LINE_EVERY or done == total:
            self._said = now
            self.say(figures)


class _Rate:
    """Images per second since the first report of what is done now."""

    def __init__(self) -> None:
        self._doing: str | None = None
        self._start = 0.0

    def figures(self, done: int, total: int, errors: int, fresh: int, doing: str) -> str:
        now = time.monotonic()
        if self._doing != doing:
            self._doing, self._start = doing, now
        seconds = now - self._start
        figures = [f"{done:,} of {total:,} images"]
        if fresh and seconds > 0:
            rate = fresh / seconds
            figures.append(f"{rate:.1f} images/s" if rate < 10 else f"{rate:.0f} images/s")
            if done < total:
                figures.append(f"{duration((total - done) / rate)} left")
        if errors:
            figures.append(f"{errors:,} error{'s' if errors > 1 else ''}")
        return ", ".join(figures)


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
