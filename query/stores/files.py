"""A bucket's objects as fsspec's file system, for reading: what lists and opens a user's files needs no more.

obstore has such a class, too. This one opens a bucket as caches do: the same options of the URL, the same patience, the
same errors; and it lists a folder in one go, not folder by folder.
"""

from __future__ import annotations

import io
from contextlib import suppress
from functools import lru_cache
from typing import Any

import fsspec

from vlq.query.stores.contract import Entry
from vlq.query.stores.location import apart, locate
from vlq.query.stores.objects import ObstoreStore, open_objects


@lru_cache(maxsize=16)
def bucket_of(scheme: str, host: str, options: str) -> ObstoreStore:
    """The store at a bucket's root. Kept open: many images are read from few buckets."""
    return open_objects(f"{scheme}://{host}" + (f"?{options}" if options else ""))


def read_object(url: str, most: int) -> tuple[int, bytes]:
    """An object's size, and its bytes unless these are more than `most`.

    Raises FileNotFoundError if the bucket is there without it, StoreError.
    """
    return _bucket(url).read_at_most(locate(url).prefix, most)


def bucket_files(url: str) -> tuple[BucketFiles, str]:
    """The file system of a URL's bucket, and the URL's path on it. Raises StoreError."""
    location = locate(url)
    return BucketFiles(_bucket(url), location.host), f"{location.host}/{location.prefix}".rstrip("/")


def _bucket(url: str) -> ObstoreStore:
    head, options = apart(url)
    return bucket_of(head.partition("://")[0], locate(url).host, options)


class BucketFiles(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """Paths are `bucket/key`, as fsspec has them of buckets. For one use: what it lists, it remembers."""

    cachable = False

    def __init__(self, store: ObstoreStore, host: str) -> None:
        """`store` is at the bucket's root."""
        super().__init__()
        self._store = store
        self._host = host
        self._listed: dict[str, list[Entry]] = {}

    def unstrip_protocol(self, name: str) -> str:
        """The URL under which an object is opened anew, with the options that it takes."""
        head, options = apart(self._store.url)
        return f"{head.partition('://')[0]}://{name}" + (f"?{options}" if options or "?" in name else "")

    def _key(self, path: str) -> str:
        return path.removeprefix(self._host).strip("/")

    def _list(self, path: str) -> list[Entry]:
        key = self._key(path)
        if key not in self._listed:
            self._listed[key] = list(self._store.list(key))
        return self._listed[key]

    def find(self, path: str, maxdepth: int | None = None, withdirs: bool = False, **options: Any) -> Any:
        found = {f"{self._host}/{entry.key}": entry.size for entry in self._list(path)}
        infos = {name: {"name": name, "size": size, "type": "file"} for name, size in found.items()}
        if withdirs:
            for name in list(infos):
                for end in (i for i, letter in enumerate(name) if letter == "/" and i > len(self._host)):
                    infos.setdefault(name[:end], {"name": name[:end], "size": 0, "type": "directory"})
        if maxdepth is not None:
            depth = path.rstrip("/").count("/") + maxdepth
            infos = {name: info for name, info in infos.items() if name.count("/") <= depth}
        return infos if options.get("detail") else sorted(infos)

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        key = self._key(path)
        if key:
            with suppress(FileNotFoundError):
                self._store.read_range(key, 0, 0)
                return {"name": path, "size": None, "type": "file"}
        if self._list(path):
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        found = self.find(path, maxdepth=1, withdirs=True, detail=True)
        return list(found.values()) if detail else sorted(found)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        if start is None or end is None:
            return bytes(super().cat_file(path, start, end, **options))
        return self._store.read_range(self._key(path), start, end - start)

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> io.IOBase:
        """The object as a file, of which so much is fetched at once where that is said, else what is read."""
        if mode != "rb":
            raise ValueError("for reading only")
        file = _Object(self._store, self._key(path))
        return file if block_size is None else io.BufferedReader(file, block_size)


class _Object(io.RawIOBase):
    """An object of a bucket as a file, of which only what is read is fetched."""

    def __init__(self, store: ObstoreStore, key: str) -> None:
        """Raises FileNotFoundError, StoreError."""
        self._store, self._key, self._at = store, key, 0
        self._size, _ = store.read_at_most(key, 0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._size - self._at)
        wanted = left if size is None or size < 0 else min(size, left)
        data = self._store.read_range(self._key, self._at, wanted) if wanted else b""
        self._at += len(data)
        return data

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
