"""Work that is done by several processes of this machine at once."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import starmap
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self, TypeVar

import pyarrow as pa

from vlq.query.errors import RunError

AHEAD = 2
"""Jobs a process that are begun before the first one's result is used: what they make waits on the disk."""

T = TypeVar("T")


class Processes:
    """A context that has jobs done by so many processes. They end with it, and if this process dies.

    None is started for one process, or for one job, unless `start` is called.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._executor: ProcessPoolExecutor | None = None
        self._lifeline: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._executor is None or self._lifeline is None:
            return
        if kind is None:
            self._executor.shutdown()
        self._lifeline.close()  # which ends those that still work
        self._executor.shutdown(wait=False, cancel_futures=True)

    def start(self) -> None:
        """Have them start, while there is something else to do."""
        if self.count > 1:
            for _ in range(self.count):  # each starts when a job comes that no idle one is there for
                self._started().submit(int)

    def map(self, function: Callable[..., T], jobs: Sequence[tuple[Any, ...]]) -> Iterator[T]:
        """What the function gives for each job's arguments, in their order. Raises what it raises, and RunError if a
        process dies."""
        if self.count == 1 or len(jobs) == 1:
            yield from starmap(function, jobs)
            return
        executor = self._started()
        begun: deque[Future[T]] = deque()
        try:
            for job in jobs:
                begun.append(executor.submit(function, *job))
                if len(begun) == AHEAD * self.count:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        except BrokenProcessPool as error:
            raise RunError(
                "A process that did a part of the work died.",
                "If memory is short, have fewer of them: --processes 1",
            ) from error

    def _started(self) -> ProcessPoolExecutor:
        if self._executor is None:
            context = get_context("spawn")  # a fork would inherit locks that other threads hold
            ours, theirs = context.Pipe(duplex=False)
            self._lifeline = theirs
            self._executor = ProcessPoolExecutor(self.count, context, _begin, (ours,))
        return self._executor


def _begin(lifeline: Connection) -> None:
    """In a new process: end when the other end of a pipe is closed, by whoever holds it or by its death."""
    if "jemalloc" in pa.supported_memory_backends():
        # Arrow's own choice gives memory back at once, and to have it again takes a fifth of what merging does.
        pa.set_memory_pool(pa.jemalloc_memory_pool())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all of a terminal's processes; the first one decides

    def wait() -> None:
        lifeline.poll(None)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
