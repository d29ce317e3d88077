"""Is the cache what was written? Checksums, missing shards, and an index that says what the arrays say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vlq.query.cache.reader import Cache
from vlq.query.cache.records import committed_shards, latest_head, read_commit, read_head, records
from vlq.query.cache.studies import MOMENTS, StudyCommit, check_moments, commits_prefix, moments_of, study_key
from vlq.query.cache.studies import plan_key as plan_key_of
from vlq.query.cache.tables import parquet_bytes
from vlq.query.errors import CorruptCache
from vlq.query.schema import COUNTS, HEADS, SHARDS, Commit, Head, Stored, commit_key, digest_of, head_key, plan_key
from vlq.workers.indexing.index import (
    Progress,
    cache_of,
    fitting_processes,
    is_for_one,
    postings_from_arrays,
    whole_tables,
)
from vlq.workers.indexing.merge import Rows, merged
from vlq.workers.indexing.postings import blocks_of
from vlq.workers.indexing.processes import Processes

RUN_AGAIN = "run the same `vlq run` again"
REPAIR = "vlq repair"
STUDY_AGAIN = "run the command that made the study again"


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be: where, what, and how to mend it."""

    where: str
    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}. To mend: {self.mend}"


def verify(cache: Cache, progress: Progress, *, processes: int | None = None) -> Iterator[Finding]:
    """Everything wrong with the cache; nothing if all is well. Reads every byte.

    So many `processes` look at shards, by default as many as there are cores and memory for. Raises RunError if one
    dies.
    """
    yield from _verify_vocabulary(cache)
    try:
        head = latest_head(cache.store)
    except CorruptCache:
        yield from _verify_heads(cache)
        return
    if head is None:
        yield Finding(HEADS, "no plan was made", RUN_AGAIN)
        return
    yield from _verify_heads(cache)
    yield from _verify_plan(cache, head)
    yield from verify_annotations(cache, head)
    yield from verify_studies(cache, head)
    present = committed_shards(cache.store)
    for shard in sorted(set(range(head.shards)) - set(present)):
        what, mend = ("missing", REPAIR) if head.sealed else ("not done yet", f"{RUN_AGAIN}: it does this shard")
        yield Finding(f"shard {shard}", what, mend)
    sound = []
    for done, (commit, findings) in enumerate(_verify_shards(cache, present, processes or fitting_processes())):
        yield from findings
        if commit is not None and not findings:
            sound.append(commit)
        progress("checking shards", done + 1, len(present))
    for index in (head.index, *(key for _, key in records(cache.store, after=HEADS).interims)):
        if index is not None:
            yield from verify_index(cache, index, sound, progress)


def _verify_vocabulary(cache: Cache) -> Iterator[Finding]:
    beside = [Stored(key, 0, checksum) for key, checksum in sorted(cache.run.checksums.items())]
    yield from damaged(cache, beside, REPAIR)


def verify_annotations(cache: Cache, head: Head) -> Iterator[Finding]:
    """What is wrong with the tables that a head's images are annotated with."""
    tables = (annotation.stored for annotation in head.annotations)
    yield from damaged(cache, tables, "vlq annotate the same table again, --replace")


def verify_studies(cache: Cache, head: Head) -> Iterator[Finding]:
    """What is wrong with the studies that a head names, and with what is kept for others."""
    store = cache.store
    moments = {entry.key for entry in store.list(MOMENTS)}
    for key in sorted(moments):
        try:
            check_moments(key, store.read(key))
        except CorruptCache:
            yield Finding(key, "not what was written", STUDY_AGAIN if moments_of(key) else REPAIR)
    for finished in head.studies:
        study = finished.study
        yield from damaged(cache, [finished.effects], STUDY_AGAIN)
        records = [(study_key(study), digest_of(study.to_bytes())), (plan_key_of(study), study.plan)]
        yield from damaged(cache, [Stored(key, 0, checksum) for key, checksum in records], STUDY_AGAIN)
        if study.moments is not None and study.moments not in moments:
            yield Finding(study.moments, "missing", STUDY_AGAIN)
        for entry in store.list(commits_prefix(study)):
            try:
                commit = StudyCommit.from_bytes(store.read(entry.key), entry.key)
            except CorruptCache as error:
                yield Finding(entry.key, _harm_of(entry.key, error), STUDY_AGAIN)
                continue
            yield from damaged(cache, [commit.effects], STUDY_AGAIN)


def _verify_heads(cache: Cache) -> Iterator[Finding]:
    for number in records(cache.store, after=HEADS).heads:
        try:
            sound = read_head(cache.store, number).number == number
        except CorruptCache:
            sound = False
        if not sound:
            yield Finding(head_key(number), "not what was written", REPAIR)


def _verify_plan(cache: Cache, head: Head) -> Iterator[Finding]:
    try:
        if plan_key(digest_of(cache.store.read(head.plan))[:16]) != head.plan:
            yield Finding(head.plan, "not what was written", REPAIR)
    except FileNotFoundError:
        yield Finding(head.plan, "missing", REPAIR)


def _verify_shards(
    cache: Cache, shards: Sequence[int], processes: int
) -> Iterator[tuple[Commit | None, list[Finding]]]:
    """Of each shard its record, unless that is harmed, and what is wrong with it."""
    if is_for_one(cache, sum(entry.size for entry in cache.store.list(SHARDS))):
        yield from (_verify_shard(cache, shard) for shard in shards)
        return
    with Processes(processes) as several:
        record = cache.run.to_bytes()
        yield from several.map(_verify_shard_of, [(cache.url, record, shard) for shard in shards])


def _verify_shard_of(url: str, record: bytes, shard: int) -> tuple[Commit | None, list[Finding]]:
    return _verify_shard(cache_of(url, record), shard)


def _verify_shard(cache: Cache, shard: int) -> tuple[Commit | None, list[Finding]]:
    commit = None
    try:
        commit = read_commit(cache.store, shard)
        return commit, list(_harm(cache, commit))
    except CorruptCache as error:
        return commit, [Finding(commit_key(shard), _harm_of(commit_key(shard), error), REPAIR)]


def _harm(cache: Cache, commit: Commit) -> Iterator[Finding]:
    if commit.run != cache.run.digest:
        yield Finding(commit_key(commit.shard), "made by another run", "use another cache for that run")
        return
    harmed = list(damaged(cache, commit.named, REPAIR))
    yield from harmed
    if harmed:
        return
    expected = postings_from_arrays(cache, commit)
    for table, stored in commit.postings.items():
        if not pq.read_table(cache.local(stored)).equals(expected[table]):
            yield Finding(stored.key, "says something else than the arrays", REPAIR)


def verify_index(cache: Cache, index: str, commits: Sequence[Commit], progress: Progress) -> Iterator[Finding]:
    """What is wrong with the index that has its manifest at a key, held against the records of sound shards."""
    try:
        manifest = cache.manifest_at(index)
    except CorruptCache as error:
        yield Finding(index, _harm_of(index, error), REPAIR)
        return
    harmed = list(damaged(cache, manifest.objects, REPAIR))
    yield from harmed
    covered = [commit for commit in commits if commit.shard < manifest.shards]
    if harmed or len(covered) < manifest.shards:
        return
    whole = whole_tables(cache, covered, progress)
    for table in sorted(whole.keys() - manifest.tables.keys() - {COUNTS}):  # which an older index does without
        yield Finding(index, f"lacks the table {table}", REPAIR)
    for done, (table, files) in enumerate(sorted(manifest.tables.items())):
        paths = [cache.local(stored) for stored in files]
        if table in whole:
            # As bytes, since a user's column may hold NaN, which Arrow says of that it is no NaN.
            same = parquet_bytes(pq.read_table(paths)) == parquet_bytes(whole[table])
        elif all(table in commit.postings for commit in covered):
            same = _same_rows(merged([cache.local(commit.postings[table]) for commit in covered]), paths)
        else:
            # Shards are older than the table, which `vlq index` made from the arrays: it is sorted by image.
            same = _same_rows((postings_from_arrays(cache, commit)[table] for commit in covered), paths)
        if not same:
            yield Finding(files[0].key, "says something else than the shards", REPAIR)
            continue
        for file, path in zip(files, paths, strict=True):
            if file.blocks is not None and cache.read(file.blocks) != blocks_of(Path(path).read_bytes()).to_bytes():
                yield Finding(file.blocks.key, f"says something else than {file.key}", REPAIR)
        progress("comparing the index", done + 1, len(manifest.tables))


def _same_rows(expected: Iterable[pa.Table], files: Sequence[str]) -> bool:
    """Whether the index's files hold exactly these rows, in order."""
    indexed = Rows(files)
    for rows in expected:
        found = indexed.take(rows.num_rows)
        if rows.num_rows and (found is None or not found.equals(rows.combine_chunks())):
            return False
    return indexed.take(1) is None


def _harm_of(record: str, error: CorruptCache) -> str:
    """What is wrong with a record, as a finding says it of what it names."""
    if isinstance(error.__cause__, FileNotFoundError):
        return "missing"
    return error.message.removeprefix(f"{record} ").removeprefix("is ").removesuffix(".")


def damaged(cache: Cache, objects: Iterable[Stored], mend: str) -> Iterator[Finding]:
    """A finding for each object that is not there as it was written."""
    for stored in objects:
        try:
            data = cache.store.read(stored.key)
        except FileNotFoundError:
            yield Finding(stored.key, "missing", mend)
            continue
        if digest_of(data) != stored.sha256:
            yield Finding(stored.key, "not what was written", mend)
