"""The one contract through which every byte of a cache is read and written.

    read, read a range, create-only put, list, delete

Objects are immutable: there is no overwrite and no append. `obstore` serves local paths, s3, gs, az and memory
URLs; any other scheme goes through fsspec. Keys are relative to the store's URL and use `/`.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from vlq.query.errors import StoreError
from vlq.query.schema import Stored, digest_of


class Entry(NamedTuple):
    """One listed object: its key, and its size in bytes."""

    key: str
    size: int


class Store(ABC):
    """A flat space of immutable objects under one URL."""

    url: str

    @abstractmethod
    def read(self, key: str) -> bytes:
        """The whole object. Raises FileNotFoundError if there is none."""

    @abstractmethod
    def read_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from `start`; a negative start counts from the end. Raises FileNotFoundError."""

    @abstractmethod
    def create(self, key: str, data: bytes) -> bool:
        """Put the object if its key is free, whole or not at all.

        True if this call created it, False if the key was taken (the object there is left as it is).
        """

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every object under the folder `prefix` ("" for all), in the order of their keys."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove the object; none there is fine."""

    def local_path(self, key: str) -> str | None:
        """Where the object lies on this machine's disk, or None if it does not."""
        return None


class ObstoreStore(Store):
    """Local folders, s3, gs, az and memory, through obstore."""

    def __init__(self, url: str, backend: Any, root: str | None = None) -> None:
        self.url = url
        self._backend = backend
        self._root = root

    def read(self, key: str) -> bytes:
        import obstore

        with _translated(self.url, key):
            return bytes(obstore.get(self._backend, key).bytes())

    def read_range(self, key: str, start: int, length: int) -> bytes:
        import obstore

        with _translated(self.url, key):
            if start < 0:
                if length != -start:
                    raise ValueError("a range from the end reads to the end")
                options: Any = {"range": {"suffix": length}}
                return bytes(obstore.get(self._backend, key, options=options).bytes())
            return bytes(obstore.get_range(self._backend, key, start=start, length=length))

    def create(self, key: str, data: bytes) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError

        with _translated(self.url, key):
            try:
                # A multipart upload would not be create-only.
                obstore.put(self._backend, key, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
        return True

    def list(self, prefix: str = "") -> Iterator[Entry]:
        import obstore

        with _translated(self.url, prefix):
            found = [
                Entry(meta["path"], meta["size"])
                for page in obstore.list(self._backend, prefix or None)
                for meta in page
            ]
        yield from sorted(found)

    def delete(self, key: str) -> None:
        import obstore

        with _translated(self.url, key), suppress(FileNotFoundError):
            obstore.delete(self._backend, key)

    def local_path(self, key: str) -> str | None:
        return None if self._root is None else os.path.join(self._root, *key.split("/"))


class FsspecStore(Store):
    """Every other scheme that fsspec knows. The file system must support exclusive creation."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise StoreError(f"Cannot open {url}: {error}.", "Check the URL; its scheme may need a package.") from error
        self._root = self._root.rstrip("/")

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}" if key else self._root

    def read(self, key: str) -> bytes:
        with _translated(self.url, key):
            return bytes(self._fs.cat_file(self._path(key)))

    def read_range(self, key: str, start: int, length: int) -> bytes:
        with _translated(self.url, key):
            end = None if start < 0 else start + length
            return bytes(self._fs.cat_file(self._path(key), start=start, end=end))

    def create(self, key: str, data: bytes) -> bool:
        with _translated(self.url, key):
            try:
                try:
                    self._fs.pipe_file(self._path(key), data, mode="create")
                except FileNotFoundError:  # some file systems have folders that must be made
                    self._fs.makedirs(self._path(key).rpartition("/")[0], exist_ok=True)
                    self._fs.pipe_file(self._path(key), data, mode="create")
            except FileExistsError:
                return False
        return True

    def list(self, prefix: str = "") -> Iterator[Entry]:
        with _translated(self.url, prefix):
            self._fs.invalidate_cache()  # others write, too
            found = self._fs.find(self._path(prefix), detail=True) if self._fs.exists(self._path(prefix)) else {}
        for path in sorted(found):
            yield Entry(path[len(self._root) + 1 :], found[path]["size"])

    def delete(self, key: str) -> None:
        with _translated(self.url, key), suppress(FileNotFoundError):
            self._fs.rm_file(self._path(key))


def put(store: Store, key: str, data: bytes) -> Stored:
    """Put an object whose key names its content.

    What is there already under that key is the same, or it is damaged and gives way.
    """
    if not store.create(key, data) and store.read(key) != data:
        store.delete(key)
        store.create(key, data)
    return Stored(key, len(data), digest_of(data))


_OBSTORE_SCHEMES = {"s3", "s3a", "gs", "az", "azure", "abfs", "abfss"}
_MEMORY: dict[str, Any] = {}  # one store a URL, so that a second open sees what the first one wrote


def open_store(url: str, *, create: bool = False) -> Store:
    """The store at a local path or a URL. `create` makes a missing local folder.

    Raises StoreError if the scheme is unknown or the folder cannot be made.
    """
    scheme = urlsplit(url).scheme.lower()
    if scheme in ("", "file") or (len(scheme) == 1 and os.name == "nt"):
        return _open_local(url, create)
    if scheme == "memory":
        from obstore.store import MemoryStore

        return ObstoreStore(url, _MEMORY.setdefault(url, MemoryStore()))
    if scheme in _OBSTORE_SCHEMES:
        from obstore.store import from_url

        with _translated(url, ""):
            return ObstoreStore(url, from_url(url))
    return FsspecStore(url)


def _open_local(url: str, create: bool) -> Store:
    from obstore.store import LocalStore

    path = url[len("file://") :] if url.startswith("file://") else url
    root = os.path.abspath(os.path.expanduser(path))
    if create:
        try:
            os.makedirs(root, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"Cannot make the folder {root}: {error.strerror or error}.",
                "Choose another, or check your permission.",
            ) from error
    if not os.path.isdir(root):
        raise FileNotFoundError(root)
    return ObstoreStore(url, LocalStore(root), root)


class _translated:
    """Turns a backend's exception into one message; FileNotFoundError passes, callers expect it."""

    def __init__(self, url: str, key: str) -> None:
        self._where = f"{url.rstrip('/')}/{key}"

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or not isinstance(error, Exception):
            return
        if isinstance(error, FileNotFoundError | ValueError | StoreError):
            return
        text = str(error)
        # obstore appends a dump of its Rust error: of no use to a reader.
        reason = text.split("\n\nDebug source:")[0].strip().splitlines()[0] if text else type(error).__name__
        hint = "Check the URL, its credentials and your permission to it."
        if "No space left" in text or "StorageFull" in text or "os error 28" in text:
            reason, hint = "no space left on the device", "Free some space and run the same command again: it goes on."
        elif "ermission denied" in text:
            reason, hint = "permission denied", "Check that you may read and write there."
        raise StoreError(f"Cannot use {self._where}: {reason}.", hint) from error
