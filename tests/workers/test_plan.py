"""Which image is in which shard."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlq.query.errors import InputError
from vlq.query.tables import parquet_bytes
from vlq.workers.plan import extended, first_plan
from vlq.workers.worker import packed, unpacked


def corpus(*names: str, **columns: list[object]) -> pa.Table:
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
    with pytest.raises(InputError, match="do not fit"):
        extended(plan, corpus("b", label=[[1]]), 2)


def test_plan_bytes_do_not_depend_on_chunks() -> None:
    names = [f"{i * 7919 % 100_003}" for i in range(50_000)]
    whole = corpus(*names)
    parts = pa.concat_tables([whole.slice(0, 777), whole.slice(777, 20_001), whole.slice(20_778)])
    assert parquet_bytes(parts) == parquet_bytes(whole)
    assert pq.read_table(io.BytesIO(parquet_bytes(parts))).equals(whole)
