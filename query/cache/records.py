"""Which records a store has: its run, its shards' commits, heads, and the indexes of an unfinished run."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from vlq.query.errors import NoCache
from vlq.query.schema import COMMITS, HEADS, INTERIMS, RUN, Commit, Head, Run, commit_key, head_key, manifest_key
from vlq.query.store import Store, at_once

HEAD = HEADS.removeprefix(f"{COMMITS}/")
INTERIM = INTERIMS.removeprefix(f"{COMMITS}/")


def read_run(store: Store) -> Run | None:
    """The store's run, or None if it holds no cache."""
    try:
        return Run.from_bytes(store.read(RUN), RUN)
    except FileNotFoundError:
        return None


def check_there(store: Store) -> None:
    """Raises NoCache if what was opened is no cache any more."""
    if read_run(store) is None:
        raise NoCache(f"The cache at {store.url} is gone: it was there when it was opened.", "Open it where it is now.")


def check_writable(store: Store, run: Run) -> None:
    """Raises StoreError where a cache may only be read. What is put is there already, so that nothing changes."""
    store.create(RUN, run.to_bytes())


def latest_head(store: Store) -> Head | None:
    """The newest head, or None before the plan is made.

    The listings of some servers lag behind. Heads are numbered without gaps, so one that is not listed yet is found
    behind the last that is.
    """
    newest = max(records(store, after=HEADS).heads, default=0)
    head = read_head(store, newest) if newest else None
    while True:
        try:
            head = read_head(store, newest + 1)
        except FileNotFoundError:
            return head
        newest += 1


def committed_shards(store: Store) -> list[int]:
    """The shards that have a commit record, in order."""
    return records(store).shards


def missing_shards(store: Store, shards: int) -> list[int]:
    """Of so many shards those without a commit record, in order."""
    return sorted(set(range(shards)) - set(committed_shards(store)))


def committed(store: Store) -> dict[int, Commit]:
    """Every commit record by shard."""
    shards = committed_shards(store)
    return dict(zip(shards, at_once(store, partial(read_commit, store), shards), strict=True))


class Records(NamedTuple):
    """The numbers of the shards that are committed and of the heads, each in order, and the indexes of an unfinished
    run: of how many shards, and their manifests' keys."""

    shards: list[int]
    heads: list[int]
    interims: list[tuple[int, str]]


def records(store: Store, after: str = "") -> Records:
    """Which records there are, of those whose keys come after one. One listing tells of all kinds."""
    names = [entry.key.removeprefix(f"{COMMITS}/").removesuffix(".json") for entry in store.list(COMMITS, after=after)]
    heads = [name.removeprefix(HEAD) for name in names if name.startswith(HEAD)]
    parts = (name.removeprefix(INTERIM).partition("-") for name in names if name.startswith(INTERIM))
    interims = sorted((int(count), manifest_key(digest)) for count, _, digest in parts if count.isdecimal())
    shards, numbers = (sorted(int(name) for name in some if name.isdecimal()) for some in (names, heads))
    return Records(shards, numbers, interims)


def read_head(store: Store, number: int) -> Head:
    """A head. Raises FileNotFoundError if there is no such one."""
    return Head.from_bytes(store.read(head_key(number)), head_key(number))


def read_commit(store: Store, shard: int) -> Commit:
    """A shard's record. Raises FileNotFoundError if the shard is not committed."""
    return Commit.from_bytes(store.read(commit_key(shard)), commit_key(shard))
