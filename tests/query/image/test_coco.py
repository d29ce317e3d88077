"""COCO's annotation files: what pycocotools reads of one is what is joined to the images."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO

import vlq
from vlq.query.errors import InputError, MissingExtra
from vlq.query.image.rle import decoded
from vlq.query.image.tables import read_table

from ...synthetic import make_cache

HEIGHT, WIDTH = 40, 60


def disc(x: float, y: float, radius: float) -> list[float]:
    angles = np.linspace(0, 2 * np.pi, 17)[:-1]
    return np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], 1).reshape(-1).tolist()


def pixels() -> np.ndarray:
    found = np.zeros((HEIGHT, WIDTH), np.uint8)
    found[5:9, 7:30] = found[20:40, 50:] = 1
    return found


def lengths(mask: np.ndarray) -> list[int]:
    """Run lengths as a list, the background first."""
    flat = mask.T.reshape(-1)
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *changes, len(flat)]).tolist()
    return [0, *counts] if flat[0] else counts


CRUST = rle.encode(np.asfortranarray(pixels()))["counts"].decode()
SIZE = [HEIGHT, WIDTH]


def annotation(image: int, category: int, segmentation: Any, **more: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "segmentation": segmentation, "bbox": [1, 2, 30.5, 4], **more}


SEGMENTATIONS = [
    [disc(20, 20, 10)],
    [disc(10, 10, 6), disc(44.5, 30.2, 12)],  # of two parts, one of which the image's edge cuts
    {"counts": lengths(pixels()), "size": SIZE},
    {"counts": lengths(1 - pixels()), "size": SIZE},
    {"counts": CRUST, "size": SIZE},
]


def instances() -> dict[str, Any]:
    names = {7: "000000000007.jpg", 9: "a b.png", 3: "none.jpg"}
    objects = [annotation((7, 9)[at % 2], 18, shape, iscrowd=at % 2) for at, shape in enumerate(SEGMENTATIONS)]
    objects += [annotation(9, 17, []), annotation(9, 17, [[1, 2, 3, 4]])]  # of which there is the box alone
    return {
        "info": {"year": 2017},
        "images": [{"id": key, "file_name": name, "height": HEIGHT, "width": WIDTH} for key, name in names.items()],
        "annotations": [{"id": number, **about} for number, about in enumerate(objects, 1)],
        "categories": [{"id": 17, "name": "cat", "supercategory": "animal"}, {"id": 18, "name": "dog"}],
    }


def written(path: Path, value: Any) -> str:
    path.write_text(json.dumps(value))
    return str(path)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of pycocotools' own decoding
def test_objects_are_those_that_pycocotools_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path / "instances.json", instances())
    table = read_table(file).to_pylist()
    assert [row["file_name"] for row in table] == ["000000000007.jpg", "a b.png", "none.jpg"]
    theirs = COCO(file)
    for row, number in zip(table, (7, 9, 3), strict=True):
        expected = theirs.loadAnns(theirs.getAnnIds([number]))
        assert len(row["objects"]) == len(expected)
        for own, other in zip(row["objects"], expected, strict=True):
            assert own["label"] == theirs.loadCats([other["category_id"]])[0]["name"]
            assert own["box"] == [1, 2, 31.5, 6]
            if own["mask_rle"] is None:
                assert other["category_id"] == 17
            else:
                assert np.array_equal(decoded(own["mask_rle"], HEIGHT, WIDTH), theirs.annToMask(other))
    assert table[2]["objects"] == []
    capsys.readouterr()


def test_files_without_masks_or_objects(tmp_path: Path) -> None:
    boxes = instances()
    for about in boxes["annotations"]:
        del about["segmentation"]
    boxes["images"][0] = {"id": 7, "coco_url": "http://images.example/val2017/7.jpg"}  # as LVIS has it
    table = read_table(written(tmp_path / "boxes.json", boxes)).to_pylist()
    assert table[0]["file_name"] == "7.jpg"
    assert table[0]["objects"][0] == {"label": "dog", "box": [1, 2, 31.5, 6]}

    said = [{"image_id": 9, "id": 1, "caption": "a dog"}, {"image_id": 9, "id": 2, "caption": "a cat and a dog"}]
    captions = {"images": instances()["images"], "annotations": said}
    table = read_table(written(tmp_path / "captions.json", captions)).to_pylist()
    assert [row["captions"] for row in table] == ["", "a dog\na cat and a dog", ""]
    assert "objects" not in table[0]
    alone = read_table(written(tmp_path / "info.json", {"images": instances()["images"]}))
    assert alone.column_names == ["file_name"]


def test_they_are_joined_to_a_cache(tmp_path: Path) -> None:
    make_cache(tmp_path / "cache", images=3, names=["a b.png", "x/000000000007.jpg", "other.png"])
    corpus = vlq.open(str(tmp_path / "cache"))
    joined = corpus.annotate(written(tmp_path / "instances.json", instances()))
    assert (joined.columns, joined.matched, joined.unknown) == (("objects",), 2, ("none.jpg",))
    for label, expected in (("cat", {"a b.png"}), ("dog", {"a b.png", "x/000000000007.jpg"})):
        assert {row["image"] for row in corpus.query(f"images('{label}' in objects)").rows} == expected


def wrong(**changes: Any) -> dict[str, Any]:
    return {**instances(), **changes}


@pytest.mark.parametrize(
    ("about", "said"),
    [
        (wrong(annotations=[annotation(8, 17, [])]), "an annotation of image 8, which is none of its images"),
        (wrong(annotations=[annotation(7, 1, [])]), "an annotation of category 1, which is none of its categories"),
        (wrong(annotations=[{"image_id": 7}]), "it lacks 'category_id'"),
        (
            wrong(images=[{"id": 7, "file_name": "a"}], annotations=[annotation(7, 17, [disc(9, 9, 3)])]),
            "lacks 'height",
        ),
        (wrong(images=[{"file_name": "a"}]), "it lacks 'id'"),
        (wrong(annotations=5), "something else than COCO's files have"),
        (wrong(annotations=[annotation(7, 17, [], bbox=[1, 2])]), "not enough values"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(tmp_path: Path, about: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=rf"wrong\.json cannot be read: .*{said}") as caught:
        read_table(written(tmp_path / "wrong.json", about))
    assert "COCO" in (caught.value.hint or "")


def test_masks_need_pycocotools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(MissingExtra) as caught:
        read_table(written(tmp_path / "instances.json", instances()))
    assert "pip install 'vlq[coco]'" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('[{"image": "a.png", "turns": [{"from": "human"}]}, {"image": "b.png", "n": 1}]', 2),
        ('{"image": "a.png", "n": 1}\n{"image": "b.png", "n": 2}\n', 2),
        ('{"image": "a.png",\n "n": 1}\n', 1),
    ],
)
def test_other_json_is_a_table_as_json_lines_are(tmp_path: Path, text: str, rows: int) -> None:
    (tmp_path / "m.json").write_text(text)
    found = read_table(str(tmp_path / "m.json")).to_pylist()
    assert [row["image"] for row in found] == ["a.png", "b.png"][:rows]


@pytest.mark.parametrize(
    "text", ["", "[", '[{"image": "a.png"},]', "5", '"a.png"', "[1, 2]", '{"image": "a.png"', "[]"]
)
def test_json_that_is_no_table(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(InputError, match="cannot be read") as caught:
        read_table(str(tmp_path / "m.json"))
    assert "a list of JSON objects" in (caught.value.hint or "")
