"""A cache is read by threads of DuckDB's and obstore's. They are not there in a process that was forked off, where
whatever waits for them would wait forever: it is an error instead."""

from __future__ import annotations

import os

from vlq.query.errors import Forked

_process: int | None = None
"""The process whose threads read, from the first reading on."""


def check_process() -> None:
    """Raises Forked where caches were read before this process was forked off."""
    global _process
    here = os.getpid()
    if _process is None:
        _process = here
    elif _process != here:
        raise Forked(
            "This process was forked off one that had read a cache, whose threads are not here.",
            "Start it by multiprocessing.get_context('spawn'), for a DataLoader multiprocessing_context='spawn': "
            "a corpus that is passed to it is opened there anew.",
        )
