"""Indexing beside a run, so that questions about a cache that grows need not look into each shard by itself."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator

from vlq.query.cache import Cache, records
from vlq.query.schema import HEADS, Head, Run
from vlq.query.store import Store
from vlq.workers.index import compact, publish

FIRST = 64
"""So many shards are indexed first, then twice as many each time: a run merges its rows twice instead of once."""

log = logging.getLogger(__name__)


class Compactor:
    """Told of a run's committed shards, indexes the first 64, 128, 256, ... of them on a thread of its own.

    What it makes is for readers only: the run's last index does not depend on it, and does without if it fails. Which
    indexes are made depends on the number of shards alone, so that runs that were stopped and gone on with leave the
    same objects as others.
    """

    def __init__(self, store: Store, run: Run, head: Head, committed: Iterable[int]) -> None:
        self._store, self._run, self._head = store, run, head
        self._committed = set(committed)
        self._covered = 0
        self._indexing: threading.Thread | None = None
        indexed = Cache(store.url, store, run).indexed(head)
        made = {shards for shards, _ in records(store, after=HEADS).interims}
        self._due = [shards for shards in sizes(head.shards) if shards > indexed and shards not in made]

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
        if not self._due or self._due[0] > self._covered:
            return False
        self._indexing = threading.Thread(target=self._index, args=(self._due.pop(0),), name="compactor", daemon=True)
        self._indexing.start()
        return True

    def _index(self, shards: int) -> None:
        try:
            publish(self._store, self._head, *compact(self._store, self._run, self._head, most=shards))
        except Exception as error:
            log.warning("The first %d shards are not indexed: %s", shards, getattr(error, "message", repr(error)))

    def join(self) -> None:
        """Wait until all that can be is done."""
        while self._go_on():
            assert self._indexing is not None
            self._indexing.join()


def sizes(shards: int) -> Iterator[int]:
    """How many of so many shards are indexed before all are there, each time."""
    size = FIRST
    while size < shards:
        yield size
        size *= 2
