"""Finished studies: heads name them, whoever else writes a head keeps them, and their effects are fetched once."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

import vlq
from vlq.query.cache.annotate import annotate
from vlq.query.cache.heads import name_study
from vlq.query.cache.reader import Cache
from vlq.query.cache.records import latest_head
from vlq.query.errors import CorruptCache
from vlq.query.schema import Finished, Head, Run, Stored, Study, digest_of, head_key
from vlq.query.store import Store
from vlq.workers.indexing.index import rebuild
from vlq.workers.plan import settle

from ...counting import CountingStore
from ...studies import finish, make_study, random_effects
from ...synthetic import make_cache, make_run, planned
from .test_cache import add_shard


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


def test_records_from_before_there_were_other_interventions_are_the_same() -> None:
    """As they were written then: their digests name them."""
    ids, told = (5, 9), {"plan": "p", "images": "label == 'x'", "moments": "m", "batch": 4}
    study = Study("run", "[0]", "5", ids, "mean", 1, "regions", ("random",), 2, 2, 3, **told)  # type: ignore[arg-type]
    assert study.digest == "6cd52e9474b2f372"
    head = Head(3, "p", 1, 2, True, None, (), (Finished(study, Stored("k", 3, "aa")),))
    assert digest_of(head.to_bytes())[:16] == "8cef9b9c80c8c061"
    assert Study.from_bytes(study.to_bytes(), "") == study
    assert Head.from_bytes(head.to_bytes(), "") == head


def test_other_interventions_are_read_as_they_were_written() -> None:
    told = {"windows": ((1, 2), (2, 3)), "token": "'dog'", "token_ids": (4, 5), "strengths": (0.5, 1.0)}
    study = make_study(make_run(), intervention="steer", mode="", patches="'last'", **told)
    assert Study.from_bytes(study.to_bytes(), "") == study
    head = Head(3, "p", 1, 2, True, None, (), (Finished(study, Stored("k", 3, "aa")),))
    assert Head.from_bytes(head.to_bytes(), "") == head


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


def test_images_that_are_cached_later_have_no_effects(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(12)]
    store, run, _ = make_cache(tmp_path, names=names[:8], images=8)
    study = make_study(run, patches="[0]")
    finished = finish(store, study, random_effects(study, range(8), 12))
    assert vlq.open(store.url).query("effect([0], 'rock')").notes == []
    more = planned(names, {}, run.shard_size).drop_columns("shard")
    head, _ = settle(store, run, more, lambda text: None)
    assert (head.images, head.studies) == (12, (finished,))
    add_shard(store, 2, 4)
    result = vlq.open(store.url).query("effect([0], 'rock')")
    assert len(result.rows) == 8
    assert result.notes[0].startswith("4 images with such patches have no effects: not in the study, cached since, ")
    assert ". To measure them: vlq ablate --patches 0 --target rock --repeats 2 --answer 3 --cache " in result.notes[0]


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
