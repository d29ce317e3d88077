"""Reading a cache: which run it holds, what is committed by now, and where its files lie.

Records are immutable, so whatever was read once is kept. While a run is unsealed, each snapshot probes the store for
new records; once it is sealed, no further request is made.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlq.query.errors import CacheError, CorruptCache, NoCache, StoreError
from vlq.query.schema import (
    RUN,
    TOKENIZER,
    VOCABULARY,
    Annotation,
    Commit,
    Head,
    IndexManifest,
    Run,
    Stored,
    commit_key,
    digest_of,
    to_json,
)
from vlq.query.store import Store, open_store

if TYPE_CHECKING:
    import zarr

HOW_TO_MAKE = "Make one: `make demo` for the demo's, or `vlq run IMAGES --model MODEL --cache URL` for your own."


def default_url() -> str:
    """`$VLQ_CACHE`, else the demo's cache if it was made. Raises NoCache."""
    if url := os.environ.get("VLQ_CACHE"):
        return url
    if not os.path.exists(os.path.join(demo_url(), RUN)):
        raise NoCache("No cache given: --cache and $VLQ_CACHE are empty, and there is no demo cache.", HOW_TO_MAKE)
    return demo_url()


def demo_url() -> str:
    """Where `make demo` puts its cache: the same place from whichever folder one asks."""
    return str(local_files() / "demo" / "cache")


def local_files() -> Path:
    """The folder for what VLQ keeps on this machine: `$VLQ_HOME`, else the user's cache folder."""
    if home := os.environ.get("VLQ_HOME"):
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vlq"


def read_run(store: Store) -> Run | None:
    """The store's run, or None if it holds no cache."""
    try:
        return Run.from_bytes(store.read(RUN), RUN)
    except FileNotFoundError:
        return None


def latest_head(store: Store) -> Head | None:
    """The newest head, or None before the plan is made."""
    newest = max((entry.key for entry in store.list("heads")), default=None)
    return None if newest is None else Head.from_bytes(store.read(newest), newest)


def committed_shards(store: Store) -> list[int]:
    """The shards that have a commit record, in order."""
    names = (entry.key.removeprefix("commits/").removesuffix(".json") for entry in store.list("commits"))
    return sorted(int(name) for name in names if name.isdecimal())


def committed(store: Store, known: dict[int, Commit] | None = None) -> dict[int, Commit]:
    """Every commit record by shard. Those in `known` are not read again."""
    known = known or {}
    return {shard: known[shard] if shard in known else read_commit(store, shard) for shard in committed_shards(store)}


def read_commit(store: Store, shard: int) -> Commit:
    """A shard's record. Raises FileNotFoundError if the shard is not committed."""
    return Commit.from_bytes(store.read(commit_key(shard)), commit_key(shard))


@dataclass(frozen=True)
class Snapshot:
    """What a cache holds at one moment; later commits do not change it."""

    cache: Cache
    head: Head | None
    manifest: IndexManifest | None
    loose: tuple[Commit, ...]  # committed shards that the manifest does not cover, in order

    @property
    def sealed(self) -> bool:
        return self.head is not None and self.head.sealed

    @property
    def planned(self) -> int:
        """Images in the plan."""
        return 0 if self.head is None else self.head.images

    @property
    def cached(self) -> int:
        """Images in committed shards, those with an error included."""
        return (self.manifest.images if self.manifest else 0) + sum(commit.images for commit in self.loose)

    @property
    def errors(self) -> list[tuple[int, str, str]]:
        """(image id, name, reason) of each image that has no readings."""
        errors = list(self.manifest.errors if self.manifest else ())
        for commit in self.loose:
            errors += commit.errors
        return errors

    @property
    def images(self) -> int:
        """Images with readings."""
        return self.cached - len(self.errors)

    @property
    def commits(self) -> list[Commit]:
        """The records of all shards, in order."""
        return [*map(self.cache.commit, range(self.manifest.shards if self.manifest else 0)), *self.loose]

    def commit_of(self, image: int) -> Commit:
        """The record of the shard that holds an image. Raises CacheError if it is not committed."""
        for commit in self.loose:
            if commit.first_image <= image < commit.first_image + commit.images:
                return commit
        # Shards hold consecutive images, so it is the last one that begins at or before the image.
        low, high = 0, self.manifest.shards if self.manifest else 0
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.cache.commit(middle).first_image <= image else (low, middle)
        return self.cache.commit(low)

    @property
    def notes(self) -> list[str]:
        """What answers from it must say."""
        if self.sealed:
            return []
        return [f"The run is not complete: {self.cached:,} of {self.planned:,} images are cached."]

    @property
    def annotations(self) -> tuple[Annotation, ...]:
        """What the images were annotated with, the newest last."""
        return () if self.head is None else self.head.annotations

    def stored(self, table: str) -> list[Stored]:
        """The objects that hold an index table (of `schema.TABLES`, or "images"), in the order of their rows' shards.

        Those of the images are as they were cached: without `annotations`. Of `schema.DIVERGENCE` those of the
        manifest: it is not made for each shard. Raises CacheError if the index is older than the table.
        """
        files: list[Stored] = []
        lacking = False
        if self.manifest is not None and self.manifest.shards:
            files += self.manifest.tables.get(table, ())
            lacking = table not in self.manifest.tables
        for commit in self.loose:
            if table == "images":
                files.append(commit.images_table)
            elif table in commit.postings:
                files.append(commit.postings[table])
            else:
                lacking = True
        if lacking:
            raise CacheError(f"The index of {self.cache.url} has no table {table}: it is older.", "Run: vlq index")
        return files

    def files(self, table: str) -> list[str]:
        """The same as paths on this machine; the images' with what they were annotated with."""
        if table == "images" and self.annotations:
            return [self.cache.annotated(stored, self.annotations) for stored in self.stored(table)]
        return [self.cache.local(stored) for stored in self.stored(table)]


class Cache:
    """An existing cache at a URL."""

    def __init__(self, url: str, store: Store, run: Run) -> None:
        self.url = url
        self.store = store
        self.run = run
        self._commits: dict[int, Commit] = {}
        self._snapshot: Snapshot | None = None

    @classmethod
    def open(cls, url: str) -> Cache:
        """Raises NoCache if there is none, NewerFormat if it is from a later VLQ."""
        try:
            store = open_store(url)
            run = read_run(store)
        except FileNotFoundError:
            run = None
        if run is None:
            raise NoCache(f"There is no cache at {url}.", HOW_TO_MAKE)
        return cls(url, store, run)

    def snapshot(self) -> Snapshot:
        """What is committed now. A sealed cache is not asked again."""
        if self._snapshot is not None and self._snapshot.sealed:
            return self._snapshot
        head = latest_head(self.store)
        manifest = self.manifest(head) if head and head.index else None
        covered = manifest.shards if manifest else 0
        loose: tuple[Commit, ...] = ()
        if head is not None and not head.sealed:
            self._commits = committed(self.store, self._commits)
            loose = tuple(commit for shard, commit in self._commits.items() if covered <= shard < head.shards)
        self._snapshot = Snapshot(self, head, manifest, loose)
        return self._snapshot

    def forget(self) -> None:
        """Have the next snapshot look at the store again: something was written by this process."""
        self._snapshot = None

    def manifest(self, head: Head) -> IndexManifest:
        assert head.index is not None
        try:
            return IndexManifest.from_bytes(self.store.read(head.index), head.index)
        except FileNotFoundError as error:
            raise CorruptCache(f"The index {head.index} is missing from {self.url}.", "Run: vlq index") from error

    def commit(self, shard: int) -> Commit:
        """A shard's record. Raises CacheError if the shard is not committed."""
        if shard not in self._commits:
            try:
                self._commits[shard] = read_commit(self.store, shard)
            except FileNotFoundError as error:
                raise CacheError(f"Shard {shard} is not committed in {self.url}.", "Run `vlq run` again.") from error
        return self._commits[shard]

    def vocabulary(self) -> str:
        """Path of the vocabulary table on this machine."""
        try:
            return self.local(self._whole(VOCABULARY))
        except FileNotFoundError as error:
            raise CorruptCache(f"{VOCABULARY} is missing from {self.url}.", "Run: vlq verify") from error

    def tokenizer(self) -> str | None:
        """Path of tokenizer.json on this machine; None if the lens has no tokenizer."""
        try:
            return self.local(self._whole(TOKENIZER))
        except FileNotFoundError:
            return None

    def _whole(self, key: str) -> Stored:
        """A record of an object outside the commits, whose name does not tell its content."""
        path = self.store.local_path(key)
        if path is not None:
            return Stored(key, os.stat(path).st_size, "")
        data = self.store.read(key)
        return Stored(key, len(data), digest_of(data))

    def local(self, stored: Stored) -> str:
        """The object as a file here: where it lies, or a copy named by its content. Copies are never stale."""
        path = self.store.local_path(stored.key)
        if path is not None:
            if not os.path.exists(path):
                if not stored.sha256:
                    raise FileNotFoundError(path)
                raise CorruptCache(f"{stored.key} is missing from {self.url}.", "Run: vlq verify")
            return path
        copy = local_files() / "objects" / f"{stored.sha256}{Path(stored.key).suffix}"
        if not copy.exists():
            _write_whole(copy, self.read(stored))
        return str(copy)

    def annotated(self, images: Stored, annotations: Sequence[Annotation]) -> str:
        """A file here of an image table with its annotations. Named by what it is made of, it is never stale."""
        made_of = [images.sha256, *([annotation.stored.sha256, annotation.columns] for annotation in annotations)]
        copy = local_files() / "annotated" / f"{digest_of(to_json(made_of))}.parquet"
        if not copy.exists():
            from vlq.query.tables import annotated

            parts = [(self.local(annotation.stored), annotation.columns) for annotation in annotations]
            _write_whole(copy, annotated(self.local(images), parts))
        return str(copy)

    def read(self, stored: Stored) -> bytes:
        """The object's bytes. Raises CorruptCache if they are not those that were written."""
        try:
            data = self.store.read(stored.key)
        except FileNotFoundError as error:
            raise CorruptCache(f"{stored.key} is missing from {self.url}.", "Run: vlq verify") from error
        if digest_of(data) != stored.sha256:
            raise CorruptCache(f"{stored.key} in {self.url} is not what was written.", "Run: vlq verify")
        return data

    def group(self, shard: int) -> zarr.Group:
        """A committed shard's arrays (`schema.array_specs`), opened for reading with Zarr."""
        from vlq.query.arrays import open_group

        return open_group(self.store, self.commit(shard))

    def array(self, shard: int, name: str) -> zarr.Array[Any]:
        """One of a committed shard's arrays, opened for reading with Zarr."""
        import zarr

        array = self.group(shard)[name]
        assert isinstance(array, zarr.Array)
        return array

    def info(self) -> dict[str, Any]:
        """What `vlq info` shows, as plain values."""
        from vlq.query.info import info

        return info(self)


def _write_whole(path: Path, data: bytes) -> None:
    """Several processes may write the same content at once: each its own file, then a rename."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            whole = Path(folder, path.name)
            whole.write_bytes(data)
            os.replace(whole, path)
    except OSError as error:
        raise StoreError(
            f"Cannot keep a copy in {path.parent}: {error.strerror}.", "Another place: $VLQ_HOME"
        ) from error
