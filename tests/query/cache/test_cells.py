"""The cells of whole images are those of the arrays, however they are stored and read."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vlq
import vlq.query.cache.cells
from vlq.query.cache.cells import Cells, numbered, read_by
from vlq.query.errors import CacheError, CorruptCache

from ...synthetic import edit_record, make_cache, make_run
from ..corpora import SETTINGS, Case, shapes


@SETTINGS
@given(name=shapes, part_bytes=st.sampled_from([1, 300, 10**9]), seed=st.integers(0, 2**32))
def test_equals_the_arrays(cases: dict[str, Case], name: str, part_bytes: int, seed: int) -> None:
    case = cases[name]
    good = np.flatnonzero(case.chosen(None)).astype(np.uint32)
    images = good[np.random.default_rng(seed).random(len(good)) < 0.5]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vlq.query.cache.cells, "PART_BYTES", part_bytes)
        largest = max((rows * columns for rows, columns in np.array(case.grids)[images]), default=0)
        cells = Cells(case.corpus.cache.snapshot(), images, largest)
    for _ in range(2):
        found: list[Any] = []
        for part, some in cells:
            assert (part.start, part.stop) == (len(found), len(found) + len(some))
            assert some.nbytes <= part_bytes or len(some) == 1
            found += some.tolist()
        assert found == case.sites["patch"].token[images, :, :largest, 0].tolist()


def test_only_the_wanted_row_groups_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_cache(tmp_path, images=10, failed=[3])
    snapshot = vlq.open(str(tmp_path)).cache.snapshot()
    read: list[list[int]] = []
    whole = pq.ParquetFile.read_row_groups

    def watched(self: Any, groups: list[int], **more: Any) -> Any:
        read.append(groups)
        return whole(self, groups, **more)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", watched)
    list(Cells(snapshot, np.array([1, 9], np.uint32), 12))
    assert read == [[0, 4]]  # two images each: 0 1, 2 4, 5 6, 7 8, 9


def test_images_without_readings_are_not_there(tmp_path: Path) -> None:
    make_cache(tmp_path, failed=[3])
    cells = Cells(vlq.open(str(tmp_path)).cache.snapshot(), np.array([2, 3], np.uint32), 12)
    with pytest.raises(CorruptCache, match="lacks images that have readings"):
        list(cells)


def test_a_damaged_table_is_one_message(tmp_path: Path) -> None:
    make_cache(tmp_path)
    (path,) = tmp_path.glob("index/*/patch_cells-*.parquet")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CorruptCache, match=r"patch_cells-000\.parquet in .* is not what was written") as caught:
        _ = vlq.open(str(tmp_path)).neighbours("cat").rows
    assert caught.value.hint == "Run: vlq index"


@pytest.mark.parametrize("seal", [True, False])
def test_an_index_from_before_the_table(tmp_path: Path, seal: bool) -> None:
    make_cache(tmp_path, make_run(), seal=seal)
    for path in tmp_path.glob("index/*.json" if seal else "commits/0*.json"):
        edit_record(path, lambda record: record["tables" if seal else "postings"].pop("patch_cells"))
    corpus = vlq.open(str(tmp_path))
    assert corpus.first_layer("cat").rows
    for text in ("neighbours('cat')", "precursors('cat')"):
        with pytest.raises(CacheError, match="has no table patch_cells: it is older") as caught:
            _ = corpus.query(text).rows
        assert caught.value.hint == "Run: vlq index"


@settings(deadline=None)
@given(image=st.lists(st.integers(0, 30)))
def test_numbered(image: list[int]) -> None:
    images, place = numbered(np.array(image, np.uint32))
    assert images.tolist() == sorted(set(image))
    assert images[place].tolist() == image


@settings(deadline=None)
@given(
    rows=st.integers(0, 4),
    columns=st.integers(1, 9),
    vocabulary=st.sampled_from([301, 65_535, 2**31]),
    seed=st.integers(0, 2**32),
)
def test_read_by(rows: int, columns: int, vocabulary: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.choice(np.array([0, 1, 7, 300, vocabulary - 1], np.uint32), (rows, columns))
    counted = rng.random((rows, columns)) < 0.6
    expected = []
    for row, (read, counts) in enumerate(zip(ids.tolist(), counted.tolist(), strict=True)):
        tokens = Counter(token for token, counts in zip(read, counts, strict=True) if counts)
        expected += [(row, token, count) for token, count in sorted(tokens.items())]
    assert list(zip(*(part.tolist() for part in read_by(ids, counted, vocabulary)), strict=True)) == expected
