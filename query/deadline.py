"""How long questions may take, where somebody else asks them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import duckdb

from vlq.query.errors import LimitReached

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

LOOK = 0.1
"""Seconds between two looks at what is late. What was stopped is stopped again: a cursor that had not begun yet goes on
as if nothing had been."""


class Deadline:
    """Stops what one thread asks, when its time is over or when nobody waits for it any more."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._cursors: list[DuckDBPyConnection] = []
        self._why: str | None = None
        self._end = float("inf")

    def watch(self, cursor: DuckDBPyConnection) -> None:
        """Have a cursor stopped, too. Raises LimitReached if it is late already."""
        if self._why is not None:
            raise self.error()
        self._cursors.append(cursor)

    def stop(self, why: str = "Nobody waited for the answer any more.") -> None:
        """Stop it now."""
        self._why = self._why or why
        for cursor in self._cursors:
            cursor.interrupt()

    def error(self) -> LimitReached:
        return LimitReached(self._why or "The query was stopped.", "Ask for less: layers=, images=, or .limit(...).")

    def look(self) -> None:
        """Stop it if its time is over."""
        if time.monotonic() >= self._end:
            self.stop(f"The query was stopped after {self.seconds:g} seconds.")

    @contextmanager
    def running(self) -> Iterator[None]:
        """The time runs. Raises LimitReached when it was stopped."""
        self._end = time.monotonic() + self.seconds
        CLOCK.begin(self)
        try:
            yield
        except duckdb.InterruptException as error:
            raise self.error() from error
        finally:
            CLOCK.end(self)
            self._cursors.clear()


class Clock:
    """One thread that looks after all deadlines: to begin one for each takes as long as many a question."""

    def __init__(self) -> None:
        self._running: set[Deadline] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def begin(self, deadline: Deadline) -> None:
        with self._changed:
            self._running.add(deadline)
            if self._thread is None or not self._thread.is_alive():  # a process that was forked has none
                self._thread = threading.Thread(target=self._run, daemon=True, name="deadlines")
                self._thread.start()
            elif len(self._running) == 1:
                self._changed.notify()

    def end(self, deadline: Deadline) -> None:
        with self._changed:
            self._running.discard(deadline)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._running)
                running = list(self._running)
            for deadline in running:
                deadline.look()
            time.sleep(LOOK)


CLOCK = Clock()
