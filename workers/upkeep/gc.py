"""What may go: objects that no record names and none ever will.

A writer puts objects first and the record that names them last, and what it finds under a content's name it leaves as
it is. So an old object without a record may be one that a writer which is at work now counts upon, and age alone
decides nothing. Each kind goes only once no writer can want it any more:

    shards/, images/, postings/   once their shard is committed, with other objects: a record never changes
    index/                        once another in use covers more shards, or its run is complete, and no record in use
                                  names it
    commits/index-*               once another in use covers more shards, or its run is complete for so long
    plans/                        once the newest head's plan is another of as many images or more: plans only grow
    annotations/                  once no head in use names it; if one comes to name it at that moment, it is put back
    studies/                      of one that a head in use names what none of its records does; of another all of it,
                                  once nothing was put there for so long: the same command does it anew
    moments/<shards>-*            once no study that is finished or under way was made with it

and only once it is older than the grace period. The heads in use are the newest, those younger than the grace period,
and the newest that is older: readers may hold each of these. All other records (run.json, commits/) stay,
and so does everything that VLQ did not put there.
"""

from __future__ import annotations

import io
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vlq.query.cache.heads import planned
from vlq.query.cache.reader import Cache
from vlq.query.cache.records import committed, latest_head
from vlq.query.cache.studies import StudyCommit, commits_prefix, moments_of, plan_key, study_key
from vlq.query.errors import BadArgument, CorruptCache
from vlq.query.schema import (
    HEADS,
    INTERIMS,
    LENS,
    STUDIES,
    Commit,
    Head,
    IndexManifest,
    Study,
    head_key,
    is_ours,
    manifest_key,
)
from vlq.query.store import Entry, Store

GRACE = 24 * 3600.0
"""Seconds for which what nobody names is left alone, unless another time is asked for."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
_OF_SHARD = re.compile(r"(?:shards|images|postings)/(\d{8})-[0-9a-f]{16}[/.]")
_OF_INDEX = re.compile(r"index/([0-9a-f]{16})[/.]")
_OF_STUDY = re.compile(rf"{STUDIES}/([0-9a-f]{{16}})/")
_HALF_PUT = re.compile(r"(.+)#\d+")  # what a put that was killed leaves beside its object, on a disk


@dataclass(frozen=True)
class Leftover:
    """An object that may go: its key, its size in bytes, and why."""

    key: str
    size: int
    why: str


def seconds(text: str) -> float:
    """`90s`, `30m`, `24h`, `7d`, or `0`: of any other number without a unit nobody knows. Raises BadArgument."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])|(0)", text.strip())
    if found is None:
        raise BadArgument(f"--grace is a time such as 24h, 30m or 7d. Got '{text}'.")
    return 0.0 if found[3] else float(found[1]) * _UNITS[found[2]]


def leftovers(cache: Cache, grace: float = GRACE) -> list[Leftover]:
    """What may go, in the order of its keys. Raises CorruptCache if a record that decides cannot be read."""
    store, now = cache.store, time.time()
    # Objects are listed before records are read: what is put and named meanwhile is in neither or in both.
    entries = list(store.list())
    newest = planned(store)
    old = {entry.key: entry.modified is not None and now - entry.modified > grace for entry in entries}
    named = Named.of(cache, newest, old)
    found = [
        Leftover(entry.key, entry.size, why)
        for entry in entries
        if is_ours(entry.key) and old[entry.key] and (why := named.unwanted(entry, store)) is not None
    ]
    return sorted([*found, *_half_put(store, now - grace)], key=lambda leftover: leftover.key)


def collect(cache: Cache, found: Iterable[Leftover]) -> Iterator[Leftover]:
    """Remove leftovers; each is handed on once it is gone."""
    store = cache.store
    for leftover in found:
        if leftover.key.startswith("annotations/"):
            if not _remove_unless_named(store, leftover.key):
                continue
        elif _HALF_PUT.fullmatch(leftover.key):  # a listing of the store has none of these
            path = store.local_path(leftover.key)
            assert path is not None
            Path(path).unlink(missing_ok=True)
        else:
            store.delete(leftover.key)
        yield leftover


@dataclass(frozen=True)
class Named:
    """What records name, and what else they tell of what may still be named."""

    newest: Head
    commits: dict[int, Commit]
    keys: frozenset[str]  # named by a commit record, by a head in use, or by its manifest
    superseded: frozenset[str]  # hashes of indexes that no writer will name again
    underway: frozenset[str]  # digests of studies that are not finished, and that somebody may be at work on

    @classmethod
    def of(cls, cache: Cache, newest: Head, old: dict[str, bool]) -> Named:
        """`old` says of each key there is whether its object is older than the grace period."""
        store, commits = cache.store, committed(cache.store)
        keys = {stored.key for commit in commits.values() for stored in commit.named}
        heads = [key for key in sorted(old) if key.startswith(HEADS)]
        in_use = [key for key in heads if not old[key]] + [key for key in heads if old[key]][-1:]
        indexes, finished = set(), set[str]()
        interims = [key for key in sorted(old) if key.startswith(INTERIMS)]
        held = (
            [] if newest.sealed and old.get(head_key(newest.number), False) else [key for key in interims if old[key]]
        )
        for key in [*(key for key in interims if not old[key]), *held[-1:]]:
            digest = key.rpartition("-")[2]
            manifest = manifest_key(digest)
            indexes.add(digest)
            keys |= {key, manifest, *_files(store, manifest)}
        for head in (newest, *(Head.from_bytes(store.read(key), key) for key in in_use)):
            keys |= {head.plan, *(annotation.stored.key for annotation in head.annotations)}
            for known in head.studies:
                finished.add(known.study.digest)
                keys |= {known.effects.key, *_of_study(store, known.study)}
            if head.index and (match := _OF_INDEX.match(head.index)):
                indexes.add(match[1])
                keys |= {head.index, *_files(store, head.index)}
        covering = [newest.index] if newest.index else []
        covering += [manifest_key(key.rpartition("-")[2]) for key in interims[-1:]]
        shards = max((count for key in covering if (count := _shards(store, key)) < sys.maxsize), default=0)
        superseded = {
            match[1]
            for key in old
            if (match := _OF_INDEX.match(key))
            and (newest.sealed or (key.endswith(".json") and _shards(store, key) < shards))
        }
        keys |= cache.run.checksums.keys()
        begun = {match[1] for key in old if not old[key] and (match := _OF_STUDY.match(key))}
        for digest in begun - finished:
            keys |= _moments_of(store, digest)
        return cls(newest, commits, frozenset(keys), frozenset(superseded - indexes), frozenset(begun - finished))

    def unwanted(self, entry: Entry, store: Store) -> str | None:
        """Why an object may go, None if it must stay."""
        if entry.key in self.keys:
            return None
        if match := _OF_SHARD.match(entry.key):
            return "not what its shard's record names" if int(match[1]) in self.commits else None
        if match := _OF_INDEX.match(entry.key):
            return "no record in use names this index" if match[1] in self.superseded else None
        if entry.key.startswith(INTERIMS):
            return "another index covers more"
        if entry.key.startswith("plans/"):
            images = _rows(store, entry.key)
            return "another plan holds" if images is None or images <= self.newest.images else None
        if entry.key.startswith("annotations/"):
            return "no head in use names it"
        if match := _OF_STUDY.match(entry.key):
            return None if match[1] in self.underway else "no study in use names it"
        if moments_of(entry.key):
            return "no study in use was made with it"
        if entry.key.startswith(f"{LENS}/"):
            return "not the run's lens"
        return None


def _files(store: Store, key: str) -> Iterator[str]:
    """Keys of the index files that a manifest names."""
    try:
        manifest = IndexManifest.from_bytes(store.read(key), key)
    except FileNotFoundError:
        return  # an old head's, whose index went when it was newest no more; or `vlq verify` tells of it
    yield from (stored.key for stored in manifest.objects)


def _moments_of(store: Store, digest: str) -> set[str]:
    """The key of the moments that a study is made with, if that can be told and if there are any."""
    key = f"{STUDIES}/{digest}/study.json"
    try:
        moments = Study.from_bytes(store.read(key), key).moments
    except (FileNotFoundError, CorruptCache):
        return set()
    return set() if moments is None else {moments}


def _of_study(store: Store, study: Study) -> Iterator[str]:
    """Keys of a finished study's records, and of what they name."""
    yield from (study_key(study), plan_key(study), *filter(None, [study.moments]))
    for entry in store.list(commits_prefix(study)):
        yield entry.key
        with suppress(CorruptCache, FileNotFoundError):  # `vlq verify` tells of it
            yield StudyCommit.from_bytes(store.read(entry.key), entry.key).effects.key


def _shards(store: Store, manifest: str) -> int:
    """How many shards an index covers; more than there are if its manifest is not there or not readable."""
    try:
        return IndexManifest.from_bytes(store.read(manifest), manifest).shards
    except (FileNotFoundError, CorruptCache):
        return sys.maxsize


def _rows(store: Store, plan: str) -> int | None:
    """Images of a plan; None if it is no table (no writer takes it for one)."""
    try:
        return int(pq.read_metadata(io.BytesIO(store.read(plan))).num_rows)
    except (pa.ArrowException, OSError):
        return None


def _remove_unless_named(store: Store, key: str) -> bool:
    """Remove an annotation; False if meanwhile a head names it, under which it is then again."""
    data = store.read(key)
    store.delete(key)
    newest = latest_head(store)
    if newest is not None and any(annotation.stored.key == key for annotation in newest.annotations):
        store.create(key, data)
        return False
    return True


def _half_put(store: Store, before: float) -> Iterator[Leftover]:
    """On a disk, what puts left that were killed: files beside their objects, which no listing shows."""
    root = store.local_path("")
    if root is None:
        return
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            key = path.relative_to(root).as_posix()
            half = _HALF_PUT.fullmatch(key)
            if half and is_ours(half[1]) and (status := path.stat()).st_mtime < before:
                yield Leftover(key, status.st_size, "a put that was cut off")
