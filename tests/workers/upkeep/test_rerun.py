"""`vlq verify --deep`: what the model says anew is held against what is stored, however well that is written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import transformers

from vlq.query.cache.reader import Cache
from vlq.query.cache.tables import parquet_bytes
from vlq.query.cli import main
from vlq.query.errors import BadArgument, CacheMismatch
from vlq.query.schema import RUN, VOCABULARY, Head, digest_of, head_key, plan_key
from vlq.query.store import open_store
from vlq.workers.corpus import list_images
from vlq.workers.extract import read_shard
from vlq.workers.indexing.index import compact, rebuild
from vlq.workers.lenses import lens_of
from vlq.workers.models import load
from vlq.workers.models.base import LensModel
from vlq.workers.models.vocabulary import vocabulary_hash, vocabulary_table
from vlq.workers.plan import first_plan
from vlq.workers.shard import write_shard
from vlq.workers.tracked import tracked_tokens
from vlq.workers.upkeep.repair import repair
from vlq.workers.upkeep.rerun import TOLERANCE, rerun
from vlq.workers.upkeep.verify import Finding, verify
from vlq.workers.worker import Setup, describe_run

from ..conftest import make_model, save_images
from ..models import zoo
from ..models.tiny import make_llava_next
from ..runs import Vlq, run_of
from ..web import Server

PROMPT = "USER: <image>\nWhat is the main object? ASSISTANT:"
IMAGES = 5
Change = Callable[[dict[str, np.ndarray]], None]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> LensModel:
    return load(str(tiny_model), prompt=PROMPT)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_images(tmp_path_factory.mktemp("rerun") / "images", IMAGES)
    (folder / "0003.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def make(tiny_model: Path, model: LensModel, tmp_path: Path) -> Callable[..., Path]:
    """A cache of real readings, changed before they are written: nothing but the model can tell."""

    def cache_of(images: Path, change: Change = lambda arrays: None) -> Path:
        return make_cache(tmp_path / "cache", tiny_model, model, images, change)

    return cache_of


def make_cache(
    folder: Path,
    path: Path,
    model: LensModel,
    images: Path,
    change: Change = lambda arrays: None,
    **options: Any,
) -> Path:
    """The model that lies at a path reads the images into one shard."""
    table = vocabulary_table(model.tokenizer, model.vocabulary_size)
    setup = Setup(str(path), PROMPT, 4, ("patch", "prompt"), "cpu", "auto", 1, 2, IMAGES, **options)
    tracked = tracked_tokens(setup.track, parquet_bytes(table), None)
    run = describe_run(setup, model, vocabulary_hash(table), tracked)
    store = open_store(str(folder), create=True)
    store.create(VOCABULARY, parquet_bytes(table))
    store.create(RUN, run.to_bytes())
    plan = first_plan(list_images(str(images)), IMAGES).table
    data = parquet_bytes(plan)
    head = Head(1, plan_key(digest_of(data)[:16]), 1, IMAGES, False, None)
    store.create(head.plan, data)
    with ThreadPoolExecutor(1) as decoders:
        arrays, rows = read_shard(model, lens_of(model, run), run, plan, decoders)
    change(arrays)
    write_shard(store, run, 0, 0, arrays, rows)
    key, _ = compact(store, run, head)
    store.create(head_key(1), Head(1, head.plan, 1, IMAGES, True, key).to_bytes())
    return folder


def findings(cache: Path, model: str | None = None, sample: int = IMAGES, seed: int = 0) -> list[Finding]:
    return list(rerun(Cache.open(str(cache)), model, sample, seed, lambda what, done, of: None))


def test_a_sound_cache(make: Callable[..., Path], images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = make(images)
    transformers.utils.logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    with pytest.raises(SystemExit) as ended:
        main(["verify", "--deep", "--sample", "3", "--cache", str(cache)])
    assert ended.value.code == 0
    out, said = capsys.readouterr()
    assert out.splitlines()[1] == "3 images read anew say what is stored."
    assert "loading the model" in said
    assert "Loading weights" not in said
    assert findings(cache) == []


def test_images_of_several_grids(images: Path, tmp_path: Path) -> None:
    path = make_llava_next(tmp_path / "model")
    model = load(str(path), prompt=PROMPT)
    cache = make_cache(tmp_path / "cache", path, model, images)
    commit = Cache.open(str(cache)).snapshot().commits[0]
    rows = pq.read_table(cache / commit.images_table.key).to_pylist()
    assert len({tuple(row["grid"].values()) for row in rows if row["grid"]}) > 1
    assert findings(cache) == []


def test_rounding_that_goes_by_the_batch(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linear attention's, of which a row that is padded is rounded otherwise than one alone: no alarm of that."""
    path = zoo.minicpm(tmp_path / "model")
    model = load(str(path), prompt=PROMPT)
    monkeypatch.setitem(TOLERANCE, "float32", 1e-6)  # below what is seen on whatever machine
    own = tmp_path / "images"
    shutil.copytree(images, own)
    sound = make_cache(tmp_path / "sound", path, model, own)
    assert findings(sound) == []
    harmed = make_cache(tmp_path / "harmed", path, model, own, nudge("prompt/logprob", (2, 1, 3, 0), 3e-4))
    assert {finding.where for finding in findings(harmed)} == {"image 2 (0002.png), layer 1, prompt 3"}
    (own / "0003.png").unlink()  # without the images of a shard nobody knows its batches
    gone, *alone = findings(sound)
    assert (gone.where, gone.what) == ("image 3 (0003.png)", "cannot be fetched: file not found")
    assert any(finding.what.startswith("logprob is") for finding in alone)


@pytest.mark.usefixtures("no_ray")
def test_links_that_were_dead(tmp_path: Path, tiny_model: Path, server: Server, vlq: Vlq) -> None:
    """They are so still, and nothing of them was read that could be wrong."""
    manifest, cache = tmp_path / "links.csv", tmp_path / "cache"
    manifest.write_text("\n".join(["url", *(f"{server.url}/{name}" for name in ("a", "403", "b"))]))
    assert "1 could not be" in vlq(*run_of(tiny_model, manifest, cache, "--skip-dead-links"))[1]
    code, out, _ = vlq("verify", "--deep", "--cache", cache)
    assert code == 0, out


def test_some_layers(images: Path, tmp_path: Path, tiny_model: Path, model: LensModel) -> None:
    """They are read anew, and where they differ their own numbers are told; index and postings follow from them."""
    cache = make_cache(tmp_path / "sound", tiny_model, model, images, layers=(1, 3))
    assert findings(cache) == []
    assert [*verify(Cache.open(str(cache)), lambda what, done, of: None)] == []
    index = {path: path.read_bytes() for path in cache.glob("index/**/*") if path.is_file()}
    store = open_store(str(cache))
    rebuild(store, Cache.open(str(cache)).run)
    assert {path: path.read_bytes() for path in cache.glob("index/**/*") if path.is_file()} == index
    tokens = next(cache.glob("shards/*/patch/token/c/*/*/*/*"))
    before = tokens.read_bytes()
    tokens.unlink()
    mended = [*repair(Cache.open(str(cache)), None, lambda what, done, of: None)]
    assert any("made again of the postings" in str(found) for found in mended), mended
    assert tokens.read_bytes() == before
    harmed = make_cache(tmp_path / "harmed", tiny_model, model, images, nudge("patch/lse", (2, 3, 5), 1), layers=(1, 3))
    (finding,) = findings(harmed)
    assert finding.where == "image 2 (0002.png), layer 3, patch 5"


def test_all_logits(images: Path, tmp_path: Path, tiny_model: Path, model: LensModel) -> None:
    cache = make_cache(tmp_path / "sound", tiny_model, model, images, keep="all")
    assert findings(cache) == []
    assert [*verify(Cache.open(str(cache)), lambda what, done, of: None)] == []
    harmed = make_cache(
        tmp_path / "harmed", tiny_model, model, images, nudge("prompt/logit", (2, 1, 3, 9), 1), keep="all"
    )
    (finding,) = findings(harmed)
    assert finding.where == "image 2 (0002.png), layer 1, prompt 3"


def test_logits_of_tokens_that_are_never_written(images: Path, tmp_path: Path) -> None:
    """Chameleon's of images are as low as can be, which in half precision is stored as less than any number."""
    path = zoo.chameleon(tmp_path / "model")
    model = load(str(path), prompt=PROMPT, dtype="bfloat16")
    never = model.tokenizer.convert_tokens_to_ids("IMGIMGAZ")
    options: dict[str, Any] = {"keep": "all", "track": (str(never),)}
    assert findings(make_cache(tmp_path / "sound", path, model, images, **options)) == []
    harmed = make_cache(tmp_path / "harmed", path, model, images, nudge("prompt/logit", (2, 1, 3, 9), 1), **options)
    (finding,) = findings(harmed)
    assert finding.where == "image 2 (0002.png), layer 1, prompt 3"
    assert "inf" not in finding.what


@pytest.mark.parametrize(("change", "found"), [(1e-6, False), (1e-3, True), (np.nan, True)])
def test_states(images: Path, tmp_path: Path, tiny_model: Path, model: LensModel, change: float, found: bool) -> None:
    """Of a state's largest number, what was nudged is a part."""
    at = (2, 1, 3, 9)

    def harm(arrays: dict[str, np.ndarray]) -> None:
        arrays["prompt/residual"][at] += change * np.abs(arrays["prompt/residual"][at[:-1]]).max()

    cache = make_cache(tmp_path / "cache", tiny_model, model, images, harm, keep="residual")
    told = findings(cache)
    assert [finding.where for finding in told] == (["image 2 (0002.png), layer 1, prompt 3"] if found else [])
    assert all("residual is" in finding.what for finding in told)


def test_logits_that_are_too_many(tiny_model: Path, model: LensModel, monkeypatch: pytest.MonkeyPatch) -> None:
    size = model.most_patches * model.layers * model.vocabulary_size * 4
    setup = Setup(str(tiny_model), PROMPT, 4, ("patch", "prompt"), "cpu", "auto", 1, 2, IMAGES, keep="all")
    monkeypatch.setattr("vlq.workers.worker.SHARD_OBJECT_BYTES", 2 * size + 1)
    assert describe_run(setup, model, "0" * 64).shard_size == 2
    monkeypatch.setattr("vlq.workers.worker.SHARD_OBJECT_BYTES", size - 1)
    with pytest.raises(BadArgument, match=r"--keep all: the logits of one image take .* MiB at one site"):
        describe_run(setup, model, "0" * 64)
    # Of layers that are not read nothing is stored.
    assert describe_run(replace(setup, layers=(0, 2)), model, "0" * 64).shard_size == 1


@pytest.mark.parametrize(("dtype", "bytes"), [("float32", 4), ("bfloat16", 2), ("float16", 2)])
def test_states_that_are_too_many(tiny_model: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, bytes: int) -> None:
    model = load(str(tiny_model), prompt=PROMPT, dtype=dtype)
    size = model.most_patches * model.layers * model.width * bytes
    setup = Setup(str(tiny_model), PROMPT, 4, ("patch", "prompt"), "cpu", dtype, 1, 2, IMAGES, keep="residual")
    monkeypatch.setattr("vlq.workers.worker.SHARD_OBJECT_BYTES", 3 * size)
    run = describe_run(setup, model, "0" * 64)
    assert (run.shard_size, run.width) == (3, model.width)
    monkeypatch.setattr("vlq.workers.worker.SHARD_OBJECT_BYTES", size - 1)
    with pytest.raises(
        BadArgument, match=r"--keep residual: the residual stream of one image takes .* MiB at one site"
    ):
        describe_run(setup, model, "0" * 64)


def test_tracked_tokens(images: Path, tmp_path: Path, tiny_model: Path, model: LensModel) -> None:
    cache = make_cache(tmp_path / "sound", tiny_model, model, images, track=("dog", "3"))
    assert findings(cache) == []
    assert [*verify(Cache.open(str(cache)), lambda what, done, of: None)] == []
    before = {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    rebuild(open_store(str(cache)), Cache.open(str(cache)).run)
    assert {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()} == before
    harmed = [*cache.glob("shards/*/p*/tracked_*/c/**/0"), next(cache.glob("postings/*/last_tracked.parquet"))]
    assert len([path for path in harmed if path.is_file()]) == 5
    for path in harmed:
        if path.is_file():
            path.unlink()
            mended = [str(found) for found in repair(Cache.open(str(cache)), None, lambda what, done, of: None)]
            assert any("made again of the" in text for text in mended), mended
    assert {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()} == before
    wrong = nudge("patch/tracked_logprob", (2, 3, 5, 1), 1)
    (finding,) = findings(make_cache(tmp_path / "harmed", tiny_model, model, images, wrong, track=("dog", "3")))
    assert finding.where == "image 2 (0002.png), layer 3, patch 5"


def nudge(name: str, cell: tuple[int, ...], by: float) -> Change:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays[name][cell] += by

    return change


@pytest.mark.parametrize("name", ["patch/logprob", "prompt/logprob", "patch/lse", "prompt/entropy"])
def test_a_reading_that_the_model_does_not_give(make: Callable[..., Path], images: Path, name: str) -> None:
    site, _, array = name.partition("/")
    cell = (2, 1, 3, 0) if array == "logprob" else (2, 1, 3)
    (finding,) = findings(make(images, nudge(name, cell, 3e-4)))
    assert finding.where == f"image 2 (0002.png), layer 1, {site} 3"
    assert finding.what.startswith(f"{array} is ")


def test_noise_is_within_the_tolerance(make: Callable[..., Path], images: Path) -> None:
    assert findings(make(images, nudge("patch/logprob", (2, 1, 3, 0), 5e-5))) == []


def test_another_token(make: Callable[..., Path], images: Path) -> None:
    def change(arrays: dict[str, np.ndarray]) -> None:
        tokens = arrays["patch/token"][0, 2, 5]
        tokens[0] = next(i for i in range(20) if i not in tokens)

    token, top1 = findings(make(images, change))
    assert token.where == top1.where == "image 0 (0000.png), layer 2, patch 5"
    assert (token.what[:10], top1.what[:8]) == ("tokens are", "top1 is ")


def test_many_differences_are_counted(make: Callable[..., Path], images: Path) -> None:
    cache = make(images, nudge("patch/lse", (1, slice(None), slice(None)), 1))
    found = findings(cache)
    assert [finding.what for finding in found][-1] == "59 more readings differ"  # of 4 layers and 16 patches
    assert len(found) == 6


def test_images_that_changed_or_went(make: Callable[..., Path], images: Path, tmp_path: Path) -> None:
    own = tmp_path / "images"
    shutil.copytree(images, own)
    cache = make(own)
    shutil.copy(own / "0000.png", own / "0001.png")
    (finding,) = findings(cache)
    assert (finding.where, finding.what) == ("image 1 (0001.png)", "the file is not the one that was read")
    shutil.rmtree(own)
    assert [finding.what for finding in findings(cache)] == [f"cannot be fetched: {own}: No such folder"] * IMAGES


def test_the_seed_chooses(make: Callable[..., Path], images: Path) -> None:
    cache = make(images, nudge("patch/lse", (slice(None), 0, 0), 1))
    one = [finding.where for finding in findings(cache, sample=2, seed=1)]
    assert one == [finding.where for finding in findings(cache, sample=2, seed=1)]
    assert len({tuple(finding.where for finding in findings(cache, sample=2, seed=seed)) for seed in range(4)}) > 1


def test_another_model(make: Callable[..., Path], images: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", seed=1)
    with pytest.raises(CacheMismatch, match="is not the model of"):
        findings(make(images), model=str(other))
