"""`vlq run MANIFEST --prompt-column`: questions from beginning to end, about images with grids of their own."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from PIL import Image

import vlq
from vlq.query.cache.reader import Cache
from vlq.query.cli import main
from vlq.workers.upkeep.repair import command_of, repair
from vlq.workers.upkeep.rerun import rerun
from vlq.workers.upkeep.verify import verify

from .conftest import save_images
from .here import printed
from .models import checks
from .models.tiny import make_llava_next
from .runs import contents

ASKED = [
    ("0000.png", "What is in this image?"),
    ("0000.png", "What is the main object in this image?"),
    ("0001.png", "dog?"),
    ("0002.png", "dog?"),
    ("0000.png", "<image> is the cat:"),
]
LATER = ("0001.png", "What is the main cat in this image? What is the main dog in this image?")
SITES = ("patch", "prompt", "last")


def write_manifest(folder: Path, rows: Sequence[tuple[str, str]]) -> Path:
    with (folder / "asked.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "question"), *rows])
    return folder / "asked.csv"


def quiet(what: str, done: int, of: int) -> None:
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, a model, and a cache of two runs: the second one with a question more, in front of the others."""
    folder = tmp_path_factory.mktemp("prompts")
    images, model = save_images(folder / "images", 3), make_llava_next(folder / "model")
    options = ["--model", model, "--cache", folder / "cache", "--k", "5", "--shard-size", "3", "--batch-size", "2"]
    options += ["--prompt-column", "question", "--answer", "3"]
    assert "5 images read" in printed("run", write_manifest(images, ASKED), *options)
    assert "6 images read" in printed("run", write_manifest(images, [LATER, *ASKED]), *options)
    return folder


@pytest.fixture
def cache(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder / "cache", tmp_path / "cache")
    return tmp_path / "cache"


def test_what_is_stored_is_what_the_model_reads(folder: Path) -> None:
    model = checks.loaded(folder / "model")
    rows = [row for path in sorted(folder.glob("cache/images/*")) for row in pq.read_table(path).to_pylist()]
    assert [row["image"] for row in rows] == [
        "0000.png",
        "0000.png#2",
        "0001.png",
        "0002.png",
        "0000.png#3",
        "0001.png#2",
    ]
    assert [(Path(row["uri"]).name, row["question"]) for row in rows] == [*ASKED, LATER]
    groups = [zarr.open_group(path.parent, mode="r") for path in sorted(folder.glob("cache/shards/*/zarr.json"))]
    at = [(group, place) for group in groups for place in range(group["last/top1"].shape[0])]  # type: ignore[union-attr]
    for row, (group, place) in zip(rows, at, strict=True):
        alone = checks.asked(model, row["question"])
        image = Image.open(folder / "images" / Path(row["uri"]).name)
        assert tuple(row["prompt_ids"]) == alone.prompt_ids
        patches, text = row["grid"]["rows"] * row["grid"]["columns"], len(alone.prompt_ids)
        for layer, values in enumerate(checks.of_the_model(alone, image)):
            assert len(values) == patches + text
            for site, own in zip(SITES, (values[:patches], values[patches:], values[-1:]), strict=True):
                token, logprob = (
                    np.asarray(group[f"{site}/{name}"][place, layer])[: len(own)]  # type: ignore[index]
                    for name in ("token", "logprob")
                )
                checks.are_the_best(token, logprob, own)
        ids, logprobs = checks.answered(alone, image, 3)
        assert (row["answer_ids"], row["answer_logprobs"]) == (ids, pytest.approx(logprobs, abs=checks.NATS))
    assert len({len(row["prompt_ids"]) for row in rows}) > 3


def test_it_is_verified_against_the_model(cache: Path) -> None:
    opened = Cache.open(str(cache))
    assert list(verify(opened, quiet)) == []
    assert list(rerun(opened, None, 6, 0, quiet)) == []


@pytest.mark.parametrize(
    "harmed", ["shards/00000000-*/last/token/c/*/*/*/*", "images/00000001-*", "plans/*", "commits/00000000.json"]
)
def test_what_came_to_harm_is_mended(cache: Path, harmed: str) -> None:
    before = contents(cache)
    for path in cache.glob(harmed):
        path.unlink()
    assert len(contents(cache)) < len(before)
    list(repair(Cache.open(str(cache)), None, quiet))
    after = contents(cache)
    plans = [key for key in before if key.startswith("plans/")]
    assert after == before or (harmed == "plans/*" and len(plans) == 2 and {*before} - {*after} < {*plans})


def test_the_command_that_goes_on(cache: Path) -> None:
    said = command_of(Cache.open(str(cache)).run, "there")
    assert "--prompt-column question" in said
    assert "--prompt " not in said
    assert "--at patch,prompt --answer 3" in said


def test_conditions_on_the_question(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = vlq.open(str(cache))
    result = corpus.query("answer(images='dog?' in question)")
    assert [(row["image"], row["question"]) for row in result.rows] == [
        (name, text) for name, text in sorted([("0001.png", "dog?"), ("0002.png", "dog?")])
    ]
    with pytest.raises(SystemExit) as ended:
        main(["run", "asked.csv", "--model", "x", "--cache", str(cache), "--prompt", "a", "--prompt-column", "b"])
    assert ended.value.code == 2
    assert "--prompt asks all images the same, --prompt-column each its own" in capsys.readouterr().err


@pytest.mark.parametrize("more", [[], ["--prompt", "dog?"], ["--prompt-column", "image_"]])
def test_another_run(folder: Path, cache: Path, more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    manifest = folder / "images" / "other.csv"
    manifest.write_text("image,question,image_\n0000.png,dog?,cat?\n")
    options = ["--model", str(folder / "model"), "--cache", str(cache), "--k", "5", "--answer", "3"]
    with pytest.raises(SystemExit) as ended:
        main(["run", str(manifest), *options, *more])
    assert ended.value.code == 2
    assert "prompt_column: the cache has 'question', asked for" in capsys.readouterr().err
