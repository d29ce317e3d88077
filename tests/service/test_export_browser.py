"""An exported folder, opened as files in a real browser: its figures are the arrays', and it asks nobody."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pytest
from playwright.sync_api import Browser, Page, expect

from vlq.query.cache.reader import Cache
from vlq.query.client.local import LocalCorpus
from vlq.service.export import export

from ..synthetic import make_cache, make_run, vocabulary_table
from .browser import accessible, watched
from .conftest import picture
from .test_token_page_browser import loaded, table

HOSTILE = "</script><script>alert(1)</script>'\"&.png"
NAMES = ["a.png", "b.png", HOSTILE, "d.png", "#e?.png", "f" * 200 + ".png"]
PIECES = {2: "▁</script>", 3: "▁<img src=x onerror=alert(1)>", 4: "\u202e", 5: "▁`${1}`"}
"""Tokens whose texts mean mischief."""

QUERY = "first_layer('dog').sort(image_id)"
PAGES = ["index", "image-2", "token-0", "tokens", "layers", "compare"]


@dataclass
class Exported:
    url: str  # of the folder
    folder: Path
    corpus: LocalCorpus
    token: np.ndarray  # (image, layer, patch, k)
    logprob: np.ndarray

    def read(self, id: int, rank: int = 1) -> np.ndarray:
        """(image, layer, patch)"""
        return (self.token[..., :rank] == id).any(-1)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """An answer of 5 images, moved to another place behind its making; one of the corpus' images could not be read."""
    folder = tmp_path_factory.mktemp("site")
    digest = picture(folder / "one.png", (112, 112))
    words = vocabulary_table(16).to_pydict()
    for id, piece in PIECES.items():
        words["piece"][id], words["text"][id] = piece, piece.replace("▁", " ")
    vocabulary = pa.table(words, vocabulary_table(16).schema)
    columns = {
        "uri": [(folder / "one.png").as_uri()] * 5 + ["file:///nowhere.png"],
        "sha256": [digest] * 6,
        "objects": [[{"label": "<b>dog</b>", "box": [0.0, 0.0, 60.0, 60.0]}]] * 6,
    }
    run = make_run(k=9, layers=5)
    *_, arrays = make_cache(
        folder / "cache", run, images=6, failed=[3], names=NAMES, columns=columns, vocabulary=vocabulary
    )
    corpus = LocalCorpus(Cache.open(str(folder / "cache")))
    export(corpus, QUERY, folder / "made", most_tokens=12)
    moved = folder / "a folder, moved"
    shutil.move(folder / "made", moved)
    return Exported(moved.as_uri(), moved, corpus, arrays["patch/token"], arrays["patch/logprob"])


def rows(page: Page, panel: str) -> list[list[str]]:
    """The cells of a panel's table, when it is there."""
    place = page.locator(f"#{panel}")
    place.scroll_into_view_if_needed()
    expect(place.locator(".content[aria-busy]")).to_have_count(0)
    return [row.locator("th, td").all_text_contents() for row in place.locator("tbody tr").all()]


@pytest.mark.parametrize(("name", "theme"), list(zip(PAGES, ["light", "dark"] * 3, strict=True)))
def test_every_page(site: Exported, chromium: Browser, name: str, theme: str) -> None:
    """It has nothing of a service, all its links lead to files that are there, and it fits a screen and a phone."""
    with watched(
        chromium, f"{site.url}/{name}.html", color_scheme=theme, viewport={"width": 390, "height": 800}
    ) as page:
        page.wait_for_load_state("networkidle")
        loaded(page)
        accessible(page)
        for width in (1400, 390):
            page.set_viewport_size({"width": width, "height": 200})
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            accessible(page)
        links = {unquote(link) for link in page.evaluate("[...document.links].map(({ href }) => href.split('#')[0])")}
        beside = {f"file://{file}" for file in site.folder.glob("*.html")}
        assert links <= beside
        assert {f"file://{site.folder}/{name}.html" for name in ("index", "layers", "compare", "tokens")} <= links
        # What a text says is text.
        assert page.locator("main script, main img[src='x'], main b:not(.tip b)").count() == 0
        expect(page.locator("footer")).to_contain_text(f"vlq serve --cache {site.corpus.url}")


def test_the_answer(site: Exported, chromium: Browser) -> None:
    expected = site.corpus.query(QUERY)
    with watched(chromium, f"{site.url}/index.html") as page:
        expect(page.locator(".headline")).to_have_text(expected.headline)
        shown = [line.locator("td").all_text_contents() for line in page.locator("tbody tr").all()]
        assert [(cells[1], cells[2]) for cells in shown] == [(row["image"], str(row["layer"])) for row in expected.rows]
        bars = page.locator(".facet[data-column=logprob] title").all_text_contents()
        assert sum(int(bar.split(": ")[1].split()[0]) for bar in bars) == len(expected.rows)
        # As images: the union of the patches, here all of an image's, and at each layer how many read it.
        page.locator("#view-images").click()
        cards = page.locator(".card")
        expect(cards).to_have_count(5)
        expect(page).to_have_url(f"{site.url}/index.html#view=images")
        first = expected.rows[0]
        read = site.read(0)[0] | site.read(1)[0]  # (layer, patch): dog and Dog
        heights = [
            int(re.search(r": (\d+)", text)[1]) for text in cards.first.locator(".strip title").all_text_contents()
        ]
        assert heights == read.sum(-1).tolist()
        assert np.flatnonzero(read[first["layer"]]).tolist() == first["patches"]
        assert cards.first.locator(".outlines .over").get_attribute("d")
        assert cards.first.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 112
        expect(cards.last.locator(".frame.gone")).to_have_count(1)  # its picture is not where it was
        page.locator("#view-chart").click()
        assert page.locator("img.chart").evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
        # The table in another order is there, too, with its own address.
        page.locator("#view-table").click()
        page.get_by_role("link", name="logprob").click()
        expect(page.locator("th[aria-sort=ascending]")).to_contain_text("logprob")
        best = min(expected.rows, key=lambda row: row["logprob"])
        expect(page.locator("tbody tr").first).to_contain_text(best["image"])
        expect(page.locator("#query")).to_have_value("first_layer('dog').sort(logprob)")
        page.reload()
        expect(page.locator("tbody tr").first).to_contain_text(best["image"])
        page.get_by_role("button", name="Plan").click()
        expect(page.locator("#plan")).to_contain_text("tokens")
        page.go_back()
        page.go_back()
        expect(page.locator(".headline")).to_have_text(expected.headline)


def test_on_a_web_server(site: Exported, chromium: Browser) -> None:
    """The folder works there as it does as files."""
    handler = partial(QuietHandler, directory=str(site.folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with watched(chromium, f"http://127.0.0.1:{server.server_port}/index.html") as page:
            page.locator("#view-images").click()
            expect(page.locator(".card")).to_have_count(5)
            page.locator(".card a.frame").first.click()
            page.get_by_role("grid").wait_for()
            page.keyboard.press("[")
            page.wait_for_function("location.hash.includes('layer=')")
            address = page.url
            page.reload()
            page.get_by_role("grid").wait_for()
            assert page.url == address
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_images(site: Exported, chromium: Browser) -> None:
    """From the table to an image, to the next one as the first was shown, and to a token's page."""
    with watched(chromium, f"{site.url}/index.html") as page:
        row = site.corpus.query(QUERY).rows[1]
        page.locator("tbody tr").nth(1).get_by_role("link").click()
        page.get_by_role("grid").wait_for()
        assert f"layer={row['layer']}" in page.url
        assert page.url.startswith(f"{site.url}/image-1.html#")
        page.keyboard.press("Escape")
        page.get_by_label("Threshold").fill("0.25")
        page.wait_for_function("location.hash.includes('threshold')")
        page.get_by_role("link", name="Next").click()
        page.get_by_role("grid").wait_for()
        assert re.search(r"/image-2.html#.*threshold=0.25", page.url)
        assert page.locator("h1").inner_text().startswith(HOSTILE)
        found = page.evaluate(
            """async () => {
              const { getBytes, path } = await import("vlq/api.js"), { Lens } = await import("vlq/lens.js");
              const lens = new Lens(await getBytes(path("images/2/lens", { site: "patch", k: 9 })));
              const read = (layer, patch) => [...Array(9).keys()].map((rank) => lens.at(layer, patch, rank).id);
              const patches = [...Array(lens.positions).keys()];
              return [...Array(lens.layers).keys()].map((layer) => patches.map((patch) => read(layer, patch)));
            }"""
        )
        assert found == site.token[2].tolist()
        page.locator("#legend a.chip").first.click()
        page.wait_for_url(re.compile(r"/token-\d+\.html"))


def test_tokens(site: Exported, chromium: Browser) -> None:
    read, probability = site.read(0), np.exp(site.logprob[..., 0].astype(np.float64))
    there = [0, 1, 2, 4, 5]
    with watched(chromium, f"{site.url}/tokens.html") as page:
        shown = page.locator("tbody tr").all()
        assert len(shown) == 12
        for row in shown:
            id = int(row.locator(".chip").get_attribute("data-token") or "")
            assert row.locator("td").nth(2).inner_text() == str(site.read(id).any((1, 2)).sum())
        page.locator(".chip[data-token='0']").click()
        loaded(page)
        by_layer = table(page, "layers")
        bins = table(page, "probabilities")
        cells = table(page, "map")
        for layer in range(5):
            assert by_layer[str(layer)][0] == str(read[:, layer].any(-1).sum())
        for bin, counts in enumerate(bins.values()):
            assert counts[0] == str(np.count_nonzero(np.floor(probability[read] * 20) == bin))
        assert [int(cell[0]) for cell in cells.values()] == read.sum((0, 1)).tolist()
        # A bar chooses the band that it lies in.
        low, high = 0.1, 0.3
        page.locator("#probabilities [data-bar='3']").click()
        expect(page.locator("#examples h3")).to_have_count(1)
        expect(page.locator("#examples h3")).to_contain_text("0.1 to 0.3")
        inside = read & (probability >= low) & (probability < high)
        images = [image for image in there if inside[image].any()]
        expect(page.locator("#examples h3 small")).to_have_text(f"{len(images)} image{'' if len(images) == 1 else 's'}")
        examples = page.locator("#examples .example")
        assert sorted(int(one.get_attribute("data-image") or "") for one in examples.all()) == images
        expect(page).to_have_url(f"{site.url}/token-0.html#low=0.1&high=0.3")
        page.reload()
        expect(page.locator("#band")).to_have_value("0.1,0.3")
        page.locator("#band").select_option("0,1")
        # A layer can be chosen for a token of the query; what these files have no answer to is not offered.
        page.locator("#layer").select_option("3")
        loaded(page)
        assert [int(cell[0]) for cell in table(page, "map").values()] == read[:, 3].sum(0).tolist()
        assert page.locator("#band option:disabled").count() == 5
        page.goto(f"{site.url}/token-0.html#layer=3&low=0.1&high=0.3")
        page.reload()
        expect(page.locator("#examples")).to_contain_text("These files have no answer to that. What has is said at")
        page.goto(f"{site.url}/tokens.html")
        page.locator("tbody tr").nth(3).locator(".chip").click()
        page.wait_for_url(re.compile(r"/token-\d+\.html"))
        address = page.url
        page.keyboard.press("n")
        page.wait_for_function("before => location.href !== before", arg=address)


def test_layers(site: Exported, chromium: Browser) -> None:
    decoded = np.delete(site.token[..., 0], 3, axis=0)  # (image, layer, patch)
    with watched(chromium, f"{site.url}/layers.html#at=patch&from=1&to=2") as page:
        loaded(page)
        agree = (decoded == decoded[:, -1:]).sum((0, 2))
        figures = table(page, "agreement")
        assert [figures[str(layer)][2] for layer in range(5)] == [str(count) for count in agree]
        for since, until in ((1, 2), (4, 1)):
            page.locator("#from").select_option(str(since))
            page.locator("#to").select_option(str(until))
            expect(page.locator("#changes .headline")).to_contain_text(f"layers {since} and {until}")
            before, after = (Counter(decoded[:, layer].reshape(-1).tolist()) for layer in (since, until))
            for row in page.locator("#changes tbody tr").all():
                id = int(row.locator(".chip").get_attribute("data-token") or "")
                assert [int(cell) for cell in row.locator("td").all_inner_texts()[:3]] == [
                    after[id] - before[id],
                    before[id],
                    after[id],
                ]
        page.reload()
        expect(page.locator("#changes .headline")).to_contain_text("layers 4 and 1")


def apart(site: Exported, images: tuple[int, int], layers: tuple[int, int]) -> list[float]:
    """Half the sum of the differences of the stored tokens' probabilities, of each patch."""
    found = []
    for patch in range(12):
        shares: Counter[int] = Counter()
        for sign, image, layer in zip((1, -1), images, layers, strict=True):
            probabilities = np.exp(site.logprob[image, layer, patch].astype(np.float64))
            for id, probability in zip(site.token[image, layer, patch].tolist(), probabilities, strict=True):
                shares[id] += sign * probability
        found.append(sum(map(abs, shares.values())) / 2)
    return found


def test_comparing(site: Exported, chromium: Browser) -> None:
    """Any two of the images at any layers; what each reads is in a file that its own page has, too."""
    with watched(chromium, f"{site.url}/index.html") as page:
        boxes = page.locator("td.pick input")
        boxes.nth(1).check()
        boxes.nth(3).check()
        page.locator("#selection").get_by_role("link", name="Compare").click()
        page.wait_for_url(re.compile(r"/compare.html#images=1,4$"))
        expect(page.locator("#images-b option:checked")).to_have_text("4: #e?.png")
        page.locator("#layers-a").select_option("1")
        page.locator("#layers-b").select_option("3")
        for images, layers in (((1, 4), (1, 3)), ((2, 4), (2, 3))):
            if images[0] == 2:
                page.locator("#images-a").select_option("2")
                page.keyboard.press("Escape")
                page.locator("#layers-a").select_option("2")
            first, second = (site.token[image, layer, :, 0] for image, layer in zip(images, layers, strict=True))
            differ = int((first != second).sum())
            expect(page.locator("#patches .headline")).to_have_text(
                f"{differ} of 12 patches decode to different tokens"
            )
            expected = apart(site, images, layers)
            shown = {int(cells[0].split()[0]): float(cells[5]) for cells in rows(page, "patches")}
            assert shown == {patch: pytest.approx(value, abs=0.002) for patch, value in enumerate(expected)}
            assert [*shown.values()] == sorted(shown.values(), reverse=True)
            counts = [Counter(side.tolist()) for side in (first, second)]
            both = len(counts[0].keys() & counts[1].keys())
            every = len(counts[0].keys() | counts[1].keys())
            expect(page.locator("#tokens .headline")).to_contain_text(f"{both} of {every} token")
            for row in page.locator("#tokens tbody tr").all():
                title = row.locator(".chip").get_attribute("title") or ""
                id = int(title.rpartition("(")[2].rstrip(")"))
                assert row.locator("td").all_inner_texts()[:2] == [str(side[id]) for side in counts]
        page.locator("[data-side=a] .picture").focus()
        page.keyboard.press("ArrowRight")
        expect(page.locator("#said-b")).to_contain_text("Patch 0 ")
        scripts = page.evaluate("performance.getEntriesByType('resource').map(({ name }) => name)")
        assert all(f"image-{id}.js" not in name for name in scripts for id in (0, 5))  # what nobody asked for
        page.locator("[data-side=b] .name a").click()
        page.get_by_role("grid").wait_for()
