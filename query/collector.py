"""Python's collector of cycles, kept from looking at what stays."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

MANY = 100_000
"""So many new objects take longer to look through than an answer may."""


@contextmanager
def collector_paused() -> Iterator[None]:
    """While a million objects are made, rows or what PyTorch consists of, Python looks for cycles among them again and
    again. Few of them are in any, and of rows that takes longer than to make them.

    What is made is old when the pause ends, else they would be looked through once more; not where old objects were set
    aside (`gc.freeze`), which would come back with them.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if gc.get_count()[0] > MANY and not gc.get_freeze_count():
            gc.freeze()
            gc.unfreeze()
        gc.enable()
