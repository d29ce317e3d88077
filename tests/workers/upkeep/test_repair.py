"""Whatever came to harm, `vlq repair` brings back the bytes of the undisturbed cache, or says what has to be done."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import vlq
from vlq.query.cache.annotate import annotate
from vlq.query.cache.reader import Cache
from vlq.query.cache.records import latest_head
from vlq.query.cache.tables import parquet_bytes
from vlq.query.cli import main
from vlq.query.errors import CacheError, CacheMismatch, CorruptCache
from vlq.query.schema import TOKENIZER, VOCABULARY, digest_of, head_key, plan_key
from vlq.query.store import ObstoreStore, open_store
from vlq.workers.indexing.index import compact
from vlq.workers.indexing.postings import postings_bytes
from vlq.workers.models import load_processor
from vlq.workers.models.vocabulary import vocabulary_table
from vlq.workers.plan import begin, first_plan, settle
from vlq.workers.shard import write_shard
from vlq.workers.upkeep.repair import Mended, command_of, open_harmed, repair, unread
from vlq.workers.upkeep.verify import Finding, verify
from vlq.workers.worker import Description

from ...synthetic import edit_record, image_table, make_cache, make_run, planned, random_readings

IMAGES, FAILED = 10, [3]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def quiet(what: str, done: int, of: int) -> None:
    pass


def findings(folder: Path) -> list[Finding]:
    return list(verify(Cache.open(str(folder)), quiet))


def repaired(folder: Path, model: str | None = None) -> list[Mended | Finding]:
    return list(repair(open_harmed(str(folder)), model, quiet))


def read_again(folder: Path, shard: int) -> None:
    """What `vlq run` does with a shard that has no record: the same readings as before."""
    store, run = open_store(str(folder)), make_run()
    rng = np.random.default_rng(0)
    for number in range(shard + 1):
        first, size = number * 4, min(4, IMAGES - number * 4)
        failed = [image - first for image in FAILED if first <= image < first + size]
        readings = random_readings(run, size, rng, failed)
    plan = pq.read_table(next(folder.glob("plans/*"))).slice(first, size)
    own = {"label": plan["label"].to_pylist()}
    write_shard(store, run, shard, first, readings, image_table(plan["image"].to_pylist(), first, failed, run, **own))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repair") / "cache"
    make_cache(folder, images=IMAGES, failed=FAILED, columns={"label": list("abcdefghij")})
    return folder


@pytest.fixture
def cache(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound, tmp_path / "cache")
    return tmp_path / "cache"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


HARMS: list[Callable[[Path], None]] = [Path.unlink, flip, cut]
harms = pytest.mark.parametrize("harm", HARMS, ids=["missing", "flipped", "short"])

AGAIN = [
    "commits/00000001.json",
    "commits/head-00000002.json",
    "plans/*",
    "images/00000001-*",
    "postings/00000001-*/patch_topk.parquet",
    "postings/00000002-*/prompt_rest.parquet",
    "postings/00000000-*/patch_cells.parquet",
    "shards/00000001-*/zarr.json",
    "shards/00000000-*/patch/entropy/zarr.json",
    "shards/00000000-*/patch/token/c/*/*/*/*",
    "shards/00000001-*/patch/logprob/c/*/*/*/*",
    "shards/00000001-*/prompt/top1/c/*/*/*",
    "index/*.json",
    "index/*/patch_top1-000.parquet",
    "index/*/patch_top1-000.blocks",
    "index/*/images-000.parquet",
    "index/*/divergence-000.parquet",
]
"""What is said twice."""

ONCE = ["patch/lse/c/*/*/*", "prompt/entropy/c/*/*/*", "sum/patch/c/*/*", "sum/last/c/*/*"]
"""What only the model can say again, of shard 1."""


@harms
@pytest.mark.parametrize("pattern", AGAIN)
def test_what_is_said_twice_is_made_again(cache: Path, sound: Path, pattern: str, harm: Callable[[Path], None]) -> None:
    (path,) = cache.glob(pattern)
    harm(path)
    told = repaired(cache)
    assert told
    assert all(isinstance(each, Mended) for each in told), told
    assert told[0].where == path.relative_to(cache).as_posix() or harm is Path.unlink  # a head's loss shows by the next
    assert contents(cache) == contents(sound)
    assert findings(cache) == repaired(cache) == []


@harms
@pytest.mark.parametrize("name", ONCE)
def test_a_shard_that_only_the_model_can_read_again(
    cache: Path, sound: Path, name: str, harm: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = cache.glob(f"shards/00000001-*/{name}")
    harm(path)
    answer = vlq.open(str(sound)).first_layer("dog").rows
    (told,) = repaired(cache)
    assert told.where == "commits/00000001.json"
    assert path.relative_to(cache).as_posix() in told.what
    assert "has to be read again" in told.what
    assert unread(open_store(str(cache))) == [1]
    assert repaired(cache) == []
    assert vlq.open(str(cache)).first_layer("dog").rows == answer  # the index knows it all still
    read_again(cache, 1)
    assert contents(cache) == contents(sound)
    assert findings(cache) == []


@pytest.mark.parametrize("seed", range(4))
def test_several_harms_at_once(cache: Path, sound: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    hit = []
    for pattern in rng.choice(AGAIN, 4, replace=False):
        (path,) = cache.glob(str(pattern))
        if (path.exists() and path.parent.name != "commits") or pattern.startswith("commits/head"):
            HARMS[rng.integers(3)](path)
            hit.append(pattern)
    told = repaired(cache)
    for shard in unread(open_store(str(cache))):  # both sayings of a thing may have been hit
        read_again(cache, shard)
    if any(isinstance(each, Finding) for each in told) or not latest_head(open_store(str(cache))).sealed:  # type: ignore[union-attr]
        told = repaired(cache)
    assert not [each for each in told if isinstance(each, Finding)], (hit, told)
    assert contents(cache) == contents(sound)
    assert findings(cache) == []


# --- heads and plans -------------------------------------------------------------------------------------------


@harms
def test_all_heads(cache: Path, sound: Path, harm: Callable[[Path], None]) -> None:
    for path in cache.glob("commits/head-*"):
        harm(path)
    assert all(isinstance(told, Mended) for told in repaired(cache))
    assert contents(cache) == contents(sound)


def test_a_lost_annotation_is_told_and_joined_again(cache: Path) -> None:
    table = pa.table({"image_id": [0, 1], "score": [1, 2]})
    annotate(Cache.open(str(cache)), table)
    before = contents(cache)
    flip(cache / "commits" / "head-00000003.json")
    with pytest.raises(CorruptCache):
        vlq.open(str(cache)).first_layer("dog").rows  # noqa: B018
    removed, lost = repaired(cache)
    assert isinstance(removed, Mended)
    assert isinstance(lost, Finding)
    assert (removed.where, lost.what) == ("commits/head-00000003.json", "no head that is left names it")
    assert vlq.open(str(cache)).first_layer("dog").rows
    annotate(Cache.open(str(cache)), table)
    assert contents(cache) == before


def test_a_damaged_annotation_is_told_and_joined_again(cache: Path) -> None:
    table = pa.table({"image_id": [0, 1], "score": [1, 2]})
    annotate(Cache.open(str(cache)), table)
    before = contents(cache)
    flip(next(cache.glob("annotations/*")))
    (lost,) = repaired(cache)
    assert isinstance(lost, Finding)
    assert lost.mend == "vlq annotate the same table again, --replace"
    annotate(Cache.open(str(cache)), table, replace=True)
    assert contents(cache) == before


def grown(folder: Path) -> Path:
    """A finished cache to which two images were added, in a shard that is not read yet."""
    store = open_store(str(folder))
    head = latest_head(store)
    assert head is not None
    names = [row["image"] for row in pq.read_table(folder / head.plan).to_pylist()] + ["x.png", "y.png"]
    table = planned(names, {"label": [*"abcdefghij", None, None]}, 4)
    table = table.set_column(1, "shard", pa.array([*table["shard"].to_pylist()[:10], 3, 3], pa.uint32()))
    data = parquet_bytes(table)
    made = replace(head, number=3, plan=plan_key(digest_of(data)[:16]), shards=4, images=12, sealed=False)
    store.create(made.plan, data)
    store.create(head_key(3), made.to_bytes())
    return folder


def test_the_plan_of_a_lost_head_holds_again(cache: Path) -> None:
    before = contents(grown(cache))
    flip(cache / "commits" / "head-00000003.json")
    assert [told.where for told in repaired(cache)] == ["commits/head-00000003.json"] * 2
    assert contents(cache) == before
    assert unread(open_store(str(cache))) == [3]


@harms
def test_a_plan_of_which_not_all_is_read(cache: Path, harm: Callable[[Path], None]) -> None:
    head = latest_head(open_store(str(grown(cache))))
    assert head is not None
    harm(cache / head.plan)
    (told,) = repaired(cache)
    assert isinstance(told, Finding)
    assert told.where == head.plan
    assert "1 of its shards are not there to make it of" in told.what
    corpus = pa.table({"image_id": pa.array([0], pa.uint32()), "image": ["z"], "uri": ["file:///z"]})
    with pytest.raises(CorruptCache, match=r"The plan plans/.*\nRun: vlq repair"):
        settle(open_store(str(cache)), make_run(), corpus, print)
    with pytest.raises(CorruptCache, match="Run: vlq repair"):
        annotate(Cache.open(str(cache)), pa.table({"image_id": [0], "x": [1]}))


@harms
def test_the_same_images_put_a_first_plan_again(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    run = make_run()
    corpus = pa.table(
        {"image_id": pa.array(range(9), pa.uint32()), "image": list("abcdefghi"), "uri": list("abcdefghi")}
    )
    store = open_store(str(tmp_path))
    head, plan = settle(store, run, corpus, print)
    before = contents(tmp_path)
    harm(tmp_path / head.plan)
    assert settle(store, run, corpus, print) == (head, plan)
    assert contents(tmp_path) == before
    assert plan == first_plan(corpus, 4)


def test_a_cache_of_nothing_but_its_run(tmp_path: Path) -> None:
    make_cache(tmp_path)
    for folder in ("commits", "plans"):
        shutil.rmtree(tmp_path / folder)
    (told,) = repaired(tmp_path)
    assert told == Finding("commits/head-", "no plan was made", "run the same `vlq run` again")


# --- shards ----------------------------------------------------------------------------------------------------


def test_an_unfinished_run_stays_one(cache: Path) -> None:
    store = open_store(str(cache))
    for key in ("commits/00000002.json", "commits/head-00000002.json"):
        store.delete(key)
    for folder in ("shards", "images"):
        for path in cache.glob(f"{folder}/00000002-*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = contents(cache)
    assert repaired(cache) == []
    assert contents(cache) == before
    assert unread(store) == [2]


def test_of_two_writers_objects_no_record_is_made(cache: Path, sound: Path) -> None:
    """Either may have been the winner: the run decides anew."""
    (cache / "commits" / "00000001.json").unlink()
    run = make_run()
    readings = random_readings(run, 4, np.random.default_rng(9))
    write_shard(open_store(str(cache)), run, 1, 4, readings, image_table(list("abcd"), 4, [], run, label=list("efgh")))
    cut(cache / "commits" / "00000001.json")
    (told,) = repaired(cache)
    assert told == Mended("commits/00000001.json", "not what was written: removed, its shard has to be read again")
    assert repaired(cache) == []
    read_again(cache, 1)
    assert contents(sound).items() <= contents(cache).items()  # what the other one left beside, gc removes
    assert findings(cache) == []


def test_postings_that_say_something_else(cache: Path, sound: Path) -> None:
    """What was recorded was wrong: the record is made anew, and names the right ones."""
    path = next(cache.glob("postings/00000001-*/last_top1.parquet"))
    key, data = path.relative_to(cache).as_posix(), postings_bytes(pq.read_table(path).slice(1))

    def fit(record: dict) -> None:  # type: ignore[type-arg]
        record["postings"]["last_top1"] |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    path.write_bytes(data)
    edit_record(cache / "commits" / "00000001.json", fit)
    assert [finding.what for finding in findings(cache)][:1] == ["says something else than the arrays"]
    told = repaired(cache)
    assert told[0] == Mended(key, "says something else than the arrays: made again of the arrays")
    assert contents(cache) == contents(sound)
    assert findings(cache) == []


def test_a_shard_of_another_run_is_left_alone(cache: Path) -> None:
    edit_record(cache / "commits" / "00000001.json", lambda record: record.update(run="0" * 16))
    before = contents(cache)
    (told,) = repaired(cache)
    assert told == Finding("commits/00000001.json", "made by another run", "use another cache for that run")
    assert contents(cache) == before


def test_an_index_waits_for_the_shards_that_are_to_be_read(cache: Path, sound: Path) -> None:
    flip(next(cache.glob("shards/00000000-*/patch/lse/c/*/*/*")))
    flip(next(cache.glob("index/*/patch_top1-000.parquet")))
    before = set(contents(cache))
    removed, index = repaired(cache)
    assert removed.where == "commits/00000000.json"
    assert isinstance(index, Finding)
    assert index.mend == "run the same `vlq run` again: it makes the index, too"
    assert before - set(contents(cache)) == {"commits/00000000.json"}
    read_again(cache, 0)
    store, head = open_store(str(cache)), latest_head(open_store(str(cache)))
    assert head is not None
    assert compact(store, make_run(), head)[0] == head.index
    assert contents(cache) == contents(sound)


# --- what lies beside ------------------------------------------------------------------------------------------


@harms
def test_vocabulary_and_tokenizer(tmp_path: Path, tiny_model: Path, harm: Callable[[Path], None]) -> None:
    tokenizer = load_processor("tiny", tiny_model).tokenizer
    files = {
        VOCABULARY: parquet_bytes(vocabulary_table(tokenizer, 60)),
        TOKENIZER: tokenizer.backend_tokenizer.to_str().encode(),
    }
    cache = tmp_path / "cache"
    run = make_run(
        vocabulary_size=60, model="gone/away", checksums={key: digest_of(data) for key, data in files.items()}
    )
    store = open_store(str(cache), create=True)
    for key, data in files.items():
        store.create(key, data)
    make_cache(cache, run)
    before = contents(cache)
    assert findings(cache) == []
    for key in files:
        harm(cache / key)
    harmed = contents(cache)
    for other in (None, str(tmp_path)):
        told = repaired(cache, other)
        assert [each.where for each in told if isinstance(each, Finding)] == [TOKENIZER, VOCABULARY]
    assert contents(cache) == harmed
    told = repaired(cache, str(tiny_model))
    assert [each.where for each in told if isinstance(each, Mended)] == [TOKENIZER, VOCABULARY]
    assert contents(cache) == before


@harms
def test_the_record_of_the_run(cache: Path, harm: Callable[[Path], None]) -> None:
    run = Cache.open(str(cache)).run
    vocabulary = (cache / VOCABULARY).read_bytes()
    before = contents(cache)
    harm(cache / "run.json")
    harmed = contents(cache)
    with pytest.raises(CorruptCache, match=r"(?s)run\.json is .*Restore run\.json from a copy\. Or remove it"):
        open_harmed(str(cache))
    assert contents(cache) == harmed
    (cache / "run.json").unlink(missing_ok=True)
    store = open_store(str(cache))
    with pytest.raises(CacheMismatch, match="shard 0 was made by another run"):
        begin(store, Description(replace(run, threads=99), vocabulary, None))
    assert not (cache / "run.json").exists()
    assert begin(store, Description(run, vocabulary, None)) == run
    assert contents(cache) == before


# --- while others look, and cut off ----------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for kill -9: each put and each removal happens whole or not at all."""


def killed_after(steps: int, patch: pytest.MonkeyPatch) -> None:
    """The process dies when it has put or removed so many objects."""
    left = iter(range(steps))

    def counted(name: str) -> None:
        done = getattr(ObstoreStore, name)

        def call(*arguments: object) -> object:
            if next(left, None) is None:
                raise Killed
            return done(*arguments)

        patch.setattr(ObstoreStore, name, call)

    counted("create")
    counted("delete")


def test_killed_at_any_moment_and_called_again(cache: Path, sound: Path) -> None:
    """Meanwhile readers get what the undisturbed cache says of the shards that are committed, or a refusal."""
    hit = [
        "commits/00000002.json",
        "commits/head-00000002.json",
        "plans/*",
        "images/00000001-*",
        "postings/00000000-*/patch_topk.parquet",
        "shards/00000001-*/patch/token/c/*/*/*/*",
        "index/*/patch_top1-000.parquet",
    ]
    for pattern in hit:
        flip(next(cache.glob(pattern)))
    rows = vlq.open(str(sound)).first_layer("dog", rank=4).rows
    outcomes = Counter()
    for steps in (0, 1, 2, 3, 5, 8, 12, 17, 10**6):
        copy = cache.parent / str(steps)
        shutil.copytree(cache, copy)
        killed = 0
        for _ in range(2):
            with pytest.MonkeyPatch.context() as patch, suppress(Killed):
                killed += 1
                killed_after(steps, patch)
                repaired(copy)
                killed -= 1
            try:
                corpus = vlq.open(str(copy))
                committed = corpus.cache.snapshot()
                shards = range(3) if committed.sealed else [commit.shard for commit in committed.commits]
                expected = [row for row in rows if row["image_id"] // 4 in shards]
                by_image = sorted(corpus.first_layer("dog", rank=4).rows, key=lambda row: row["image_id"])
                assert by_image == sorted(expected, key=lambda row: row["image_id"])
                outcomes["answers"] += 1
            except CacheError:
                outcomes["refusals"] += 1
        repaired(copy)
        assert contents(copy) == contents(sound)
        assert killed == (0 if steps == 10**6 else 2)
    assert min(outcomes["answers"], outcomes["refusals"]) > 3


# --- the command -----------------------------------------------------------------------------------------------


def test_the_command(cache: Path, sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def typed(*arguments: str) -> tuple[object, list[str]]:
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--cache", str(cache)])
        return ended.value.code, capsys.readouterr().out.splitlines()

    assert typed("repair") == (0, [f"Nothing to mend: {cache}"])
    flip(next(cache.glob("index/*/patch_top1-000.parquet")))
    code, lines = typed("verify")
    assert (code, lines[-1]) == (1, f"Run: vlq repair --cache {cache}")
    code, lines = typed("repair")
    assert (code, lines[-1]) == (0, f"1 mended, 0 not: {cache}")
    assert re.fullmatch(r"index/.*/patch_top1-000\.parquet: not what was written: made again of the arrays\.", lines[0])
    flip(next(cache.glob("shards/00000001-*/patch/lse/c/*/*/*")))
    for mended in (1, 0):
        code, lines = typed("repair")
        assert code == 1
        assert lines[-4:] == [
            f"{mended} mended, 0 not: {cache}",
            "To be read with the model: 1 shard: 1. The same command as ever reads nothing else:",
            f"vlq run IMAGES --model synthetic --cache {cache} --prompt 'USER: <image>",
            "What is it? ASSISTANT:' --k 4 --at patch,prompt --dtype float32",
        ]
    assert typed("verify")[0] == 1
    assert typed("status")[0] == 0
    read_again(cache, 1)
    assert typed("verify")[0] == 0
    assert contents(cache) == contents(sound)


def test_the_command_of_a_quantised_run() -> None:
    assert command_of(replace(make_run(), quantized="4bit"), "here").endswith(" --quantize 4bit")
