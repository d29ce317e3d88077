"""Commit one shard.

A shard is encoded whole in memory and then put object by object, each create-only under a key with the content's
hash, its postings after it and the commit record last. Until the record is there, nobody sees any of it; if another
writer's record is there first, that one holds and what was put here waits for garbage collection.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from vlq.query.cache.records import read_commit
from vlq.query.cache.tables import parquet_bytes
from vlq.query.errors import RunError
from vlq.query.schema import (
    Commit,
    Run,
    Stored,
    commit_key,
    digest_of,
    images_key,
    postings_prefix,
    shard_prefix,
)
from vlq.query.store import Store, put
from vlq.workers.encode import encode_group
from vlq.workers.indexing.postings import postings_bytes, postings_of


def write_shard(
    store: Store, run: Run, shard: int, first_image: int, readings: Mapping[str, np.ndarray], images: pa.Table
) -> Commit:
    """Put a shard's objects, its postings and its commit record, and return the record that holds: of `put_shard`, or
    another writer's if that one came first."""
    return commit(store, put_shard(store, run, shard, first_image, readings, images))[0]


def put_shard(
    store: Store, run: Run, shard: int, first_image: int, readings: Mapping[str, np.ndarray], images: pa.Table
) -> Commit:
    """Put a shard's objects and its postings; the record that names them, which is not put yet.

    `readings` are the arrays of `schema.array_specs`; `images` is the image table, one row per image of the shard,
    in the order of the arrays.
    """
    lengths = {site: readings[f"{site}/token"].shape[2] for site in run.stored}
    objects = encode_group(run, readings, images.num_rows, lengths)
    image_bytes = parquet_bytes(images)
    digest = content_digest(objects, image_bytes)
    prefix = shard_prefix(shard, digest)
    stored = tuple(put(store, f"{prefix}/{name}", data) for name, data in sorted(objects.items()))
    images_table = put(store, images_key(shard, digest), image_bytes)
    postings = put_postings(store, shard, postings_of(run, first_image, readings))
    return record_of(run, shard, lengths, prefix, stored, images_table, images, postings)


def put_postings(store: Store, shard: int, tables: Mapping[str, pa.Table]) -> dict[str, Stored]:
    """Put a shard's postings."""
    files = {name: postings_bytes(table) for name, table in sorted(tables.items())}
    folder = postings_prefix(shard, _digest(files))
    return {name: put(store, f"{folder}/{name}.parquet", data) for name, data in files.items()}


def record_of(
    run: Run,
    shard: int,
    lengths: Mapping[str, int],
    prefix: str,
    objects: tuple[Stored, ...],
    images_table: Stored,
    images: pa.Table,
    postings: Mapping[str, Stored],
) -> Commit:
    """The record that names a shard's objects; `images` are the rows of its `images_table`."""
    rows = images.select(["image_id", "image", "error"]).to_pylist()
    errors = tuple((row["image_id"], row["image"], row["error"]) for row in rows if row["error"] is not None)
    first_image = rows[0]["image_id"]
    return Commit(run.digest, shard, first_image, len(rows), lengths, prefix, errors, objects, images_table, postings)


def content_digest(objects: Mapping[str, bytes], images: bytes) -> str:
    """What names a shard: sixteen hex digits over its group's objects by name, and its image table."""
    return _digest({**objects, "images": images})


def commit(store: Store, record: Commit) -> tuple[Commit, bool]:
    """Put a shard's record. Returns the one that holds, and whether it was put by this call. Raises RunError."""
    if store.create(commit_key(record.shard), record.to_bytes()):
        return record, True
    return _of_run(store, record.run, read_commit(store, record.shard)), False


def find_commit(store: Store, run: Run, shard: int) -> Commit | None:
    """A shard's record if it is committed. Raises RunError if it is by another run."""
    try:
        found = read_commit(store, shard)
    except FileNotFoundError:
        return None
    return _of_run(store, run.digest, found)


def _of_run(store: Store, run: str, found: Commit) -> Commit:
    if found.run != run:
        raise RunError(f"Shard {found.shard} was committed by another run into {store.url}.", "Use another --cache.")
    return found


def _digest(objects: Mapping[str, bytes]) -> str:
    """Sixteen hex digits over the names and contents of a set of objects."""
    listing = "\n".join(f"{name} {digest_of(data)}" for name, data in sorted(objects.items()))
    return digest_of(listing.encode())[:16]
