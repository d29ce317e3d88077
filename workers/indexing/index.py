"""Many shards' postings -> one token-sorted index, of the same bytes whoever makes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vlq.query.cache.heads import name_index, planned
from vlq.query.cache.reader import Cache
from vlq.query.cache.records import committed, read_commit
from vlq.query.cache.sums import entropies, summed_sites
from vlq.query.cache.tables import parquet_bytes
from vlq.query.schema import (
    COUNTS,
    DIVERGENCE,
    RUN,
    Commit,
    Head,
    IndexFile,
    IndexManifest,
    Run,
    digest_of,
    interim_key,
    manifest_key,
)
from vlq.query.store import Store, at_once, open_store, put
from vlq.workers.indexing.counts import counts
from vlq.workers.indexing.merge import FILE_GROUPS, PART_BYTES, PART_GROUPS, ROWS_AT_ONCE, merged_files
from vlq.workers.indexing.postings import (
    ROW_GROUP,
    TOP1_ROW_GROUP,
    blocks_of,
    postings_bytes,
    postings_of,
)
from vlq.workers.indexing.processes import Processes
from vlq.workers.machine import fitting, memory
from vlq.workers.scratch import scratch

FORM = FILE_GROUPS, PART_GROUPS, ROWS_AT_ONCE, ROW_GROUP, TOP1_ROW_GROUP, PART_BYTES
"""What decides where files and their row groups end, beside the rows."""

PROCESS_BYTES = 2 * 1024**3
"""Memory that a process takes at most, which merges or makes a shard's postings."""

ALONE_BYTES = 128 * 1024 * 1024
"""Shards of fewer bytes are read without starting other processes."""

Progress = Callable[[str, int, int], None]
"""Told what is being done, how many steps of it are done, and of how many."""


def compact(
    store: Store,
    run: Run,
    head: Head,
    progress: Progress | None = None,
    *,
    most: int | None = None,
    processes: int | None = None,
) -> tuple[str, IndexManifest]:
    """Merge the committed shards' postings into an index; returns its manifest's key and the manifest.

    Covers the shards before the first that is not committed, `most` of them. Nobody uses it before `publish`. So many
    `processes` merge, by default as many as there are cores and memory for.
    """
    cache = Cache(store.url, store, run)
    commits = _covered(store, head)[:most]
    with _processes(cache, commits, processes) as several:
        several.start()  # they are there by the time that it is known what there is to merge
        tables = _tables(commits)
        runs = {table: at_once(store, cache.local, [commit.postings[table] for commit in commits]) for table in tables}
        return _write_index(cache, commits, runs, progress or _silent, several)


def rebuild(
    store: Store, run: Run, progress: Progress | None = None, *, processes: int | None = None
) -> tuple[str, IndexManifest, bool]:
    """Make the index anew from the Zarr arrays alone, and publish it. Also says whether that was news. `processes` as
    in `compact`."""
    head = planned(store)
    cache = Cache(store.url, store, run)
    commits = _covered(store, head)
    progress = progress or _silent
    with scratch() as folder, _processes(cache, commits, processes) as several:
        runs: dict[str, list[str]] = {}
        for done, files in enumerate(_postings_files(cache, commits, folder, several)):
            for table, path in files.items():
                runs.setdefault(table, []).append(path)
            progress("reading arrays", done + 1, len(commits))
        key, manifest = _write_index(cache, commits, runs, progress, several)
    return key, manifest, publish(store, head, key, manifest)


def fitting_processes() -> int:
    """As many as there are cores and memory for, each of which reads whole shards."""
    here = memory()
    return fitting(PROCESS_BYTES, here.available if here else None)


def is_for_one(cache: Cache, size: int) -> bool:
    """Whether shards of so many bytes are read sooner by this process than others are started, or by it alone."""
    return size < ALONE_BYTES or cache.url.startswith("memory:")


def _processes(cache: Cache, commits: Sequence[Commit], processes: int | None) -> Processes:
    """As many as are asked for or fit, where there is work for them."""
    alone = is_for_one(cache, sum(commit.size for commit in commits))
    return Processes(1 if alone else processes or fitting_processes())


def _postings_files(
    cache: Cache, commits: Sequence[Commit], folder: Path, processes: Processes
) -> Iterator[dict[str, str]]:
    """Of each shard a file here for each table of its postings, made of its arrays."""
    if processes.count == 1:
        yield from (_write_postings(cache, commit, folder) for commit in commits)
        return
    record = cache.run.to_bytes()
    yield from processes.map(_write_postings_of, [(cache.url, record, commit, folder) for commit in commits])


def _write_postings_of(url: str, record: bytes, commit: Commit, folder: Path) -> dict[str, str]:
    return _write_postings(cache_of(url, record), commit, folder)


@lru_cache(maxsize=1)
def cache_of(url: str, record: bytes) -> Cache:
    """A cache as another process is told of it: by its URL and its run's record."""
    return Cache(url, open_store(url), Run.from_bytes(record, RUN))


def _write_postings(cache: Cache, commit: Commit, folder: Path) -> dict[str, str]:
    """The files' paths by table. Raises CorruptCache if an array is not what was written."""
    for stored in commit.objects:
        cache.read(stored)
    files = {}
    for table, rows in postings_from_arrays(cache, commit).items():
        path = folder / f"{table}-{commit.shard:08d}.parquet"
        path.write_bytes(postings_bytes(rows))
        files[table] = str(path)
    return files


def publish(store: Store, head: Head, key: str, manifest: IndexManifest) -> bool:
    """Have readers use an index: a head names it if all shards are in it, else a record of its own, which says nothing
    that a complete cache needs. False if it was in use before."""
    if manifest.shards == head.shards:
        return name_index(store, head, key, sealed=True) != head
    if manifest.shards == 0:
        return False
    return store.create(interim_key(manifest.shards, key), b"")


def postings_from_arrays(cache: Cache, commit: Commit) -> dict[str, pa.Table]:
    """A shard's postings, computed from its stored arrays."""
    readings = {}
    for site in cache.run.stored:
        for name in ("token", "logprob", *(("tracked_logprob", "tracked_rank") if cache.run.tracked else ())):
            readings[f"{site}/{name}"] = cache.values(commit, f"{site}/{name}")
    return postings_of(cache.run, commit.first_image, readings)


def _silent(what: str, done: int, of: int) -> None:
    pass


def _covered(store: Store, head: Head) -> list[Commit]:
    """Records of the shards before the first gap."""
    commits = committed(store)
    covered = []
    for shard in range(head.shards):
        try:  # the listings of some servers lag behind: what one does not tell of is looked for
            covered.append(commits[shard] if shard in commits else read_commit(store, shard))
        except FileNotFoundError:
            break
    return covered


def _tables(commits: Sequence[Commit]) -> list[str]:
    """The tables that can be merged: those that every shard has. Shards from before a table was made lack it."""
    return sorted(set.intersection(*(set(commit.postings) for commit in commits))) if commits else []


def _write_index(
    cache: Cache,
    commits: Sequence[Commit],
    runs: Mapping[str, Sequence[str]],
    progress: Progress,
    processes: Processes,
) -> tuple[str, IndexManifest]:
    run, store = cache.run, cache.store
    # The inputs' checksums name the index, with the tables that are made of them, how large files become and who writes
    # them: the same shards give the same key, and the same bytes under it. Others would harm those who read it.
    inputs = "\n".join(f"{commit.prefix} {stored.sha256}" for commit in commits for stored in commit.named)
    named = [run.digest, *sorted(runs), *sorted(WHOLE_TABLES), *map(str, FORM), pa.__version__, inputs]
    digest = digest_of("\n".join(named).encode())[:16]
    tables: dict[str, tuple[IndexFile, ...]] = {}
    for table, rows in whole_tables(cache, commits, progress).items():
        stored = put(store, f"index/{digest}/{table}-000.parquet", parquet_bytes(rows))
        tables[table] = (IndexFile(stored.key, stored.size, stored.sha256),)
    with scratch() as folder:
        for table, path in merged_files(runs, folder, processes, partial(progress, "merging")):
            files = tables.get(table, ())
            tables[table] = (*files, put_table(store, f"index/{digest}/{table}-{len(files):03d}", path.read_bytes()))
            path.unlink()
    manifest = IndexManifest(
        run=run.digest,
        shards=len(commits),
        images=sum(commit.images for commit in commits),
        errors=tuple(error for commit in commits for error in commit.errors),
        tables=tables,
    )
    return put(store, manifest_key(digest), manifest.to_bytes()).key, manifest


def put_table(store: Store, name: str, data: bytes) -> IndexFile:
    """Put a file of an index table, and beside it where its blocks lie."""
    blocks = blocks_of(data)
    file = put(store, f"{name}.parquet", data)
    beside = put(store, f"{name}.blocks", blocks.to_bytes())
    keys = (blocks.blocks[0].first, blocks.blocks[-1].last) if blocks.blocks else (None, None)
    return IndexFile(file.key, file.size, file.sha256, beside, *keys)


def _images(cache: Cache, commits: Sequence[Commit], progress: Progress) -> pa.Table:
    return pa.concat_tables([pq.read_table(cache.local(commit.images_table)) for commit in commits])


def _divergence(cache: Cache, commits: Sequence[Commit], progress: Progress) -> pa.Table:
    return entropies(cache, commits, summed_sites(cache.run), partial(progress, "adding up sums"))


def _counts(cache: Cache, commits: Sequence[Commit], progress: Progress) -> pa.Table:
    return counts(cache, commits, partial(progress, "counting tokens"))


WHOLE_TABLES = {"images": _images, DIVERGENCE: _divergence, COUNTS: _counts}
"""Tables of the index that are small enough to be made in one piece, of all shards' records."""


def whole_tables(cache: Cache, commits: Sequence[Commit], progress: Progress) -> dict[str, pa.Table]:
    """WHOLE_TABLES of these shards, by name; none if there are no shards."""
    return {table: rows(cache, commits, progress) for table, rows in WHOLE_TABLES.items() if commits}
