"""Answers that were given not long ago: a cache that stays the same gives the same ones again."""

from __future__ import annotations

import gzip
import zlib
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from threading import Lock

MOST = 96 * 2**20
"""Bytes of all that are kept: of LLaVA-1.5's size the readings of some 270 images, with k 1 and with 5."""

LARGEST = 2**20
"""Bytes of one that is kept."""

BESIDE = 1024
"""Bytes that one takes beside its own: what decides it, its tag, and its place."""

LEAST_COMPRESSED = 1024
"""Bytes below which compression is not worth it."""

LEVEL = 1
"""Of gzip's compression: higher ones take several times as long and save little."""


@dataclass(frozen=True)
class Part:
    """A part of an answer's bytes."""

    data: bytes
    repeats: bool = True
    """Whether strings of bytes come again. Among measured numbers they seldom do: to look for them takes longer than
    all else, and saves nothing."""


class Parts(tuple[Part, ...]):
    """An answer's bytes in parts that are compressed each in its own way."""

    @property
    def whole(self) -> bytes:
        return b"".join(part.data for part in self)


@dataclass(frozen=True)
class Packed:
    """The beginning of a gzip member (RFC 1952), behind which one or another end may stand."""

    data: bytes
    checksum: int
    size: int  # bytes before they were compressed

    @classmethod
    def of(cls, parts: Parts) -> Packed:
        """Each part is compressed by itself: blocks of DEFLATE (RFC 1951) that end at a whole byte may follow each
        other."""
        packed, checksum = [HEADER], 0
        for part in parts:
            strategy = zlib.Z_DEFAULT_STRATEGY if part.repeats else zlib.Z_HUFFMAN_ONLY
            packer = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, strategy)
            packed += [packer.compress(part.data), packer.flush(zlib.Z_SYNC_FLUSH)]
            checksum = zlib.crc32(part.data, checksum)
        return cls(b"".join(packed), checksum, sum(len(part.data) for part in parts))

    def ended(self, end: bytes = b"") -> bytes:
        """The whole member, with a few bytes at its end as they are: a stored block, which is the last one."""
        lengths = len(end).to_bytes(2, "little") + (len(end) ^ 0xFFFF).to_bytes(2, "little")
        checksum, size = zlib.crc32(end, self.checksum), (self.size + len(end)) % 2**32
        trailer = checksum.to_bytes(4, "little") + size.to_bytes(4, "little")
        return b"".join([self.data, b"\x01", lengths, end, trailer])


def beginning_of(body: bytes | Parts) -> Packed | bytes:
    """An answer's beginning, compressed if it is not short."""
    parts = Parts([Part(body)]) if isinstance(body, bytes) else body
    return parts.whole if sum(len(part.data) for part in parts) < LEAST_COMPRESSED else Packed.of(parts)


HEADER = bytes.fromhex("1f8b 08 00 00000000 04 ff")
"""Of gzip: DEFLATE, no name, no time, compressed fast, on any system."""


@dataclass(frozen=True)
class Kept:
    """An answer as it is sent: compressed once, however often it is asked for."""

    data: bytes
    tag: str
    is_compressed: bool

    @classmethod
    def of(cls, body: bytes | Parts, tag: str) -> Kept:
        return cls.ending(beginning_of(body), b"", tag)

    @classmethod
    def ending(cls, beginning: Packed | bytes, end: bytes, tag: str) -> Kept:
        """What begins as `beginning_of` gives it."""
        if isinstance(beginning, bytes):
            return cls(beginning + end, tag, False)
        return cls(beginning.ended(end), tag, True)

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
