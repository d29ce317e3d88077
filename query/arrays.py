"""A shard's Zarr group, opened through the store contract, so that every store and any Zarr reader see the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

import zarr
from zarr.abc import store as zarr_store
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from vlq.query.errors import CorruptCache
from vlq.query.schema import Commit
from vlq.query.store import Store


def open_group(store: Store, commit: Commit) -> zarr.Group:
    """A committed shard's Zarr v3 group, for reading. Reading raises CorruptCache where an object is missing."""
    return zarr.open_group(ReadOnlyZarrStore(store, commit), mode="r", zarr_format=3)


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
        self._keys = [stored.key for stored in commit.objects]

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ReadOnlyZarrStore)
            and self._store_contract is other._store_contract
            and self._prefix == other._prefix
        )

    def _read(self, key: str, byte_range: ByteRequest | None) -> bytes | None:
        store, path = self._store_contract, f"{self._prefix}/{key}"
        if path not in self._keys:
            return None
        try:
            match byte_range:
                case None:
                    return store.read(path)
                case RangeByteRequest(start, end):
                    return store.read_range(path, start, end - start)
                case SuffixByteRequest(suffix):
                    return store.read_range(path, -suffix, suffix)
                case OffsetByteRequest(offset):
                    return store.read(path)[offset:]
        except FileNotFoundError as error:
            raise CorruptCache(f"{path} is missing from {store.url}.", "Run: vlq verify") from error
        raise TypeError(f"unknown byte range {byte_range!r}")

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        data = await asyncio.to_thread(self._read, key, byte_range)
        return None if data is None else prototype.buffer.from_bytes(data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return list(await asyncio.gather(*(self.get(key, prototype, span) for key, span in key_ranges)))

    async def exists(self, key: str) -> bool:
        return f"{self._prefix}/{key}" in self._keys

    async def set(self, key: str, value: Buffer) -> None:
        raise PermissionError("a cache's objects are immutable")

    async def delete(self, key: str) -> None:
        raise PermissionError("a cache's objects are immutable")

    async def list(self) -> AsyncIterator[str]:
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        for path in self._keys:
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
