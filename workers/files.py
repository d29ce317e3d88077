"""Images as files: those of a folder, of a glob, or one, on any file system that fsspec knows."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from vlq.query.errors import InputError, VlqError
from vlq.query.image.tables import FORMATS, file_system, reason
from vlq.query.stores.location import without_options

EXTENSIONS = (
    ".avif", ".bmp", ".dib", ".gif", ".ico", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pcx", ".pgm", ".png", ".ppm",
    ".qoi", ".tga", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""What counts as an image when a folder is listed."""

COMPANIONS = (
    "", ".arrow", ".cfg", ".csv", ".html", ".json", ".jsonl", ".license", ".log", ".md", ".npy", ".npz", ".parquet",
    ".pdf", ".pkl", ".py", ".rst", ".tsv", ".txt", ".xls", ".xlsx", ".xml", ".yaml", ".yml",
)  # fmt: skip
"""Endings of what often lies beside images: captions, labels, licences. Nobody takes these for images."""

ARCHIVES = {".zip": "zip", ".tar": "tar"}
"""Endings of files that hold others, and what fsspec calls the file system inside."""

SETS = {".tar": "Tars", ".parquet": "Parquet files"}
"""Endings of files that are a manifest each, of which data sets have many."""

_BRACES = re.compile(r"\{(?:([^{}]*,[^{}]*)|([0-9]+)\.\.([0-9]+))\}")
"""What stands for several names, as shells and WebDataset have it: {train,val}, {00000..00012}."""

ENDINGS = 6
"""So many endings of files that were passed over are named, those that most of them have."""


def from_files(source: str, say: Callable[[str], None]) -> tuple[list[str], list[str]]:
    """Names below the listed folder, and URIs, in the order of the names. Raises InputError."""
    fs, root = file_system(source)
    others, below = list[str](), ""
    with listing(source):
        if has_magic(source):
            found = matching(fs, root)
            paths, others = _apart(found)
            folder, below = common_folder(paths), common_folder(found)
        elif fs.isdir(root):
            paths, others = _apart(_walk(fs, root))
            folder = below = root.rstrip("/")
        elif fs.isfile(root) and (inside := ARCHIVES.get(PurePosixPath(root).suffix.lower())):
            raise InputError(f"{source} is an archive.", f"The images in it are read so: {inside}://::{source}")
        elif fs.isfile(root) and PurePosixPath(root).suffix.lower() in COMPANIONS[1:]:
            raise InputError(
                f"{source} is neither an image nor a manifest.",
                f"A manifest is a table of a row per image: {', '.join(FORMATS)}.",
            )
        elif fs.isfile(root):
            paths, folder = [root], root.rpartition("/")[0]
        else:
            raise InputError(f"There is nothing at {source}.", "Give a folder, a glob, an image, or a manifest.")
    named = sorted((path[len(folder) :].lstrip("/"), path) for path in paths)
    named = [(name, path) for name, path in named if not is_hidden(name)]
    passed_over = _counted(path[len(below) :] for path in others)
    if not named:
        raise InputError(
            f"There are no images in {source}{f', but {passed_over}' if passed_over else ''}.",
            _where_else(source, root, others)
            or f"Looked for {', '.join(EXTENSIONS)}. A manifest is given by its own path.",
        )
    if passed_over:
        say(f"Passed over in {source}, as no images that VLQ reads: {passed_over}.")
    foreign = next((name for name, _ in named if any("\ud800" <= character <= "\udfff" for character in name)), None)
    if foreign is not None:
        raise InputError(f"The file name {foreign!a} in {source} is not UTF-8.", "Rename the file, or move it away.")
    return [name for name, _ in named], [url_of(fs, path, source) for _, path in named]


@contextmanager
def listing(source: str) -> Iterator[None]:
    """Raises InputError where a source cannot be listed in this context."""
    try:
        yield
    except VlqError:
        raise
    except Exception as error:  # file systems of fsspec raise what their libraries do
        where = getattr(error, "filename", None) or source  # which folder below it
        raise InputError(
            f"{where} cannot be listed: {reason(error)}.", "Check the path and its permissions."
        ) from error


def _where_else(source: str, root: str, others: Sequence[str]) -> str | None:
    """What to give where a folder has tars or Parquet files: data sets lie so."""
    if has_magic(source) or "::" in source:
        return None
    # Beside tars Parquet files tell of what is in these.
    ending = next((ending for ending in SETS if any(path.endswith(ending) for path in others)), None)
    if ending is None:
        return None
    folders = {path.rpartition("/")[0] for path in others if path.endswith(ending)}
    head = without_options(source)
    each = "*" if folders == {root.rstrip("/")} else "**/*"
    glob = f"{head.rstrip('/')}/{each}{ending}{source.removeprefix(head)}"
    return f"{SETS[ending]} are a manifest each, and one corpus by a glob in quotes: '{glob}'"


def matching(fs: Any, root: str) -> list[str]:
    """The paths of the files that a glob means, each once. What braces alone name is meant even if it is not there."""
    found: dict[str, None] = {}
    for pattern in _without_braces(root):
        if any(character in "*?[" for character in pattern):
            matches = fs.glob(pattern, detail=True).items()
            found |= dict.fromkeys(path for path, about in matches if about["type"] != "directory")
        else:
            found[pattern] = None
    return list(found)


def _without_braces(pattern: str) -> list[str]:
    """'{a,b}/{08..10}.tar' -> what it stands for in a shell: a/08.tar, a/09.tar, a/10.tar, b/08.tar and so on."""
    found = _BRACES.search(pattern)
    if found is None:
        return [pattern]
    listed, *ends = found.groups()
    if listed is None:
        first, last = sorted(ends, key=int)
        parts = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    else:
        parts = listed.split(",")
    head, rest = pattern[: found.start()], pattern[found.end() :]
    return [without for part in parts for without in _without_braces(f"{head}{part}{rest}")]


def _walk(fs: Any, root: str) -> Iterable[str]:
    if not is_local(fs):
        return list(fs.find(root))
    found = []
    # Linked folders are common in data sets. Those that lead into one that they are in are circles.
    within = {root: frozenset([os.path.realpath(root)])}
    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=_raise):
        around = within.pop(folder)
        real = {name: os.path.realpath(os.path.join(folder, name)) for name in subfolders if not name.startswith(".")}
        subfolders[:] = [name for name in real if real[name] not in around]
        within |= {os.path.join(folder, name): around | {real[name]} for name in subfolders}
        found += [os.path.join(folder, name).replace(os.sep, "/") for name in files]
    return found


def _raise(error: OSError) -> None:
    raise error


def _apart(paths: Iterable[str]) -> tuple[list[str], list[str]]:
    """Those whose names end as images' do, and the others."""
    images: list[str] = []
    others: list[str] = []
    for path in paths:
        (images if path.lower().endswith(EXTENSIONS) else others).append(path)
    return images, others


def _counted(paths: Iterable[str]) -> str:
    """'12 .heic, 1 .svg, 3 files of text or data, or hidden': how many of which kind these are."""
    kinds: Counter[str] = Counter()
    beside = 0
    for path in paths:
        ending = os.path.splitext(path)[1].lower()
        if ending in COMPANIONS or is_hidden(path):
            beside += 1
        else:
            kinds[ending] += 1
    parts = counted(kinds)
    if beside:
        parts.append(f"{beside:,} file{'' if beside == 1 else 's'} of text or data, or hidden")
    return ", ".join(parts)


def counted(kinds: Mapping[str, int]) -> list[str]:
    """'300 .npy', '12 .svg', '3 of other kinds': what most are of, most first."""
    most = sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0]))
    parts = [f"{count:,} {what}" for what, count in most[:ENDINGS]]
    if rest := sum(count for _, count in most[ENDINGS:]):
        parts.append(f"{rest:,} of other kinds")
    return parts


def folders_of(names: Iterable[str]) -> pa.ChunkedArray | None:
    """A column of the subfolders that names lie in, null for none; None if no name lies in one."""
    folders = [name.rpartition("/")[0] or None for name in names]
    return pa.chunked_array([folders], pa.string()) if any(folders) else None


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder that it is in, is hidden."""
    return "/." in f"/{name}"


def common_folder(paths: Sequence[str]) -> str:
    """The folder that all of these lie in, or below; empty if they have none."""
    folders = [path.split("/")[:-1] for path in paths]
    return "/".join(parts[0] for parts in takewhile(lambda parts: len({*parts}) == 1, zip(*folders, strict=False)))


def is_local(fs: Any) -> bool:
    """Whether a file system of fsspec is this machine's."""
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(fs, LocalFileSystem)


def url_of(fs: Any, path: str, source: str) -> str:
    """The URL of a path on a source's file system."""
    if is_local(fs):
        return f"file://{path}"
    # Of a chained URL (zip://...::s3://...) only the first link differs from file to file.
    _, chain, rest = anchored(source, os.getcwd()).partition("::")
    return f"{fs.unstrip_protocol(path)}{chain}{rest}"


def anchored(url: str, folder: str) -> str:
    """A chained URL whose last link, if that is a path here, is not relative any more but in the folder."""
    chain, mark, last = url.rpartition("::")
    if not mark or "://" in last:
        return url
    return f"{chain}{mark}{os.path.normpath(os.path.join(folder, os.path.expanduser(last)))}"


def has_magic(path: str) -> bool:
    """Whether a source is a glob."""
    plain = without_options(path)
    return (any(character in plain for character in "*?[") or bool(_BRACES.search(plain))) and not os.path.exists(path)
