"""Finished studies: heads name them, whoever else writes a head keeps them, and their effects are fetched once."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from vlq.query.annotate import annotate
from vlq.query.cache import Cache, latest_head
from vlq.query.errors import CorruptCache
from vlq.query.heads import name_study
from vlq.query.schema import Head, Run, head_key
from vlq.query.store import Store
from vlq.workers.index import rebuild

from ..counting import CountingStore
from ..studies import finish, make_study, random_effects
from ..synthetic import make_cache


@pytest.fixture
def made(tmp_path: Path) -> tuple[Store, Run]:
    store, run, _ = make_cache(tmp_path / "cache")
    return store, run


def head_of(store: Store) -> Head:
    head = latest_head(store)
    assert head is not None
    return head


def test_heads_without_studies_are_written_as_before_there_were_any(made: tuple[Store, Run]) -> None:
    store, _ = made
    assert b"studies" not in store.read(head_key(2))
    assert head_of(store).studies == ()


def test_a_head_names_a_finished_study(made: tuple[Store, Run]) -> None:
    store, run = made
    study = make_study(run)
    rows = random_effects(study, [0, 3], 12)
    finished = finish(store, study, rows)
    snapshot = Cache.open(store.url).snapshot()
    assert snapshot.studies == (finished,)
    assert snapshot.sealed
    (path,) = snapshot.files(study.table)
    assert pq.read_table(path)["image_id"].to_pylist() == [0] * 3 + [3] * 3
    assert sorted(pq.read_table(path).to_pylist(), key=str) == sorted(rows, key=str)
    number = head_of(store).number
    assert name_study(store, finished).number == number  # named already
    again = finish(store, study, rows[:2])  # made anew: in place of the other
    other = finish(store, make_study(run, seed=1), rows)
    assert head_of(store).studies == (again, other)


def test_other_writers_keep_them(made: tuple[Store, Run]) -> None:
    store, run = made
    finished = finish(store, make_study(run), [])
    annotate(Cache.open(store.url), {"image_id": [0], "note": ["x"]})
    assert head_of(store).studies == (finished,)
    head = head_of(store)
    store.create(head_key(9), Head(**{**head.__dict__, "number": 9, "index": "index/other.json"}).to_bytes())
    rebuild(store, run)
    assert (head_of(store).number, head_of(store).studies) == (10, (finished,))
    finish(store, make_study(run, seed=1), [])
    assert len(head_of(store).annotations) == 1


def test_effects_are_fetched_once_and_checked(
    made: tuple[Store, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLQ_HOME", str(tmp_path / "home"))
    store, run = made
    study = make_study(run)
    finished = finish(store, study, random_effects(study, [1], 12))
    counting = CountingStore(store)

    def read() -> list[str]:
        counting.reset()
        return Cache(store.url, counting, run).snapshot().files(study.table)

    first = read()
    assert counting.keys("read").count(finished.effects.key) == 1
    assert read() == first
    assert finished.effects.key not in counting.keys("read")
    Path(first[0]).write_bytes(b"other")
    assert read() == first  # a damaged copy is made anew
    assert counting.keys("read").count(finished.effects.key) == 1
    (tmp_path / "cache" / finished.effects.key).write_bytes(b"other")
    with pytest.raises(CorruptCache, match="is not what was written"):
        Cache.open(store.url).snapshot().files(study.table)
