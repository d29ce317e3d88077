"""`vlq run --dry-run`: what it says is held against what a run leaves and against the model, and it leaves nothing."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vlq.workers.estimate as estimate_module
import vlq.workers.job as job_module
from vlq.query.errors import BadArgument, CacheMismatch, InputError, ModelError, RunError, StoreError, UnknownToken
from vlq.workers.estimate import as_text, as_values, ends_seconds, estimate, image_seconds, passes, reading_seconds
from vlq.workers.job import run_job
from vlq.workers.machine import Memory, resident
from vlq.workers.models import load
from vlq.workers.plan import RunOptions
from vlq.workers.sample import Cost, Sample, Sizes, spent

from .conftest import IMAGES, save_images
from .models.tiny import make_llava_next
from .runs import PROMPT, Silent, contents


def options(model: Path, images: Path, cache: Path | str, **changes: object) -> RunOptions:
    """Those of `undisturbed`."""
    values = {"prompt": PROMPT, "k": 4, "shard_size": 2, "batch_size": 2} | changes
    return RunOptions(str(images), str(model), str(cache), **values)  # type: ignore[arg-type]


def told(asked: RunOptions) -> dict[str, Any]:
    """What is said, as a program sees it."""
    values = as_values(estimate(asked, Silent()))
    assert json.loads(json.dumps(values)) == values
    return values


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# --- before a run ----------------------------------------------------------------------------------------------


def test_a_cache_becomes_as_large_as_it_says(tiny_model: Path, images: Path, undisturbed: Path, tmp_path: Path) -> None:
    values = told(options(tiny_model, images, tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()
    assert (values["images"], values["shards"]) == (IMAGES, IMAGES // 2)
    assert values["missing"] == {"images": IMAGES, "shards": IMAGES // 2}
    assert (values["grid"], values["layers"], values["k"], values["dtype"]) == ([4, 4], 4, 4, "float32")
    found = values["estimates"]
    # One image in 62 is broken, and six are tried.
    assert found["tried"]["images"] + len(found["tried"]["errors"]) == 6
    assert found["tried"]["patches"] == {"least": 16, "most": 16}
    assert found["bytes"]["total"] == pytest.approx(size_of(undisturbed), rel=0.15)
    arrays = size_of(undisturbed / "shards") + size_of(undisturbed / "commits") + size_of(undisturbed / "images")
    assert found["bytes"]["arrays"] * IMAGES + found["bytes"]["shard"] * IMAGES // 2 == pytest.approx(arrays, rel=0.15)
    assert found["bytes"]["postings"] * IMAGES == pytest.approx(size_of(undisturbed / "postings"), rel=0.15)
    weights = sum(parameter.nbytes for parameter in load(str(tiny_model)).model.parameters())
    assert weights <= found["memory"]["weights"] <= weights + 10_000  # buffers
    assert resident() is None or weights < found["memory"]["worker"] < found["memory"]["free"]
    seconds = found["seconds"]
    assert seconds["total"] == pytest.approx(seconds["loading"] + seconds["reading"] + seconds["indexing"])
    assert min(seconds.values()) > 0


@pytest.mark.usefixtures("no_ray")
def test_images_that_cannot_be_read_take_no_room(
    tiny_model: Path, image_folder: Callable[[int], Path], tmp_path: Path
) -> None:
    images, cache = image_folder(18), tmp_path / "cache"
    for image in sorted(images.iterdir())[::3]:
        image.write_bytes(b"")
    asked = options(tiny_model, images, cache, batch_size=6, keep="all")
    expected = told(asked)["estimates"]["bytes"]["total"]
    run_job(asked, Silent())
    assert expected == pytest.approx(size_of(cache), rel=0.1)


def test_each_image_with_a_grid_of_its_own(tmp_path: Path) -> None:
    folder = make_llava_next(tmp_path / "model")
    images = tmp_path / "images"
    images.mkdir()
    sizes = [(64, 64), (30, 90), (100, 40), (60, 60), (20, 64)]
    for i, size in enumerate(sizes):
        Image.new("RGB", size, (9 * i, 80, 120)).save(images / f"{i}.png")
    values = told(options(folder, images, tmp_path / "cache", prompt=None))
    model = load(str(folder))
    patches = [math.prod(model.encode(Image.new("RGB", size)).grid) for size in sizes]
    assert len(set(patches)) > 1
    assert values["grid"] is None
    assert values["estimates"]["tried"]["patches"] == {"least": min(patches), "most": max(patches)}
    text = as_text(values)
    assert f"each image has its own, of at most {model.most_patches} patches; {min(patches)} to {max(patches)}" in text


def test_the_command_starts_no_ray_and_writes_nothing(tiny_model: Path, images: Path, tmp_path: Path) -> None:
    script = "import sys; from vlq.query.cli import main\ntry: main()\nfinally: print('ray' in sys.modules)"
    command = ["run", images, "--model", tiny_model, "--cache", "cache", "--dry-run", "--limit", "8"]
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, command)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["cache    cache: nothing is cached yet", "images   8, in 1 shard of 32 at most"]
    assert [line.split()[0] for line in lines[2:12]] == [
        "model", "prompt", "lens", "layers", "grid", "read", "size", "memory", "workers", "time"
    ]  # fmt: skip
    assert re.fullmatch(r"size     \S+ KiB more; \S+ KiB an image \(arrays .*, postings .*, index .*\)", lines[8])
    assert lines[12:14] == ["1 of 8 images that were tried cannot be read:", "  0005.png: empty file"]
    assert lines[14] == "Sizes, memory and time are estimates from 7 images. Nothing was written."
    assert lines[15:] == ["False"]
    assert done.stderr.splitlines() == ["loading the model", "reading a few images"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(tiny_model: Path, images: Path, tmp_path: Path) -> None:
    values = told(options(tiny_model, images, tmp_path / "cache", device="cuda"))
    memory = values["estimates"]["memory"]
    assert values["device"] == "cuda"
    assert memory["weights"] < memory["gpu"] < torch.cuda.get_device_properties(0).total_memory
    assert " on its GPU" in as_text(values)


# --- in a run's middle, and behind it --------------------------------------------------------------------------


def test_what_is_cached_is_not_read_again(tiny_model: Path, images: Path, undisturbed: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(undisturbed, cache)
    (cache / "commits" / "00000004.json").unlink()
    more = tmp_path / "more.csv"
    new = sorted(save_images(tmp_path / "new", 3, seed=5).iterdir())
    more.write_text("\n".join(["image", *map(str, [*sorted(images.iterdir()), *new])]))
    before = contents(cache)
    tracker = Silent()
    found = estimate(options(tiny_model, more, cache, batch_size=5, attention="eager"), tracker)
    assert contents(cache) == before
    assert (found.images, found.shards) == (IMAGES + 3, IMAGES // 2 + 2)
    assert (found.missing_images, found.missing_shards) == (5, 3)
    assert found.cost is not None
    assert found.cost.sample.images == 5
    assert [said.partition(" is not used")[0] for said in tracker.said] == ["--batch-size 5", "--attention eager"]
    assert (found.run.batch_size, found.run.attention) == (2, "sdpa")
    assert f"{IMAGES - 2} images are cached" in as_text(as_values(found))


def test_nothing_to_do_needs_no_model(
    tiny_model: Path, images: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(estimate_module, "load_model")
    values = told(options(tiny_model, images, undisturbed))
    assert (values["missing"], values["estimates"]) == ({"images": 0, "shards": 0}, None)
    assert as_text(values).endswith("\nNothing to do: all images are cached already.")


# --- mistakes --------------------------------------------------------------------------------------------------


def test_mistakes_are_a_runs(
    tiny_model: Path, images: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"

    def refused(kind: type[Exception], match: str, asked: RunOptions) -> None:
        with pytest.raises(kind, match=match):
            estimate(asked, Silent())

    refused(CacheMismatch, "k: the cache has 4, asked for 5", options(tiny_model, images, undisturbed, k=5))
    refused(
        CacheMismatch,
        "tracked: the cache has none, asked for",
        options(tiny_model, images, undisturbed, track=("dog",)),
    )
    refused(BadArgument, "there is no layer 9", options(tiny_model, images, cache, layers=(0, 9)))
    refused(InputError, "There is nothing at", options(tiny_model, tmp_path / "none", cache))
    refused(ModelError, "There is no model folder", options(tmp_path / "none", images, cache))
    refused(RunError, "There is no GPU", options(tiny_model, images, cache, device="cuda"))
    refused(ModelError, "2 times", options(tiny_model, images, cache, prompt="<image> <image>"))
    (tmp_path / "file").write_text("")
    within = "Cannot make the folder .*/file/cache: .*/file is no folder"
    refused(StoreError, within, options(tiny_model, images, tmp_path / "file" / "cache"))
    assert not cache.exists()

    lost = tmp_path / "lost"
    shutil.copytree(undisturbed, lost)
    (lost / "run.json").unlink()
    refused(CacheMismatch, "made by another run", options(tiny_model, images, lost, batch_size=1))

    bad = save_images(tmp_path / "bad", 2)
    for image in bad.iterdir():
        image.write_bytes(b"")
    refused(InputError, r"None of the 2 images .* can be read\. 0000.png: empty file", options(tiny_model, bad, cache))
    (tmp_path / "gone.csv").write_text(f"image\n{tmp_path}/nowhere/a.png")
    refused(InputError, "a.png cannot be fetched: No such folder", options(tiny_model, tmp_path / "gone.csv", cache))


class Reached(Exception):
    """What comes after the checks."""


def reached(*arguments: object) -> None:
    raise Reached


@pytest.mark.parametrize("where", ["new", "there", "memory://"])
@pytest.mark.parametrize("begin", [run_job, estimate])
def test_what_a_new_cache_cannot_have_is_told_before_a_model_is_loaded(
    tiny_model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begin: Any, where: str
) -> None:
    monkeypatch.setattr(estimate_module, "load_model", reached)
    monkeypatch.setattr(job_module, "Pool", reached)
    (tmp_path / "there").mkdir()
    cache = f"memory://{tmp_path}" if where == "memory://" else tmp_path / where

    def refused(kind: type[Exception], match: str, **changes: object) -> None:
        with pytest.raises(kind, match=match):
            begin(options(tiny_model, images, cache, **changes), Silent())

    refused(BadArgument, "there is no layer 9", layers=(0, 9))
    refused(UnknownToken, "dgo", track=("dgo",))
    refused(ModelError, "There is no tuned lens", lens=str(tmp_path / "none"))
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert [*(tmp_path / "there").iterdir()] == []
    refused(Reached, "^$", layers=(0, 1), track=("dog",), lens="head")


def test_a_model_that_workers_have_is_not_downloaded(
    tiny_model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_module, "Pool", reached)
    cache = f"memory://{tmp_path}"
    for model in (Path("nobody/no-such-model"), tmp_path / "on" / "workers" / "alone"):
        with pytest.raises(Reached):
            run_job(options(model, images, cache, layers=(0, 9)), Silent())
    with pytest.raises(ModelError, match="There is no model folder"):
        run_job(options(Path("nothing"), images, cache), Silent())


def test_more_workers_than_fit(tiny_model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need = told(options(tiny_model, images, tmp_path / "cache"))["estimates"]["memory"]["worker"]
    monkeypatch.setattr(estimate_module, "memory", lambda: Memory(10 * need, int(3.5 * need)))
    values = told(options(tiny_model, images, tmp_path / "cache", workers=7))
    workers = values["estimates"]["workers"]
    assert (workers["started"], workers["fitting"]) == (7, 3)
    assert "Only 3 fit: use --workers 3\n" in as_text(values)
    values = told(options(tiny_model, images, tmp_path / "cache", workers=2))
    assert "use --workers" not in as_text(values)


def test_a_cluster_is_not_asked(tiny_model: Path, image_folder: Callable[[int], Path], tmp_path: Path) -> None:
    tracker = Silent()
    found = estimate(options(tiny_model, image_folder(1), tmp_path / "cache", ray_address="nowhere:1"), tracker)
    assert tracker.said == ["The Ray cluster is not asked: what follows is of this machine."]
    assert found.cost is not None
    assert (found.cost.sample.images, found.cost.workers) == (1, 1)


# --- figures ---------------------------------------------------------------------------------------------------


def sample(reading: float, writing: float, preparing: float, cpu: float, merging: float) -> Sample:
    return Sample(
        images=9,
        errors=(),
        grids=((2, 2),),
        sizes=Sizes(1, 1, 1, 1),
        preparing=Cost(preparing, 0.0),
        reading=Cost(reading, cpu),
        writing=Cost(writing, 0.0),
        merging=Cost(merging, merging),
        summing=Cost(0.0, 0.0),
        warming=0.0,
        memory=None,
        gpu_memory=None,
    )


def test_how_long_an_image_takes() -> None:
    assert image_seconds(sample(3.0, 1.0, 1.0, 3.0, 0.0), workers=1, cores=8, shards=9) == 3.0
    assert image_seconds(sample(3.0, 1.0, 1.0, 3.0, 0.0), workers=2, cores=8, shards=9) == 1.5
    assert image_seconds(sample(3.0, 1.0, 1.0, 3.0, 0.0), workers=2, cores=1, shards=9) == 4.0  # they share the core
    assert image_seconds(sample(1.0, 5.0, 1.0, 1.0, 0.0), workers=1, cores=8, shards=9) == 5.0  # disks may be slow
    assert image_seconds(sample(1.0, 1.0, 12.0, 1.0, 0.0), workers=1, cores=8, shards=9) == 3.0  # in four threads
    assert image_seconds(sample(0.5, 0.5, 0.1, 1.0, 0.5), workers=1, cores=1, shards=64) == 2.5  # indexed beside it


def test_in_the_last_round_some_workers_have_no_shard() -> None:
    found = sample(1.0, 0.0, 0.0, 1.0, 0.0)
    assert reading_seconds(found, [4, 4], workers=2, cores=8) == 4.0
    assert reading_seconds(found, [4, 4, 4], workers=2, cores=8) == 8.0
    assert reading_seconds(found, [4, 4, 1], workers=2, cores=8) == 5.0
    assert reading_seconds(found, [4], workers=1, cores=8) == 4.0


def finished(shards: list[int], reading: float, writing: float, workers: int) -> float:
    """When the last shard is written, if cores are plenty: each goes to the worker whose model is free first."""
    free, end = [0.0] * workers, 0.0
    for images in shards:
        worker = free.index(min(free))
        free[worker] += images * reading
        end = max(end, free[worker] + images * writing)
    return end


@pytest.mark.parametrize(
    ("shards", "reading", "writing", "workers", "writers"),
    [
        ([4], 1.0, 0.5, 1, 1),
        ([4] * 5, 1.0, 0.5, 1, 1),
        ([4] * 6, 1.0, 0.9, 2, 1),
        ([32] * 12, 0.1, 0.3, 1, 7),  # a GPU that reads a shard in a third of the time in which it is written
        ([32] * 9 + [12], 0.1, 0.05, 2, 1),
    ],
)
def test_what_was_read_last_is_still_to_be_written(
    shards: list[int], reading: float, writing: float, workers: int, writers: int
) -> None:
    found = sample(reading, writing, 0.0, 0.0, 0.0)
    took = reading_seconds(found, shards, workers, 64, writers) + ends_seconds(found, shards, workers, 64, 8, writers)
    assert took == pytest.approx(finished(shards, reading, writing, workers), rel=0.05)


def test_the_beginning_and_the_end_of_reading() -> None:
    slow = replace(sample(1.0, 0.0, 2.0, 1.0, 0.0), warming=0.5)
    assert ends_seconds(slow, [32, 32], workers=1, cores=8, batch=8) == 8 * 2.0 / 4 + 0.5
    assert ends_seconds(slow, [3], workers=1, cores=2, batch=8) == 3 * 2.0 / 2 + 0.5
    # Two workers keep both cores busy to the end, one with as many threads leaves one idle while it writes.
    busy = sample(1.0, 1.0, 0.0, 2.0, 0.0)
    assert ends_seconds(busy, [4, 4], workers=2, cores=2, batch=4) == 0.0
    assert ends_seconds(busy, [4, 4], workers=1, cores=2, batch=4) == 2.0
    # Where writing is slowest, nothing is written while the first shard is read.
    assert ends_seconds(sample(1.0, 3.0, 0.0, 0.0, 0.0), [4, 4], workers=1, cores=8, batch=4) == 4.0


@pytest.mark.parametrize(("shards", "times"), [(1, 1), (2, 1), (128, 1), (129, 2), (128**2, 2), (128**2 + 1, 3)])
def test_how_often_rows_are_merged(shards: int, times: int) -> None:
    assert passes(shards) == times


def test_what_is_spent() -> None:
    with spent() as waiting:
        time.sleep(0.2)
    assert 0.2 <= waiting.seconds < 20
    assert waiting.cpu < 0.1
    assert waiting.memory is None
    with spent(memory=True) as working:
        np.ones(2**27, np.uint8)  # freed within
    if resident() is not None:
        assert working.memory is not None
        assert working.memory == pytest.approx(2**27, rel=0.1)
