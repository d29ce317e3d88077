"""Images inside a tar, as WebDataset's shards are: a URI for each, and its bytes, which are fetched as one range.

A URI is `member://OFFSET/LENGTH/CHECK::URL`, written as fsspec chains them: where in the tar at that URL the image's
bytes lie, and a checksum of the header in front of them, by which a tar that was changed is noticed.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

from vlq.query.stores.location import path_here

MEMBER = "member://"

HEADER = 512
"""Bytes of a member's header, which lies in front of its data (POSIX.1-2001, ustar)."""

AHEAD = 2**16
"""Bytes that file systems which know no ranges may fetch beyond one."""

_URI = re.compile(rf"{MEMBER}([0-9]+)/([0-9]+)/([0-9a-f]{{8}})::(.+)", re.DOTALL)


class Changed(Exception):
    """A tar is another one than when its members were listed."""


@dataclass(frozen=True)
class Member:
    """A file inside a tar: where it lies."""

    offset: int  # of its data
    length: int
    check: int  # `check_of` its header

    def uri(self, tar: str) -> str:
        """The member's URI, of the tar at a URL."""
        return f"{MEMBER}{self.offset}/{self.length}/{self.check:08x}::{tar}"

    @classmethod
    def of_uri(cls, uri: str) -> tuple[Member, str]:
        """The member that a URI means, and the URL of its tar. Raises ValueError."""
        found = _URI.fullmatch(uri)
        if found is None or int(found[1]) < HEADER:
            raise ValueError("expected member://OFFSET/LENGTH/CHECK::URL")
        return cls(int(found[1]), int(found[2]), int(found[3], 16)), found[4]

    def read(self, tar: str) -> bytes:
        """Its bytes. Raises Changed, and whatever keeps the tar from being read."""
        data = _range(tar, self.offset - HEADER, HEADER + self.length)
        if len(data) != HEADER + self.length or check_of(data) != self.check:
            raise Changed("the tar is another one than when it was listed")
        return data[HEADER:]


def check_of(header: bytes) -> int:
    """CRC-32 of the name and the size in a header. Times and owners differ where a tar of the same files is written
    again."""
    return zlib.crc32(header[:100] + header[124:136])


def _range(url: str, start: int, length: int) -> bytes:
    """Bytes of a file, fewer where it ends before."""
    from vlq.query.image.tables import file_system

    if (path := path_here(url)) is not None:
        with open(path, "rb") as file:
            file.seek(start)
            return file.read(length)
    files, path = file_system(url)
    # Those that are asynchronous ask for the range itself, others open the file for it.
    options = {} if files.async_impl else {"block_size": AHEAD}
    data = bytes(files.cat_file(path, start, start + length, **options))
    return data if len(data) <= length else data[start : start + length]  # a web server without ranges sends all
