"""Whose states are put into whose run: each partner is one that the source's text allows, drawn from the seed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import vlq
from vlq.query.client.local import LocalCorpus
from vlq.query.errors import BadArgument
from vlq.query.studies.chosen import LAST, Written, placed
from vlq.query.studies.partners import PAIRED, paired

from ...synthetic import make_cache, make_run

pytestmark = pytest.mark.here("what a study plans, on the machine that begins it")

IMAGES = 20
FAILED = [4]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> LocalCorpus:
    names = [f"{i:02d}.png" for i in range(IMAGES)]
    columns: dict[str, list[Any]] = {
        "label": [("beach", "snow", None)[i % 3] for i in range(IMAGES)],
        "partner": [names[(i * 7 + 3) % IMAGES] if i % 4 else None for i in range(IMAGES)],
    }
    folder = tmp_path_factory.mktemp("cache")
    make_cache(folder, make_run(grid=None, patches=9), images=IMAGES, failed=FAILED, names=names, columns=columns)
    opened = vlq.open(str(folder))
    assert isinstance(opened, LocalCorpus)
    return opened


def partners(corpus: LocalCorpus, source: str, seed: int = 0, one_grid: bool = False, **which: Any) -> dict[str, str]:
    rows = placed(corpus, Written.place(LAST), **which)
    table = paired(corpus, rows, source, seed, one_grid)
    assert table.schema == PAIRED
    known = {row["image"]: row for row in placed(corpus, Written.place(LAST)).to_pylist()}
    for row in table.to_pylist():  # what is known of a partner is what is known of the image
        partner = known[row["source_image"]]
        assert all(row[f"source_{name}"] == partner[name] for name in ("uri", "sha256", "prompt", "rows", "columns"))
        assert row["patches"] == []
    return dict(zip(table["image"].to_pylist(), table["source_image"].to_pylist(), strict=True))


GOOD = [f"{i:02d}.png" for i in range(IMAGES) if i not in FAILED]
LABEL = {f"{i:02d}.png": ("beach", "snow", None)[i % 3] for i in range(IMAGES)}


def test_one_image(corpus: LocalCorpus) -> None:
    assert partners(corpus, "07.png") == dict.fromkeys(GOOD, "07.png")
    assert partners(corpus, "7") == dict.fromkeys(GOOD, "07.png")
    assert partners(corpus, "07.png", images=Written.of("image_id < 3")) == dict.fromkeys(GOOD[:3], "07.png")


def test_a_column_that_names_them(corpus: LocalCorpus) -> None:
    wanted = {f"{i:02d}.png": f"{(i * 7 + 3) % IMAGES:02d}.png" for i in range(IMAGES) if i % 4}
    assert partners(corpus, "column partner") == {
        image: partner for image, partner in wanted.items() if image in GOOD and partner in GOOD
    }


def test_any_other_image(corpus: LocalCorpus) -> None:
    found = [partners(corpus, "other", seed) for seed in range(60)]
    assert found[0] == partners(corpus, "other", 0)
    assert found[0] != found[1]
    few = partners(corpus, "other", 0, images=Written.of("image_id > 8"), limit=4)
    assert few == {image: found[0][image] for image in few}
    assert len(few) == 4
    for image in GOOD:
        seen = Counter(one[image] for one in found)
        assert image not in seen
        assert {*seen} <= {*GOOD}
        assert len(seen) > len(GOOD) // 2  # of 60 draws of 18


def test_another_question_is_no_other_image(tmp_path: Path) -> None:
    """Its patches would be the image's own."""
    names = [f"{i // 4}.png" for i in range(12)]  # whose bytes are the names' here
    make_cache(tmp_path, make_run(), images=12, names=names)
    corpus = vlq.open(str(tmp_path))
    assert isinstance(corpus, LocalCorpus)
    for seed in range(5):
        table = paired(corpus, placed(corpus, Written.place(LAST)), "other", seed, one_grid=False)
        assert table.num_rows == 12
        assert all(row["sha256"] != row["source_sha256"] for row in table.to_pylist())


def test_one_with_another_value(corpus: LocalCorpus) -> None:
    for seed in range(5):
        found = partners(corpus, "other label", seed)
        assert {*found} == {image for image in GOOD if LABEL[image] is not None}
        assert all(LABEL[partner] not in (None, LABEL[image]) for image, partner in found.items())


def test_one_of_the_same_grid(corpus: LocalCorpus) -> None:
    grids = {row["image"]: (row["rows"], row["columns"]) for row in placed(corpus, Written.place(LAST)).to_pylist()}
    found = partners(corpus, "other", one_grid=True)
    assert all(grids[image] == grids[partner] for image, partner in found.items())
    counts = Counter(grids.values())
    assert len(counts) > 1
    assert {*found} == {image for image in GOOD if counts[grids[image]] > 1}


def test_all_patches(corpus: LocalCorpus) -> None:
    for row in placed(corpus, Written.place("patches")).to_pylist():
        assert row["patches"] == [*range(row["rows"] * row["columns"])]


def test_mistakes(corpus: LocalCorpus) -> None:
    for source, said in (("99", "no such name"), ("column", "no such name"), ("column nothing", "no column nothing")):
        with pytest.raises(BadArgument, match=said):
            partners(corpus, source)
    with pytest.raises(BadArgument, match="none of these images has a partner"):
        partners(corpus, "column partner", images=Written.of("image_id == 8"))
