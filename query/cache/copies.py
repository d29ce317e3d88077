"""A cache's objects as files on this machine: checked against what the records say, fetched where they lie elsewhere.

What is fetched is kept in `$VLQ_HOME`, named by its content, so that it is never stale and any number of processes may
share it. Beyond $VLQ_LOCAL_SIZE what was not used for longest goes. A file that is being read may go, too: whoever
finds one missing or damaged says so (`distrust`) and asks again.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from vlq.query.cache.records import check_there
from vlq.query.errors import CorruptCache, StoreError
from vlq.query.limits import size_of
from vlq.query.schema import MAGIC, Blocks, IndexFile, Stored, digest_of
from vlq.query.store import Store

SIZE_LIMIT = 20 * 2**30
"""Bytes of copies that are kept, where $VLQ_LOCAL_SIZE says nothing else."""

FRAME = -1
"""Stands for a file's beginning and end among its blocks."""

GAP = 64 * 2**10
"""Bytes between two blocks that are fetched with them: a request of their own takes longer."""


def local_files() -> Path:
    """The folder for what VLQ keeps on this machine: `$VLQ_HOME`, else the user's cache folder."""
    if home := os.environ.get("VLQ_HOME"):
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vlq"


class Copies:
    """The files of one store. Raises CorruptCache where an object is missing, or is not what was written."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sound: set[str | tuple[str, int]] = set()  # objects and blocks that this process has checked
        self._blocks: dict[str, Blocks] = {}
        self._made: set[Path] = set()

    def whole(self, stored: Stored) -> str:
        """Path of an object."""
        path = self._store.local_path(stored.key)
        if path is not None:
            try:
                if not self._is_whole(path, stored):
                    raise damaged(self._store, stored.key)
            except FileNotFoundError as error:
                raise missing(self._store, stored.key) from error
            return path
        copy = folder() / f"{stored.sha256}{Path(stored.key).suffix}"
        try:
            kept = self._is_whole(copy, stored)
            _touch(copy)
        except FileNotFoundError:
            kept = False
        if not kept:
            keep(copy, self.read(stored))
            self._sound.add(stored.sha256)
        return str(copy)

    def read(self, stored: Stored) -> bytes:
        """An object's bytes."""
        try:
            data = self._store.read(stored.key)
        except FileNotFoundError as error:
            raise missing(self._store, stored.key) from error
        if digest_of(data) != stored.sha256:
            raise damaged(self._store, stored.key)
        return data

    def holding(self, file: IndexFile, keys: Collection[int]) -> str | None:
        """Path of a table's file in which the blocks that may hold rows of these keys are sound; None if none may.

        Of a file that lies elsewhere only its footer and such blocks are here: the others' places are empty.
        """
        if file.blocks is None:
            return self.whole(file)
        blocks = self.blocks(file)
        wanted = blocks.holding(keys)
        return self._with(file, blocks, wanted) if wanted else None

    def without_rows(self, file: IndexFile) -> str:
        """Path of a table's file in which no block can be relied on: it tells the columns."""
        return self.whole(file) if file.blocks is None else self._with(file, self.blocks(file), [])

    def blocks(self, file: IndexFile) -> Blocks:
        """Where a file's blocks lie."""
        assert file.blocks is not None
        if file.sha256 not in self._blocks:
            with open(self.whole(file.blocks), "rb") as opened:
                self._blocks[file.sha256] = Blocks.from_bytes(opened.read(), file.blocks.key)
        return self._blocks[file.sha256]

    def made(self, name: str, make: Callable[[], bytes]) -> str:
        """Path of what is made of a cache's objects, under a name that tells of what."""
        copy = folder() / name
        if not copy.exists():
            keep(copy, make())
        _touch(copy)
        self._made.add(copy)
        return str(copy)

    def distrust(self) -> bool:
        """Check what was used anew when it is used again: a file was found damaged or gone. False if nothing was used.

        Copies stay, as others may be reading them. Only what was made here goes: no record says what it should be.
        """
        distrusted = bool(self._sound or self._made)
        for path in self._made:
            path.unlink(missing_ok=True)
        self._made.clear()
        self._sound.clear()
        self._blocks.clear()
        return distrusted

    # --- blocks ------------------------------------------------------------------------------------------------

    def _with(self, file: IndexFile, blocks: Blocks, wanted: Sequence[int]) -> str:
        path = self._store.local_path(file.key)
        if path is not None:
            try:
                sound = self._is_framed(path, file, blocks) and not self._unsound(path, file, blocks, wanted)
            except FileNotFoundError as error:
                raise missing(self._store, file.key) from error
            if not sound:
                raise damaged(self._store, file.key)
            return path
        copy = folder() / f"{file.sha256}.blocks.parquet"
        while True:
            with suppress(FileNotFoundError):  # another process may remove the copy meanwhile
                if copy.exists() and not self._is_framed(copy, file, blocks):
                    with _kept(copy):
                        copy.unlink()
                if not copy.exists():
                    self._sound.difference_update((file.sha256, number) for number in wanted)
                    _begin(copy, file, blocks)
                # What was never fetched is empty there, which is not sound either.
                absent = self._unsound(copy, file, blocks, wanted)
                for run in blocks.runs(absent, GAP):
                    self._fetch(copy, file, blocks, run)
                _touch(copy)
                break
        if absent:
            trim()
        return str(copy)

    def _is_framed(self, path: str | Path, file: IndexFile, blocks: Blocks) -> bool:
        """Whether a file's size and all that is in no block are as they were written."""
        if (file.sha256, FRAME) in self._sound:
            return True
        with open(path, "rb") as opened:
            magic = opened.read(len(MAGIC))
            sound = opened.seek(0, os.SEEK_END) == file.size and magic == MAGIC
            opened.seek(max(0, file.size - len(blocks.footer)))
            sound = sound and opened.read() == blocks.footer
        if sound:
            self._sound.add((file.sha256, FRAME))
        return sound

    def _unsound(self, path: str | Path, file: IndexFile, blocks: Blocks, numbers: Sequence[int]) -> list[int]:
        """Those blocks that a file does not hold as they were written."""
        unchecked = [number for number in numbers if (file.sha256, number) not in self._sound]
        unsound: list[int] = []
        if unchecked:
            with open(path, "rb") as opened:
                for number in unchecked:
                    block = blocks.blocks[number]
                    opened.seek(block.start)
                    if block.is_sound(opened.read(block.length)):
                        self._sound.add((file.sha256, number))
                    else:
                        unsound.append(number)
        return unsound

    def _fetch(self, copy: Path, file: IndexFile, blocks: Blocks, run: Sequence[int]) -> None:
        """Fetch a run of blocks, and what lies between them, at once."""
        start, end = blocks.blocks[run[0]].start, blocks.blocks[run[-1]].end
        try:
            data = self._store.read_range(file.key, start, end - start)
        except FileNotFoundError as error:
            raise missing(self._store, file.key) from error
        for number in run:
            block = blocks.blocks[number]
            if not block.is_sound(data[block.start - start : block.end - start]):
                raise damaged(self._store, file.key)
        with _kept(copy), open(copy, "r+b") as opened:  # others may be writing the same bytes to the same place
            opened.seek(start)
            opened.write(data)
        self._sound.update((file.sha256, number) for number in run)

    # --- whole objects -----------------------------------------------------------------------------------------

    def _is_whole(self, path: str | Path, stored: Stored) -> bool:
        """Whether a file is an object as it was written. Raises FileNotFoundError."""
        if stored.sha256 not in self._sound:
            with open(path, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != stored.sha256:
                    return False
            self._sound.add(stored.sha256)
        return True


def missing(store: Store, key: str) -> CorruptCache:
    """The error of an object that a record names and that is not there. Raises NoCache if nothing of the cache is."""
    check_there(store)
    return CorruptCache(f"{key} is missing from {store.url}.", _mend(key))


def damaged(store: Store, key: str) -> CorruptCache:
    """The error of an object that is there and not as a record says."""
    return CorruptCache(f"{key} in {store.url} is not what was written.", _mend(key))


def unreadable(called: str, error: Exception) -> CorruptCache:
    """The error of a cache's index of which DuckDB could not read a file."""
    return CorruptCache(f"The index of {called} cannot be read: {str(error).splitlines()[0]}", "Run: vlq index")


def _mend(key: str) -> str:
    """What to do about a damaged object: an index is made anew of what lies elsewhere."""
    return "Run: vlq index" if key.startswith("index/") else "Run: vlq verify"


# --- the folder ------------------------------------------------------------------------------------------------


def folder() -> Path:
    """Where copies are."""
    return local_files() / "objects"


def keep(path: Path, data: bytes) -> None:
    """Keep content under a name of its own. Several processes may do so at once: each its own file, then a rename."""
    with _kept(path), _beside(path) as whole:
        whole.write_bytes(data)
        os.replace(whole, path)
    trim()


def trim() -> None:
    """Remove the copies that were not used for longest, until the others take no more than the limit."""
    limit = size_limit()
    found = []
    for path in folder().iterdir():
        with suppress(FileNotFoundError):
            status = path.stat()
            if not path.is_dir():  # someone is writing there
                found.append((status.st_atime_ns, status.st_blocks * 512, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit:
            return
        path.unlink(missing_ok=True)
        total -= size


def size_limit() -> int:
    """Bytes of copies that may be kept. Raises BadArgument if $VLQ_LOCAL_SIZE is no size."""
    text = os.environ.get("VLQ_LOCAL_SIZE")
    return size_of("$VLQ_LOCAL_SIZE", text) if text else SIZE_LIMIT


def _begin(copy: Path, file: IndexFile, blocks: Blocks) -> None:
    """The file without its blocks: of its size, but they take no space on the disk yet.

    One that is there meanwhile stays: another may have put blocks into it.
    """
    with _kept(copy), _beside(copy) as whole:
        with open(whole, "wb") as opened:
            opened.write(MAGIC)
            opened.seek(file.size - len(blocks.footer))
            opened.write(blocks.footer)
        try:
            os.link(whole, copy)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            os.replace(whole, copy)


def _touch(path: Path) -> None:
    """Note that it is used now. When it was changed last stays: readers go by that."""
    os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A file to write, from which it may take its place whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        yield Path(scratch, path.name)


@contextmanager
def _kept(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        message = f"Cannot keep a copy in {path.parent}: {error.strerror}."
        raise StoreError(message, "Another place: $VLQ_HOME. A smaller one: $VLQ_LOCAL_SIZE") from error
