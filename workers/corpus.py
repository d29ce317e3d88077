"""Which images: a folder, a glob, one file, or a manifest, on any file system that fsspec knows."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa

from vlq.query.cache.tables import FORMATS, IMAGE_NAMES, file_system, is_text, read_table, reason
from vlq.query.errors import InputError, VlqError
from vlq.query.image.embedded import has_images, uri_of
from vlq.query.schema import READ_COLUMNS
from vlq.query.stores.location import kind_of, refuse_secrets, without_options
from vlq.workers.models import PLACEHOLDER

EXTENSIONS = (
    ".avif", ".bmp", ".dib", ".gif", ".ico", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pcx", ".pgm", ".png", ".ppm",
    ".qoi", ".tga", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""What counts as an image when a folder is listed."""

COMPANIONS = (
    "", ".arrow", ".cfg", ".csv", ".html", ".json", ".jsonl", ".license", ".log", ".md", ".npy", ".npz", ".parquet",
    ".pdf", ".pkl", ".py", ".rst", ".tsv", ".txt", ".xml", ".yaml", ".yml",
)  # fmt: skip
"""Endings of what often lies beside images: captions, labels, licences. Nobody takes these for images."""

ARCHIVES = {".zip": "zip", ".tar": "tar", ".tgz": "tar", ".gz": "tar"}
"""Endings of files that hold others, and what fsspec calls the file system inside."""

ENDINGS = 6
"""So many endings of files that were passed over are named, those that most of them have."""

RESERVED = (*READ_COLUMNS, "shard")

DATA = "data:"
"""What a URL begins with that is its image itself: longer than any name should be."""

TO_FILES = "Images inside of a manifest are read of a .parquet file's column of bytes: else write them to files."

NAMED = 3
"""So many images without a prompt are named."""


def list_images(source: str, limit: int | None = None, say: Callable[[str], None] = lambda text: None) -> pa.Table:
    """Columns image_id, image, uri, then a manifest's other columns; one row per image.

    A folder is listed with its subfolders, hidden files left out, in the order of the names; a manifest keeps its own
    order and its columns' types. `image` is the path below the folder, or what the manifest says. What lies among a
    folder's images and is none is passed over, which `say` is told in a line. Raises InputError if there are no images
    or they cannot be listed.
    """
    if not source.strip():
        raise InputError("IMAGES is empty.", "Give a folder, a glob, an image, or a manifest.")
    if source.startswith(DATA):
        raise InputError("IMAGES is an image's own data.", "Write it to a file, and give that.")
    if _is_manifest(source):
        table, _ = _from_manifest(source, limit)
    else:
        names, uris = _from_files(source, say)
        table = pa.table({"image": pa.array(names, pa.string()), "uri": pa.array(uris, pa.string())})
    return _numbered(table.slice(0, limit))


def list_manifest(source: str, option: str, limit: int | None = None) -> tuple[pa.Table, dict[str, str]]:
    """`list_images` of a manifest, one of whose columns an option names; and what its columns are called here, by their
    names in the manifest. Raises InputError."""
    if not _is_manifest(source):
        each = "question" if option == "--prompt-column" else "image"
        raise InputError(
            f"{option} reads a column of a manifest, and {source} is none.",
            f"Give a {', '.join(FORMATS)} with a row for each {each}.",
        )
    table, called = _from_manifest(source, limit)
    return _numbered(table), called


def column_called(column: str, called: Mapping[str, str], source: str, option: str) -> str:
    """What a column that an option names is called beside the others. Raises InputError if there is none."""
    if column not in called:
        near = get_close_matches(column, called, 1)
        hint = f"Did you mean {near[0]}?" if near else f"Its columns beside the images: {', '.join(called) or 'none'}."
        raise InputError(f"{source} has no column {column} for {option}.", hint)
    return called[column]


def _numbered(table: pa.Table) -> pa.Table:
    return table.add_column(0, "image_id", pa.array(range(table.num_rows), pa.uint32()))


def _is_manifest(source: str) -> bool:
    return not _has_magic(source) and _ending(source) in FORMATS


def _ending(source: str) -> str:
    return PurePosixPath(without_options(source).split("::")[0]).suffix.lower()


def _has_magic(path: str) -> bool:
    return any(character in without_options(path) for character in "*?[") and not os.path.exists(path)


# --- files -----------------------------------------------------------------------------------------------------


def _from_files(source: str, say: Callable[[str], None]) -> tuple[list[str], list[str]]:
    """Names below the listed folder, and URIs, in the order of the names."""
    fs, root = file_system(source)
    others, below = list[str](), ""
    try:
        if _has_magic(source):
            found = [path for path, about in fs.glob(root, detail=True).items() if about["type"] != "directory"]
            paths, others = _apart(found)
            folder, below = _common_folder(paths), _common_folder(found)
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
    except VlqError:
        raise
    except Exception as error:  # file systems of fsspec raise what their libraries do
        where = getattr(error, "filename", None) or source  # which folder below it
        raise InputError(
            f"{where} cannot be listed: {reason(error)}.", "Check the path and its permissions."
        ) from error
    named = sorted((path[len(folder) :].lstrip("/"), path) for path in paths)
    named = [(name, path) for name, path in named if not name.startswith(".") and "/." not in name]  # hidden ones
    passed_over = _counted(path[len(below) :] for path in others)
    if not named:
        raise InputError(
            f"There are no images in {source}{f', but {passed_over}' if passed_over else ''}.",
            f"Looked for {', '.join(EXTENSIONS)}. A manifest is given by its own path (.parquet, .csv, .jsonl).",
        )
    if passed_over:
        say(f"Passed over in {source}, as no images that VLQ reads: {passed_over}.")
    foreign = next((name for name, _ in named if any("\ud800" <= character <= "\udfff" for character in name)), None)
    if foreign is not None:
        raise InputError(f"The file name {foreign!a} in {source} is not UTF-8.", "Rename the file, or move it away.")
    return [name for name, _ in named], [_uri(fs, path, source) for _, path in named]


def _walk(fs: Any, root: str) -> Iterable[str]:
    if not _is_local(fs):
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
        if ending in COMPANIONS or "/." in f"/{path}":
            beside += 1
        else:
            kinds[ending] += 1
    named = sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0]))
    parts = [f"{count:,} {ending}" for ending, count in named[:ENDINGS]]
    if rest := sum(count for _, count in named[ENDINGS:]):
        parts.append(f"{rest:,} of other kinds")
    if beside:
        parts.append(f"{beside:,} file{'' if beside == 1 else 's'} of text or data, or hidden")
    return ", ".join(parts)


def _common_folder(paths: list[str]) -> str:
    folders = [path.rpartition("/")[0] for path in paths]
    return os.path.commonpath(folders) if folders and all(folders) else ""


def _is_local(fs: Any) -> bool:
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(fs, LocalFileSystem)


def _uri(fs: Any, path: str, source: str) -> str:
    if _is_local(fs):
        return f"file://{path}"
    # Of a chained URL (zip://...::s3://...) only the first link differs from file to file.
    _, chain, rest = source.partition("::")
    return f"{fs.unstrip_protocol(path)}{chain}{rest}"


# --- manifests -------------------------------------------------------------------------------------------------


def _from_manifest(source: str, limit: int | None) -> tuple[pa.Table, dict[str, str]]:
    """Columns image, uri, then the others, of the first rows; and what these are called here, by their names in the
    manifest."""
    table = read_table(source).slice(0, limit)
    column = next((name for name in IMAGE_NAMES if name in table.column_names), None)
    if column is None:
        raise InputError(
            f"{source} has no image column.",
            f"Expected one of {', '.join(IMAGE_NAMES)}. Got {', '.join(table.column_names) or 'no columns'}.",
        )
    if table.num_rows == 0:
        raise InputError(f"{source} has no rows.", "Give a manifest with a row per image.")
    at = table.column_names.index(column)
    kind = table.schema.field(at).type
    if not is_text(kind):
        raise InputError(
            f"The column {column} of {source} is of type {kind}; expected paths or URLs.", "Give a path or URL a row."
        )
    given = table.column(at).to_pylist()
    names, uris = (_inside if _holds_images(source, column) else _named)(given, column, source)
    columns = {"image": pa.array(names, pa.string()), "uri": pa.array(uris, pa.string())}
    taken = {name.lower() for name in RESERVED}
    called: dict[str, str] = {}
    for i, name in enumerate(table.column_names):
        if i == at:
            continue
        # Names that differ in case alone are one name to SQL, and a CSV may have two of the same.
        free = name or "column"
        while free.lower() in taken:
            free += "_"
        taken.add(free.lower())
        columns[free] = table.column(i)
        called.setdefault(name, free)
    return pa.table(columns), called


def _holds_images(source: str, column: str) -> bool:
    """Whether a manifest's column holds the images themselves."""
    return _ending(source) == ".parquet" and has_images(source, column)


def _inside(paths: Sequence[str | None], column: str, source: str) -> tuple[list[str], list[str]]:
    """Names and URIs of images that a Parquet file's column holds, some with a path."""
    fs, path = file_system(source)
    table, stem = _uri(fs, path, source), PurePosixPath(path).stem
    return (
        [path or f"{stem}/{row}" for row, path in enumerate(paths)],
        [uri_of(table, column, row) for row in range(len(paths))],
    )


def _named(named: Sequence[str | None], column: str, source: str) -> tuple[list[str], list[str]]:
    """Names and URIs of images that a manifest names. Raises InputError."""
    names = [name or "" for name in named]
    empty = next((row for row, name in enumerate(names) if not name.strip()), None)
    if empty is not None:
        raise InputError(f"Row {empty} of {source} has no {column}.", "Leave such rows out.")
    inside = next((row for row, name in enumerate(names) if name.startswith(DATA)), None)
    if inside is not None:
        raise InputError(f"Row {inside} of {source} has an image's own data as its {column}.", TO_FILES)
    _check_schemes(names, source)
    return names, list(map(_resolver(source), names))


def _check_schemes(names: list[str], source: str) -> None:
    """Raises InputError if a name is a URL that nothing here reads: a run would try it again and again."""
    rows: dict[str, int] = {}
    for row, name in enumerate(names):
        if "://" in name:
            rows.setdefault(name.partition("::")[0].partition("://")[0], row)
    for scheme, row in rows.items():
        if scheme == "file" or kind_of(names[row]):
            continue
        try:
            fsspec.get_filesystem_class(scheme)
        except (ImportError, ValueError) as error:
            raise InputError(
                f"{names[row]} (row {row} of {source}) cannot be opened: {reason(error)}.",
                "Correct the URL, or install what reads such ones.",
            ) from error


def check_prompts(table: pa.Table, name: str, column: str, source: str) -> None:
    """Raises InputError unless each row has a text, with one place for the image at most."""
    kind = table.schema.field(name).type
    if not is_text(kind):
        raise InputError(f"The column {column} of {source} is of type {kind}; expected questions or prompts.")
    texts, images = table[name].to_pylist(), table["image"].to_pylist()
    empty = [row for row, text in enumerate(texts) if text is None or not text.strip()]
    if empty:
        shown = ", ".join(f"{images[row]} (row {row})" for row in empty[:NAMED])
        more = f" and {len(empty) - NAMED:,} more" if len(empty) > NAMED else ""
        verb = "has" if len(empty) == 1 else "have"
        raise InputError(f"{shown}{more} {verb} no {column} in {source}.", "Fill them in, or leave such rows out.")
    for row, text in enumerate(texts):
        if (count := text.count(PLACEHOLDER)) > 1:
            raise InputError(
                f"The {column} of {images[row]} (row {row} of {source}) names the image {count} times.",
                f"One {PLACEHOLDER} is read per prompt.",
            )


def _in_bucket(folder: str, name: str) -> str:
    """The path `bucket/key` of a name in a folder of a bucket, or from the bucket's root. Keys have no `..` in them."""
    bucket, *parts = folder.split("/")
    if name.startswith("/"):
        parts = []
    for part in name.removeprefix("/").split("/"):
        if part == "..":
            del parts[-1:]
        elif part != ".":
            parts.append(part)
    return "/".join([bucket, *parts])


def _resolver(manifest: str) -> Callable[[str], str]:
    """What makes a URI of a manifest's image; relative paths are relative to the manifest's folder."""
    fs, path = file_system(manifest)
    folder = path.rpartition("/")[0]
    is_local = _is_local(fs)

    def resolved(name: str) -> str:
        if "://" in name:
            if kind_of(name):
                refuse_secrets(name)
            return name
        if is_local:
            return f"file://{os.path.normpath(os.path.join(folder, os.path.expanduser(name)))}"
        if kind_of(manifest):
            return _uri(fs, _in_bucket(folder, name), manifest)
        return _uri(fs, name if name.startswith("/") else f"{folder}/{name}", manifest)

    return resolved
