"""A cache's tables as Parquet: the same bytes for the same rows, the plan, the images' with what was joined to them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vlq.query.errors import CorruptCache
from vlq.query.image.tables import reason
from vlq.query.schema import Study, digest_of, plan_key
from vlq.query.store import Store


def parquet_bytes(table: pa.Table) -> bytes:
    """The table as Parquet: the same rows give the same bytes, however they came in chunks, or if they were read from
    such bytes before."""
    data = _written(table)
    # What Arrow calls the items of a list, Parquet calls otherwise, and so they are called when they are read.
    if str(pq.read_schema(pa.BufferReader(data))) != str(table.schema):
        data = _written(parquet_table(data))
    return data


def parquet_table(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """The table of a Parquet file's bytes.

    Not by `pq.read_table`: threads of its scanner let go of Python's bytes some time later, and where the program is
    ending by then, they abort it.
    """
    return pq.ParquetFile(pa.BufferReader(data)).read(columns, use_threads=False)


def _written(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table.combine_chunks(), sink, compression="zstd")
    return sink.getvalue()


def read_plan(store: Store, key: str) -> pa.Table:
    """The table of all images: image_id, shard, image, uri, and the columns that came with them.

    Raises CorruptCache if the plan is missing, or not what was written.
    """
    try:
        data = store.read(key)
    except FileNotFoundError as error:
        raise CorruptCache(f"The plan {key} is missing from {store.url}.", "Run: vlq repair") from error
    if plan_key(digest_of(data)[:16]) != key:
        raise CorruptCache(f"The plan {key} in {store.url} is not what was written.", "Run: vlq repair")
    return parquet_table(data)


def annotated(images: str, annotations: Iterable[tuple[str, Sequence[str]]]) -> bytes:
    """The Parquet file of an image table with the columns of others behind its own, which they may replace.

    Rows belong together by their `image_id`. Raises CorruptCache if a file is none of these.
    """
    table = _read(images)
    for path, columns in annotations:
        other = _read(path)
        try:
            rows = pc.index_in(table["image_id"], value_set=other["image_id"])
            replaced = {name.lower() for name in columns}
            table = table.drop_columns([name for name in table.column_names if name.lower() in replaced])
            for name in columns:
                table = table.append_column(name, other[name].combine_chunks().take(rows))
        except (KeyError, pa.ArrowException) as error:
            raise CorruptCache(f"{path} is no annotation of images: {reason(error)}.", "Run: vlq verify") from error
    return parquet_bytes(table)


def effects(studies: Iterable[tuple[Study, str]]) -> bytes:
    """The Parquet file of the effects of several studies (`studies.IN_LAYERS`), each row with what was done
    in its study (`studies.DONE`).

    Raises CorruptCache if a file is none of these.
    """
    from vlq.query.cache.studies import DONE, IN_LAYERS, columns_of, done_by

    schema = pa.schema([*DONE, *IN_LAYERS])
    parts = [schema.empty_table()]
    for study, path in studies:
        rows, own, done = _read(path), columns_of(study).names, done_by(study)
        try:
            columns = {
                column.name: rows[column.name]
                if column.name in own
                else pa.repeat(pa.scalar(done.get(column.name), column.type), rows.num_rows)
                for column in schema
            }
            parts.append(pa.table(columns, schema))
        except (KeyError, pa.ArrowException) as error:
            raise CorruptCache(f"{path} holds no effects: {reason(error)}.", "Run: vlq verify") from error
    return parquet_bytes(pa.concat_tables(parts))


def _read(path: str) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise CorruptCache(f"{path} cannot be read: {reason(error)}.", "Run: vlq verify") from error
