"""An image's page: its data are the stored readings, and nothing in it comes from elsewhere or runs by accident."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import vlq
from vlq.query.corpus import Corpus
from vlq.query.errors import CacheError
from vlq.query.geometry import patch_box
from vlq.query.one import OneImage, one_image
from vlq.query.schema import Transform
from vlq.service.pages import image as pages
from vlq.service.pages.image import image_data, image_page

from ..synthetic import make_cache, make_run, vocabulary_table

HOSTILE = "</script><script>alert(1)</script>\"'<b>&amp;\u2028.png"
PADDED = Transform(2.0, 2.0, 30.0, -8.0, 112, 112)
"""The image is 40 x 64; of the patches' columns the first shows the padding on the left, in part."""


class Page(HTMLParser):
    """Every element with its attributes, and the texts of scripts, titles and headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag
        self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open][-1] += data


def decoded(data: dict[str, Any], site: str) -> tuple[np.ndarray, np.ndarray]:
    """Ids and probabilities (layer, position, k) of the page's data."""
    (found,) = (one for one in data["sites"] if one["name"] == site)
    shape = data["layers"], found["positions"], data["k"]
    kind = "<u4" if data["wide"] else "<u2"
    local = np.frombuffer(base64.b64decode(found["token"]), kind).reshape(shape)
    cost = np.frombuffer(base64.b64decode(found["cost"]), "<u2").reshape(shape)
    ids = np.array([token["id"] for token in data["tokens"]])
    return ids[local], np.exp(-((cost / data["scale"]) ** 2))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> tuple[Corpus, dict[str, np.ndarray]]:
    """Images with grids and answers of their own; the second could not be read."""
    folder = tmp_path_factory.mktemp("cache")
    run = make_run(grid=None, answer=3, at=("patch", "prompt", "answer"))
    pieces = vocabulary_table(run.vocabulary_size)["piece"].to_pylist()
    pieces[3] = f"▁{HOSTILE}"
    vocabulary = vocabulary_table(run.vocabulary_size)
    vocabulary = vocabulary.set_column(1, "piece", pa.array(pieces, pa.string()))
    names = [HOSTILE, *(f"{i}.png" for i in range(1, 6))]
    _, _, arrays = make_cache(
        folder, run, images=6, failed=[1], names=names, transform=PADDED, pixels=(40, 64), vocabulary=vocabulary
    )
    return vlq.open(str(folder)), arrays


@pytest.mark.parametrize("number", [0, 2, 5])
def test_the_data_are_the_stored_readings(cache: tuple[Corpus, dict[str, np.ndarray]], number: int) -> None:
    corpus, arrays = cache
    one = one_image(corpus, number)
    data = image_data(corpus, one)
    counts = {"patch": one.patches, "prompt": 3, "answer": len(one.answer_ids)}
    assert [(site["name"], site["positions"]) for site in data["sites"]] == list(counts.items())
    for site, count in counts.items():
        ids, probabilities = decoded(data, site)
        assert np.array_equal(ids, arrays[f"{site}/token"][number][:, :count])
        np.testing.assert_allclose(probabilities, np.exp(arrays[f"{site}/logprob"][number][:, :count]), rtol=2e-3)
    vocabulary = vocabulary_table(corpus.cache.run.vocabulary_size).to_pylist()
    for token in data["tokens"]:
        known = vocabulary[token["id"]]
        assert (token["text"], token["starts"]) == (known["text"] or "", known["word_start"])
    labels = {site["name"]: site["labels"] for site in data["sites"]}
    assert labels["patch"] is None
    assert labels["answer"] == [vocabulary[id]["piece"] for id in one.answer_ids]


def test_patches_that_were_not_read(tmp_path: Path) -> None:
    """The page is told which were read; what the arrays hold elsewhere is no reading."""
    make_cache(tmp_path, make_run(patches_column="objects"), images=8, seed=1)
    corpus, kinds = vlq.open(str(tmp_path)), set()
    for number in range(8):
        one = one_image(corpus, number)
        data = image_data(corpus, one)
        (site,) = (site for site in data["sites"] if site["name"] == "patch")
        read = list(one.patches_read)
        kinds.add((len(read) > 0) + (len(read) == 12))
        assert (site["positions"], site["read"]) == (12, None if len(read) == 12 else one.patches_read)
        ids, _ = decoded(data, "patch")
        rows = corpus.top(number, rank=4).rows
        assert ids[:, read].reshape(-1).tolist() == [row["token"] for row in rows]
        assert f"patches, of which {len(read)} were read" in image_page(corpus, number)
    assert kinds == {0, 1, 2}


def test_an_image_without_readings(cache: tuple[Corpus, dict[str, np.ndarray]]) -> None:
    with pytest.raises(KeyError):
        image_page(cache[0], 1)


def test_edges_are_those_of_patches(cache: tuple[Corpus, dict[str, np.ndarray]]) -> None:
    one = one_image(cache[0], 2)
    data = image_data(cache[0], one)
    for patch in range(one.patches):
        row, column = divmod(patch, one.grid[1])
        box = data["x"][column], data["y"][row], data["x"][column + 1], data["y"][row + 1]
        assert box == patch_box(PADDED, (40, 64), one.grid, patch)


def test_of_many_readings_the_best_are_kept(
    cache: tuple[Corpus, dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, arrays = cache
    one = one_image(corpus, 5)
    positions = one.patches + 3 + len(one.answer_ids)
    monkeypatch.setattr(pages, "MOST_READINGS", 5 * positions * 2 + 1)
    data = image_data(corpus, one)
    assert data["k"] == 2
    assert np.array_equal(decoded(data, "prompt")[0], arrays["prompt/token"][5][..., :2])


def test_nothing_comes_from_elsewhere_and_texts_stay_texts(cache: tuple[Corpus, dict[str, np.ndarray]]) -> None:
    text = image_page(cache[0], 0)
    page = Page(text)
    assert page.texts["title"] == page.texts["h1"] == [HOSTILE]
    names = [name for name, _ in page.elements]
    assert names.count("script") == 2
    assert not {"b", "link", "iframe", "object", "form"} & {*names}
    for _, attributes in page.elements:
        assert not {"src", "href", "onclick", "onload"} & attributes.keys()  # there is no picture here
    assert not re.search(r"https?://|@import|url\(", text)
    kinds = [attributes["type"] for name, attributes in page.elements if name == "script"]
    assert kinds == ["application/json", "module"]
    data, script = page.texts["script"]
    assert "<" not in data
    assert f"▁{HOSTILE}" in [token["piece"] for token in json.loads(data)["tokens"]]
    policy = next(attributes["content"] for name, attributes in page.elements if "http-equiv" in attributes)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert "The image is not where it was." in text


@pytest.mark.parametrize(("size", "form"), [((90, 60), "png"), ((2000, 1000), "jpeg")])
def test_the_picture_is_inside(tmp_path: Path, size: tuple[int, int], form: str) -> None:
    path = tmp_path / "photo.png"
    Image.linear_gradient("L").resize(size).convert("RGB").save(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    one = OneImage(0, "photo.png", f"file://{path}", digest, size, PADDED, (2, 2), None, (), (), (0, 1, 2, 3))
    page = Page(pages._picture(one))
    ((name, attributes),) = page.elements
    kind, _, data = (attributes["src"] or "").partition(";base64,")
    assert (name, kind) == ("img", f"data:image/{form}")
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert picture.size == (size if form == "png" else (1600, 800))
        difference = np.asarray(picture.convert("L").resize((45, 30))).astype(int)
    expected = np.asarray(Image.open(path).convert("L").resize((45, 30))).astype(int)
    assert np.abs(difference - expected).max() <= 4


def test_a_cache_without_patches_has_no_page(tmp_path: Path) -> None:
    make_cache(tmp_path, make_run(at=("prompt",)), images=1)
    with pytest.raises(CacheError, match="no readings at patches"):
        image_page(vlq.open(str(tmp_path)))


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, which is looked for on the path")
def test_a_browser_shows_it(tmp_path: Path) -> None:
    """What the address names is shown: the stored readings of one patch, and where a word is read."""
    _, _, arrays = make_cache(tmp_path / "cache", images=1)
    corpus = vlq.open(str(tmp_path / "cache"))
    (tmp_path / "page.html").write_text(image_page(corpus))
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    command = [str(CHROMIUM), *options, f"file://{tmp_path}/page.html#layer=2&patch=7&token=DOG"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    page = Page(shown)
    assert page.texts["h2"] == ["Patch 7: row 1, column 3"]
    pieces = vocabulary_table(corpus.cache.run.vocabulary_size)["piece"].to_pylist()
    ids, logprobs = arrays["patch/token"][0][:, 7].astype(int), arrays["patch/logprob"][0][:, 7]
    names = [pieces[id] or str(id) for id in ids.ravel()]
    rows = shown[shown.index("<tbody>") : shown.index("</tbody>")]
    found = re.findall(r"<span>(.*?)</span><b>(.*?)</b>", rows)
    assert [unescape(name) for name, _ in found] == names
    assert [float(figure) for _, figure in found] == pytest.approx(np.exp(logprobs).ravel().tolist(), abs=1e-3)
    marked = [bool(re.search(r'class="read"', cell)) for cell in re.findall(r"<td.*?</td>", rows)]
    assert marked == [name == "▁dog" for name in names]
    (row,) = corpus.peak_layer("dog", rank=4).rows
    assert f"most probable at layer {row['layer']}, {np.exp(row['logprob']):.3f}" in shown
