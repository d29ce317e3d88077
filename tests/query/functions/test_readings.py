"""readings, images and tokens equal what plain Python finds in the arrays and tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vlq
from vlq.query.client.corpus import Corpus
from vlq.query.errors import BadArgument, UnknownName
from vlq.query.image.geometry import patch_box
from vlq.query.schema import Transform

from ...brute import Site, read_site
from ...examples import examples
from ...synthetic import make_cache, make_run

IMAGES = 12
FAILED = [4]
LABELS = ["beach", "grass", "snow"]
SNAPSHOTS = Path(__file__).parents[1] / "snapshots"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("cache")
    columns = {"label": [LABELS[i % 3] for i in range(IMAGES)], "a b": list(range(IMAGES)), "order": [None] * IMAGES}
    make_cache(made, make_run(k=5), images=IMAGES, failed=FAILED, columns=columns)
    return made


@pytest.fixture(scope="module")
def corpus(folder: Path) -> Corpus:
    return vlq.open(str(folder))


@pytest.fixture(scope="module")
def sites(folder: Path) -> dict[str, Site]:
    shards = sorted(str(path.parent.relative_to(folder)) for path in folder.glob("shards/*/zarr.json"))
    return {site: read_site(folder, shards, site) for site in ("patch", "prompt", "last")}


@examples(60)
@given(
    ids=st.lists(st.integers(0, 15), min_size=1, max_size=3, unique=True),
    rank=st.integers(1, 5),
    min_prob=st.none() | st.floats(0.01, 0.9),
    layers=st.none() | st.integers(0, 4) | st.just((1, 3)) | st.just([0, 4]),
    at=st.sampled_from(["patch", "last", "prompt"]),
)
def test_readings(
    corpus: Corpus, sites: dict[str, Site], ids: list[int], rank: int, min_prob: float | None, layers: Any, at: Any
) -> None:
    best, probability = sites[at].cells(ids)
    hit = best <= rank
    if min_prob is not None:
        hit &= probability >= min_prob
    counted = {None: range(5), (1, 3): range(1, 4)}.get(layers if not isinstance(layers, list) else 0, [layers])
    counted = layers if isinstance(layers, list) else counted
    expected = {}
    for image, layer, position in np.argwhere(hit):
        if layer in counted:
            cell = (int(image), int(layer), int(position))
            expected[cell] = (best[cell], pytest.approx(min(0, np.log(probability[cell])), abs=1e-6))
    result = corpus.readings(ids if len(ids) > 1 else ids[0], rank=rank, min_prob=min_prob, layers=layers, at=at)
    key = {"patch": "patch", "prompt": "position", "last": None}[at]
    found = {
        (row["image_id"], row["layer"], row[key] if key else 0): (row["rank"], row["logprob"]) for row in result.rows
    }
    assert found == expected
    assert len(result.rows) == len(expected) == result.summary["readings"]
    assert result.summary["matched"] == len({image for image, _, _ in expected})
    order = [(row["layer"], row["image"], row.get(key or "", 0)) for row in result.rows]
    assert order == sorted(order)


def test_places_and_boxes(corpus: Corpus, folder: Path) -> None:
    rows = corpus.readings("cat", rank=5).rows
    assert {(row["row"], row["col"]) for row in rows} == {(r, c) for r in range(3) for c in range(4)}
    for row in rows:
        assert row["patch"] == row["row"] * 4 + row["col"]
        # Images are 112 x 112 and go into the model as they are.
        assert row["box"] == pytest.approx(
            [28 * row["col"], 112 / 3 * row["row"], 28 * (row["col"] + 1), 112 / 3 * (row["row"] + 1)]
        )


@pytest.mark.parametrize(
    "transform",
    [
        Transform(0.5, 0.5, -28.0, 0.0, 112, 112),  # a wide image, resized and cropped
        Transform(0.25, 0.25, 0.0, 14.0, 112, 112),  # padded above and below
        Transform(1.7, 1.3, -3.0, 5.5, 112, 112),
    ],
)
def test_boxes_invert_the_transform(tmp_path: Path, transform: Transform) -> None:
    size = (336, 224)
    make_cache(tmp_path, images=3, transform=transform, pixels=size)
    rows = vlq.open(str(tmp_path)).readings([0, 1, 2, 3], rank=4).rows
    assert len({row["patch"] for row in rows}) == 12
    for row in rows:
        assert row["box"] == pytest.approx(patch_box(transform, size, (3, 4), row["patch"]))


def test_readings_compare_by_probability(corpus: Corpus) -> None:
    a = {(row["image_id"], row["layer"], row["patch"]): row["logprob"] for row in corpus.readings("cat", rank=5).rows}
    b = {(row["image_id"], row["layer"], row["patch"]): row["logprob"] for row in corpus.readings("rock", rank=5).rows}
    result = corpus.query("readings('cat', rank=5) > readings('rock', rank=5)")
    found = {(row["image_id"], row["layer"], row["patch"]) for row in result.rows}
    assert found == {cell for cell in a.keys() & b.keys() if a[cell] > b[cell]}
    assert f"of {len(a.keys() & b.keys())} readings for which it can be said" in result.headline


def test_images(corpus: Corpus) -> None:
    rows = corpus.images().rows
    good = [i for i in range(IMAGES) if i not in FAILED]
    names = {i: f"{(i * 7919) % 1000:03d}-{i}.png" for i in good}
    expected = [
        {"image": names[i], "width": 112, "height": 112, "label": LABELS[i % 3], "a b": i, "order": None, "image_id": i}
        for i in sorted(good, key=names.__getitem__)
    ]
    assert rows == expected
    beach = corpus.query("images(label == 'beach' and width > 100)")
    assert beach.rows == [row for row in expected if row["label"] == "beach"]
    assert beach.headline == f"{len(beach.rows)} of 11 images with label == 'beach' and width > 100"
    assert corpus.images().headline == "11 images with readings"
    assert str(corpus.images()).splitlines()[1] == ""  # no line of tokens
    assert corpus.images().sort("a b", descending=True).rows[0]["a b"] == IMAGES - 1


@pytest.mark.parametrize("at", ["patch", "last", "prompt"])
@pytest.mark.parametrize("text", ["", "o", "DOG", "zzz"])
def test_tokens(corpus: Corpus, folder: Path, sites: dict[str, Site], text: str, at: Any) -> None:
    vocabulary = pq.read_table(folder / "vocabulary.parquet").to_pylist()
    top1 = sites[at].token[..., 0]
    expected = []
    for entry in vocabulary:
        if text.lower() in (entry["text"] or "").lower():  # ids without text are found by nothing but ''
            hits = top1 == entry["id"]
            counts = {"readings": int(hits.sum()), "images": int(hits.any((1, 2)).sum())}
            expected.append({"token": entry["id"], "piece": entry["piece"], "text": entry["text"]} | counts)
    expected.sort(key=lambda row: (-row["readings"], row["token"]))
    result = corpus.tokens(text, at=at)
    assert result.rows == expected
    assert result.summary["matched"] == len(expected)
    assert result.summary["read"] == sum(row["readings"] > 0 for row in expected)
    assert result.headline


def test_tokens_in_words(corpus: Corpus) -> None:
    most = max(corpus.tokens("o").rows, key=lambda row: row["readings"])
    assert corpus.tokens("o").headline == (
        f"'o': 5 tokens with this text, 5 of them read; most often {most['piece']} ({most['token']}), "
        f"in {most['images']} of 11 images"
    )
    assert corpus.tokens("").headline.startswith("The vocabulary: ")
    assert corpus.tokens("zzz").headline == "'zzz': no token with this text"


def test_mistakes(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="There is no column lable"):
        corpus.query("images(lable == 'a')")
    with pytest.raises(BadArgument, match="text: expected a part of a token's text"):
        corpus.query("tokens(3)")
    make_cache(tmp_path, make_run(at=("prompt",)), images=2)
    for text in ("readings('cat')", "tokens('cat')"):
        with pytest.raises(BadArgument, match="at: this cache has readings at prompt, last only"):
            vlq.open(str(tmp_path)).query(text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("readings", "readings('cat', layers=2)"),
        ("images", "images(label == 'beach')"),
        ("tokens", "tokens('dog')"),
    ],
)
def test_sql(corpus: Corpus, name: str, text: str) -> None:
    statement = corpus.query(text).statement
    values = "\n".join(f"-- ${key} = {value}" for key, value in statement.parameters.items())
    assert f"-- {text}\n{values}\n{statement.sql}\n" == (SNAPSHOTS / f"{name}.sql").read_text()
