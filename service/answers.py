"""Answers that were given not long ago: a cache that stays the same gives the same ones again."""

from __future__ import annotations

import gzip
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from threading import Lock

MOST = 64 * 2**20
"""Bytes of all that are kept."""

LARGEST = 2**20
"""Bytes of one that is kept."""

BESIDE = 1024
"""Bytes that one takes beside its own: what decides it, its tag, and its place."""

LEAST_COMPRESSED = 1024
"""Bytes below which compression is not worth it."""

LEVEL = 1
"""Of gzip's compression: higher ones take several times as long and save little."""


@dataclass(frozen=True)
class Kept:
    """An answer as it is sent: compressed once, however often it is asked for."""

    data: bytes
    tag: str
    is_compressed: bool

    @classmethod
    def of(cls, body: bytes, tag: str) -> Kept:
        if len(body) < LEAST_COMPRESSED:
            return cls(body, tag, False)
        return cls(gzip.compress(body, LEVEL, mtime=0), tag, True)

    @property
    def size(self) -> int:
        """Bytes that it takes, about."""
        return len(self.data) + BESIDE

    @property
    def body(self) -> bytes:
        return gzip.decompress(self.data) if self.is_compressed else self.data


class Answers:
    """Answers by what decides them; those that were asked for last."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, Kept] = OrderedDict()
        self._lock = Lock()
        self.size = 0  # bytes that they take, about

    def get(self, key: Hashable) -> Kept | None:
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, key: Hashable, answer: Kept) -> None:
        if len(answer.data) > LARGEST:
            return
        with self._lock:
            if (before := self._kept.pop(key, None)) is not None:
                self.size -= before.size
            self._kept[key] = answer
            self.size += answer.size
            while self.size > MOST:
                self.size -= self._kept.popitem(last=False)[1].size
