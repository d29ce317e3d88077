"""The records of what is done: a shard, an index, an annotation, a finished study, and the head that names them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vlq.query.errors import CorruptCache
from vlq.query.schema.records import FORMAT, check_fields, parse_record, record_bytes
from vlq.query.schema.studies import Study


@dataclass(frozen=True)
class Stored:
    """One immutable object that a record names."""

    key: str
    size: int
    sha256: str


@dataclass(frozen=True)
class IndexFile(Stored):
    """A file of an index table. `blocks` is the record of its blocks (`Blocks`), if it has any.

    Its rows' keys, of the first column, run from `first` to `last`; of no rows neither is known.
    """

    blocks: Stored | None = None
    first: int | None = None
    last: int | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> IndexFile:
        blocks = values.get("blocks")
        return cls(**{**values, "blocks": None if blocks is None else Stored(**blocks)})

    def may_hold(self, keys: Collection[int]) -> bool:
        """Whether there can be rows of these keys."""
        if self.blocks is None:
            return True
        return self.first is not None and self.last is not None and any(self.first <= k <= self.last for k in keys)


@dataclass(frozen=True)
class Commit:
    """`commits/<shard>.json`: the shard is done, and these are its objects."""

    run: str  # Run.digest
    shard: int
    first_image: int
    images: int
    lengths: Mapping[str, int]  # of `Run.stored`: the positions of the image that has most, which arrays have room for
    prefix: str  # of the Zarr group
    errors: tuple[tuple[int, str, str], ...]  # image id, name, reason
    objects: tuple[Stored, ...]  # the group's
    images_table: Stored
    postings: Mapping[str, Stored]  # by table
    format: int = FORMAT

    @property
    def named(self) -> list[Stored]:
        """Every object that it names, in an order that does not depend on who made it."""
        return [*self.objects, self.images_table, *(stored for _, stored in sorted(self.postings.items()))]

    @property
    def size(self) -> int:
        """Bytes of all objects that it names."""
        return sum(stored.size for stored in self.named)

    def to_bytes(self) -> bytes:
        return record_bytes(asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Commit:
        values = parse_record(data, where, cls)
        try:
            values["errors"] = tuple(tuple(error) for error in values["errors"])
            values["images_table"] = Stored(**values["images_table"])
            values["objects"] = tuple(Stored(**stored) for stored in values["objects"])
            values["postings"] = {table: Stored(**stored) for table, stored in values["postings"].items()}
            return cls(**values)
        except (AttributeError, KeyError, TypeError) as error:
            raise CorruptCache(f"{where} is not a commit record: {error}.", "Run: vlq verify") from error


@dataclass(frozen=True)
class IndexManifest:
    """`index/<hash>.json`: the compacted index of the first `shards` shards of a plan."""

    run: str
    shards: int
    images: int
    errors: tuple[tuple[int, str, str], ...]
    tables: Mapping[str, tuple[IndexFile, ...]]  # of `schema.tables` and "images", each one or more files in key order
    format: int = FORMAT

    @property
    def objects(self) -> list[Stored]:
        """Every object that it names."""
        files = [file for files in self.tables.values() for file in files]
        return [*files, *(file.blocks for file in files if file.blocks is not None)]

    def to_bytes(self) -> bytes:
        return record_bytes(asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> IndexManifest:
        values = parse_record(data, where, cls)
        try:
            values["errors"] = tuple(tuple(error) for error in values["errors"])
            values["tables"] = {table: tuple(map(IndexFile.of, files)) for table, files in values["tables"].items()}
            return cls(**values)
        except (AttributeError, KeyError, TypeError) as error:
            raise CorruptCache(f"{where} is not an index manifest: {error}.", "Run: vlq index") from error


@dataclass(frozen=True)
class Annotation:
    """Image columns that were joined later: those `columns` of a Parquet table that has an `image_id` beside them.

    Other columns of the table were replaced since. Images without a row have nulls.
    """

    stored: Stored
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Finished:
    """A study all of whose effects are there: one Parquet table of them, of `studies.EFFECTS`."""

    study: Study
    effects: Stored


@dataclass(frozen=True)
class Head:
    """`commits/head-<number>.json`. The newest one tells what the cache should hold and whether it does."""

    number: int
    plan: str  # key of the plan
    shards: int
    images: int
    sealed: bool  # all shards are committed and `index` covers them: nothing will change below this head
    index: str | None  # key of the index manifest
    annotations: tuple[Annotation, ...] = ()
    studies: tuple[Finished, ...] = ()  # the newest last
    format: int = FORMAT

    def to_bytes(self) -> bytes:
        values = asdict(self)
        values["studies"] = [{"study": one.study.plain(), "effects": asdict(one.effects)} for one in self.studies]
        if not self.studies:
            del values["studies"]  # the bytes of heads from before there were any stay so
        return record_bytes(values)

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Head:
        values = parse_record(data, where, cls)
        try:
            for finished in values.get("studies", ()):
                check_fields(finished["study"], where, Study)
            values["studies"] = tuple(
                Finished(Study.of(finished["study"]), Stored(**finished["effects"]))
                for finished in values.get("studies", ())
            )
            values["annotations"] = tuple(
                Annotation(Stored(**annotation["stored"]), tuple(annotation["columns"]))
                for annotation in values.get("annotations", ())
            )
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise CorruptCache(f"{where} is not a head: {error}.", "Run: vlq verify") from error
