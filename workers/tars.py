"""WebDataset's tars as manifests: a row for each image, with what lies beside it under the same key.

The key of a member is its path up to the first dot of the file's name, and what comes behind is its ending.
"""

from __future__ import annotations

import json
import posixpath
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from vlq.query.errors import InputError, VlqError
from vlq.query.image.members import HEADER, Member, check_of
from vlq.query.image.tables import file_system, plain, reason, table_of_rows
from vlq.query.stores.location import without_options
from vlq.workers.files import EXTENSIONS, folders_of, is_hidden, url_of

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
"""Endings of tars of which no part can be read by itself."""

MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
"""What these begin with, whatever their names."""

BLOCK = 2**20
"""So many bytes of a tar elsewhere are fetched at once. Of images that are larger only their headers are."""

LONGEST = 2**24
"""Files of more bytes are no texts beside an image."""

JSON = "json"

WHOLE = ("cls", "cls2", "class", "count", "index", "inx", "id")
"""Endings of files that have a whole number in them, as WebDataset decodes them."""

KINDS = dict.fromkeys((JSON, "txt", "text", "transcript", "caption", *WHOLE), True) | dict.fromkeys(
    ("npy", "npz", "pyd", "pickle", "pkl", "pth", "pt", "ten", "tb", "mp", "msg", "cbor"), False
)
"""Whether files of these endings are texts. Of other ones their first in a tar tells."""

MOST_ENDINGS = 100
"""Files of more endings beside the images are none that belong to them: their names have dots for something else."""

AGAIN = "of a name that comes again"

_WHOLE = re.compile(r"\s*[+-]?[0-9]{1,18}\s*")

_CONTROL = re.compile(rb"[\0-\x08\x0e-\x1f]")

LOOKS = "A tar of images has no compression and no member cut off: fetch it again, write it again, or leave it out."

Column = tuple[str, pa.ChunkedArray]


@dataclass
class Tar:
    """What a tar has of its images: names and URIs, the columns beside them, and what was passed over."""

    names: list[str]
    uris: list[str]
    columns: list[Column]
    passed_over: Counter[str]


def is_tar(source: str) -> bool:
    """Whether the name of a file, or a glob, ends as those of tars do, compressed ones among them."""
    return source.lower().endswith((".tar", *COMPRESSED))


def read_tar(source: str, stem: str) -> Tar:
    """The images of the tar at a path or URL, in its order, each called `stem` and its own name. Raises InputError."""
    if without_options(source).lower().endswith(COMPRESSED):
        raise _compressed(source)
    fs, path = file_system(source)
    members = _Members()
    with _errors(source), fs.open(path, "rb", block_size=BLOCK, cache_type="readahead") as file:
        try:
            members.read(file)
        except tarfile.TarError:
            file.seek(0)
            if file.read(HEADER).startswith(MAGIC):
                raise _compressed(source) from None
            raise
    tar = url_of(fs, path, source)
    names = [f"{stem}/{name}" for name in members.images]
    uris = [image.uri(tar) for image in members.images.values()]
    return Tar(names, uris, [*members.columns(source)], members.passed_over)


def _compressed(source: str) -> InputError:
    return InputError(
        f"{source} is compressed, so that no image in it can be fetched by itself.",
        "Decompress it (gunzip, unxz, zstd -d), and give the .tar.",
    )


@contextmanager
def _errors(source: str) -> Iterator[None]:
    """Raises InputError where a tar cannot be read in this context."""
    try:
        yield
    except VlqError:
        raise
    except FileNotFoundError as error:
        raise InputError(
            f"There is no file {source}.", "Give a tar of images, or several by a glob in quotes."
        ) from error
    except tarfile.TarError as error:
        raise InputError(f"{source} cannot be read as a tar: {reason(error)}.", LOOKS) from error
    except Exception as error:  # file systems of fsspec raise what their libraries do
        raise InputError(
            f"{source} cannot be read: {reason(error)}.", "Check the path and your access to it."
        ) from error


@dataclass
class _Members:
    """What a tar's members say of its images, read one after another."""

    images: dict[str, Member] = field(default_factory=dict)  # by their names
    texts: dict[str, dict[str, str]] = field(default_factory=dict)  # by their endings and keys
    passed_over: Counter[str] = field(default_factory=Counter)
    kinds: dict[str, bool] = field(default_factory=lambda: dict(KINDS))

    def read(self, file: Any) -> None:
        """Raises TarError, and what keeps the file from being read."""
        with tarfile.open(fileobj=file, mode="r:", errors="backslashreplace") as tar:
            found: dict[str, tarfile.TarInfo] = {}  # files that there is data of
            for member in tar:
                name = _plain(member.name)
                if member.islnk():  # a file's second name
                    member = found.get(_plain(member.linkname), member)
                if member.isdir():
                    continue
                if why := _why_not(name, member):
                    self._count(why)
                    continue
                found[name] = member
                if name.lower().endswith(EXTENSIONS):
                    file.seek(member.offset_data - HEADER)
                    check = check_of(file.read(HEADER))
                    self._count(AGAIN, name in self.images)
                    self.images[name] = Member(member.offset_data, member.size, check)
                else:
                    self._take(name, member, tar)
            # It ends with zeros, or with the file: of what else stands there tarfile says nothing.
            file.seek(tar.offset)
            if file.read(HEADER).strip(b"\0"):
                raise tarfile.ReadError(f"there is no member's header at byte {tar.offset:,}")

    def _take(self, name: str, member: tarfile.TarInfo, tar: tarfile.TarFile) -> None:
        """What lies beside an image."""
        key, ending = _parts(name)
        kind = _last(ending)
        file = tar.extractfile(member) if self.kinds.get(kind, True) and member.size <= LONGEST else None
        data = file.read() if file else b""
        if file is None or not self.kinds.setdefault(kind, _is_text(data)):
            self._count(f".{kind}")
            return
        texts = self.texts.setdefault(ending, {})
        self._count(AGAIN, key in texts)
        texts[key] = data.decode("utf-8-sig", "replace")
        self._count(f".{kind} in parts that are no UTF-8", not _is_utf8(data))

    def _count(self, what: str, count: int = 1) -> None:
        if count:
            self.passed_over[what] += count

    def columns(self, source: str) -> Iterator[Column]:
        """What lies beside the images, a row each. Raises InputError."""
        if len(self.texts) > MOST_ENDINGS:
            some = ", ".join(f".{ending}" for ending in list(self.texts)[:3])
            raise InputError(
                f"The files beside the images of {source} have {len(self.texts):,} endings, such as {some}: an ending "
                "begins at a name's first dot.",
                f"Its images alone are read so: tar://::{source}",
            )
        keys = [_parts(name)[0] for name in self.images]
        known = set(keys)
        for ending, texts in self.texts.items():
            self._count(f".{_last(ending)} without an image", len(texts.keys() - known))
            values = [texts.get(key) for key in keys]
            if all(value is None for value in values):
                continue
            if ending == JSON:
                yield from self._of_json(values, source)
            elif _last(ending) in WHOLE and all(value is None or _WHOLE.fullmatch(value) for value in values):
                numbers = [None if value is None else int(value) for value in values]
                yield ending, pa.chunked_array([numbers], pa.int64())
            else:
                yield ending, pa.chunked_array([values], pa.string())
        if (folders := folders_of(self.images)) is not None:
            yield "folder", folders

    def _of_json(self, values: Sequence[str | None], source: str) -> Iterator[Column]:
        """What objects have in them, and whatever else is JSON as a column of its own."""
        rows = []
        for text in values:
            try:
                value = json.loads(text or "{}")
            except (ValueError, RecursionError):
                self._count(".json that cannot be parsed")
                value = {}
            rows.append(value if isinstance(value, dict) else {JSON: value})
        try:
            table = plain(table_of_rows(rows))
        except pa.ArrowException as error:
            raise InputError(
                f"The .json beside the images of {source} do not fit together: {reason(error)}.",
                "A column is of one type in all of them.",
            ) from error
        yield from zip(table.column_names, table.columns, strict=True)


def _plain(name: str) -> str:
    """A member's name as a path below the tar's root."""
    return posixpath.normpath(name).lstrip("/")


def _why_not(name: str, member: tarfile.TarInfo) -> str | None:
    """Why there is nothing to be read of a member."""
    if is_hidden(name):
        return "hidden"
    if member.issym() or member.islnk():
        return "linked"
    if member.issparse():
        return "sparse"
    if not member.isreg():
        return "of another type"
    return None if "." in posixpath.basename(name) else "without an ending"


def _parts(name: str) -> tuple[str, str]:
    """The key and the ending of a member."""
    folder, file = posixpath.split(name)
    head, _, ending = file.partition(".")
    return posixpath.join(folder, head), ending.lower()


def _last(ending: str) -> str:
    return ending.rpartition(".")[2]


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_text(data: bytes) -> bool:
    return _is_utf8(data) and _CONTROL.search(data) is None
