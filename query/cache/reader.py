"""Reading a cache: which run it holds, what is committed by now, and where its files lie.

Records are immutable, so whatever was read once is kept. While a run is unsealed, each snapshot probes the store for
new records; once it is sealed, no further request is made.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from propcache.api import cached_property

from vlq.query.cache.copies import Copies, local_files
from vlq.query.cache.records import (
    Records,
    check_there,
    read_commit,
    read_head,
    read_run,
    records,
)
from vlq.query.errors import CacheError, CorruptCache, NoCache
from vlq.query.schema import (
    HEADS,
    RUN,
    TOKENIZER,
    VOCABULARY,
    Annotation,
    ArraySpec,
    Commit,
    Finished,
    Head,
    IndexFile,
    IndexManifest,
    LensSpec,
    Run,
    Stored,
    array_specs,
    commit_key,
    digest_of,
    to_json,
)
from vlq.query.store import Store, at_once, open_store

if TYPE_CHECKING:
    import numpy as np
    import pyarrow
    import zarr

    from vlq.query.cache.unembed import Tensors, Unembedding

UNINDEXED = (
    "The run is not complete: all images are cached, and the same `vlq run`, or `vlq compact`, makes the index of them."
)
"""What is to be said of a run that was stopped as late as that."""

EFFECTS = "effects"
"""What the table of all studies' effects is called."""

SERVICES = ("http://", "https://")
"""What the URLs of services begin with."""

HOW_TO_MAKE = "Make one: `make demo` for the demo's, or `vlq run IMAGES --model MODEL --cache URL` for your own."


def incomplete(cached: int, planned: int, otherwise: str) -> str:
    """What is to be said of a run that is not complete: if it lacks the index alone that, else something else."""
    return UNINDEXED if 0 < cached == planned else otherwise


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


def model_name(model: str) -> str:
    """A hub's id as it is; of a folder its last parts, which tell it from others as well as all of them would."""
    parts = [part for part in re.split(r"[/\\]+", model) if part]
    return f"…/{'/'.join(parts[-2:])}" if len(parts) > 2 else model


def _behind(manifest: IndexManifest | None) -> str:
    """The key behind which the records are that an index does not cover, and the heads."""
    return commit_key(manifest.shards - 1) if manifest is not None and manifest.shards else ""


@dataclass(frozen=True)
class Snapshot:
    """What a cache holds at one moment; later commits do not change it."""

    cache: Cache
    head: Head | None
    manifest: IndexManifest | None
    loose: tuple[Commit, ...]  # committed shards that the manifest does not cover, in order

    @cached_property
    def digest(self) -> str:
        """Names what it holds: as long as that is the same, so are all answers."""
        head = 0 if self.head is None else self.head.number
        index = [] if self.manifest is None else [stored.key for stored in self.manifest.objects]
        return digest_of(to_json([self.cache.run.digest, head, index, [commit.shard for commit in self.loose]]))

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
        return [
            *at_once(self.cache.store, self.cache.commit, range(self.manifest.shards if self.manifest else 0)),
            *self.loose,
        ]

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
        some = f"The run is not complete: {self.cached:,} of {self.planned:,} images are cached."
        return [incomplete(self.cached, self.planned, some)]

    @property
    def annotations(self) -> tuple[Annotation, ...]:
        """What the images were annotated with, the newest last."""
        return () if self.head is None else self.head.annotations

    @property
    def studies(self) -> tuple[Finished, ...]:
        """The interventions whose effects are all there, the newest last."""
        return () if self.head is None else self.head.studies

    def tells_all(self, table: str) -> bool:
        """Whether the index has a table that is made of all shards at once, and of all that are committed."""
        return self.manifest is not None and table in self.manifest.tables and not self.loose

    def stored(self, table: str, keys: Collection[int] | None = None) -> list[IndexFile]:
        """The objects that hold an index table (of `schema.TABLES`, or "images"), in the order of their rows' shards;
        the one that holds a study's effects (`Study.table`).

        With `keys` those that may hold rows of these, and one in any case.
        Those of the images are as they were cached: without `annotations`. Of what is made of all shards at once
        those of the manifest (see `tells_all`). Raises CacheError if the index is older than the table.
        """
        files = [_unindexed(finished.effects) for finished in self.studies if finished.study.table == table]
        if files:
            return files
        lacking = False
        if self.manifest is not None and self.manifest.shards:
            of_index = self.manifest.tables.get(table, ())
            files += of_index if keys is None else near(of_index, keys)
            lacking = table not in self.manifest.tables
        for commit in self.loose:
            if table == "images":
                files.append(_unindexed(commit.images_table))
            elif table in commit.postings:
                files.append(_unindexed(commit.postings[table]))
            else:
                lacking = True
        if lacking:
            raise CacheError(f"The index of {self.cache.called} has no table {table}: it is older.", "Run: vlq index")
        return files if keys is None else [file for file in files if file.may_hold(keys)] or files[:1]

    def blocks(self, table: str, keys: Collection[int]) -> int:
        """How many blocks of the index's files may hold rows of these keys, by which one tells what has more of them.
        What is not merged yet does not count. Raises as `stored` and `files` do."""
        copies, stored = self.cache.copies, self.stored(table, keys)
        return sum(len(copies.blocks(file).holding(keys)) for file in stored if file.blocks is not None)

    def files(self, table: str, keys: Collection[int] | None = None) -> list[str]:
        """The same as paths on this machine; the images' with what they were annotated with.

        EFFECTS are those of all finished studies, in a table. With `keys` only their rows can be relied on. Raises
        CorruptCache where an object is not what was written.
        """
        if table == "images" and self.annotations:
            return [self.cache.annotated(stored, self.annotations) for stored in self.stored(table)]
        if table == EFFECTS:
            return [self.cache.effects(self.studies)]
        store, copies, stored = self.cache.store, self.cache.copies, self.stored(table, keys)
        if keys is None:
            return at_once(store, copies.whole, stored)
        found = at_once(store, lambda file: copies.holding(file, keys), stored)
        paths = [path for path in found if path is not None]
        return paths or [copies.without_rows(file) for file in stored[:1]]


def near(files: Sequence[IndexFile], keys: Collection[int]) -> Sequence[IndexFile]:
    """Of files in the order of their keys those between the lowest and the highest of some, and one in any case.

    An index of a million images has a hundred thousand files, of which a question looks at a few.
    """
    if not keys or any(file.first is None or file.last is None for file in (*files[:1], *files[-1:])):
        return files  # of an older index, or without rows
    start = bisect_left(files, min(keys), key=attrgetter("last"))
    end = bisect_right(files, max(keys), key=attrgetter("first"))
    return files[start:end] or files[:1]


def _unindexed(stored: Stored) -> IndexFile:
    return IndexFile(stored.key, stored.size, stored.sha256)


class Cache:
    """An existing cache at a URL."""

    def __init__(self, url: str, store: Store, run: Run, called: str | None = None) -> None:
        self.url = url
        self.called = called or url
        """What answers and errors call it: at a service its name, for where it lies is not for all who ask."""
        self.is_served = called is not None
        """Whether a service has given it that name."""
        self.store = store
        self.run = run
        self.copies = Copies(store)
        self._commits: dict[int, Commit] = {}
        self._manifests: dict[str, IndexManifest] = {}
        self._snapshot: Snapshot | None = None
        self._unembedding: Unembedding | None = None

    @classmethod
    def open(cls, url: str, called: str | None = None) -> Cache:
        """The cache at a URL, which answers may call something else.

        Raises NoCache if there is none, NewerFormat or OlderFormat if it is another VLQ's.
        """
        if url.startswith(SERVICES):
            message = f"{url} is a service's address, and this needs the cache itself."
            raise NoCache(message, "Give its own folder or bucket: the service tells nobody where that is.")
        try:
            store = open_store(url)
            run = read_run(store)
        except FileNotFoundError:
            run = None
        if run is None:
            raise NoCache(f"There is no cache at {url}.", HOW_TO_MAKE)
        return cls(url, store, run, called)

    @property
    def model(self) -> str:
        """What answers call its model."""
        return model_name(self.run.model) if self.is_served else self.run.model

    @property
    def lens(self) -> LensSpec:
        """What answers tell of its lens."""
        lens = self.run.lens
        return replace(lens, source=model_name(lens.source)) if self.is_served and lens.source else lens

    @property
    def sealed(self) -> Snapshot | None:
        """What a sealed cache holds, if that was looked at: nothing is read."""
        last = self._snapshot
        return last if last is not None and last.sealed else None

    def snapshot(self) -> Snapshot:
        """What is committed now. A sealed cache is not asked again, another one listed behind its index."""
        if (sealed := self.sealed) is not None:
            return sealed
        last = self._snapshot
        head = None if last is None else last.head
        found = records(self.store, after=HEADS if last is None else _behind(last.manifest))
        if not found.heads:
            check_there(self.store)
        newest = max(found.heads, default=None)
        if newest is not None and (head is None or newest > head.number):  # a listing may lag behind the one before
            head = read_head(self.store, newest)
        key = None if head is None else self.index_of(head, found)
        manifest = None if key is None else self.manifest_at(key)
        if head is None or head.sealed:
            loose = []
        else:
            if last is None or manifest is not last.manifest:
                found = records(self.store, after=_behind(manifest))
            loose = [shard for shard in found.shards if shard < head.shards]
        self._snapshot = Snapshot(self, head, manifest, tuple(at_once(self.store, self.commit, loose)))
        return self._snapshot

    def forget(self) -> None:
        """Have the next snapshot look at the store again: something was written by this process."""
        self._snapshot = None

    def index_of(self, head: Head, found: Records) -> str | None:
        """Key of the manifest that covers most of a head's shards: the head's own, or while it is unsealed another."""
        interims = [(shards, key) for shards, key in found.interims if shards <= head.shards and not head.sealed]
        return interims[-1][1] if interims and interims[-1][0] > self.indexed(head) else head.index

    def indexed(self, head: Head) -> int:
        """How many shards the index that a head names covers; none if it cannot be used."""
        try:
            return self.manifest(head).shards if head.index else 0
        except CorruptCache:
            return 0

    def manifest(self, head: Head) -> IndexManifest:
        assert head.index is not None
        return self.manifest_at(head.index)

    def manifest_at(self, key: str) -> IndexManifest:
        """A manifest, which never changes. Raises CorruptCache."""
        if key not in self._manifests:
            try:
                self._manifests[key] = IndexManifest.from_bytes(self.store.read(key), key)
            except FileNotFoundError as error:
                check_there(self.store)
                raise CorruptCache(f"The index {key} is missing from {self.called}.", "Run: vlq index") from error
        return self._manifests[key]

    def commit(self, shard: int) -> Commit:
        """A shard's record. Raises CacheError if the shard is not committed."""
        if shard not in self._commits:
            try:
                self._commits[shard] = read_commit(self.store, shard)
            except FileNotFoundError as error:
                check_there(self.store)
                raise CacheError(f"Shard {shard} is not committed in {self.called}.", "Run `vlq run` again.") from error
        return self._commits[shard]

    def vocabulary(self) -> str:
        """Path of the vocabulary table on this machine."""
        try:
            return self._beside(VOCABULARY)
        except FileNotFoundError as error:
            raise CorruptCache(f"{VOCABULARY} is missing from {self.called}.", "Run: vlq verify") from error

    def words(self, tokens: np.ndarray) -> pyarrow.Table:
        """The piece and the text of each of some tokens (token,); null where they have none."""
        return self._words.take(tokens)

    @cached_property
    def _words(self) -> pyarrow.Table:
        """Those of all ids, by id, to be taken from: a join with the vocabulary reads all of it for a few rows."""
        import pyarrow.parquet as pq

        found = pq.read_table(self.vocabulary(), columns=["id", "piece", "text"])
        return found.sort_by("id").select(["piece", "text"]).combine_chunks()

    def tokenizer(self) -> str | None:
        """Path of tokenizer.json on this machine; None if the lens has no tokenizer."""
        try:
            return self._beside(TOKENIZER)
        except FileNotFoundError:
            return None

    def unembedding(self) -> Unembedding:
        """What makes logits of the states that the cache keeps. Raises CacheError if it keeps none, CorruptCache."""
        from vlq.query.cache.unembed import Unembedding, mapped, tensors_in

        def translator(layer: int) -> Tensors | None:
            if layer not in translators and (key := self.run.translators.get(layer)) is not None:
                translators[layer] = tensors_in(mapped(self._beside(key)), key)[0]
            return translators.get(layer)

        if self._unembedding is None:
            if self.run.keep != "residual":
                raise CacheError(f"{self.called} keeps no states.", "They are kept by: vlq run --keep residual")
            if (key := self.run.unembed) is None:
                raise CorruptCache(f"{RUN} of {self.called} does not name what makes logits of states.")
            translators: dict[int, Tensors] = {}
            self._unembedding = Unembedding.of(mapped(self._beside(key)), key, translator)
        return self._unembedding

    def _beside(self, key: str) -> str:
        """Path here of an object beside the run's record. Raises FileNotFoundError if there is none."""
        if (checksum := self.run.checksums.get(key)) is None:
            raise FileNotFoundError(key)
        return self.local(Stored(key, 0, checksum))

    def local(self, stored: Stored) -> str:
        """The object as a file here: where it lies, or a copy named by its content."""
        return self.copies.whole(stored)

    def annotated(self, images: Stored, annotations: Sequence[Annotation]) -> str:
        """A file here of an image table with its annotations. Named by what it is made of, it is never stale."""
        made_of = [images.sha256, *([annotation.stored.sha256, annotation.columns] for annotation in annotations)]

        def make() -> bytes:
            from vlq.query.cache.tables import annotated

            parts = [(self.local(annotation.stored), annotation.columns) for annotation in annotations]
            return annotated(self.local(images), parts)

        return self.copies.made(f"{digest_of(to_json(made_of))}.annotated.parquet", make)

    def effects(self, studies: Sequence[Finished]) -> str:
        """A file here of the effects of all studies, each with what was done in it."""
        from vlq.query.cache.studies import DONE, IN_LAYERS

        columns = [*DONE.names, *IN_LAYERS.names]
        made_of = [columns, *([finished.effects.sha256, finished.study.digest] for finished in studies)]

        def make() -> bytes:
            from vlq.query.cache.tables import effects

            return effects([(finished.study, self.local(finished.effects)) for finished in studies])

        return self.copies.made(f"{digest_of(to_json(made_of))}.effects.parquet", make)

    def read(self, stored: Stored) -> bytes:
        """The object's bytes. Raises CorruptCache if they are not those that were written."""
        return self.copies.read(stored)

    def group(self, shard: int) -> zarr.Group:
        """A committed shard's arrays (`schema.array_specs`), opened for reading with Zarr."""
        from vlq.query.cache.arrays import open_group

        return open_group(self.store, self.commit(shard))

    def array(self, shard: int, name: str) -> zarr.Array[Any]:
        """One of a committed shard's arrays, opened for reading with Zarr."""
        from vlq.query.cache.arrays import open_array

        return open_array(self.store, self.commit(shard), name)

    def values(self, commit: Commit, name: str) -> np.ndarray:
        """All of one of a shard's arrays. Raises CorruptCache if it is not what was written."""
        from vlq.query.cache.chunks import whole

        return whole(self.store, commit, *self._specs(commit, [name]))

    def values_of(self, commit: Commit, names: Sequence[str], image: int) -> list[np.ndarray]:
        """An image's values in several of its shard's arrays. Raises CorruptCache if they are not what was written."""
        from vlq.query.cache.chunks import of_image

        return of_image(self.store, commit, self._specs(commit, names), image - commit.first_image)

    def _specs(self, commit: Commit, names: Sequence[str]) -> list[ArraySpec]:
        specs = {spec.name: spec for spec in array_specs(self.run, commit.images, commit.lengths)}
        return [specs[name] for name in names]

    def info(self) -> dict[str, Any]:
        """What `vlq info` shows, as plain values."""
        from vlq.query.info import info

        return info(self)
