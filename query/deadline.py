"""How long questions may take, where somebody else asks them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import duckdb

from vlq.query.errors import LimitReached

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

AGAIN = 0.2
"""Seconds until a cursor is interrupted again: one that had not begun yet goes on as if nothing had been."""


class Deadline:
    """Stops what one thread asks, when its time is over or when nobody waits for it any more."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._cursors: list[DuckDBPyConnection] = []
        self._why: str | None = None
        self._done = threading.Event()

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

    def _run(self) -> None:
        wait = self.seconds
        while not self._done.wait(wait):
            self.stop(f"The query was stopped after {self.seconds:g} seconds.")
            wait = AGAIN

    @contextmanager
    def running(self) -> Iterator[None]:
        """The time runs. Raises LimitReached when it was stopped."""
        threading.Thread(target=self._run, daemon=True, name="deadline").start()
        try:
            yield
        except duckdb.InterruptException as error:
            raise self.error() from error
        finally:
            self._done.set()
            self._cursors.clear()
