"""A shard's Zarr group, opened through the store contract, so that every store and any Zarr reader see the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import zarr
from zarr.abc import store as zarr_store
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from vlq.query.cache.copies import damaged, missing
from vlq.query.errors import CorruptCache
from vlq.query.schema import Commit, digest_of
from vlq.query.store import Store


def open_group(store: Store, commit: Commit) -> zarr.Group:
    """A committed shard's Zarr v3 group, for reading. Reading raises CorruptCache where an object is missing.

    What was read of its metadata and of where its chunks lie is kept for the shards that were opened last.
    """
    return zarr.open_group(ReadOnlyZarrStore(store, commit), mode="r", zarr_format=3)


@lru_cache(maxsize=256)
def _read_before(store: Store, prefix: str) -> dict[tuple[str, ByteRequest | None], bytes]:
    """A shard's metadata and chunk indexes as far as they were read. A prefix names its content: it is never stale."""
    return {}


def open_array(store: Store, commit: Commit, name: str) -> zarr.Array[Any]:
    """One of a committed shard's arrays, for reading; those of the shards that were opened last stay open."""
    opened = _opened(store, commit.prefix)
    if name not in opened:
        array = open_group(store, commit)[name]
        assert isinstance(array, zarr.Array)
        opened[name] = array
    return opened[name]


@lru_cache(maxsize=256)
def _opened(store: Store, prefix: str) -> dict[str, zarr.Array[Any]]:
    """A shard's arrays as far as they were opened."""
    return {}


def values(array: zarr.Array[Any], key: Any) -> np.ndarray:
    """A part of one of the group's arrays. Raises CorruptCache if it is not what was written: chunks have checksums."""
    try:
        return np.asarray(array[key])
    except (ValueError, RuntimeError) as error:
        raise CorruptCache(f"The array {array.path} is damaged: {error}.", "Run: vlq verify") from error


class ReadOnlyZarrStore(zarr_store.Store):
    """A committed shard as zarr-python's store. Objects are never written through it.

    To Zarr an absent object is one that holds fill values only. The record knows better: an object that it names must
    be there, and one that it doesn't name need not be looked for.
    """

    supports_writes = False
    supports_deletes = False
    supports_partial_writes = False
    supports_listing = True

    def __init__(self, store: Store, commit: Commit) -> None:
        super().__init__(read_only=True)
        self._store_contract = store
        self._prefix = commit.prefix
        self._sizes = {stored.key: stored.size for stored in commit.objects}
        self._checksums = {stored.key: stored.sha256 for stored in commit.objects}
        self._read_before = _read_before(store, commit.prefix)
        self._is_here = store.is_here

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ReadOnlyZarrStore)
            and self._store_contract is other._store_contract
            and self._prefix == other._prefix
        )

    def _read(self, key: str, byte_range: ByteRequest | None) -> bytes | None:
        path = f"{self._prefix}/{key}"
        if path not in self._sizes:
            return None
        data = self._fetch(path, byte_range)
        # An index lies at its object's end.
        if isinstance(byte_range, SuffixByteRequest) or key.endswith("zarr.json"):
            self._read_before[key, byte_range] = data
        return data

    def _fetch(self, path: str, byte_range: ByteRequest | None) -> bytes:
        """By the size that the record states: not every server knows ranges that begin at the end."""
        store, size = self._store_contract, self._sizes[path]
        match byte_range:
            case None:
                start, end = 0, size
            case RangeByteRequest(start, end):
                end = min(end, size)
            case SuffixByteRequest(suffix):
                start, end = max(0, size - suffix), size
            case OffsetByteRequest(offset):
                start, end = offset, size
            case _:
                raise TypeError(f"unknown byte range {byte_range!r}")
        try:
            data = store.read(path) if byte_range is None else store.read_range(path, start, end - start)
        except FileNotFoundError as error:
            raise missing(store, path) from error
        if len(data) != end - start or (byte_range is None and digest_of(data) != self._checksums[path]):
            raise damaged(store, path)
        return data

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        data = self._read_before.get((key, byte_range))
        if data is None and self._is_here:
            data = self._read(key, byte_range)  # a disk answers sooner than a thread begins
        elif data is None:
            data = await asyncio.to_thread(self._read, key, byte_range)
        return None if data is None else prototype.buffer.from_bytes(data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return list(await asyncio.gather(*(self.get(key, prototype, span) for key, span in key_ranges)))

    async def get_ranges(self, *args: Any, **options: Any) -> AsyncIterator[Any]:
        """Zarr's own, by which newer ones read chunks; but what a read raises is raised, and not a group of it."""
        try:
            async for found in super().get_ranges(*args, **options):  # type: ignore[misc]
                yield found
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def exists(self, key: str) -> bool:
        return f"{self._prefix}/{key}" in self._sizes

    async def set(self, key: str, value: Buffer) -> None:
        raise PermissionError("a cache's objects are immutable")

    async def delete(self, key: str) -> None:
        raise PermissionError("a cache's objects are immutable")

    async def list(self) -> AsyncIterator[str]:
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        for path in self._sizes:
            key = path[len(self._prefix) + 1 :]
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        folder = prefix.rstrip("/") + "/" if prefix else ""
        seen = set()
        async for key in self.list_prefix(folder):
            name = key[len(folder) :].split("/")[0]
            if name not in seen:
                seen.add(name)
                yield name
