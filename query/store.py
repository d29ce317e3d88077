"""The one contract through which every byte of a cache is read and written.

    read, read a range, create-only put, list, delete

Objects are immutable: there is no overwrite and no append. `obstore` serves local paths, s3, gs, az and memory
URLs; any other scheme goes through fsspec. Keys are relative to the store's URL and use `/`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from stat import S_ISDIR
from typing import Any, TypeVar

from vlq.query.errors import StoreError
from vlq.query.schema import Stored, digest_of
from vlq.query.stores.contract import Entry, Store
from vlq.query.stores.location import kind_of, path_here
from vlq.query.stores.objects import ObstoreStore, open_objects
from vlq.query.stores.other import FsspecStore

__all__ = ["Entry", "FsspecStore", "ObstoreStore", "Store", "at_once", "open_store", "put"]

Item = TypeVar("Item")
Found = TypeVar("Found")


AT_ONCE = 32
"""Requests under way at once, where many objects are read: of a store far away each is a wait."""


def at_once(store: Store, call: Callable[[Item], Found], items: Sequence[Item]) -> list[Found]:
    """`call` of each item, which reads the store, in order; many at a time where that is not on this machine's disk."""
    if len(items) < 2 or store.is_here:
        return [call(item) for item in items]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(AT_ONCE, len(items))) as threads:
        return list(threads.map(call, items))


def put(store: Store, key: str, data: bytes) -> Stored:
    """Put an object whose key names its content.

    What is there already under that key is the same, or it is damaged and gives way.
    """
    if not store.create(key, data) and store.read(key) != data:
        store.delete(key)
        store.create(key, data)
    return Stored(key, len(data), digest_of(data))


_MEMORY: dict[str, Any] = {}  # one store a URL, so that a second open sees what the first one wrote


def open_store(url: str, *, create: bool = False) -> Store:
    """The store at a local path or a URL. `create` makes a missing local folder.

    Raises StoreError if the scheme is unknown, the URL says what it may not, or the folder cannot be made.
    """
    if (path := path_here(url)) is not None:
        return _open_local(url, path, create)
    if url.lower().startswith("memory://"):
        from obstore.store import MemoryStore

        return ObstoreStore(url, _MEMORY.setdefault(url, MemoryStore()))
    return open_objects(url) if kind_of(url) else FsspecStore(url)


def _open_local(url: str, path: str, create: bool) -> Store:
    from obstore.store import LocalStore

    root = os.path.abspath(os.path.expanduser(path))
    if create:
        try:
            os.makedirs(root, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"Cannot make the folder {root}: {error.strerror or error}.",
                "Choose another, or check your permission.",
            ) from error
    try:
        is_folder = S_ISDIR(os.stat(root).st_mode)
    except PermissionError as error:
        raise StoreError(f"Cannot look into {root}: permission denied.", "Check that you may read there.") from error
    except (OSError, ValueError):  # of a path with a NUL, too
        is_folder = False
    if not is_folder:
        raise FileNotFoundError(root)
    return ObstoreStore(url, LocalStore(root), root=root)
