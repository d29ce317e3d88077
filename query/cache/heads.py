"""Writing heads: several processes may each have something new to say of a cache, and nothing that is said is lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from vlq.query.cache.records import latest_head
from vlq.query.errors import CacheError
from vlq.query.schema import Finished, Head, head_key
from vlq.query.store import Store


def renew(store: Store, change: Callable[[Head], Head]) -> Head:
    """The newest head as `change` makes it, under the next number; the newest one itself if nothing changed.

    Where another writer was first, its head is changed in turn. Raises CacheError if there is no head yet.
    """
    while True:
        newest = planned(store)
        changed = replace(change(newest), number=newest.number)
        if changed == newest:
            return newest
        made = replace(changed, number=newest.number + 1)
        if store.create(head_key(made.number), made.to_bytes()):
            return made


def planned(store: Store) -> Head:
    """The newest head. Raises CacheError if there is none: the run was stopped before it had listed its images."""
    head = latest_head(store)
    if head is None:
        raise CacheError(f"{store.url} has no plan yet.", "Run the same `vlq run` again: it goes on.")
    return head


def name_index(store: Store, head: Head, index: str, sealed: bool) -> Head:
    """The head after `head` that names an index of its plan; the newest one if the plan has grown meanwhile."""

    def change(newest: Head) -> Head:
        return replace(newest, index=index, sealed=sealed) if newest.plan == head.plan else newest

    return renew(store, change)


def name_study(store: Store, finished: Finished) -> Head:
    """The head that names a study's effects, behind those of the others."""

    def change(newest: Head) -> Head:
        if finished in newest.studies:
            return newest
        others = (known for known in newest.studies if known.study != finished.study)
        return replace(newest, studies=(*others, finished))

    return renew(store, change)
