"""What every store does. See `vlq.query.store`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple


class Entry(NamedTuple):
    """One listed object: its key, its size in bytes, and when it was put, in seconds since 1970 (None: not known)."""

    key: str
    size: int
    modified: float | None = None


class Store(ABC):
    """A flat space of immutable objects under one URL.

    A key is one or more names joined by `/`; no name is empty, `.` or `..`. Whatever else goes wrong than what is said
    here, permission, credentials, disk or network, raises StoreError.
    """

    url: str

    @abstractmethod
    def read(self, key: str) -> bytes:
        """The whole object. Raises FileNotFoundError if there is none."""

    @abstractmethod
    def read_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from `start`, or the last `length` ones if `start` is `-length`.

        As far as the object has them: fewer, or none, beyond its ends. Raises FileNotFoundError.
        """

    @abstractmethod
    def create(self, key: str, data: bytes) -> bool:
        """Put the object if its key is free, whole or not at all.

        True if this call put it, if need be in a try whose answer was lost; False if the key was taken, be it by the
        same bytes: of several writers one wins. What was there is left as it is.
        """

    @abstractmethod
    def list(self, prefix: str = "", after: str = "") -> Iterator[Entry]:
        """Every object under the folder `prefix` ("" for all) with a key behind `after`, in the order of their keys."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove the object; none there is fine."""

    def local_path(self, key: str) -> str | None:
        """Where the object lies on this machine's disk, or None if it does not."""
        return None

    @property
    def is_here(self) -> bool:
        """Whether objects lie on this machine's disk."""
        return self.local_path("") is not None
