"""An image of a corpus, by its number or its name, and its page."""

from __future__ import annotations

from html import unescape
from pathlib import Path

import numpy as np
import pytest

import vlq
from vlq.query.client.corpus import Corpus
from vlq.query.errors import BadArgument, NotFound, StoreError

from ...synthetic import make_cache, make_run


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("cache")
    make_cache(folder, images=5, failed=[1], names=["a.png", "b.png", "<c>.png", "0", "e.png"])
    return vlq.open(str(folder))


@pytest.mark.parametrize(
    ("image", "number", "name"),
    [(2, 2, "<c>.png"), (np.int64(4), 4, "e.png"), ("<c>.png", 2, "<c>.png"), ("0", 3, "0"), (0, 0, "a.png")],
)
def test_an_image_by_its_number_or_its_name(corpus: Corpus, image: int | str, number: int, name: str) -> None:
    found = corpus.image(image)
    assert (found.corpus, found.number, found.name) == (corpus, number, name)
    assert repr(found) == f"<image {number} of {corpus.url}: {name}>"


@pytest.mark.parametrize("image", [1, "b.png", 5, -1, 2**40, "none.png", ""])
def test_there_is_none(corpus: Corpus, image: int | str) -> None:
    with pytest.raises(NotFound) as caught:
        corpus.image(image)
    expected = f"There is no image {image!r} with readings.\nThe images and their numbers: images()"
    assert str(caught.value) == expected


@pytest.mark.parametrize("image", [None, True, 1.5, ["a.png"]])
def test_what_names_no_image(corpus: Corpus, image: object) -> None:
    with pytest.raises(BadArgument, match="expected a number or a name"):
        corpus.image(image)  # type: ignore[arg-type]


def test_several_have_the_name(tmp_path: Path) -> None:
    """As where an image was read with several questions."""
    prompts = {"prompt": "USER: <image> {question} ASSISTANT:", "prompt_ids": (), "prompt_column": "question"}
    make_cache(tmp_path, make_run(**prompts), images=3, names=["a.png", "b.png", "a.png"])
    corpus = vlq.open(str(tmp_path))
    with pytest.raises(NotFound) as caught:
        corpus.image("a.png")
    assert str(caught.value) == "2 images are called 'a.png': 0, 2.\nGive the number of one."
    assert corpus.image("b.png").number == 1


def test_its_page(corpus: Corpus, tmp_path: Path) -> None:
    """What a file has and what a notebook's frame has is the same of an image that is not large."""
    view = corpus.image("<c>.png")
    view.save(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text("utf-8") == view.page()
    frame = view._repr_html_()
    assert frame.startswith('<iframe title="&lt;c&gt;.png" srcdoc="&lt;!doctype html&gt;')
    assert 'sandbox="allow-scripts"' in frame
    assert unescape(frame.partition('srcdoc="')[2].partition('"')[0]) == view.page()
    with pytest.raises(StoreError, match="Choose another path"):
        view.save(tmp_path / "none" / "page.html")
