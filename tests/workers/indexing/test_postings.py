"""Postings against loops over the arrays."""

from __future__ import annotations

import io
from collections import defaultdict
from math import exp
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from vlq.workers.indexing.postings import (
    ROW_GROUP,
    image_cells,
    postings_bytes,
    postings_of,
    stable_order,
    topk_postings,
    unstored_rest,
)

from ...synthetic import make_run, random_readings

shapes = st.fixed_dictionaries(
    {
        "layers": st.integers(1, 4),
        "grid": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "k": st.integers(1, 5),
        "at": st.sampled_from([("patch",), ("prompt",), ("patch", "prompt")]),
        "prompt_ids": st.lists(st.integers(0, 9), min_size=1, max_size=3).map(tuple),
        "dtype": st.sampled_from(["float32", "float16"]),
    }
)


def brute_force(
    token: np.ndarray, logprob: np.ndarray, first: int, failed: list[int]
) -> tuple[list[Any], list[Any], list[Any]]:
    """Rows of all tables, in their order, from (image, layer, position, k)."""
    topk, cells, rest = [], defaultdict(list), []
    images, layers, positions, k = token.shape
    for image in range(images):
        if image in failed:
            continue
        for layer in range(layers):
            stored = [[float(value) for value in logprob[image, layer, position]] for position in range(positions)]
            left = max(1 - sum(map(exp, values)) for values in stored)
            rest.append((first + image, layer, max(values[-1] for values in stored), left))
            for position in range(positions):
                for rank in range(k):
                    id, value = int(token[image, layer, position, rank]), float(logprob[image, layer, position, rank])
                    topk.append((id, first + image, layer, position, rank + 1, value))
                    if rank == 0:
                        cells[id, first + image, layer].append((position, value))
    top1 = [
        (*key, len(found), max(value for _, value in found), [position for position, _ in found])
        for key, found in sorted(cells.items())
    ]
    return top1, sorted(topk), rest


@settings(deadline=None, max_examples=60)
@given(shape=shapes, wide=st.booleans(), images=st.integers(1, 4), first=st.integers(0, 10**6), data=st.data())
def test_postings_equal_brute_force(shape: dict[str, Any], wide: bool, images: int, first: int, data: Any) -> None:
    if wide:  # and small, for making readings takes long then
        shape, images = shape | {"layers": 1, "grid": (1, 2), "vocabulary_size": 70_000, "vocabulary_hash": ""}, 1
    failed = data.draw(st.lists(st.integers(0, images - 1), unique=True))
    run = make_run(**shape)
    readings = random_readings(run, images, np.random.default_rng(data.draw(st.integers(0, 2**32))), failed)
    tables = postings_of(run, first, readings)
    expected = {f"{site}_{kind}" for site in run.positions for kind in ("top1", "topk", "rest")}
    assert set(tables) == expected | ({"patch_cells"} if "patch" in run.at else set())
    for site in run.positions:
        stored, last = ("prompt", slice(-1, None)) if site == "last" else (site, slice(None))
        logprob = readings[f"{stored}/logprob"]
        top1, topk, rest = brute_force(readings[f"{stored}/token"][:, :, last], logprob[:, :, last], first, failed)
        assert [tuple(row.values()) for row in tables[f"{site}_top1"].to_pylist()] == top1
        assert [tuple(row.values()) for row in tables[f"{site}_topk"].to_pylist()] == topk
        found = [tuple(row.values()) for row in tables[f"{site}_rest"].to_pylist()]
        assert [row[:3] for row in found] == [row[:3] for row in rest]
        # Rounded up: by a step, and by as much as storing may have rounded (entropies here are below 4 nats).
        most = 2**-16 + 4 * float(np.finfo(logprob.dtype).eps)
        for (*_, bound), (*_, left) in zip(found, rest, strict=True):
            assert 0 <= max(0, left) <= bound <= max(0, left) + most
            assert bound * 2**16 == int(bound * 2**16)
    if "patch" in run.at:
        size = 4 if wide else 2
        assert [tuple(row.values()) for row in tables["patch_cells"].to_pylist()] == [
            (
                first + image,
                b"".join(int(id).to_bytes(size, "little") for id in readings["patch/top1"][image].reshape(-1)),
            )
            for image in range(images)
            if image not in failed
        ]


def test_what_storing_rounds_away_is_left_to_the_rest() -> None:
    probability = np.array([0.9990, 0.0009])
    logprob = np.log(probability).astype(np.float16).reshape(1, 1, 1, 2)
    assert np.exp(logprob.astype(float)).sum() > probability.sum() - 1e-6
    (row,) = unstored_rest(np.zeros((1, 1, 1, 2), np.uint16), logprob, 7, 65535, (0,)).to_pylist()
    assert row["rest"] >= 1 - probability.sum()
    assert (row["image"], row["layer"], row["kth"]) == (7, 0, float(logprob[0, 0, 0, 1]))


@settings(deadline=None)
@given(
    ids=st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 5) | st.integers(65_530, 65_540), max_size=60),
    wide=st.booleans(),
)
def test_stable_order(ids: list[int], wide: bool) -> None:
    ids = ids if wide else [id % 2**16 for id in ids]
    order = stable_order(np.array(ids, np.uint32 if wide else np.uint16))
    assert order.tolist() == sorted(range(len(ids)), key=lambda i: (ids[i], i))


def test_a_tokens_rows_are_found_by_statistics() -> None:
    rng = np.random.default_rng(0)
    token = rng.integers(0, 50, (40, 5, 100, 10)).astype(np.uint16)
    table = topk_postings(token, np.zeros(token.shape, np.float32), 0, 65535)
    file = pq.ParquetFile(io.BytesIO(postings_bytes(table)))
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    assert [group.num_rows for group in groups] == [ROW_GROUP, token.size - ROW_GROUP]
    spans = [(group.column(0).statistics.min, group.column(0).statistics.max) for group in groups]
    flat = np.sort(token.reshape(-1))
    assert spans == [(flat[0], flat[ROW_GROUP - 1]), (flat[ROW_GROUP], flat[-1])]
    assert file.read().equals(table)


def test_an_images_cells_are_found_by_statistics() -> None:
    token = np.random.default_rng(0).integers(0, 50, (7, 5, 100)).astype(np.uint16)
    token[3] = 65535  # without readings
    table = image_cells(token, 10, 65535, range(5))
    file = pq.ParquetFile(io.BytesIO(postings_bytes(table)))
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    spans = [(group.column(0).statistics.min, group.column(0).statistics.max) for group in groups]
    assert spans == [(10, 11), (12, 14), (15, 16)]
    assert not any(group.column(1).is_stats_set for group in groups)  # as long as what they would be about
    assert file.read().equals(table)
