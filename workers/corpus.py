"""Which images: those of a folder, a glob, one file, or of manifests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches

import pyarrow as pa

from vlq.query.errors import InputError
from vlq.query.image.embedded import SCHEME
from vlq.query.image.members import MEMBER
from vlq.query.image.tables import FORMATS, is_text
from vlq.workers.files import folders_of, from_files
from vlq.workers.manifests import DATA, from_manifests, is_manifest
from vlq.workers.models import PLACEHOLDER

NAMED = 3
"""So many images without a prompt are named."""


def list_images(source: str, limit: int | None = None, say: Callable[[str], None] = lambda text: None) -> pa.Table:
    """Columns image_id, image, uri, then a manifest's other columns; one row per image.

    A folder is listed with its subfolders, hidden files left out, in the order of the names, and where some images lie
    in subfolders the column `folder` has their paths; a manifest keeps its own order and its columns' types. `image` is
    the path below the folder, or what the manifest says, or the URI of an image inside a table or a tar. What lies
    among the images of a folder or a tar and is none is passed over, which `say` is told in a line. Raises InputError
    if there are no images or they cannot be listed.
    """
    if not source.strip():
        raise InputError("IMAGES is empty.", "Give a folder, a glob, an image, or a manifest.")
    if source.startswith(DATA):
        raise InputError("IMAGES is an image's own data.", "Write it to a file, and give that.")
    if is_manifest(source):
        table, _ = from_manifests(source, limit, say)
    else:
        names, uris = ([source], [source]) if source.startswith((SCHEME, MEMBER)) else from_files(source, say)
        table = pa.table({"image": pa.array(names, pa.string()), "uri": pa.array(uris, pa.string())})
        if (folders := folders_of(names)) is not None:
            table = table.append_column("folder", folders)
    return _numbered(table.slice(0, limit))


def list_manifest(
    source: str, option: str, limit: int | None = None, say: Callable[[str], None] = lambda text: None
) -> tuple[pa.Table, dict[str, str]]:
    """`list_images` of a manifest, one of whose columns an option names; and what its columns are called here, by their
    names in the manifest. Raises InputError."""
    if not is_manifest(source):
        each = "question" if option == "--prompt-column" else "image"
        raise InputError(
            f"{option} reads a column of a manifest, and {source} is none.",
            f"Give a {', '.join(FORMATS)} with a row for each {each}.",
        )
    table, called = from_manifests(source, limit, say)
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
