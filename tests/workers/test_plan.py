"""Which image is in which shard."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlq.query.cache.tables import parquet_bytes
from vlq.query.errors import InputError
from vlq.query.store import open_store
from vlq.workers.plan import Plan, extended, first_plan, not_given, settle
from vlq.workers.worker import packed, unpacked

from ..synthetic import make_run


def corpus(*names: str, **columns: Any) -> pa.Table:
    ids = pa.array(range(len(names)), pa.uint32())
    return pa.table({"image_id": ids, "image": list(names), "uri": [f"file:///{name}" for name in names], **columns})


def test_a_plan_that_is_extended() -> None:
    plan = first_plan(corpus("a", "b", "c", label=["x", "y", "z"]), 2)
    assert extended(plan, corpus("c", "a", "b", label=["z", "x", "y"]), 2) is plan
    longer = extended(plan, corpus("a", "d", "a", label=["x", "w", "v"]), 2)
    assert longer.table["image"].to_pylist() == ["a", "b", "c", "d", "a"]
    assert longer.table["shard"].to_pylist() == [0, 0, 1, 2, 2]
    assert longer.table["label"].to_pylist() == ["x", "y", "z", "w", "v"]
    assert [(shard, rows.num_rows) for shard, rows in longer.rows()] == [(0, 2), (1, 1), (2, 2)]


def test_nulls_in_lists_of_structs() -> None:
    """As objects without masks are, in a JSON manifest: Arrow casts a part of such a column to no column."""
    objects = [[{"label": "dog", "mask_rle": None}] * i for i in range(4)]
    whole = corpus("a", "b", "c", "d", objects=objects)
    stored = parquet_bytes(first_plan(whole.slice(0, 2), 2).table)
    longer = extended(Plan(pq.read_table(io.BytesIO(stored))), whole, 2)
    assert longer.table["objects"].to_pylist() == objects
    longer.table.validate(full=True)


def test_the_same_images_are_not_looked_at_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million of them take the driver half a gigabyte and seconds."""
    asked = corpus("a", "b", "a", question=["x", "y", "z"])
    plan = first_plan(asked, 2, "question")
    otherwise = corpus("a", "b", "a", question=["x", "y", "w"])
    assert extended(plan, otherwise, 2, "question").images == 4
    assert not_given(plan, otherwise, [0, 1], "question") == 1
    monkeypatch.setattr("vlq.workers.plan._keys", None)
    assert extended(plan, pa.concat_tables([asked.slice(0, 1), asked.slice(1)]), 2, "question") is plan
    assert not_given(plan, asked, [0, 1], "question") == 0


def test_a_shards_rows_travel_without_the_others() -> None:
    plan = first_plan(corpus(*(f"{i:08d}" for i in range(20_000))), 10)
    for shard, rows in plan.rows():
        if shard % 100 == 0:
            travelling = packed(rows)
            assert len(travelling) < 4000
            assert unpacked(travelling).equals(rows)


def test_columns_follow_the_first_plan() -> None:
    plan = first_plan(corpus("a", label=["x"]), 2)
    assert extended(plan, corpus("b", other=[1]), 2).table["label"].to_pylist() == ["x", None]
    with pytest.raises(InputError, match=r"column label does not fit\. .* list<.*> of the new images, string of"):
        extended(plan, corpus("b", label=[[1]]), 2)


def test_patches_that_are_chosen_otherwise_later(tmp_path: Path) -> None:
    """What was planned holds, and it is said."""
    store, run, said = open_store(str(tmp_path), create=True), make_run(patches_column="chosen"), list[str]()
    kind = pa.list_(pa.int64())
    first = corpus("a", "b", "c", chosen=pa.array([[1], None, [2]], kind))
    settle(store, run, first, said.append)
    settle(store, run, first, said.append)
    assert said == []
    _, plan = settle(store, run, corpus("c", "d", "b", chosen=pa.array([[2], [3], []], kind)), said.append)
    assert plan.table["chosen"].to_pylist() == [[1], None, [2], [3]]
    assert said[0].startswith("The column chosen of 1 of the images is another one now.")
    assert said[1:] == ["1 new image beside 3 that were planned before."]


def test_plan_bytes_do_not_depend_on_chunks() -> None:
    names = [f"{i * 7919 % 100_003}" for i in range(50_000)]
    whole = corpus(*names)
    parts = pa.concat_tables([whole.slice(0, 777), whole.slice(777, 20_001), whole.slice(20_778)])
    assert parquet_bytes(parts) == parquet_bytes(whole)
    assert pq.read_table(io.BytesIO(parquet_bytes(parts))).equals(whole)


def test_images_that_are_asked_several_things() -> None:
    asked = corpus("a", "a", "b", "a", question=["x", "y", "x", "y"])
    plan = first_plan(asked, 2, "question")
    assert plan.table["image"].to_pylist() == ["a", "a#2", "b", "a#3"]
    assert plan.table["uri"].to_pylist() == ["file:///a", "file:///a", "file:///b", "file:///a"]
    assert extended(plan, asked, 2, "question") is plan
    assert extended(plan, asked.take([3, 2, 1, 0]), 2, "question") is plan
    # Another question is another row, wherever in the manifest it stands; those that are planned keep their names.
    more = corpus("a", "b", "a", "b", "c", question=["z", "x", "x", "z", "x"])
    longer = extended(plan, more, 2, "question").table
    assert longer["image"].to_pylist() == ["a", "a#2", "b", "a#3", "a#4", "b#2", "c"]
    assert longer["question"].to_pylist() == ["x", "y", "x", "y", "z", "z", "x"]
    assert longer["image_id"].to_pylist() == [*range(7)]


def test_names_with_numbers_are_given_once() -> None:
    plan = first_plan(corpus("a#2", "a", "a", question=["x", "x", "y"]), 4, "question")
    assert plan.table["image"].to_pylist() == ["a#2", "a", "a#3"]


def test_rows_of_one_image_without_prompts_keep_its_name() -> None:
    assert first_plan(corpus("a", "a"), 2).table["image"].to_pylist() == ["a", "a"]


def test_plan_bytes_are_those_of_a_plan_that_was_read() -> None:
    """Of lists, too, whose items are called otherwise in memory."""
    boxes: list[object] = [[{"label": "dog", "box": [1.0, 2.0], "at": {"page": [1]}}], None]
    pair = pa.array([[1, 2], None], pa.list_(pa.int8(), 2))
    table = corpus("a", "b", objects=boxes, tags=[["x"], []]).append_column("pair", pair)
    for large in (table, table.append_column("large", pa.array([["x"], None], pa.large_list(pa.string())))):
        data = parquet_bytes(large)
        assert parquet_bytes(pq.read_table(io.BytesIO(data))) == data
