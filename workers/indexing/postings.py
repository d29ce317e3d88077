"""Readings -> postings: which tokens are read where, sorted by token; and what is read in each image, sorted by image.

Sorting is what makes a query fast: a token's rows lie together, so a reader fetches only them. Keys are total, so
the same readings give the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vlq.query.schema import MAGIC, PATCH_CELLS, Block, Blocks, Run, array_specs, digest_of

ROW_GROUP = 131_072
"""Rows of a row group: the least that a look-up reads of a table."""

TOP1_ROW_GROUP = 8_192
"""The same where rows hold lists, which can't be skipped one by one: all of a group's are read."""

CELLS_ROW_GROUP = 2
"""Images of a row group, where a row is a whole image: a look-up of some images reads little else."""

REST_STEPS = 2**16
"""Into so many steps a probability is divided where it is rounded up."""

TOP1 = pa.schema(
    [
        ("token", pa.uint32()),
        ("image", pa.uint32()),
        ("layer", pa.uint16()),
        ("n", pa.uint32()),
        ("logprob", pa.float32()),
        ("positions", pa.list_(pa.uint16())),
    ]
)
TOPK = pa.schema(
    [
        ("token", pa.uint32()),
        ("image", pa.uint32()),
        ("layer", pa.uint16()),
        ("position", pa.uint16()),
        ("rank", pa.uint8()),
        ("logprob", pa.float32()),
    ]
)
TRACKED = TOPK.set(TOPK.get_field_index("rank"), pa.field("rank", pa.uint32()))
CELLS = pa.schema([("image", pa.uint32()), ("top1", pa.binary())])
REST = pa.schema([("image", pa.uint32()), ("layer", pa.uint16()), ("kth", pa.float32()), ("rest", pa.float32())])
# Sorted columns are long runs, which dictionaries with run lengths store in almost nothing.
_DICTIONARY = ["token", "image", "layer", "n", "rank"]
_ENCODING = {
    "logprob": "BYTE_STREAM_SPLIT",
    "position": "DELTA_BINARY_PACKED",
    "positions.list.element": "DELTA_BINARY_PACKED",
}


def site_arrays(run: Run, readings: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Per site its ids and log-probabilities, each (image, layer, position, k)."""
    sites = {}
    for site in run.positions:
        stored, own = run.stored_at(site)
        sites[site] = readings[f"{stored}/token"][:, :, own], readings[f"{stored}/logprob"][:, :, own]
    return sites


def postings_of(run: Run, first_image: int, readings: Mapping[str, np.ndarray]) -> dict[str, pa.Table]:
    """All index tables of one shard, by name (`schema.TABLES`)."""
    tables = {}
    for site, (token, logprob) in site_arrays(run, readings).items():
        tables[f"{site}_top1"] = top1_postings(token[..., 0], logprob[..., 0], first_image, run.no_id)
        tables[f"{site}_topk"] = topk_postings(token, logprob, first_image, run.no_id)
        tables[f"{site}_rest"] = unstored_rest(token, logprob, first_image, run.no_id, run.read_layers)
        if run.tracked:
            stored, own = run.stored_at(site)
            values, ranks = (readings[f"{stored}/tracked_{name}"][:, :, own] for name in ("logprob", "rank"))
            tables[f"{site}_tracked"] = tracked_postings(values, ranks, first_image, run.tracked)
        if site == "patch":
            tables[PATCH_CELLS] = image_cells(token[..., 0], first_image, run.no_id, run.read_layers)
    return tables


def readings_of(
    run: Run, first_image: int, images: int, lengths: Mapping[str, int], tables: Mapping[str, pa.Table]
) -> dict[str, np.ndarray]:
    """The arrays that a shard's postings were made of, as far as they say it: `token`, `logprob` and `top1` of each
    site whose table of all stored readings there is, and those of tracked tokens; as `schema.array_specs` has them."""
    readings = {}
    for spec in array_specs(run, images, lengths):
        site, name = spec.name.split("/")
        if (table := tables.get(f"{site}_topk")) is not None and name in ("token", "logprob"):
            values = np.full(spec.shape, spec.fill, spec.dtype)
            image, layer, position, rank = (table[at].to_numpy() for at in ("image", "layer", "position", "rank"))
            values[image - first_image, layer, position, rank - 1] = table[name].to_numpy()
            readings[spec.name] = values
            if name == "token":
                readings[f"{site}/top1"] = np.ascontiguousarray(values[..., 0])
        if (table := tables.get(f"{site}_tracked")) is not None and name.startswith("tracked_"):
            values = np.full(spec.shape, spec.fill, spec.dtype)
            token, image, layer, position = (table[at].to_numpy() for at in ("token", "image", "layer", "position"))
            values[image - first_image, layer, position, np.searchsorted(run.tracked, token)] = table[
                name.removeprefix("tracked_")
            ].to_numpy()
            readings[spec.name] = values
    return readings


def topk_postings(token: np.ndarray, logprob: np.ndarray, first_image: int, no_id: int) -> pa.Table:
    """One row per stored reading, from ids and log-probabilities (image, layer, position, k)."""
    flat = np.ascontiguousarray(token).reshape(-1)
    ids, order = _sorted(flat, no_id)
    image, layer, position, rank = _unravelled(order, token.shape)
    # Within a token, (image, layer, position) ascend because the flat order does and the sort is stable.
    return pa.table(
        [
            ids.astype(np.uint32),
            image + np.uint32(first_image),
            layer.astype(np.uint16),
            position.astype(np.uint16),
            (rank + np.uint32(1)).astype(np.uint8),
            np.ascontiguousarray(logprob).reshape(-1)[order].astype(np.float32),
        ],
        schema=TOPK,
    )


def tracked_postings(logprob: np.ndarray, rank: np.ndarray, first_image: int, tracked: Sequence[int]) -> pa.Table:
    """One row per tracked token and reading, from log-probabilities and ranks (image, layer, position, tracked)."""
    ranks = np.ascontiguousarray(np.moveaxis(rank, -1, 0))
    token, image, layer, position = there = np.nonzero(ranks)  # sorted by these; a rank of 0 is no reading
    return pa.table(
        [
            np.array(tracked, np.uint32)[token],
            (image + first_image).astype(np.uint32),
            layer.astype(np.uint16),
            position.astype(np.uint16),
            ranks[there].astype(np.uint32),
            np.moveaxis(logprob, -1, 0)[there].astype(np.float32),
        ],
        schema=TRACKED,
    )


def top1_postings(token: np.ndarray, logprob: np.ndarray, first_image: int, no_id: int) -> pa.Table:
    """One row per token, image and layer, from the first rank's ids and log-probabilities (image, layer, position)."""
    flat = np.ascontiguousarray(token).reshape(-1)
    ids, order = _sorted(flat, no_id)
    image, layer, position = _unravelled(order, token.shape)
    values = np.ascontiguousarray(logprob).reshape(-1)[order].astype(np.float32)
    starts = np.flatnonzero(changes(ids, image, layer))
    ends = np.append(starts[1:], len(ids))
    return pa.table(
        [
            ids[starts].astype(np.uint32),
            image[starts] + np.uint32(first_image),
            layer[starts].astype(np.uint16),
            (ends - starts).astype(np.uint32),
            np.maximum.reduceat(values, starts) if len(starts) else values,
            pa.ListArray.from_arrays(np.append(starts, len(ids)).astype(np.int32), position.astype(np.uint16)),
        ],
        schema=TOP1,
    )


def image_cells(token: np.ndarray, first_image: int, no_id: int, read_layers: Sequence[int]) -> pa.Table:
    """One row per image with readings, up to its last patch that has some, from the first rank's ids (image, layer,
    patch)."""
    there = token[:, read_layers[0]] != no_id
    patches = np.where(there.any(1), there.shape[1] - there[:, ::-1].argmax(1), 0)
    good = np.flatnonzero(patches)
    little = token.dtype.newbyteorder("<")
    cells = [token[image, :, : patches[image]].astype(little, copy=False).tobytes() for image in good]
    images = pa.array((good + first_image).astype(np.uint32))
    return pa.table([images, pa.array(cells, pa.binary())], schema=CELLS)


def unstored_rest(
    token: np.ndarray, logprob: np.ndarray, first_image: int, no_id: int, read_layers: Sequence[int]
) -> pa.Table:
    """One row per image with readings and layer that was read: how probable unstored tokens can be, from ids and
    log-probabilities (image, layer, position, k).

    A difference of nearly equal numbers magnifies how they were rounded when they were stored, so each stored
    probability counts as the least that it can have been; the rest is rounded up, so that the last bits of a machine's
    exp do not matter.
    """
    good = np.flatnonzero((token[:, read_layers[0], :, 0] != no_id).any(-1))
    kept = logprob[good][:, list(read_layers)]
    image, layer = np.meshgrid(np.arange(len(good)), np.array(read_layers), indexing="ij")
    least = np.exp(kept.astype(np.float64) * (1 + np.finfo(logprob.dtype).eps)).sum(-1)  # (image, layer, position)
    there = token[good][..., 0][:, list(read_layers)] != no_id  # of an image some positions alone may have readings
    rest = np.maximum(1 - least, 0).max(-1, initial=0, where=there)
    return pa.table(
        [
            (good[image.reshape(-1)] + first_image).astype(np.uint32),
            layer.reshape(-1).astype(np.uint16),
            kept[..., -1].max(-1, initial=-np.inf, where=there).reshape(-1).astype(np.float32),
            (np.ceil(rest * REST_STEPS) / REST_STEPS).reshape(-1).astype(np.float32),
        ],
        schema=REST,
    )


def changes(*columns: np.ndarray) -> np.ndarray:
    """True where a row differs from the one before it in any column; the first row always does."""
    changed = np.zeros(len(columns[0]), dtype=bool)
    changed[:1] = True
    for column in columns:
        changed[1:] |= column[1:] != column[:-1]
    return changed


def _sorted(ids: np.ndarray, no_id: int) -> tuple[np.ndarray, np.ndarray]:
    """`ids` in ascending order, equal ones in the order they come, and where each is. Those of images without readings,
    which sort last, are left out."""
    order = stable_order(ids)
    ids = ids[order]
    end = np.searchsorted(ids, no_id)
    return ids[:end], order[:end]


def _unravelled(order: np.ndarray, shape: tuple[int, ...]) -> list[np.ndarray]:
    """`np.unravel_index` in a third of its time, by 32 bits: no array of a shard has as many cells."""
    rest = order.astype(np.uint32)
    places = []
    for length in map(np.uint32, shape[:0:-1]):
        whole = rest // length
        places.append(rest - whole * length)
        rest = whole
    return [rest, *reversed(places)]


def stable_order(ids: np.ndarray) -> np.ndarray:
    """Positions of `ids` in ascending order, equal ids in the order they come."""
    if ids.dtype.itemsize <= 2:
        return np.argsort(ids, kind="stable")  # a radix sort for 16 bits, a merge sort above: so two rounds
    low = np.argsort((ids & 0xFFFF).astype(np.uint16), kind="stable")
    return low[np.argsort((ids[low] >> 16).astype(np.uint16), kind="stable")]


def open_writer(sink: io.BytesIO | str, schema: pa.Schema) -> pq.ParquetWriter:
    """A Parquet writer for an index table's rows, the same for every file: small, the same bytes for the same rows."""
    # Ranks among the whole vocabulary are too many different ones for a dictionary.
    encoding = _ENCODING | ({"rank": "BYTE_STREAM_SPLIT"} if schema.equals(TRACKED) else {})
    return pq.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        compression_level=3,
        use_dictionary=[name for name in schema.names if name in _DICTIONARY and name not in encoding],
        column_encoding={column: way for column, way in encoding.items() if column.split(".")[0] in schema.names},
        write_statistics=["image"] if schema.equals(CELLS) else True,  # of whole images they'd be large
    )


def row_group(schema: pa.Schema) -> int:
    """Rows of a row group of an index table."""
    if schema.equals(CELLS):
        return CELLS_ROW_GROUP
    return TOP1_ROW_GROUP if "positions" in schema.names else ROW_GROUP


def blocks_of(data: bytes) -> Blocks:
    """Where the blocks of an index table's file lie, which is Parquet and sorted by its first column."""
    metadata = pq.read_metadata(pa.BufferReader(data))
    blocks = []
    end = len(MAGIC)
    for number in range(metadata.num_row_groups if metadata.num_rows else 0):
        group = metadata.row_group(number)
        keys = group.column(0).statistics
        start, end = end, end + sum(group.column(column).total_compressed_size for column in range(group.num_columns))
        blocks.append(Block(keys.min, keys.max, start, end - start, bytes.fromhex(digest_of(data[start:end]))))
    return Blocks(tuple(blocks), data[end:])


def postings_bytes(table: pa.Table) -> bytes:
    """Postings as Parquet."""
    sink = io.BytesIO()
    with open_writer(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks(), row_group_size=row_group(table.schema))
    return sink.getvalue()
