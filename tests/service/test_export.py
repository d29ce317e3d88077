"""An exported site, opened as files in a real browser."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser

import vlq
from vlq.query.cache import Cache
from vlq.query.cli import main
from vlq.query.client import LocalCorpus
from vlq.query.errors import BadArgument, InputError, QueryError
from vlq.service.export import export

from ..synthetic import make_cache, make_run
from .browser import accessible, watched
from .conftest import picture

HOSTILE = "</script><script>alert(1)</script>'\"&.png"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> LocalCorpus:
    folder = tmp_path_factory.mktemp("exported")
    names = ["a.png", "b.png", HOSTILE, "d.png", "e.png"]
    make_cache(folder, make_run(k=9), images=5, failed=[3], names=names)
    return LocalCorpus(Cache.open(str(folder)))


def test_a_site_of_files(corpus: LocalCorpus, chromium: Browser, tmp_path: Path) -> None:
    """It is moved to another place before it is opened, and asks nobody for anything."""
    expected = corpus.query("images().sort(image_id)")
    assert export(corpus, "images().sort(image_id)", tmp_path / "site") == len(expected) == 4
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "site", moved)
    with watched(chromium, f"file://{moved}/index.html") as page:
        assert page.get_by_text(expected.headline).count() == 1
        assert page.locator(".cards a").all_inner_texts() == ["a.png", "b.png", HOSTILE, "e.png"]
        accessible(page)
        page.locator(".cards a").nth(1).click()
        page.wait_for_url("**/image-1.html*")
        page.get_by_role("link", name="Next").click()
        page.wait_for_url("**/image-2.html*")
        assert page.locator("h1").inner_text().startswith(HOSTILE)
        assert page.locator("#previous").evaluate("link => link.pathname").endswith("/image-1.html")
        grid = page.get_by_role("grid")
        grid.wait_for()
        for link in page.locator("a[href^='/'], a[href^='http']").all():
            raise AssertionError(link.evaluate("link => link.outerHTML"))
        page.keyboard.press("[")
        page.wait_for_function("location.hash.includes('layer=')")
        address = page.url
        page.reload()
        page.get_by_role("grid").wait_for()
        assert page.url == address


def test_its_readings_are_the_corpus(corpus: LocalCorpus, chromium: Browser, tmp_path: Path) -> None:
    export(corpus, [4], tmp_path / "site")
    top = {(row["layer"], row["patch"], row["rank"]): row["piece"] for row in corpus.query("top(4, rank=9)").rows}
    with watched(chromium, f"file://{tmp_path}/site/image-4.html#layer=2") as page:
        page.get_by_role("grid").wait_for()
        found = page.evaluate(
            """async () => {
              const { getBytes } = await import("vlq/api.js"), { Lens } = await import("vlq/lens.js");
              const paths = Object.keys(JSON.parse(document.getElementById("embedded").textContent));
              const lens = new Lens(await getBytes(paths.find((path) => path.includes("site=patch&k=9&"))));
              const cells = [];
              for (let layer = 0; layer < lens.layers; layer++)
                for (let patch = 0; patch < lens.positions; patch++)
                  for (let rank = 0; rank < 9; rank++)
                    cells.push([layer, patch, rank + 1, lens.at(layer, patch, rank).piece]);
              return cells;
            }"""
        )
        page.get_by_role("application").click()  # a pinned patch's curves go by all that is stored
        page.locator("#curves polyline").first.wait_for()
    assert {(layer, patch, rank): piece for layer, patch, rank, piece in found} == top


def test_pictures_are_beside_the_pages(tmp_path: Path) -> None:
    """The very pixels, of an image of which the size is known; without it the page says that it is not there."""
    digest = picture(tmp_path / "one.png", (112, 112))
    files = {"uri": [(tmp_path / name).as_uri() for name in ("one.png", "two.png")], "sha256": [digest] * 2}
    make_cache(tmp_path / "cache", images=2, columns=files)
    corpus = LocalCorpus(Cache.open(str(tmp_path / "cache")))
    export(corpus, [0, 1], tmp_path / "site")
    with Image.open(tmp_path / "site" / "pictures" / "0-1600.png") as drawn, Image.open(tmp_path / "one.png") as own:
        assert np.array_equal(np.asarray(drawn), np.asarray(own))
    assert 'src="pictures/0-1600.png"' in (tmp_path / "site" / "image-0.html").read_text()
    assert "not where it was" in (tmp_path / "site" / "image-1.html").read_text()


def test_few_pages_are_written_of_many_images(corpus: LocalCorpus, tmp_path: Path) -> None:
    assert export(corpus, "images()", tmp_path / "site", most=2) == 2
    assert len(list((tmp_path / "site").glob("image-*.html"))) == 2
    assert "and 2 more without a page here" in (tmp_path / "site" / "index.html").read_text()


def test_mistakes_leave_nothing_behind(corpus: LocalCorpus, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    with pytest.raises(InputError, match="is there already"):
        export(corpus, "images()", tmp_path / "full")
    with pytest.raises(BadArgument, match="of no images"):
        export(corpus, "defaults()", tmp_path / "site")
    with pytest.raises(QueryError):
        export(corpus, "images(", tmp_path / "site")
    assert [entry.name for entry in tmp_path.iterdir()] == ["full"]


def test_the_command(corpus: LocalCorpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["export", "0, 2", "--out", str(tmp_path / "site"), "--cache", corpus.url])
    assert not ended.value.code
    assert capsys.readouterr().out == f"2 images, each a page: {tmp_path / 'site' / 'index.html'}\n"
    assert json.loads((tmp_path / "site" / "image-2.html").read_text().partition('id="embedded">')[2].partition("<")[0])
    assert vlq.open(corpus.url)
