"""Temporary folders for what is merged, which may be as large as an index, and for single images that are looked at.
Those of killed processes go, too."""

from __future__ import annotations

import errno
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from vlq.query.errors import StoreError

PREFIX = "vlq-scratch-"

LOCK = "in-use"
"""A file in the folder, locked for as long as its process lives."""

YOUNG = 60.0
"""Seconds in which nobody takes an unlocked folder for abandoned: it may just not be locked yet."""


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder. Another thread may leave it than entered it. Raises StoreError if its disk is full."""
    remove_abandoned()
    try:
        with tempfile.TemporaryDirectory(prefix=PREFIX) as folder, FileLock(Path(folder, LOCK), thread_local=False):
            yield Path(folder)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StoreError(
            f"No space left in {tempfile.gettempdir()}, where the index is merged.",
            "Free some, or name another folder: $TMPDIR. The same command goes on.",
        ) from error


def remove_abandoned() -> None:
    """Remove the folders of processes that were killed."""
    for lock in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{LOCK}"):
        try:
            if time.time() - lock.stat().st_mtime > YOUNG:
                with FileLock(lock, timeout=0):
                    shutil.rmtree(lock.parent, ignore_errors=True)
        except OSError:  # its process lives, or it is another user's, or gone
            continue
