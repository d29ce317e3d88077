"""A store that counts what is asked of it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator

from vlq.query.store import Entry, Store


class CountingStore(Store):
    """Passes everything on to another store, and keeps `calls`: (kind, key, bytes moved), as they ended."""

    def __init__(self, behind: Store) -> None:
        self.behind = behind
        self.url = behind.url
        self.calls: list[tuple[str, str, int]] = []
        self._lock = threading.Lock()

    @property
    def requests(self) -> Counter[str]:
        """How many calls of each kind."""
        return Counter(kind for kind, _, _ in self.calls)

    @property
    def bytes(self) -> Counter[str]:
        """Bytes that calls of each kind moved."""
        total: Counter[str] = Counter()
        for kind, _, size in self.calls:
            total[kind] += size
        return total

    def keys(self, kind: str) -> list[str]:
        """What the calls of a kind were for."""
        return [key for called, key, _ in self.calls if called == kind]

    def reset(self) -> None:
        self.calls = []

    def _count(self, kind: str, key: str, size: int) -> None:
        with self._lock:
            self.calls.append((kind, key, size))

    def read(self, key: str) -> bytes:
        data = b""
        try:
            data = self.behind.read(key)
        finally:
            self._count("read", key, len(data))
        return data

    def read_range(self, key: str, start: int, length: int) -> bytes:
        data = b""
        try:
            data = self.behind.read_range(key, start, length)
        finally:
            self._count("read_range", key, len(data))
        return data

    def create(self, key: str, data: bytes) -> bool:
        self._count("create", key, len(data))
        return self.behind.create(key, data)

    def list(self, prefix: str = "", after: str = "") -> Iterator[Entry]:
        self._count("list", prefix, 0)
        return self.behind.list(prefix, after)

    def delete(self, key: str) -> None:
        self._count("delete", key, 0)
        self.behind.delete(key)

    def local_path(self, key: str) -> str | None:
        """None: what a reader of a bucket does is what is counted."""
        return None
