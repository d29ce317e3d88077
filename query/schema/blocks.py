"""The blocks of an index's tables.

An index table's file is Parquet, its rows sorted by its first column, the key: a token, or an image. Its blocks are
Parquet's row groups. The record of them lies beside the file, so that a reader fetches and checks the blocks that
hold its keys and nothing else.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

from vlq.query.errors import CorruptCache
from vlq.query.schema.records import digest_of

MAGIC = b"PAR1"
"""What a Parquet file begins with, in front of its first block."""

_BLOCK = Struct("<IIQQ32s")


class Block(NamedTuple):
    """A block: its lowest and highest key, where it lies in the file, in bytes, and its SHA-256."""

    first: int
    last: int
    start: int
    length: int
    sha256: bytes

    @property
    def end(self) -> int:
        return self.start + self.length

    def is_sound(self, data: bytes) -> bool:
        """Whether these bytes are the block's."""
        return digest_of(data) == self.sha256.hex()


@dataclass(frozen=True)
class Blocks:
    """The record of a file's blocks, in their order, and of its `footer`: what lies behind the last one."""

    blocks: tuple[Block, ...]
    footer: bytes

    def to_bytes(self) -> bytes:
        return b"".join([len(self.blocks).to_bytes(8, "little"), *(_BLOCK.pack(*b) for b in self.blocks), self.footer])

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Blocks:
        end = 8 + int.from_bytes(data[:8], "little") * _BLOCK.size
        if len(data) <= end:
            raise CorruptCache(f"{where} does not tell where blocks lie.", "Run: vlq index")
        return cls(tuple(Block(*values) for values in _BLOCK.iter_unpack(data[8:end])), data[end:])

    def holding(self, keys: Collection[int]) -> list[int]:
        """The numbers of the blocks in which there may be rows of these keys, ascending."""
        wanted = sorted(keys)
        # A block holds one if the least key that is not below its first is not above its last.
        least = ((number, block, bisect_left(wanted, block.first)) for number, block in enumerate(self.blocks))
        return [number for number, block, at in least if at < len(wanted) and wanted[at] <= block.last]

    def runs(self, numbers: Sequence[int], gap: int) -> Iterator[list[int]]:
        """Blocks that are fetched at once: no more than `gap` bytes that nobody asked for lie between two of them."""
        run: list[int] = []
        for number in numbers:
            if run and self.blocks[number].start - self.blocks[run[-1]].end > gap:
                yield run
                run = []
            run.append(number)
        if run:
            yield run
