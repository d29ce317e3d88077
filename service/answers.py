"""Answers that were given not long ago: a cache that stays the same gives the same ones again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock

MOST = 64 * 2**20
"""Bytes of all that are kept."""

LARGEST = 2**20
"""Bytes of one that is kept."""


class Answers:
    """Bytes by what decides them; those that were asked for last."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, bytes] = OrderedDict()
        self._size = 0
        self._lock = Lock()

    def get(self, key: Hashable) -> bytes | None:
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, key: Hashable, answer: bytes) -> None:
        if len(answer) > LARGEST:
            return
        with self._lock:
            self._size += len(answer) - len(self._kept.pop(key, b""))
            self._kept[key] = answer
            while self._size > MOST:
                self._size -= len(self._kept.popitem(last=False)[1])
