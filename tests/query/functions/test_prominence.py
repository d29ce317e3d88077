"""prominence equals a look at each image's objects, readings, answer and effects."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vlq
from vlq.query.client.corpus import Corpus
from vlq.query.errors import BadArgument, InputError
from vlq.query.schema import Run

from ...brute import Site, read_site
from ...studies import Row, finish, make_study, random_effects
from ...synthetic import WORDS, make_cache, make_run
from ..corpora import LABELS, SETTINGS, SNAPSHOTS, ids_of, layer_choices, layers_of, snapshot

IMAGES = 14
FAILED = [4]
TEXTS = [*WORDS, "ear", "dog"]
NAMES = ["dog", "Dog", "cat", "ROCK", "ear", "big rock"]
PIXELS = (20, 14)

SHAPES: dict[str, dict[str, Any]] = {
    "with answers": {"run": {"at": ("patch", "prompt", "answer"), "answer": 4}},
    "without answers, grids of their own, not compacted": {"run": {"grid": None, "patches": 9, "k": 2}, "seal": False},
    "masks": {"run": {"at": ("patch", "answer"), "answer": 3, "grid": (2, 2)}, "masks": True},
    "some patches": {"run": {"at": ("patch", "answer"), "answer": 5, "patches_column": "objects", "k": 2}},
}


@dataclass
class Pictured:
    """A corpus and what is in it."""

    corpus: Corpus
    run: Run
    site: Site
    answers: list[list[int]]
    objects: list[list[dict[str, Any]]]
    effects: dict[str, list[Row]]  # of the studies that are meant, by word


def random_objects(rng: np.random.Generator, masks: bool) -> list[dict[str, Any]]:
    found = []
    width, height = PIXELS
    for label in rng.choice(NAMES, rng.integers(0, 6)):
        # Some reach beyond the image.
        x, y = (np.sort(rng.integers(-2, length + 3, 2)) for length in PIXELS)
        box: list[float] | None = [float(x[0]), float(y[0]), float(x[1]), float(y[1])]
        counts = None
        if masks and rng.random() < 0.6:
            pixels = (rng.random((width, height)) < 0.3).reshape(-1)  # column by column
            edges = np.flatnonzero(np.diff(pixels, prepend=False)).tolist()
            counts = np.diff([0, *edges, pixels.size]).tolist()
        elif masks and rng.random() < 0.2:
            box = None
        found.append({"label": str(label), "box": box, "mask_rle": counts})
    return found


@pytest.fixture(scope="module")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pictured]:
    made = {}
    for seed, (name, shape) in enumerate(SHAPES.items()):
        folder, options, rng = tmp_path_factory.mktemp("cache"), dict(shape), np.random.default_rng(seed)
        masks = options.pop("masks", False)
        objects = [random_objects(rng, masks) for _ in range(IMAGES)]
        columns = {"label": [LABELS[i % 3] for i in range(IMAGES)], "objects": objects}
        run = make_run(**options.pop("run"))
        store, run, _ = make_cache(
            folder, run, images=IMAGES, failed=FAILED, seed=seed, columns=columns, pixels=PIXELS, **options
        )
        good = [i for i in range(IMAGES) if i not in FAILED]
        effects = {}
        # Of another word or way to choose patches, an older one, and the one of the label that is meant.
        for word, patches, ids, meant in (
            ("rock", "readings('rock')", (3,), False),
            ("rock", "readings('dog')", (3,), False),
            ("rock", "'ROCK'", (3,), False),
            ("rock", "'rock'", (3,), True),
            ("rock", "locate('rock')", (3,), False),
            ("dog", "'dog'", (0,), False),
            ("dog", "readings('dog', layers=2)", (0, 1), True),
            ("ear", "[0, 1]", (4,), False),
        ):
            study = make_study(run, patches=patches, target=f"'{word}'", target_ids=ids)
            rows = random_effects(study, [i for i in good if rng.random() < 0.6], run.patches, seed=len(effects) + seed)
            finish(store, study, rows)
            if meant:
                effects[word] = [row for row in rows if row["set"] == "all"]
        shards = sorted(str(path.parent.relative_to(folder)) for path in folder.glob("shards/*/zarr.json"))
        site = read_site(folder, shards, "patch", run.positions["patch"])
        answers = ids_of(folder, "answer_ids")
        made[name] = Pictured(vlq.open(str(folder)), run, site, answers, objects, effects)
    return made


def area_of(objects: list[dict[str, Any]]) -> float | None:
    """By inclusion and exclusion of boxes; with masks pixel by pixel."""
    width, height = PIXELS
    placed = [item for item in objects if item["mask_rle"] is not None or item["box"] is not None]
    if not placed:
        return None
    if any(item["mask_rle"] is not None for item in placed):
        count = sum(covers(placed, x, y) for x in range(width) for y in range(height))
        return count / (width * height)
    total = 0.0
    for size in range(1, len(placed) + 1):
        for some in combinations(placed, size):
            x0, y0 = (max(0, *(item["box"][axis] for item in some)) for axis in (0, 1))
            x1, y1 = (min(PIXELS[axis], *(item["box"][axis + 2] for item in some)) for axis in (0, 1))
            total -= (-1) ** size * max(0, x1 - x0) * max(0, y1 - y0)
    return total / (width * height)


def covers(objects: list[dict[str, Any]], x: int, y: int) -> bool:
    for item in objects:
        if item["mask_rle"] is None:
            x0, y0, x1, y1 = item["box"]
            if x0 <= x + 0.5 < x1 and y0 <= y + 0.5 < y1:
                return True
            continue
        ends = np.cumsum(item["mask_rle"])
        if int(np.searchsorted(ends, x * PIXELS[1] + y, side="right")) % 2:
            return True
    return False


def row_of(
    case: Pictured, image: int, name: str, ids: list[int], labels: list[str], layers: list[int]
) -> dict[str, Any]:
    own = [item for item in case.objects[image] if item["label"].lower() in labels]
    top1 = case.site.token[image, layers, :, 0]
    patches = np.flatnonzero(np.isin(top1, ids).any(0)).tolist()
    answer = case.answers[image]
    spelled = {TEXTS[id].lower() for id in ids}  # where an answer begins, with a space before it or none
    begins = [id for id, text in enumerate(TEXTS) if text.lower() in spelled]
    places = [place for place, id in enumerate(answer) if id in (ids if place else begins)]
    effects = [row["before"] - row["after"] for row in case.effects.get(name, []) if row["image_id"] == image]
    return {
        "image_id": image,
        "image": f"{(image * 7919) % 1000:03d}-{image}.png",
        "object": name,
        "area": pytest.approx(area) if (area := area_of(own)) is not None else None,
        "patches": patches or None,
        "read_by": len(patches),
        "mention": pytest.approx(places[0] / len(answer)) if places else None,
        "effect": effects[0] if effects else None,
        "_area": -1.0 if area is None else area,
        "_mention": places[0] / len(answer) if places else np.inf,
        "_object": bool(own),
    }


def mark(rows: list[dict[str, Any]]) -> None:
    """Which row is the first of an image."""
    named = [row for row in rows if row["mention"] is not None]
    measured = [row for row in rows if row["effect"] is not None]
    first = None
    if measured and all(row["effect"] is not None for row in named):
        first = min(measured, key=lambda row: (-row["effect"], row["_mention"], -row["_area"], row["object"]))
    elif named:
        first = min(named, key=lambda row: (row["_mention"], -row["_area"], row["object"]))
    for row in rows:
        row["first"] = row is first


def expected(
    case: Pictured, words: list[tuple[str, list[int], list[str]]], given: bool, label: str | None, layers: Any
) -> list[dict[str, Any]]:
    found = []
    for image in range(IMAGES):
        if image in FAILED or (label is not None and LABELS[image % 3] != label):
            continue
        rows = [row_of(case, image, *word, layers_of(layers, case.run)) for word in words]
        if given:
            rows = [
                row
                for row in rows
                if row["_object"] or row["read_by"] or row["mention"] is not None or row["effect"] is not None
            ]
        else:
            rows = [row for row in rows if row["_object"]]
        mark(rows)
        found += rows
    found.sort(key=lambda row: (row["image"], not row["first"], row["object"]))
    return [{name: value for name, value in row.items() if name[0] != "_"} for row in found]


GIVEN: dict[str, tuple[Any, list[tuple[str, list[int], list[str]]]]] = {
    "labels": (
        None,
        [
            ("big rock", [], ["big rock"]),
            ("cat", [2], ["cat"]),
            ("dog", [0, 1], ["dog"]),
            ("ear", [4], ["ear"]),
            ("rock", [3], ["rock"]),
        ],
    ),
    "words": (["rock", "sky"], [("rock", [3], ["rock"]), ("sky", [6], ["sky"])]),
    "a set": (
        [["cat", "tree"], "dog"],
        [("cat, tree", [2, 9], ["cat", "tree"]), ("dog", [0, 1], ["dog"])],
    ),
}


@SETTINGS
@given(
    name=st.sampled_from([*SHAPES]),
    words=st.sampled_from([*GIVEN]),
    label=st.sampled_from([None, None, *LABELS]),
    data=st.data(),
)
def test_equals_a_look_at_each_image(
    pictured: dict[str, Pictured], name: str, words: str, label: str | None, data: st.DataObject
) -> None:
    case = pictured[name]
    argument, meant = GIVEN[words]
    layers = data.draw(layer_choices(case.run))
    condition = None if label is None else vlq.col("label") == label
    result = case.corpus.prominence(argument, layers=layers, images=condition)
    rows = expected(case, meant, argument is not None, label, layers)
    assert result.rows == rows
    summary = result.summary
    assert (summary["objects"], summary["matched"]) == (len(rows), len({row["image"] for row in rows}))
    assert summary["mentioned"] == sum(row["mention"] is not None for row in rows)
    assert summary["measured"] == sum(row["effect"] is not None for row in rows)
    several = [
        some
        for image in dict.fromkeys(row["image"] for row in rows)
        if len(some := [row for row in rows if row["image"] == image]) > 1 and some[0]["first"]
    ]
    assert summary["chosen"] == len(several)
    reads = [
        some[0]["read_by"] == max(row["read_by"] for row in some) for some in several if any(r["read_by"] for r in some)
    ]
    assert summary["first_by_read_by"] == (pytest.approx(np.mean(reads)) if reads else None)
    assert result.headline


def test_it_combines_as_other_tables_do(pictured: dict[str, Pictured]) -> None:
    case = pictured["with answers"]
    rows = case.corpus.prominence().rows
    first = case.corpus.query("prominence().where(first).group(object).count()").rows
    assert {row["object"]: row["count"] for row in first} == {
        name: sum(row["first"] and row["object"] == name for row in rows)
        for name in {r["object"] for r in rows if r["first"]}
    }
    large = case.corpus.query("prominence().where(area > 0.3 and effect > 1)").rows
    assert large == [row for row in rows if row["area"] is not None and row["area"] > 0.3 and (row["effect"] or 0) > 1]
    inside = case.corpus.query("readings('sky', patches=prominence(['dog']))").rows
    read = {row["image_id"]: row["patches"] for row in case.corpus.query("prominence(['dog'])").rows}
    assert inside
    assert all(row["patch"] in read[row["image_id"]] for row in inside)
    assert case.corpus.prominence().arrow().to_pylist() == rows


def test_sentences(pictured: dict[str, Pictured]) -> None:
    result = pictured["with answers"].corpus.prominence()
    assert result.headline.startswith("big rock, cat, dog and 2 more: ")
    assert "removed by a study; of several, the first one is the largest in " in result.headline
    assert result.notes[:2] == [
        "No token by itself is 'big rock': nothing is known of readings, answers and effects.",
        "Effects: of dog those of effect(readings('dog', layers=2), 'dog'); of rock those of effect('rock', 'rock').",
    ]
    assert result.notes[2].startswith("No study removes 'cat', 'ear'. Such as: vlq ablate --objects cat --target cat ")
    silent = pictured["without answers, grids of their own, not compacted"].corpus
    assert (
        "The model was not asked for answers (vlq run --answer 8): there are no mentions." in silent.prominence().notes
    )
    nowhere = silent.query("prominence(['dog'], images=label == 'nowhere')")
    assert nowhere.headline == "dog (images with label == 'nowhere'): in none of 0 images"


def test_sql(pictured: dict[str, Pictured]) -> None:
    corpus = pictured["with answers"].corpus
    text = "prominence(['rock', 'sky'], layers=(1, 2), images=label == 'beach')"
    digest = corpus.cache.snapshot().studies[3].study.digest
    assert snapshot(corpus.query(text), text).replace(digest, "STUDY") == (SNAPSHOTS / "prominence.sql").read_text()


def test_images_without_objects(tmp_path: Path) -> None:
    make_cache(tmp_path, images=3)
    corpus = vlq.open(str(tmp_path))
    with pytest.raises(BadArgument, match="Which words"):
        corpus.prominence()
    rows = corpus.prominence(["dog"]).rows
    assert [row["area"] for row in rows] == [None] * len(rows)
    assert any(
        note.startswith("No study removes 'dog'. Such as: vlq ablate \"readings('dog')\"")
        for note in corpus.prominence("dog").notes
    )


def test_a_mask_that_cannot_be_read(tmp_path: Path) -> None:
    objects = [[{"label": "dog", "box": [0.0, 0.0, 1.0, 1.0], "mask_rle": [1, 2]}]]
    make_cache(tmp_path, images=1, columns={"objects": objects}, pixels=PIXELS)
    with pytest.raises(InputError, match="cannot be read: its counts add up to 3"):
        vlq.open(str(tmp_path)).prominence().rows  # noqa: B018
