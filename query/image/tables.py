"""What users have of images in tables: .parquet, .csv, .jsonl or .json files, read as Arrow's."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vlq.query.errors import InputError, VlqError
from vlq.query.image import coco
from vlq.query.image.embedded import PATH, columns_of_images, has_images, is_list
from vlq.query.stores.location import kind_of, path_here, refuse_secrets

FORMATS = (".parquet", ".csv", ".jsonl", ".ndjson", ".json")

LOOKS = {
    ".parquet": "Write it again, or give a .csv or .jsonl file.",
    ".csv": "A CSV is UTF-8, with commas, and its first line names the columns.",
    ".jsonl": "A .jsonl file has a JSON object in each line, and a column holds values of one type.",
}
LOOKS[".ndjson"] = LOOKS[".jsonl"]
LOOKS[".json"] = (
    "A .json file has a list of JSON objects, an object in each line, or what COCO's annotation files have: images, "
    "annotations, categories."
)
"""What a user's table looks like, for who has one that cannot be read."""

LARGEST_BLOCK = 2**31 - 1
"""Bytes that Arrow parses at once, at most."""

BEYOND = 2.0**63
"""Of whole numbers from there on, such as hashes of images, Arrow makes floats, which round them."""

IMAGE_NAMES = ("image", "image_path", "path", "file", "file_name", "uri", "url", "filename")
"""Columns of a user's table that can name the image, the first one there is."""


def read_table(source: str) -> pa.Table:
    """The rows of a table, one of FORMATS, at a path or URL, each column in one chunk.

    Of columns that hold images (`embedded.columns_of_images`) the paths that stand in them. Raises InputError.
    """
    return read_manifest(source)[0]


def read_manifest(source: str) -> tuple[pa.Table, set[str]]:
    """The same, and the columns of which there are images in the file."""
    fs, path = file_system(source)
    suffix = PurePosixPath(path).suffix.lower()
    if suffix not in FORMATS:
        raise InputError(f"{source} is no table.", f"Give one of {', '.join(FORMATS)}.")
    try:
        with fs.open(path, "rb") as file:
            table, inside = (
                _read_parquet(file) if suffix == ".parquet" else (_read_text(suffix, file.read()), set[str]())
            )
        return plain(table.replace_schema_metadata(None)).combine_chunks(), inside
    except FileNotFoundError as error:
        raise InputError(f"There is no file {source}.", f"Give one of {', '.join(FORMATS)}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{source} cannot be read: its byte {error.start:,} is not UTF-8.", LOOKS[suffix]) from error
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{source} cannot be read: {reason(error)}.", LOOKS[suffix]) from error
    except VlqError:
        raise
    except Exception as error:  # file systems of fsspec raise what their libraries do
        raise InputError(
            f"{source} cannot be read: {reason(error)}.", "Check the URL and your access to it."
        ) from error


def _read_parquet(file: Any) -> tuple[pa.Table, set[str]]:
    parquet = pq.ParquetFile(file)  # not `pq.read_table`, which knows no two columns of one name
    schema = parquet.schema_arrow
    pictures = columns_of_images(schema, IMAGE_NAMES)
    if pictures:
        leaves = (parquet.schema.column(at).path for at in range(len(parquet.schema)))
        table = parquet.read([leaf for leaf in leaves if _is_read(leaf, pictures)])
    else:
        table = parquet.read()
    for at, name in enumerate(schema.names):
        if pictures.get(name):
            table = table.set_column(at, name, _paths(table.column(at)))
        elif name in pictures:
            table = table.add_column(at, name, pa.nulls(parquet.metadata.num_rows, pa.string()))
    inside = {name for name in pictures if has_images(parquet, name)}
    return _labelled(table, schema.metadata or {}), inside


def _is_read(leaf: str, pictures: Mapping[str, bool]) -> bool:
    """Whether a Parquet file's column is read: all but the images' bytes, and what else stands beside their paths."""
    name = next((name for name in pictures if f"{leaf}.".startswith(f"{name}.")), None)
    return name is None or (pictures[name] and leaf.endswith(f".{PATH}"))


def _paths(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The paths of structs that hold images, or of lists of them."""
    if not is_list(column.type):
        return pc.struct_field(column, PATH).cast(pa.string())  # of nulls alone, too
    paths = pc.struct_field(pc.list_flatten(column), PATH).cast(pa.string()).combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(column), 0).cast(pa.int64()).to_numpy()
    return pa.chunked_array([pa.LargeListArray.from_arrays(pa.array(np.append(0, lengths.cumsum())), paths)])


def _labelled(table: pa.Table, metadata: Mapping[bytes, bytes]) -> pa.Table:
    """The table with names in place of their numbers, in columns of classes: Hugging Face's datasets tell the names in
    the file's metadata. -1 stands for no label."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        classes = {name: about["names"] for name, about in features.items() if about.get("_type") == "ClassLabel"}
    except (KeyError, ValueError, TypeError, AttributeError):
        return table
    for at, name in enumerate(table.column_names):
        numbers = table.column(at)
        if name not in classes or not pa.types.is_integer(numbers.type):
            continue
        known = pc.if_else(pc.less(numbers, 0), None, numbers)
        if (pc.max(known).as_py() or 0) < len(classes[name]):
            table = table.set_column(at, name, pc.take(pa.array(classes[name], pa.string()), known))
    return table


def _read_text(suffix: str, data: bytes) -> pa.Table:
    """The rows of a CSV, of JSON lines or of JSON."""
    data.decode()  # of what is no UTF-8 Arrow makes columns of bytes
    if suffix == ".csv":
        names = data.partition(b"\n")[0].decode()
        if "," not in names and (mark := re.search(r"[;\t|]", names)):
            raise pa.ArrowInvalid(f"its columns seem to be parted by {mark[0]!r}")
        return _without_empty_rows(_exact(_csv, data))
    if suffix == ".json" and (value := _whole_json(data)) is not None:
        return _table_of_json(value)
    return _exact(_json_lines, data)


Types = Mapping[str, pa.DataType]


def _exact(read: Callable[[bytes, Types], pa.Table], data: bytes) -> pa.Table:
    """A table whose large whole numbers are such, and not floats."""
    table = read(data, {})
    names, whole = table.column_names, dict[str, pa.DataType]()
    for name, column in zip(names, table.columns, strict=True):
        if pa.types.is_floating(column.type) and (pc.max(column).as_py() or 0) >= BEYOND:
            with suppress(pa.ArrowException):
                table = read(data, {**whole, name: pa.uint64()})
                whole[name] = pa.uint64()
    return table if table.column_names == names else table.select(names)  # of JSON the columns with types come first


def _csv(data: bytes, types: Types) -> pa.Table:
    import pyarrow.csv

    convert = pyarrow.csv.ConvertOptions(column_types=types)
    options = pyarrow.csv.ReadOptions(block_size=_block(data))
    return pyarrow.csv.read_csv(pa.BufferReader(data), options, convert_options=convert)


def _without_empty_rows(table: pa.Table) -> pa.Table:
    """The table without rows in which no column has anything, as spreadsheets leave them below the others."""
    filled = pa.array(np.zeros(table.num_rows, bool))
    for column in table.columns:
        filled = pc.or_(filled, pc.fill_null(pc.not_equal(column.cast(pa.string()), ""), False))
    return table.filter(filled)


def _json_lines(data: bytes, types: Types) -> pa.Table:
    import pyarrow.json

    parse = pyarrow.json.ParseOptions(explicit_schema=pa.schema([*types.items()]) if types else None)
    options = pyarrow.json.ReadOptions(block_size=_block(data))
    return pyarrow.json.read_json(pa.BufferReader(data), options, parse)


def _block(data: bytes) -> int:
    """One for all: in several Arrow refuses a row that is longer than one, and objects where the first block has empty
    lists of them alone."""
    return min(max(1, len(data)), LARGEST_BLOCK)


def _whole_json(data: bytes) -> Any:
    """The one value of a JSON file; None of lines of values."""
    try:
        return json.loads(data)
    except json.JSONDecodeError as error:
        if data.lstrip()[:1] == b"{":
            return None
        raise pa.ArrowInvalid(f"it is no JSON: {error}") from error


def _table_of_json(value: Any) -> pa.Table:
    if coco.is_coco(value):
        try:
            return coco.table_of(value)
        except ValueError as error:
            raise pa.ArrowInvalid(str(error)) from error
    return table_of_rows(value if isinstance(value, list) else [value])


def table_of_rows(values: Sequence[Any]) -> pa.Table:
    """The table of JSON objects, a row each. Halves of characters, as texts that were cut have, are `?`. Raises Arrow's
    ArrowException."""
    lines = "\n".join(json.dumps(value, ensure_ascii=False) for value in values)
    return _exact(_json_lines, lines.encode("utf-8", "replace"))


def plain(table: pa.Table) -> pa.Table:
    """The table with its texts as such where they were numbered, as pandas' categories are, or views, as polars has
    them: Arrow cannot do all things with these. Objects that have nothing in them in any row are left out: Parquet has
    no columns for them."""
    columns = []
    for field, column in zip(table.schema, table.columns, strict=True):
        kind = field.type
        if pa.types.is_dictionary(kind) and is_text(kind.value_type):
            kind = _plain(kind.value_type)
            texts = [chunk.dictionary.cast(kind).take(chunk.indices) for chunk in column.chunks]
            column = pa.chunked_array(texts, kind)
        elif (kind := _plain(kind)) != field.type:
            column = column if kind is None else column.cast(kind)
        if kind is not None:
            columns.append((field.name, column))
    return pa.table([column for _, column in columns], [name for name, _ in columns])


def _plain(kind: pa.DataType) -> pa.DataType | None:
    """A type without views in it and without structs that have no fields; None if it is nothing else."""
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        make = pa.list_ if pa.types.is_list(kind) else pa.large_list
        inside = _plain(kind.value_type)
        return None if inside is None else make(inside)
    if pa.types.is_struct(kind):
        fields = [field.with_type(inside) for field in kind if (inside := _plain(field.type)) is not None]
        return pa.struct(fields) if fields else None
    return kind


def is_text(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def file_system(source: str) -> tuple[Any, str]:
    """fsspec's file system of a path or URL, and the path on it. Raises InputError, StoreError."""
    import fsspec

    from vlq.query.stores.files import bucket_files

    if (path := path_here(source)) is not None:
        return fsspec.filesystem("file"), os.path.abspath(os.path.expanduser(path)).replace(os.sep, "/")
    refuse_secrets(source)
    if kind_of(source) and "::" not in source:
        return bucket_files(source)
    try:
        fs, path = fsspec.core.url_to_fs(source)
    except Exception as error:  # some connect already, and raise what their libraries do
        raise InputError(f"{source} cannot be opened: {reason(error)}.", "Check the URL.") from error
    return fs, path


def reason(error: Exception) -> str:
    """Why, in a few words and without the full stop."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # What Arrow cannot make of a data frame it says in two texts: what, and of which column.
    text = "; ".join(map(str, error.args)).strip() if isinstance(error, pa.ArrowException) else str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
