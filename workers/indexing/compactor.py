"""Indexing beside a run, so that questions about a cache that grows need not look into each shard by itself."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator

from vlq.query.cache.reader import Cache
from vlq.query.cache.records import records
from vlq.query.schema import HEADS, Head, Run
from vlq.query.store import Store

FIRST = 64
"""So many shards are indexed first, then twice as many each time: a run merges its rows twice instead of once."""

log = logging.getLogger(__name__)


class Compactor:
    """Told of a run's committed shards, has the first 64, 128, 256, ... of them indexed by processes of their own.

    The driver has neither their records in memory nor less time for its workers then. What is made is for readers
    only: the run's last index does not depend on it, and does without if it fails. Which indexes are made depends on
    the number of shards alone, so that runs that were stopped and gone on with leave the same objects as others.
    """

    def __init__(self, store: Store, url: str, run: Run, head: Head, committed: Iterable[int]) -> None:
        """`url` is the store's, as any process understands it."""
        self._url = url
        self._committed = set(committed)
        self._covered = 0
        self._process: subprocess.Popen[str] | None = None
        self._indexing: threading.Thread | None = None
        indexed = Cache(store.url, store, run).indexed(head)
        made = {shards for shards, _ in records(store, after=HEADS).interims}
        self._due = [shards for shards in sizes(head.shards) if shards > indexed and shards not in made]
        self._stopped = False

    def committed(self, shard: int) -> None:
        """A shard is committed, by whomever."""
        self._committed.add(shard)
        self._go_on()

    def _go_on(self) -> bool:
        """Begin with the next index that is due, once its shards are there and the one before is done.

        False if there is none to begin with or to wait for.
        """
        while self._covered in self._committed:
            self._covered += 1
        if self._indexing is not None and self._indexing.is_alive():
            return True
        if self._stopped or not self._due or self._due[0] > self._covered:
            return False
        shards = self._due.pop(0)
        command = [sys.executable, "-m", "vlq", "compact", "--cache", self._url, "--shards", str(shards)]
        command += ["--processes", "1"]  # the others are the workers'
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self._indexing = threading.Thread(target=self._wait, args=(self._process, shards), daemon=True)
        self._indexing.start()
        return True

    def _wait(self, process: subprocess.Popen[str], shards: int) -> None:
        _, said = process.communicate()
        if process.returncode and not self._stopped:
            reason = next((line for line in said.splitlines() if line.startswith("vlq: ")), "vlq: its process died.")
            log.warning("The first %d shards are not indexed: %s", shards, reason.removeprefix("vlq: "))

    def join(self) -> None:
        """Wait until all that can be is done."""
        while self._go_on():
            assert self._indexing is not None
            self._indexing.join()

    def stop(self) -> None:
        """Do no more."""
        self._stopped = True
        if self._process is not None:
            self._process.terminate()


def sizes(shards: int) -> Iterator[int]:
    """How many of so many shards are indexed before all are there, each time."""
    size = FIRST
    while size < shards:
        yield size
        size *= 2
