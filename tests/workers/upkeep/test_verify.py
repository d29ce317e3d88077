"""Each kind of damage is found and named, its mending mends, and a sound cache has none."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import vlq
import vlq.workers.indexing.index as index_module
import vlq.workers.upkeep.verify as verify_module
from vlq.query.cache.reader import Cache
from vlq.query.cache.tables import parquet_bytes
from vlq.query.cli import main
from vlq.query.errors import CacheError
from vlq.workers.indexing.index import rebuild
from vlq.workers.indexing.postings import postings_bytes
from vlq.workers.upkeep.verify import Finding, verify

from ...synthetic import edit_record, make_cache, make_run


def findings(folder: Path) -> list[Finding]:
    return list(verify(Cache.open(str(folder)), lambda what, done, of: None))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify") / "cache"
    make_cache(folder, failed=[3])
    return folder


@pytest.fixture
def cache(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound, tmp_path / "cache")
    return tmp_path / "cache"


@pytest.mark.parametrize("failed", [[], [0], list(range(10))])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"at": ("patch",)},
        {"vocabulary_size": 70_000, "dtype": "float16", "layers": 1, "grid": (1, 1), "prompt_ids": (1,)},
    ],
)
def test_nothing_is_found_in_a_sound_cache(tmp_path: Path, failed: list[int], changes: dict[str, object]) -> None:
    make_cache(tmp_path, make_run(**changes), failed=failed)
    assert findings(tmp_path) == []


def test_numbers_that_are_none_are_no_damage(tmp_path: Path) -> None:
    """NaN equals nothing, itself least of all; a user's column may hold it."""
    odd = pa.array([float("nan"), None, float("inf"), -0.0, 0.1] * 2)
    make_cache(tmp_path, columns={"score": odd, "scores": pa.array([[value.as_py()] for value in odd])})
    assert findings(tmp_path) == []


def one(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("pattern", "mend"),
    [
        ("shards/00000001-*/patch/logprob/c/0/0/0/0", "vlq repair"),
        ("shards/00000001-*/zarr.json", "vlq repair"),
        ("images/00000001-*.parquet", "vlq repair"),
        ("postings/00000001-*/last_topk.parquet", "vlq repair"),
        ("index/*/patch_top1-000.parquet", "vlq repair"),
        ("index/*/patch_cells-000.parquet", "vlq repair"),
        ("index/*/images-000.parquet", "vlq repair"),
        ("index/*/divergence-000.parquet", "vlq repair"),
    ],
)
@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (Path.unlink, "missing"),
        (flip, "not what was written"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "not what was written"),
    ],
    ids=["missing", "flipped", "short"],
)
def test_damaged_objects(cache: Path, pattern: str, mend: str, damage: Callable[[Path], None], what: str) -> None:
    path = one(cache, pattern)
    damage(path)
    (finding,) = findings(cache)
    assert (finding.where, finding.what) == (str(path.relative_to(cache)), what)
    assert finding.mend.startswith(mend)


@pytest.mark.parametrize(
    ("pattern", "content", "where", "what"),
    [
        ("vocabulary.parquet", None, "vocabulary.parquet", "missing"),
        ("vocabulary.parquet", b"PAR1", "vocabulary.parquet", "not what was written"),
        ("plans/*", None, "plans/", "missing"),
        ("plans/*", b"other", "plans/", "not what was written"),
        ("commits/0*1.json", None, "shard 1", "missing"),
        ("commits/0*1.json", b"{", "commits/00000001.json", "not readable"),
        ("commits/head-*2.json", b"{", "commits/head-00000002.json", "not what was written"),
        ("index/*.json", None, "index/", "missing"),
        ("index/*.json", b"[]", "index/", "not a record"),
    ],
)
def test_damaged_records(cache: Path, pattern: str, content: bytes | None, where: str, what: str) -> None:
    path = one(cache, pattern)
    path.unlink() if content is None else path.write_bytes(content)
    (finding,) = findings(cache)
    assert finding.where.startswith(where)
    assert finding.what.startswith(what)
    assert not finding.what.endswith(".")  # a sentence goes on with what mends it
    assert finding.mend


def test_several_processes_find_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_cache(tmp_path, images=16)
    shards = len(list(tmp_path.glob("commits/0*.json")))
    assert shards == 4
    one(tmp_path, "images/00000000-*").unlink()
    one(tmp_path, "commits/00000001.json").write_bytes(b"{")
    flip(one(tmp_path, "postings/00000003-*/last_topk.parquet"))
    told: list[tuple[str, int, int]] = []
    opened = Cache.open(str(tmp_path))
    alone = list(verify(opened, lambda *step: told.append(step), processes=1))
    assert [finding.where.split("-")[0] for finding in alone] == [
        "images/00000000",
        "commits/00000001.json",
        "postings/00000003",
    ]

    def fail(cache: Cache, shard: int) -> None:
        raise AssertionError("looked at by this process")

    monkeypatch.setattr(index_module, "ALONE_BYTES", 0)
    monkeypatch.setattr(verify_module, "_verify_shard", fail)  # others do not know of it
    again: list[tuple[str, int, int]] = []
    assert list(verify(opened, lambda *step: again.append(step), processes=2)) == alone
    assert again == told
    assert told[:shards] == [("checking shards", done + 1, shards) for done in range(shards)]
    with pytest.raises(AssertionError, match="by this process"):
        list(verify(opened, lambda *step: None, processes=1))


def test_a_vocabulary_of_another_model(cache: Path) -> None:
    table = pq.read_table(cache / "vocabulary.parquet").slice(1)
    (cache / "vocabulary.parquet").write_bytes(parquet_bytes(table))
    assert [(finding.where, finding.what) for finding in findings(cache)] == [
        ("vocabulary.parquet", "not what was written")
    ]


def test_shards_not_done_yet(tmp_path: Path) -> None:
    store, _, _ = make_cache(tmp_path, seal=False)
    store.delete("commits/00000000.json")
    assert [(finding.where, finding.what) for finding in findings(tmp_path)] == [("shard 0", "not done yet")]


def test_a_cache_without_a_plan(tmp_path: Path) -> None:
    make_cache(tmp_path)
    for path in tmp_path.glob("commits/head-*"):
        path.unlink()
    assert [finding.what for finding in findings(tmp_path)] == ["no plan was made"]


def test_a_shard_of_another_run(cache: Path) -> None:
    edit_record(one(cache, "commits/0*1.json"), lambda record: record.update(run="0" * 16))
    assert [(finding.where, finding.what) for finding in findings(cache)] == [
        ("commits/00000001.json", "made by another run")
    ]


# --- what is well written and wrong ----------------------------------------------------------------------------


def replace_object(cache: Path, record: Path, key: str, data: bytes) -> None:
    """Other content under an object's key, and the record changed to fit it."""
    import hashlib

    def fit(value: object) -> None:
        if isinstance(value, dict) and value.get("key") == key:
            value |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
            fit(item)

    (cache / key).write_bytes(data)
    edit_record(record, fit)


@pytest.mark.parametrize("older", [False, True], ids=["", "older shards"])
@pytest.mark.parametrize(
    "table", ["patch_top1", "prompt_topk", "patch_rest", "patch_cells", "images", "divergence", "counts"]
)
@pytest.mark.parametrize("change", ["last row gone", "a row more", "another value"])
def test_an_index_that_says_something_else(cache: Path, table: str, change: str, older: bool) -> None:
    if older:
        index_from_arrays(cache)
    path = one(cache, f"index/*/{table}-000.parquet")
    rows = pq.read_table(path)
    if change == "last row gone":
        rows = rows.slice(0, rows.num_rows - 1)
    elif change == "a row more":
        rows = pa.concat_tables([rows, rows.slice(rows.num_rows - 1)])
    else:
        column = {
            "images": "image",
            "divergence": "entropy_of_mean",
            "counts": "images",
            "patch_cells": "top1",
            "patch_rest": "kth",
        }.get(table, "logprob")
        rows = rows.set_column(
            rows.column_names.index(column), column, rows[column].take(list(range(rows.num_rows))[::-1])
        )
    write = parquet_bytes if table in ("images", "divergence", "counts") else postings_bytes
    key = path.relative_to(cache).as_posix()
    replace_object(cache, one(cache, "index/*.json"), key, write(rows))
    assert findings(cache) == [Finding(key, "says something else than the shards", "vlq repair")]


def test_blocks_that_lie_elsewhere(cache: Path) -> None:
    path, other = (one(cache, f"index/*/{table}-000.blocks") for table in ("patch_top1", "patch_topk"))
    key = path.relative_to(cache).as_posix()
    replace_object(cache, one(cache, "index/*.json"), key, other.read_bytes())
    table = key.replace(".blocks", ".parquet")
    assert findings(cache) == [Finding(key, f"says something else than {table}", "vlq repair")]


def test_an_index_that_was_made_without_a_table(cache: Path) -> None:
    path = one(cache, "index/*.json")
    edit_record(path, lambda record: record["tables"].pop("divergence"))
    key = path.relative_to(cache).as_posix()
    assert findings(cache) == [Finding(key, "lacks the table divergence", "vlq repair")]


def test_an_index_that_was_made_without_counts_is_sound(cache: Path) -> None:
    """Whatever they tell is counted anew where they are not there."""
    edit_record(one(cache, "index/*.json"), lambda record: record["tables"].pop("counts"))
    assert findings(cache) == []


def index_from_arrays(cache: Path) -> None:
    """Shards from before a table was made, and the index that `vlq index` makes of them."""
    for path in cache.glob("commits/0*.json"):
        edit_record(path, lambda record: record["postings"].pop("patch_cells"))
    shutil.rmtree(cache / "index")
    opened = Cache.open(str(cache))
    rebuild(opened.store, opened.run)
    assert one(cache, "index/*/patch_cells-000.parquet").exists()
    assert findings(cache) == []


def test_postings_that_say_something_else(cache: Path) -> None:
    path = one(cache, "postings/00000001-*/last_top1.parquet")
    key = path.relative_to(cache).as_posix()
    rows = pq.read_table(path)
    replace_object(cache, cache / "commits" / "00000001.json", key, postings_bytes(rows.slice(1)))
    (finding,) = findings(cache)
    assert (finding.where, finding.what) == (key, "says something else than the arrays")


# --- what is older ---------------------------------------------------------------------------------------------


def test_a_cache_that_is_older_than_a_table(cache: Path) -> None:
    def forget(record: dict) -> None:  # type: ignore[type-arg]
        for table in ("patch_rest", "prompt_rest", "last_rest"):
            del record["postings" if "postings" in record else "tables"][table]

    for path in [*cache.glob("commits/0*.json"), one(cache, "index/*.json")]:
        edit_record(path, forget)
    assert findings(cache) == []
    with pytest.raises(CacheError, match=r"has no table patch_rest: it is older\.\nRun: vlq index"):
        _ = vlq.open(str(cache)).prob("dog", missing="bound").rows
    assert vlq.open(str(cache)).first_layer("dog").rows
    opened = Cache.open(str(cache))
    rebuild(opened.store, opened.run)
    assert vlq.open(str(cache)).prob("dog", missing="bound").rows
    assert findings(cache) == []
    key = max(cache.glob("index/*/patch_rest-000.parquet"), key=lambda path: path.stat().st_mtime)
    rows = pq.read_table(key)
    manifest = max(cache.glob("index/*.json"), key=lambda path: path.stat().st_mtime)
    replace_object(cache, manifest, key.relative_to(cache).as_posix(), postings_bytes(rows.slice(1)))
    (finding,) = findings(cache)
    assert (finding.where, finding.mend) == (key.relative_to(cache).as_posix(), "vlq repair")


def test_what_a_deep_check_lacks_shows_at_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "vlq.workers.upkeep.rerun", raising=False)
    with pytest.raises(SystemExit) as ended:
        main(["verify", "--deep", "--cache", str(cache)])
    told = "vlq: This needs transformers, which is not installed.\nRun: pip install 'vlq[workers]'\n"
    assert (ended.value.code, *capsys.readouterr()) == (2, "", told)
