"""Images as the rows of manifests: tables that name them, or hold them, each with whatever else is known of it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc

from vlq.query.errors import InputError
from vlq.query.image.embedded import is_list, uri_of
from vlq.query.image.tables import FORMATS, IMAGE_NAMES, file_system, is_text, read_manifest, reason
from vlq.query.schema import READ_COLUMNS
from vlq.query.stores.location import ONE_SLASH, kind_of, refuse_secrets, with_slashes, without_options
from vlq.workers.files import (
    EXTENSIONS,
    anchored,
    common_folder,
    counted,
    has_magic,
    is_hidden,
    is_local,
    listing,
    matching,
    url_of,
)
from vlq.workers.tars import Column, is_tar, read_tar

JSON = (".json", ".jsonl")
"""Endings of manifests whose rows need not all have an image."""

LISTS = "images"
"""A column of lists of images. Each of these is a row of its own here."""

RESERVED = (*READ_COLUMNS, "shard")

DATA = "data:"
"""What a URL begins with that is its image itself: longer than any name should be."""

TO_FILES = "Images inside of a manifest are read of a .parquet file's column of bytes: else write them to files."

AT_ONCE = 8
"""Manifests that are read at the same time."""


@dataclass(frozen=True)
class Manifest:
    """One of those that a source means."""

    source: str
    stem: str
    """Its path below the folder of all of them, without its ending."""


@dataclass(frozen=True)
class Rows:
    """What one of them says."""

    table: pa.Table
    """Columns image, uri, then the others."""

    called: dict[str, str]
    """What these others are called here, by their names in the manifest."""

    passed_over: Counter[str] = field(default_factory=Counter)
    """What it has besides, by kind."""


def is_manifest(source: str) -> bool:
    """Whether a source means manifests, not images."""
    name = _name(source)
    return PurePosixPath(name).suffix.lower() in FORMATS or is_tar(name)


def from_manifests(source: str, limit: int | None, say: Callable[[str], None]) -> tuple[pa.Table, dict[str, str]]:
    """Columns image, uri, then the others, of the first rows of a manifest or of several behind one another; and what
    these others are called here, by their names in the manifests. `say` is told what was passed over, and before that
    if there are many tars. Raises InputError."""
    tables: list[pa.Table] = []
    called: dict[str, str] = {}
    passed_over = Counter[str]()
    meant, of_tars = _meant(source), is_tar(_name(source))
    if of_tars and limit is None and len(meant) > AT_ONCE:
        say(f"Listing {len(meant):,} tars.")
    for rows in _each(meant, limit):
        tables.append(rows.table)
        called = rows.called | called
        passed_over += rows.passed_over
    try:
        table = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    except pa.ArrowException as error:
        raise InputError(
            f"The tables of {source} do not fit together: {reason(error)}.", "A column is of one type in all of them."
        ) from error
    besides = ", ".join(counted(passed_over))
    beside = f", but {besides}" if besides else ""
    if table.num_rows == 0 and of_tars:
        raise InputError(f"There are no images in {source}{beside}.", f"Looked for {', '.join(EXTENSIONS)}.")
    if table.num_rows == 0:
        what = f"There are no images in {source}{beside}" if beside else f"{source} has no rows"
        raise InputError(f"{what}.", "Give a manifest with a row per image.")
    if passed_over:
        say(f"Passed over in {source}: {besides}.")
    return table.slice(0, limit), called


def _meant(source: str) -> list[Manifest]:
    """The manifests that a source means, by their names. Raises InputError."""
    fs, root = file_system(source)
    if not has_magic(source):
        return [Manifest(source, PurePosixPath(root).stem)]
    with listing(source):
        paths = sorted(matching(fs, root))
    folder = common_folder(paths)
    stems = {path: os.path.splitext(path[len(folder) :].lstrip("/"))[0] for path in paths}
    found = {path: stem for path, stem in stems.items() if not is_hidden(stem)}
    if not found:
        raise InputError(f"There is nothing at {source}.", "Give a folder, a glob, an image, or a manifest.")
    return [Manifest(path if is_local(fs) else url_of(fs, path, source), stem) for path, stem in found.items()]


def _each(manifests: Sequence[Manifest], limit: int | None) -> Iterator[Rows]:
    """What stands in each manifest, until there are enough rows."""
    if limit is None:
        with ThreadPoolExecutor(AT_ONCE) as threads:
            yield from threads.map(_read, manifests)
        return
    for manifest in manifests:
        rows = _read(manifest, limit)
        yield rows
        limit -= rows.table.num_rows
        if limit <= 0:
            return


def _read(manifest: Manifest, limit: int | None = None) -> Rows:
    """A manifest's first rows."""
    if is_tar(_name(manifest.source)):
        tar = read_tar(manifest.source, manifest.stem)
        table, called = _of_columns(tar.names, tar.uris, tar.columns)
        return Rows(table.slice(0, limit), called, tar.passed_over)
    return _read_table(manifest, limit)


def _read_table(manifest: Manifest, limit: int | None) -> Rows:
    source = manifest.source
    table, inside = read_manifest(source)
    column = next((name for name in (*IMAGE_NAMES, LISTS) if name in table.column_names), None)
    if column is None:
        raise InputError(
            f"{source} has no image column.",
            f"Expected one of {', '.join((*IMAGE_NAMES, LISTS))}. Got {', '.join(table.column_names) or 'no columns'}.",
        )
    at = table.column_names.index(column)
    places, without = Places(range(table.num_rows)), 0
    if _name(source).lower().endswith(JSON) and not is_list(table.column(at).type):  # conversations may be text alone
        there = pc.indices_nonzero(table.column(at).is_valid())
        without = table.num_rows - len(there)
        table, places = table.take(there), Places(there.to_pylist())
    table, places = table.slice(0, limit), Places(places.rows[:limit])
    given = table.column(at)
    if is_list(given.type):
        places, given = Places.of_lists(given), pc.list_flatten(given)
        table = table.take(pa.array(places.rows, pa.int64()))
    if table.num_rows and not is_text(given.type):
        raise InputError(
            f"The column {column} of {source} is of type {given.type}; expected paths or URLs.",
            "Give a path or URL a row.",
        )
    if column in inside:
        names, uris = _inside(given.to_pylist(), places, column, manifest)
    else:
        names, uris = _named(given.to_pylist(), places, column, source)
    beside = table.remove_column(at)
    found, called = _of_columns(names, uris, zip(beside.column_names, beside.columns, strict=True))
    return Rows(found, called, +Counter({"rows without an image": without}))


def _of_columns(names: Sequence[str], uris: Sequence[str], beside: Iterable[Column]) -> tuple[pa.Table, dict[str, str]]:
    """Columns image, uri, then those beside them; and what these are called here."""
    columns: dict[str, Any] = {"image": pa.array(names, pa.string()), "uri": pa.array(uris, pa.string())}
    taken = {name.lower() for name in RESERVED}
    called: dict[str, str] = {}
    for name, column in beside:
        # Names that differ in case alone are one name to SQL, and a CSV may have two of the same.
        free = name or "column"
        while free.lower() in taken:
            free += "_"
        taken.add(free.lower())
        columns[free] = column
        called.setdefault(name, free)
    return pa.table(columns), called


# --- their images ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Places:
    """In which row of a manifest each image stands, and where in this row's list. In rows without lists: None."""

    rows: Sequence[int]
    items: Sequence[int] | None = None

    @classmethod
    def of_lists(cls, lists: pa.ChunkedArray) -> Places:
        lengths = [length or 0 for length in pc.list_value_length(lists).to_pylist()]
        rows = [row for row, length in enumerate(lengths) for _ in range(length)]
        return cls(rows, [item for length in lengths for item in range(length)])

    def named(self) -> Iterator[str]:
        """'7', or '7/0' and '7/1' where there are several in a row."""
        counts = Counter(self.rows)
        for at, row in enumerate(self.rows):
            yield f"{row}/{self.items[at]}" if self.items is not None and counts[row] > 1 else str(row)


def _inside(
    paths: Sequence[str | None], places: Places, column: str, manifest: Manifest
) -> tuple[list[str], list[str]]:
    """Names and URIs of images that a Parquet file's column holds, some with a path."""
    fs, path = file_system(manifest.source)
    table = url_of(fs, path, manifest.source)
    items: Sequence[int | None] = places.items or [None] * len(paths)
    return (
        [path or f"{manifest.stem}/{place}" for path, place in zip(paths, places.named(), strict=True)],
        [uri_of(table, column, row, item) for row, item in zip(places.rows, items, strict=True)],
    )


def _named(named: Sequence[str | None], places: Places, column: str, source: str) -> tuple[list[str], list[str]]:
    """Names and URIs of images that a manifest names. Raises InputError."""
    names = [name or "" for name in named]
    empty = next((row for row, name in zip(places.rows, names, strict=True) if not name.strip()), None)
    if empty is not None:
        raise InputError(f"Row {empty} of {source} has no {column}.", "Leave such rows out.")
    inside = next((row for row, name in zip(places.rows, names, strict=True) if name.startswith(DATA)), None)
    if inside is not None:
        raise InputError(f"Row {inside} of {source} has an image's own data as its {column}.", TO_FILES)
    _check_schemes(names, places, source)
    return names, list(map(_resolver(source), names))


def _check_schemes(names: Sequence[str], places: Places, source: str) -> None:
    """Raises InputError if a name is a URL that nothing here reads: a run would try it again and again."""
    firsts: dict[str, tuple[int, str]] = {}
    for row, name in zip(places.rows, names, strict=True):
        if meant := with_slashes(name):
            raise InputError(ONE_SLASH.format(f"{name} (row {row} of {source})"), f"Did you mean {meant}?")
        if "://" in name:
            firsts.setdefault(name.partition("::")[0].partition("://")[0], (row, name))
    for scheme, (row, name) in firsts.items():
        if scheme == "file" or kind_of(name):
            continue
        try:
            fsspec.get_filesystem_class(scheme)
        except (ImportError, ValueError) as error:
            raise InputError(
                f"{name} (row {row} of {source}) cannot be opened: {reason(error)}.",
                "Correct the URL, or install what reads such ones.",
            ) from error


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

    def resolved(name: str) -> str:
        if "://" in name:
            if kind_of(name):
                refuse_secrets(name)
            return anchored(name, folder) if is_local(fs) else name
        if is_local(fs):
            return f"file://{os.path.normpath(os.path.join(folder, os.path.expanduser(name)))}"
        if kind_of(manifest):
            return url_of(fs, _in_bucket(folder, name), manifest)
        return url_of(fs, name if name.startswith("/") else f"{folder}/{name}", manifest)

    return resolved


def _name(source: str) -> str:
    """A source without what is behind its name."""
    return without_options(source).split("::")[0]
