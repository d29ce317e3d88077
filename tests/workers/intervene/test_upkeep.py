"""What garbage collection keeps of studies, what verification finds in them, and what `info` and `status` say."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from vlq.query.cache.annotate import annotate
from vlq.query.cache.reader import Cache
from vlq.query.cache.records import latest_head
from vlq.query.cache.studies import StudyCommit, commit_key, plan_key, shard_effects_key, study_key, sums_key, underway
from vlq.query.cache.tables import parquet_bytes
from vlq.query.info import as_text as info_text
from vlq.query.schema import Run, Study, digest_of
from vlq.query.status import as_text as status_text
from vlq.query.status import status_of
from vlq.query.store import Store, put
from vlq.workers.intervene.ablation import MomentSums
from vlq.workers.intervene.moments import put_moments, put_sums
from vlq.workers.upkeep import gc
from vlq.workers.upkeep.repair import repair
from vlq.workers.upkeep.verify import REPAIR, STUDY_AGAIN, Finding, verify

from ...studies import finish, make_study, random_effects
from ...synthetic import make_cache

DAY = 24 * 3600


def nothing(what: str, done: int, of: int) -> None:
    """No progress is shown."""


def moments(store: Store) -> str:
    for shard in range(2):
        sums = MomentSums()
        sums.add({0: torch.arange(6.0).reshape(3, 2) + shard})
        put_sums(store, shard, sums)
    return put_moments(store, [0, 1])


def begun(store: Store, run: Run, shards: int = 2, **changes: object) -> Study:
    """A study of four images in two shards, so many of which are done."""
    plan = parquet_bytes(pa.table({"image_id": [0, 1, 2, 3], "shard": [0, 0, 1, 1], "patches": [[0]] * 4}))
    study = make_study(run, plan=digest_of(plan), **changes)
    put(store, study_key(study), study.to_bytes())
    put(store, plan_key(study), plan)
    for shard in range(shards):
        data = parquet_bytes(pa.Table.from_pylist(random_effects(study, [2 * shard], 12, shard)))
        stored = put(store, shard_effects_key(study, shard, digest_of(data)), data)
        store.create(commit_key(study, shard), StudyCommit(study.digest, shard, 2, (), stored).to_bytes())
    return study


def age(folder: Path, pattern: str = "**/*") -> None:
    """As if all this had been put two days ago."""
    for path in folder.glob(pattern):
        os.utime(path, (time.time() - 2 * DAY,) * 2)


def collected(folder: Path) -> list[str]:
    cache = Cache.open(str(folder))
    return [leftover.key for leftover in gc.collect(cache, gc.leftovers(cache, DAY))]


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Store, Run]:
    store, run, _ = make_cache(tmp_path / "cache")
    return tmp_path / "cache", store, run


def test_of_finished_studies_nothing_goes_that_their_records_name(made: tuple[Path, Store, Run]) -> None:
    folder, store, run = made
    key = moments(store)
    study = begun(store, run, moments=key)
    finish(store, study, random_effects(study, [0, 2], 12))
    lost = put(store, shard_effects_key(study, 1, "f" * 64), b"of a writer that came too late").key
    before = finish(store, begun(store, run, seed=1), [])
    finish(store, before.study, random_effects(before.study, [0], 12))  # another table in its place
    old = key[:-20] + "0" * 4 + key[-16:]
    store.create(old, b"moments of other shards")
    age(folder)
    annotate(Cache.open(str(folder)), {"image_id": [0], "note": ["x"]})  # heads from before are not in use any more
    age(folder)
    gone = collected(folder)
    assert {*gone} == {lost, old, before.effects.key}
    assert list(verify(Cache.open(str(folder)), nothing)) == []
    assert len(list((folder / "moments").glob("0000*"))) == 2  # sums stay


def test_a_study_that_nobody_is_at_goes(made: tuple[Path, Store, Run]) -> None:
    folder, store, run = made
    key = moments(store)
    study = begun(store, run, shards=1, moments=key)
    assert collected(folder) == []
    age(folder)
    store.create(f"{study.prefix}/effects/young", b"")  # somebody is at it
    assert collected(folder) == []
    age(folder)
    gone = collected(folder)
    assert {name.partition("/")[0] for name in gone} == {"studies", "moments"}
    assert [name for name in gone if name.startswith("moments")] == [key]
    assert not list(store.list("studies"))


def test_what_is_damaged_is_told(made: tuple[Path, Store, Run]) -> None:
    folder, store, run = made
    key = moments(store)
    study = begun(store, run, moments=key)
    finished = finish(store, study, random_effects(study, [0, 2], 12))
    cache = Cache.open(str(folder))
    assert list(verify(cache, nothing)) == []
    names = [commit_key(study, 0), plan_key(study), study_key(study), finished.effects.key, key]
    effects = StudyCommit.from_bytes(store.read(commit_key(study, 1)), "").effects.key
    for name in (*names[:-1], effects):
        (folder / name).write_bytes(b"{}")
    (folder / key).unlink()
    found = {finding.where: finding for finding in verify(cache, nothing)}
    assert {*found} == {*names, effects}
    assert {finding.mend for finding in found.values()} == {STUDY_AGAIN}
    assert found[key].what == "missing"
    told = [one.where for one in repair(Cache.open(str(folder)), None, nothing) if isinstance(one, Finding)]
    assert {*told} == {*found}


@pytest.mark.parametrize("where", ["length", "checksum", "offset", "numbers"])
def test_damaged_sums_are_told_and_made_again(made: tuple[Path, Store, Run], where: str) -> None:
    folder, store, _ = made
    key = moments(store)
    path = folder / sums_key(1)
    whole = bytearray(path.read_bytes())
    bit = {"length": 3, "checksum": 8 * 100, "offset": 8 * whole.index(b"]}}") - 8, "numbers": -1}[where]
    whole[bit // 8] ^= 1 << bit % 8
    path.write_bytes(whole)
    cache = Cache.open(str(folder))
    assert list(verify(cache, nothing)) == [Finding(sums_key(1), "not what was written", REPAIR)]
    assert [str(one) for one in repair(cache, None, nothing)] == [
        f"{sums_key(1)}: removed: the next study that needs it makes it again."
    ]
    assert list(verify(cache, nothing)) == []
    assert moments(store) == key


def test_info_and_status(made: tuple[Path, Store, Run]) -> None:
    folder, store, run = made
    finished = begun(store, run, buffer=1, combinations="regions", images="label == 'beach'")
    finish(store, finished, random_effects(finished, [0], 12))
    going = begun(store, run, shards=1, seed=3)
    store.create("studies/0123456789abcdef/plan.parquet", b"of a writer that was killed at once")
    cache = Cache.open(str(folder))
    info = cache.info()
    assert [study["digest"] for study in info["studies"]] == [finished.digest]
    said = "readings('rock') taken, mean in their place, with 1 ring, regions, images with label == 'beach': on 'rock'"
    assert f"study    {finished.digest[:8]}: {said}" in info_text(info)
    values = status_of(cache)
    assert json.loads(json.dumps(values["studies"])) == [
        {
            "digest": going.digest,
            "done": "readings('rock') taken, mean in their place",
            "command": None,  # that query finds other patches than its plan has
            "patches": "readings('rock')",
            "target": "'rock'",
            "shards": 2,
            "committed": 1,
        }
    ]
    assert "study    readings('rock') taken, mean in their place, on 'rock': 1 of 2 shards" in status_text(values)
    assert "The same command goes on with a study that was stopped." in status_text(values)


def test_a_head_that_is_lost_takes_its_studies_along(made: tuple[Path, Store, Run]) -> None:
    folder, store, run = made
    study = begun(store, run)
    finish(store, study, random_effects(study, [0], 12))
    head = latest_head(store)
    assert head is not None
    assert head.studies
    (folder / f"commits/head-{head.number:08d}.json").write_bytes(b"{}")
    list(repair(Cache.open(str(folder)), None, nothing))
    left = latest_head(store)
    assert left is not None
    assert left.studies == ()
    assert [one.study for one in underway(store, ())] == [study]  # it is all there: the same command names it again
