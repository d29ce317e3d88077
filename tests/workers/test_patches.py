"""`vlq run MANIFEST --patches`: only what objects cover, or what a list names, is read of each image."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from PIL import Image

from vlq.query.cache.reader import Cache
from vlq.query.errors import InputError
from vlq.query.image.geometry import patch_box
from vlq.query.schema import Run, Transform, array_specs
from vlq.workers.corpus import list_images
from vlq.workers.extract import read_shard
from vlq.workers.lenses import lens_of
from vlq.workers.models import load
from vlq.workers.models.base import LensModel
from vlq.workers.patches import check_grid
from vlq.workers.upkeep.repair import command_of, repair
from vlq.workers.upkeep.rerun import rerun
from vlq.workers.upkeep.verify import verify
from vlq.workers.worker import Setup, describe_run

from .conftest import save_images
from .models import checks
from .models.tiny import make_llava_next
from .runs import Vlq, contents

PROMPT = "USER: <image>\nWhat is the main object? ASSISTANT:"


def runs_of(mask: np.ndarray) -> list[int]:
    """A mask (row, column) as COCO writes it: run lengths of its pixels column by column, the background first."""
    counts, inside = [0], False
    for pixel in mask.T.ravel().tolist():
        if pixel != inside:
            counts.append(0)
            inside = pixel
        counts[-1] += 1
    return counts


def pixels_of(item: Mapping[str, Any], height: int, width: int) -> np.ndarray:
    """(row, column): how much of each pixel an object covers."""
    if item["mask_rle"] is not None:
        flat = np.repeat(np.arange(len(item["mask_rle"])) % 2, item["mask_rle"])
        return flat.reshape(width, height).T.astype(float)
    x0, y0, x1, y1 = item["box"]
    across, down = (
        np.clip(np.minimum(high, np.arange(length) + 1) - np.maximum(low, np.arange(length)), 0, 1)
        for low, high, length in ((x0, x1, width), (y0, y1, height))
    )
    return np.outer(down, across)


def covered(row: Mapping[str, Any], label: str | None = None) -> list[int]:
    """The patches of which an object covers half or more of what they show, pixel by pixel of the image."""
    height, width, grid = row["height"], row["width"], (row["grid"]["rows"], row["grid"]["columns"])
    found = []
    for patch in range(grid[0] * grid[1]):
        box = patch_box(Transform(**row["transform"]), (width, height), grid, patch)
        shown = pixels_of({"box": box, "mask_rle": None}, height, width)
        for item in row["objects"] or []:
            if label is not None and item["label"].lower() != label:
                continue
            shared = (shown * pixels_of(item, height, width)).sum()
            # Where both have edges within one pixel, that is not exact: no object here has such ones.
            if shown.sum() > 0 and shared >= shown.sum() / 2 - 1e-9:
                found.append(patch)
    return sorted({*found})


# --- what is read ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> LensModel:
    return load(str(tiny_model), prompt=PROMPT)


@pytest.fixture(scope="module")
def run(tiny_model: Path, model: LensModel) -> Run:
    setup = Setup(str(tiny_model), PROMPT, 5, ("patch", "prompt"), "cpu", "auto", 1, 4, 32, track=())
    return replace(describe_run(setup, model, "0" * 64), tracked=(3, 7))


@pytest.fixture(scope="module")
def decoders() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """Twelve images in three batches; of the second none has a patch that is read. One is broken."""
    folder = save_images(tmp_path_factory.mktemp("corpus"), 12)
    (folder / "0009.png").write_bytes(b"")
    chosen = [[0, 5], None, [15, 3, 3], [7], [], None, [], [], [*range(16)], [1], [2], None]
    return list_images(str(folder)).append_column("chosen", pa.array(chosen, pa.list_(pa.int64())))


@pytest.mark.parametrize("at", [("patch", "prompt"), ("patch",)])
def test_they_are_read_as_in_a_whole_run(
    model: LensModel, run: Run, corpus: pa.Table, decoders: ThreadPoolExecutor, at: tuple[str, ...]
) -> None:
    run = replace(run, at=at)
    whole, _ = read_shard(model, lens_of(model, run), run, corpus, decoders)
    some = replace(run, patches_column="chosen")
    arrays, table = read_shard(model, lens_of(model, some), some, corpus, decoders)
    numbers = [None if i == 9 else sorted({*(chosen or [])}) for i, chosen in enumerate(corpus["chosen"].to_pylist())]
    assert table["patches_read"].to_pylist() == numbers
    assert table.schema.field("patches_read").type == pa.list_(pa.uint16())
    for spec in array_specs(run, 12, run.positions):
        found = arrays[spec.name]
        assert (found.shape, found.dtype) == (spec.shape, np.dtype(spec.dtype))
        if not spec.name.startswith("patch/"):
            continue
        for image, read in enumerate(numbers):
            others = np.delete(np.arange(16), read or [])
            fill = np.full(found[image][:, others].shape, spec.fill, spec.dtype)
            assert np.array_equal(found[image][:, others], fill, equal_nan=spec.dtype[0] == "f")
            own, expected = found[image][:, read or []], whole[spec.name][image][:, read or []]
            np.testing.assert_allclose(own, expected, atol=1e-4 if spec.dtype[0] == "f" else 0)
    if "prompt" in at:
        np.testing.assert_allclose(arrays["prompt/logprob"], whole["prompt/logprob"], atol=1e-4)
    full = replace(some, k=run.vocabulary_size)  # with every token stored, the sums follow from the readings
    arrays, _ = read_shard(model, lens_of(model, full), full, corpus, decoders)
    expected = np.zeros((run.layers, run.vocabulary_size))
    for image, read in enumerate(numbers):
        for layer in range(run.layers if read else 0):
            ids = arrays["patch/token"][image, layer, read]
            np.add.at(expected[layer], ids, np.exp(arrays["patch/logprob"][image, layer, read].astype(float)))
    assert expected.sum() == pytest.approx(run.layers * sum(len(read or []) for read in numbers), rel=1e-4)
    np.testing.assert_allclose(arrays["sum/patch"], expected, atol=1e-4)


def test_only_they_go_through_the_lens(
    model: LensModel, run: Run, corpus: pa.Table, decoders: ThreadPoolExecutor
) -> None:
    run = replace(run, at=("patch",), patches_column="chosen")
    lens, rows = lens_of(model, run), []

    class Counting:
        def read(self, layer: int, hidden: Any, weights: Any) -> Any:
            rows.append((layer, len(hidden)))
            return lens.read(layer, hidden, weights)

    read_shard(model, Counting(), run, corpus, decoders)  # type: ignore[arg-type]
    # Two, none, two, one; nothing of four images; sixteen, one, none; the broken one is in no batch.
    assert rows == [(layer, count) for count in (5, 17) for layer in range(run.layers)]


def test_what_cannot_be_told_is_the_images_error(
    model: LensModel, run: Run, corpus: pa.Table, decoders: ThreadPoolExecutor
) -> None:
    wrong = [[0, 16] if i == 2 else [0] for i in range(12)]
    masks = [[{"label": "cat", "mask_rle": [1, 2] if i in (4, 7) else None, "box": [0.0] * 4}] for i in range(12)]
    columns = {"chosen": pa.array(wrong, pa.list_(pa.int32())), "objects": pa.array(masks)}
    for name, values in columns.items():
        rows = corpus.drop_columns("chosen").append_column(name, values)
        some = replace(run, patches_column=name)
        arrays, table = read_shard(model, lens_of(model, some), some, rows, decoders)
        errors = {i: error for i, error in enumerate(table["error"].to_pylist()) if error is not None}
        if name == "chosen":
            reason = "its chosen has 16, and its grid of 4 x 4 the patches 0 to 15"
            assert errors == {2: reason, 9: "empty file"}
        else:
            assert errors.keys() == {4, 7, 9}
            assert errors[4].startswith("The mask_rle of an object 'cat' in 0004.png cannot be read: its counts add up")
        assert [read is None for read in table["patches_read"].to_pylist()] == [i in errors for i in range(12)]
        for i in range(12):
            assert np.isnan(arrays["prompt/lse"][i]).all() == (i in errors)


# --- a run, from beginning to end ------------------------------------------------------------------------------


def write_manifest(folder: Path) -> Path:
    """Objects with boxes and with masks; one image has none, one has null. The last one is broken."""
    rows: list[dict[str, Any]] = []
    for i in range(7):
        with Image.open(folder / f"{i:04d}.png") as image:
            width, height = image.size
        mask = np.zeros((height, width), bool)
        mask[height // 3 :, : width // 2] = True
        box = [width / 4, 0.0, float(width), height / 2]
        objects: list[dict[str, Any]] | None = [
            {"label": "Dog", "box": [float(round(side)) for side in box], "mask_rle": None},
            {"label": "cat", "box": None, "mask_rle": runs_of(mask)},
        ]
        rows.append({"image": f"{i:04d}.png", "objects": [[], None][i - 1] if i in (1, 2) else objects})
    (folder / "0006.png").write_bytes(b"")
    (folder / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "all.jsonl"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("patches")
    save_images(folder / "images", 7)
    write_manifest(folder / "images")
    make_llava_next(folder / "model")
    return folder


def options(folder: Path, cache: Path) -> list[object]:
    return [
        "run", folder / "images" / "all.jsonl", "--model", folder / "model", "--cache", cache, "--k", 5,
        "--shard-size", 3, "--batch-size", 2, "--workers", 1, "--answer", 2, "--patches", "objects",
    ]  # fmt: skip


def quiet(what: str, done: int, of: int) -> None:
    pass


def test_a_run(folder: Path, tmp_path: Path, vlq: Vlq, no_ray: None) -> None:
    """It is gone on with; what is stored is what the model itself reads, and every check passes."""
    cache = tmp_path / "cache"
    code, out, said = vlq(*options(folder, cache), "--limit", 3)
    assert (code, out.splitlines()[0]) == (0, f"3 images read: {cache}"), said
    first = contents(cache)
    code, out, said = vlq(*options(folder, cache))
    assert (code, out.splitlines()[0]) == (0, f"6 images read, 1 could not be: {cache}"), said
    assert "Patches that were read, those of objects: " in out
    assert ", in 4 images." in out
    shards = {key: data for key, data in first.items() if key.split("/")[0] in ("shards", "images", "postings")}
    assert shards.items() <= contents(cache).items()

    tables = [pq.read_table(path) for path in sorted(cache.glob("images/*"))]
    rows = [row for table in tables for row in table.to_pylist()]
    groups = [zarr.open_group(path.parent, mode="r") for path in sorted(cache.glob("shards/*/zarr.json"))]
    at = [(group, place) for group in groups for place in range(group["patch/top1"].shape[0])]  # type: ignore[union-attr]
    model = checks.loaded(folder / "model")
    for row, (group, place) in zip(rows[:6], at[:6], strict=True):
        assert row["patches_read"] == covered(row)
        assert bool(row["patches_read"]) == (row["image"] not in ("0001.png", "0002.png"))
        picture = Image.open(folder / "images" / row["image"])
        patches = row["grid"]["rows"] * row["grid"]["columns"]
        for layer, values in enumerate(checks.of_the_model(model, picture)):
            token, logprob = (np.asarray(group[f"patch/{name}"][place, layer]) for name in ("token", "logprob"))  # type: ignore[index]
            read = row["patches_read"]
            checks.are_the_best(token[read], logprob[read], values[:patches][read])
            assert np.isnan(np.delete(logprob, read, 0)).all()
            text, logprobs = (np.asarray(group[f"prompt/{name}"][place, layer]) for name in ("token", "logprob"))  # type: ignore[index]
            checks.are_the_best(text, logprobs, values[patches:])
    assert rows[6]["patches_read"] is None

    opened = Cache.open(str(cache))
    assert list(verify(opened, quiet)) == []
    assert list(rerun(opened, None, 7, 0, quiet)) == []
    assert "--patches objects" in command_of(opened.run, "there")
    # What the index tells nothing of, it cannot be asked for: made of the arrays anew it is the same.
    whole = contents(cache)
    for path in [*cache.glob("postings/00000000-*/patch_*"), *cache.glob("shards/00000001-*/patch/token/c/*/*/*/*")]:
        path.unlink()
    list(repair(opened, None, quiet))
    assert contents(cache) == whole

    code, out, _ = vlq("info", "--cache", cache, "--format", "json")
    info = json.loads(out)
    assert info["patches_read"] == {
        "of": "objects",
        "images": 4,
        "patches": sum(len(row["patches_read"] or []) for row in rows),
    }
    code, out, _ = vlq("first_layer(1, rank=5)", "--cache", cache)
    assert "4 images" in out.splitlines()[0]
    assert out.count("(vlq run --patches objects)") == 1

    for more, differs in (
        (["--patches", "objects:dog"], "patches_label: the cache has none, asked for 'dog'"),
        ([], "patches_column: the cache has 'objects', asked for none"),
    ):
        code, _, said = vlq(*options(folder, cache)[:-2], *more)
        assert (code, differs in said) == (2, True)


def test_of_one_label(folder: Path, tmp_path: Path, vlq: Vlq, no_ray: None) -> None:
    cache = tmp_path / "cache"
    code, _, said = vlq(*options(folder, cache)[:-1], "objects:DOG", "--at", "patch")
    assert code == 0, said
    rows = [row for path in sorted(cache.glob("images/*")) for row in pq.read_table(path).to_pylist()]
    assert [row["patches_read"] for row in rows[:6]] == [covered(row, "dog") for row in rows[:6]]
    assert covered(rows[0], "dog") != covered(rows[0])
    asked = vlq("top(0, layers=1, patches='dog')", "--cache", cache, "--format", "json")[1]
    assert [row["patch"] for row in json.loads(asked)["rows"]] == rows[0]["patches_read"]
    assert "--patches objects:DOG" in command_of(Cache.open(str(cache)).run, "there")


# --- mistakes --------------------------------------------------------------------------------------------------


def test_mistakes(folder: Path, tmp_path: Path, vlq: Vlq) -> None:
    manifest = folder / "images" / "mistakes.jsonl"
    mine = {
        "objects": [[{"label": "dog", "box": [0.0, 0.0, 9.0, 9.0]}], []],
        "none": [None, None],
        "nothing": [[], []],
        "word": ["dog", "cat"],
        "numbers": [[0, 1], None],
        "negative": [[0], [3, -1]],
        "gap": [[0], [3, None]],
        "unlabelled": [[{"box": [0.0, 0.0, 9.0, 9.0]}], []],
        "no_places": [[{"label": "dog"}], []],
        "far": [[0], [3, 20_000]],
        "a:b": [[1], [2]],
    }
    rows = [{"image": f"000{i}.png"} | {name: values[i] for name, values in mine.items()} for i in range(2)]
    manifest.write_text("\n".join(map(json.dumps, rows)))
    shutil.copy(folder / "images" / "0000.png", tmp_path / "one.png")

    def said(patches: str, *more: object, images: Path = manifest) -> str:
        code, _, text = vlq(
            "run", images, "--model", folder / "model", "--cache", tmp_path / "cache", "--patches", patches, *more
        )
        assert code == 2
        assert "Traceback" not in text
        assert not (tmp_path / "cache").exists()
        return text

    assert "has no column object for --patches.\nDid you mean objects?" in said("object")
    assert "has no column x for --patches.\nIts columns beside the images: objects, none" in said("x:dog")
    assert f"The column none of {manifest} is empty" in said("none")
    assert "is empty: no patch of any image would be read" in said("nothing")
    for name in ("word", "unlabelled", "no_places"):
        assert f"The column {name} of {manifest} is of type" in said(name)
    assert "has no object that is labelled dig.\nDid you mean dog?" in said("objects:dig")
    assert "has no object that is labelled xyz.\nThe labels are: dog." in said("objects:xyz")
    assert "holds numbers, which have no labels.\nGive it alone: --patches numbers" in said("numbers:dog")
    assert "has -1 for 0001.png (row 1), which is no number of a patch" in said("negative")
    assert "has null for 0001.png (row 1), which is no number of a patch" in said("gap")
    assert "--patches is for readings at patches" in said("objects", "--at", "prompt")
    assert "--patches reads a column of a manifest" in said("objects", images=tmp_path / "one.png")
    assert "The column far has 20000 for 0001.png (row 1), and there is no such patch" in said("far", "--dry-run")


def test_a_number_beyond_the_grid(run: Run, corpus: pa.Table) -> None:
    chosen = pa.array([[15]] * 11 + [[0, 16, 3]], pa.list_(pa.int64()))
    rows = corpus.drop_columns("chosen").append_column("chosen", chosen)
    some = replace(run, patches_column="chosen")
    check_grid(run, rows)
    check_grid(some, rows.slice(0, 11))
    with pytest.raises(InputError, match=r"has 16 for 0011.png \(row 11\).* The grid is 4 x 4, its patches are 0"):
        check_grid(some, rows)


def test_a_column_whose_name_has_a_colon(folder: Path, tmp_path: Path, vlq: Vlq) -> None:
    (folder / "images" / "colon.jsonl").write_text('{"image": "0000.png", "a:b": [1, 2]}')
    command = ["run", folder / "images" / "colon.jsonl", "--model", folder / "model", "--cache", tmp_path / "cache"]
    code, out, said = vlq(*command, "--patches", "a:b", "--dry-run", "--format", "json")
    assert code == 0, said
    assert json.loads(out)["patches_read"] == "a:b"
