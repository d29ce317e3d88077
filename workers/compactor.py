"""Indexing beside a run, so that questions about a cache that grows need not look into each shard by itself."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable

from vlq.query.schema import Head, Run
from vlq.query.store import Store
from vlq.workers.index import compact, publish

FIRST = 64
"""So many shards are indexed first, then twice as many as before: a run merges its rows twice instead of once, and a
question looks into half of the shards by themselves at most."""

log = logging.getLogger(__name__)


class Compactor:
    """Told of a run's committed shards, indexes them from time to time, on a thread of its own.

    What it makes is for readers only: the run's last index does not depend on it, and does without if it fails.
    """

    def __init__(self, store: Store, run: Run, head: Head, committed: Iterable[int]) -> None:
        self._store, self._run, self._head = store, run, head
        self._committed = set(committed)
        self._covered = 0
        self._next = FIRST
        self._indexing: threading.Thread | None = None
        self._advance()
        while self._next <= self._covered:  # what was committed before was indexed before, or is so with the next ones
            self._next *= 2

    def _advance(self) -> None:
        """Count the shards before the first that is not committed: an index covers these."""
        while self._covered in self._committed:
            self._covered += 1

    def committed(self, shard: int) -> None:
        """A shard is committed, by whomever."""
        self._committed.add(shard)
        self._advance()
        busy = self._indexing is not None and self._indexing.is_alive()
        if self._next <= self._covered < self._head.shards and not busy:
            while self._next <= self._covered:
                self._next *= 2
            self._indexing = threading.Thread(target=self._index, name="compactor", daemon=True)
            self._indexing.start()

    def _index(self) -> None:
        try:
            key, manifest = compact(self._store, self._run, self._head)
            if manifest.shards < self._head.shards:  # else the run itself is about to
                publish(self._store, self._head, key, manifest)
        except Exception as error:
            log.warning("The shards so far are not indexed: %s", getattr(error, "message", repr(error)))

    def join(self) -> None:
        """Wait until it is done."""
        if self._indexing is not None:
            self._indexing.join()
