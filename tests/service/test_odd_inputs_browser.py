"""Pages of corpora that are not as most are, in a real browser: long names and tokens, names that turn the direction of
the text, many columns, runs without patches, without images. Nothing is wider than the window, nothing fails."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import datetime

import httpx2
import pyarrow as pa
import pytest
from PIL import Image
from playwright.sync_api import Browser, expect

from vlq.query.schema import Transform
from vlq.service.app import create_app
from vlq.service.settings import Settings

from ..doors import running
from ..synthetic import make_cache, make_run, vocabulary_table
from .browser import accessible, watched

LONG = "n" * 200
TURNED = "\u202eabc.png"
"""Shown from right to left, up to where the direction is set again."""

LINES = """(cells) => cells.map((cell) => {
  const range = document.createRange();
  range.selectNodeContents(cell);
  return range.getClientRects().length;
})"""
"""How many lines the text of each cell takes."""

NAMES = [f"{LONG}.png", TURNED, '<script>alert("1")</script>.png', "a b%2f..%2f#?.png", "new\nline.png", "last.png"]
TOKEN = 4
TALL = (20, 800)


def vocabulary() -> pa.Table:
    """One token is a long word."""
    table = vocabulary_table(make_run().vocabulary_size)
    for name, word in (("piece", f"▁{LONG}"), ("text", f" {LONG}")):
        values = table[name].to_pylist()
        values[TOKEN] = word
        table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.string()))
    return table


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("odd")
    columns = {
        "first_layer": [f"{LONG}{i}" for i in range(6)],
        "nested": [{"a": i, "b": {"c": [LONG]}} for i in range(6)],
        "nothing": [None, "x", None, None, "x", None],
        LONG: ["under a long name"] * 6,
        "score": [1e300, None, float("nan"), -1e250, float("inf"), 0.5],
        "when": [datetime(2024, 1, 2 + i, 12, 30) for i in range(6)],
        "talk": ["many words of a long caption " * 60] * 6,
        **{f"column {i}": [f"some words of column {i}"] * 6 for i in range(12)},
    }
    make_cache(folder / "odd", images=6, failed=[5], names=NAMES, columns=columns, vocabulary=vocabulary())
    make_cache(folder / "text", make_run(at=("prompt",)), images=3)
    make_cache(folder / "none", images=2, failed=[0, 1])
    make_cache(folder / "few", make_run(layers=2), images=3)
    make_cache(folder / "single", images=1)
    tall = Transform(1.0, 1.0, 0.0, 0.0, *TALL)
    make_cache(
        folder / "tall", make_run(grid=(40, 1)), images=3, transform=tall, pixels=TALL, columns={"label": list("abb")}
    )
    drawn = {}
    for size in ((112, 112), TALL):
        sink = io.BytesIO()
        Image.new("RGB", size, (60, 70, 140)).save(sink, "PNG")
        drawn[size] = sink.getvalue()
    with pytest.MonkeyPatch.context() as patch:
        for module in ("api.images", "pages.image_page"):
            patch.setattr(f"vlq.service.{module}.picture", lambda image, side: (drawn[image.size], "image/png"))
        app = create_app(
            Settings({name: str(folder / name) for name in ("odd", "text", "none", "few", "single", "tall")})
        )
        with running(app) as found:
            yield found


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/docs",
        "/odd/tokens",
        "/odd/layers",
        "/odd/?q=images()",
        "/odd/images/0",
        "/odd/images/5",
        f"/odd/tokens/{TOKEN}",
        f"/odd/tokens/{TOKEN + 1}",
        "/odd/compare",
        "/text/images/0",
        "/text/compare",
        "/none/",
        "/none/compare",
    ],
)
def test_nothing_fails_and_nothing_is_too_wide(chromium: Browser, url: str, path: str) -> None:
    with watched(chromium, url + path, viewport={"width": 1400, "height": 900}) as page:
        page.wait_for_load_state("networkidle")
        accessible(page)
        for width in (1400, 360):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0


def test_a_name_turns_nothing_but_itself(chromium: Browser, url: str) -> None:
    """What stands behind a name stands to its right."""
    with watched(chromium, f"{url}/odd/images/1") as page:
        places = page.evaluate("""() => {
            const text = document.querySelector("h1 small").firstChild, range = document.createRange();
            const left = (from) => {
              range.setStart(text, from);
              range.setEnd(text, from + 1);
              return range.getBoundingClientRect().left;
            };
            return [document.querySelector("h1 bdi").getBoundingClientRect().right - 1, left(0), left(5)];
        }""")
        assert places == sorted(places)


def test_no_column_is_squeezed(chromium: Browser, url: str) -> None:
    with watched(chromium, f"{url}/odd/?q=images()", viewport={"width": 1400, "height": 900}) as page:
        cells = page.locator("table.rows tbody tr").nth(1).locator("td:not(.pick, .number)")
        widths = cells.evaluate_all("cells => cells.map((cell) => cell.getBoundingClientRect().width)")
        assert len(widths) > 12
        assert min(widths) > 60
        # Nor is a row dozens of lines high, or a number hundreds of digits wide.
        heights = page.locator("table.rows tbody tr").evaluate_all("rows => rows.map((row) => row.offsetHeight)")
        assert max(heights) < 250
        whens = page.locator("table.rows td.when")
        assert {*whens.all_inner_texts()} == {f"2024-01-0{2 + i} 12:30:00" for i in range(5)}
        assert {*whens.evaluate_all(LINES)} == {1}
        numbers = page.locator("table.rows td.number").all_inner_texts()
        assert {"1.0e+300", "-1.0e+250", "inf"} <= {*numbers}
        assert max(map(len, numbers)) < 12


def test_images_that_could_not_be_read_are_told_of(chromium: Browser, url: str) -> None:
    with watched(chromium, f"{url}/none/") as page:
        expect(page.locator("h1")).to_contain_text("0 images")
        page.get_by_text("2 images could not be read").click()
        expect(page.locator(".unread li a").first).to_have_attribute("href", "/none/images/0")
        page.goto(f"{url}/none/layers")
        expect(page.locator("#agreement .headline")).to_have_text("Nothing was read here that layers could be told by")
        page.goto(f"{url}/odd/")
        expect(page.get_by_text("1 image could not be read")).to_be_visible()


def test_two_layers_are_held_against_each_other(chromium: Browser, url: str) -> None:
    """And not the last against itself."""
    with watched(chromium, f"{url}/few/layers") as page:
        expect(page.locator("select[name=from]")).to_have_value("0")
        expect(page.locator("select[name=to]")).to_have_value("1")
        page.locator("#changes").scroll_into_view_if_needed()
        expect(page.locator("#changes .headline")).to_contain_text("at layers 0 and 1")


def test_a_run_without_patches_compares_those_that_have_some(chromium: Browser, url: str) -> None:
    with watched(chromium, f"{url}/text/compare") as page:
        expect(page.locator("[data-side=a] .name a")).to_have_attribute("href", "/odd/images/0?layer=4")
        page.locator("#tokens").scroll_into_view_if_needed()
        expect(page.locator("#tokens .headline")).to_contain_text("decoded to on both sides")
        page.goto(f"{url}/text/compare?a=images()&b=images()")
        expect(page.locator("#counts .headline")).to_contain_text("3 and 3 of 3 images")
        expect(page.locator("#readings")).to_have_count(0)


def test_one_image_differs_from_nothing(chromium: Browser, url: str) -> None:
    """What float32 rounds is 0 in the chart, in its words and in both tables."""
    assert "e-" in httpx2.get(f"{url}/v1/query", params={"query": "divergence()", "corpus": "single"}).text
    with watched(chromium, f"{url}/single/layers") as page:
        panel = page.locator("#divergence")
        panel.scroll_into_view_if_needed()
        expect(panel.locator(".headline")).to_contain_text("median 0.00 nats; in")
        words = panel.text_content() or ""
        assert "e-" not in words
        assert "-0.0" not in words
        page.goto(f"{url}/single/?q=divergence()")
        expect(page.locator("table.rows td").first).to_be_visible()
        assert "e-" not in page.locator("#answer").inner_text()


@pytest.mark.parametrize(
    ("path", "picture", "edge"),
    [
        ("/tall/?q=readings('dog').where(image_id == 0)&view=images", ".frame img", ".outlines .over"),
        ("/tall/tokens/0", "#examples .picture img", "#examples .picture .edge"),
    ],
)
def test_a_tall_picture_among_others_is_not_a_window_high(
    chromium: Browser, url: str, path: str, picture: str, edge: str
) -> None:
    """And its patches are outlined where they are."""
    with watched(chromium, url + path, viewport={"width": 1200, "height": 900}) as page:
        if "tokens" in path:
            page.locator("#examples").scroll_into_view_if_needed()
        shown = page.locator(picture).first
        shown.scroll_into_view_if_needed()
        box = shown.bounding_box()
        assert box
        assert box["height"] < 300
        x, y, width, height = page.locator(edge).first.evaluate("""(path) => {
          const box = path.getBBox(), to = path.getScreenCTM();
          return [box.x * to.a + to.e, box.y * to.d + to.f, box.width * to.a, box.height * to.d];
        }""")
        scale = box["height"] / TALL[1]
        assert width == pytest.approx(TALL[0] * scale, abs=0.5)
        assert x == pytest.approx(box["x"] + (box["width"] - width) / 2, abs=0.5)
        first = (y - box["y"]) / (20 * scale)  # patches are 20 pixels high
        assert first == pytest.approx(round(first), abs=0.05)
        assert height / (20 * scale) == pytest.approx(round(height / (20 * scale)), abs=0.05)


def test_prompts_are_no_column_of_letters(chromium: Browser, url: str) -> None:
    with watched(chromium, url, viewport={"width": 390, "height": 800}) as page:
        assert min(page.locator("td.text").evaluate_all("all => all.map((cell) => cell.offsetWidth)")) > 150


def test_two_sets_that_a_corpus_has_are_the_example(chromium: Browser, url: str) -> None:
    with watched(chromium, f"{url}/tall/compare") as page:
        href = page.locator("#sets a").first.get_attribute("href") or ""
        page.goto(url + href)
        expect(page.locator("#counts .headline")).to_contain_text("2 and 1 of 3 images")
