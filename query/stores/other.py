"""Every other scheme that fsspec knows. The file system must support exclusive creation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

from vlq.query.errors import StoreError
from vlq.query.stores.contract import Entry, Store
from vlq.query.stores.location import refuse_secrets
from vlq.query.stores.trouble import explained


class FsspecStore(Store):
    """A folder on a file system of fsspec's."""

    def __init__(self, url: str) -> None:
        import fsspec

        refuse_secrets(url)
        self.url = url
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise StoreError(f"Cannot open {url}: {error}.", "Check the URL; its scheme may need a package.") from error
        except FileNotFoundError:
            raise
        except Exception as error:  # a host that is not there, an archive that is none
            raise explained(error, None, url, "open") from error
        self._root = self._root.rstrip("/")

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}" if key else self._root

    def read(self, key: str) -> bytes:
        with self._translated("read", key):
            return bytes(self._fs.cat_file(self._path(key)))

    def read_range(self, key: str, start: int, length: int) -> bytes:
        if start < 0 and length != -start:
            raise ValueError("a range from the end reads to the end")
        with self._translated("read", key):
            if start < 0:
                size = self._fs.info(self._path(key))["size"]
                start, length = max(0, size - length), min(size, length)
            return bytes(self._fs.cat_file(self._path(key), start=start, end=start + length))

    def create(self, key: str, data: bytes) -> bool:
        with self._translated("write", key):
            try:
                try:
                    self._fs.pipe_file(self._path(key), data, mode="create")
                except FileNotFoundError:  # some file systems have folders that must be made
                    self._fs.makedirs(self._path(key).rpartition("/")[0], exist_ok=True)
                    self._fs.pipe_file(self._path(key), data, mode="create")
            except FileExistsError:
                return False
        return True

    def list(self, prefix: str = "", after: str = "") -> Iterator[Entry]:
        with self._translated("list", prefix):
            self._fs.invalidate_cache()  # others write, too
            found = self._fs.find(self._path(prefix), detail=True) if self._fs.exists(self._path(prefix)) else {}
        for path in sorted(found):
            # Paths at the root of some file systems, such as an archive's, begin with no /.
            if (key := path.removeprefix(self._root).lstrip("/")) > after:
                yield Entry(key, found[path]["size"], _modified(found[path]))

    def delete(self, key: str) -> None:
        with self._translated("delete", key), suppress(FileNotFoundError):
            self._fs.rm_file(self._path(key))

    @contextmanager
    def _translated(self, verb: str, key: str) -> Iterator[None]:
        """FileNotFoundError passes, callers expect it."""
        try:
            yield
        except (FileNotFoundError, ValueError, StoreError):
            raise
        except Exception as error:
            raise explained(error, None, f"{self.url.rstrip('/')}/{key}".rstrip("/"), verb) from error


def _modified(info: dict[str, Any]) -> float | None:
    """When an object was put: file systems tell it under different names, or not at all."""
    for name in ("mtime", "LastModified", "last_modified", "updated", "created"):
        found = info.get(name)
        if isinstance(found, str):
            with suppress(ValueError):
                found = datetime.fromisoformat(found)
        if isinstance(found, datetime):
            return found.timestamp()
        if isinstance(found, int | float):
            return float(found)
    return None
