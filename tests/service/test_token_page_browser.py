"""A token's page in a real browser: its figures are the arrays', and its address holds its state."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from vlq.query.image.geometry import patch_box
from vlq.service.app import create_app
from vlq.service.settings import Settings

from ..doors import running
from ..synthetic import IDENTITY, make_cache, make_run
from .browser import accessible, watched

HOSTILE = "<img src=x onerror=alert(1)>'\".png"


@dataclass
class Served:
    url: str
    token: np.ndarray  # (image, layer, patch, k)
    logprob: np.ndarray

    def read(self, id: int, rank: int = 1) -> np.ndarray:
        """(image, layer, patch)"""
        return (self.token[..., :rank] == id).any(-1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Readings of 9 images, one of which has a name that means mischief, and one no readings."""
    folder = tmp_path_factory.mktemp("tokens")
    names = [HOSTILE if i == 3 else f"{i}.png" for i in range(9)]
    boxes = [[{"label": "dog" if i % 2 else "<b>cat</b>", "box": [0.0, 0.0, 60.0, 60.0]}] for i in range(9)]
    _, _, arrays = make_cache(folder / "one", images=9, failed=[8], names=names, columns={"objects": boxes})
    make_cache(folder / "text", make_run(at=("prompt",)), images=3)
    sink = io.BytesIO()
    Image.new("RGB", (112, 112), (90, 120, 90)).save(sink, "PNG")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlq.service.api.images.picture", lambda image, side: (sink.getvalue(), "image/png"))
        app = create_app(Settings({"one": str(folder / "one"), "text": str(folder / "text")}))
        with running(app) as url:
            yield Served(url, arrays["patch/token"], arrays["patch/logprob"])


def loaded(page: Page) -> Page:
    """All panels are there."""
    for panel in page.locator("[data-panel]").all():
        panel.scroll_into_view_if_needed()
        expect(panel.locator(".content[aria-busy]")).to_have_count(0)
    return page


def table(page: Page, panel: str) -> dict[str, list[str]]:
    """A panel's table: cells by the first one of their row."""
    rows = page.locator(f"#{panel} tbody tr").all()
    cells = [[text.replace(",", "") for text in row.locator("th, td").all_text_contents()] for row in rows]
    return {first: rest for first, *rest in cells}


def test_figures(corpus: Served, chromium: Browser) -> None:
    with watched(chromium, f"{corpus.url}/one/tokens/0") as page:
        loaded(page)
        read = corpus.read(0)
        images = read.any((1, 2)).sum()
        expect(page.locator("#images")).to_have_text(f"{images} of 8")
        expect(page.locator("#readings")).to_have_text(str(read.sum()))
        expect(page.locator("#variants .chip").first).to_have_attribute("data-token", re.compile(r"^(1|11)$"))
        by_layer = table(page, "layers")
        for layer in range(5):
            assert by_layer[str(layer)][0] == str(read[:, layer].any(-1).sum())
            assert by_layer[str(layer)][3] == str(read[:, layer].sum())
        probability = np.exp(corpus.logprob[..., 0].astype(np.float64))[read]
        bins = table(page, "probabilities")
        for bin, counts in enumerate(bins.values()):
            assert counts[0] == str(np.count_nonzero(np.floor(probability * 20) == bin))
        cells = table(page, "map")
        assert [int(cell[0]) for cell in cells.values()] == read.sum((0, 1)).tolist()
        assert page.locator("#map [data-cell]").count() == 12
        labels = table(page, "truth")
        own = read.any((1, 2))
        assert labels["dog"][0] == str(sum(own[i] for i in range(8) if i % 2))
        assert labels["<b>cat</b>"][0] == str(sum(own[i] for i in range(8) if not i % 2))
        for panel in ("precursors", "neighbours", "together"):
            assert page.locator(f"#{panel} .headline").inner_text()
        # What was asked leads to the corpus' page.
        page.locator("#layers details.asked summary").click()
        link = page.locator("#layers details.asked a")
        assert link.get_attribute("href") == "/one/?q=emergence%280%29"
        expect(page.locator("#layers .copies button")).to_have_count(4)


def test_examples_and_state(corpus: Served, chromium: Browser) -> None:
    with watched(chromium, f"{corpus.url}/one/tokens/0?show=top&layer=2", device_scale_factor=1) as page:
        loaded(page)
        probability = np.where(corpus.read(0), np.exp(corpus.logprob[..., 0].astype(np.float64)), 0)[:, 2]
        best = sorted(np.flatnonzero(probability.any(-1)), key=lambda i: (-probability[i].max(), i))
        shown = page.locator("#examples .example")
        assert [int(one.get_attribute("data-image") or "") for one in shown.all()] == best
        first = shown.first
        patches = np.flatnonzero(probability[best[0]])
        pins = sorted(patches, key=lambda patch: (-probability[best[0]][patch], patch))
        address = first.get_attribute("href")
        assert address == f"/one/images/{best[0]}?layer=2&pins={','.join(map(str, pins))}"
        # The outline is around the patches' union.
        boxes = [patch_box(IDENTITY, (112, 112), (3, 4), int(patch)) for patch in patches]
        drawn = first.locator("path.edge").evaluate(
            "e => { const b = e.getBBox(); return [b.x, b.y, b.width, b.height] }"
        )
        x0, y0 = (min(box[side] for box in boxes) for side in (0, 1))
        x1, y1 = (max(box[side] for box in boxes) for side in (2, 3))
        assert drawn == pytest.approx([x0, y0, x1 - x0, y1 - y0], abs=0.01)
        # A bar of the histogram filters; the address says so; Back returns.
        bars = page.locator("#probabilities [data-bar]")
        filled = [i for i, bar in enumerate(bars.all()) if bar.locator(".bar").count()]
        bars.nth(filled[0]).click()
        low, high = filled[0] / 20, (filled[0] + 1) / 20
        expect(page.locator("#low")).to_have_value(f"{low:g}")
        expect(page).to_have_url(re.compile(f"high={high:g}"))
        inside = np.flatnonzero(((probability >= low) & (probability < high)).any(-1))
        expect(shown).to_have_count(len(inside))
        assert {int(one.get_attribute("data-image") or "") for one in shown.all()} == {*inside.tolist()}
        page.reload()
        loaded(page)
        expect(shown).to_have_count(len(inside))
        page.go_back()
        expect(page.locator("#high")).to_have_value("1")
        expect(shown).to_have_count(len(best))


def test_dragging_chooses_a_band(corpus: Served, chromium: Browser) -> None:
    with watched(chromium, f"{corpus.url}/one/tokens/0") as page:
        loaded(page)
        page.locator("#probabilities").scroll_into_view_if_needed()
        start, end = (page.locator(f"#probabilities [data-bar='{bar}'] .slot").bounding_box() for bar in (2, 6))
        assert start
        assert end
        page.mouse.move(start["x"] + start["width"] / 2, start["y"] + start["height"] / 2)
        page.mouse.down()
        page.mouse.move(end["x"] + end["width"] / 2, end["y"] + end["height"] / 2, steps=6)
        page.mouse.up()
        expect(page.locator("#low")).to_have_value("0.1")
        expect(page.locator("#high")).to_have_value("0.35")
        assert page.locator("#probabilities .outside").count() == 15


@pytest.mark.parametrize(
    ("address", "control", "value"),
    [
        ("rank=4", "rank", "4"),
        ("layer=3", "layer", "3"),
        ("low=0.2", "low", "0.2"),
        ("high=0.7", "high", "0.7"),
        ("show=random", "show", "random"),
        ("seed=5", "seed", "5"),
    ],
)
def test_each_control_is_in_the_address(
    corpus: Served, chromium: Browser, address: str, control: str, value: str
) -> None:
    plain = f"{corpus.url}/one/tokens/1"
    with watched(chromium, plain, java_script_enabled=True) as page:
        element = page.locator(f"#{control}")
        if element.evaluate("e => e.tagName") == "SELECT":
            element.select_option(value)
        else:
            element.fill(value)
        expect(page).to_have_url(f"{plain}?{address}")
        page.reload()
        expect(element).to_have_value(value)


@pytest.mark.parametrize("path", ["tokens/0", "layers", "compare?a=images()&b=first_layer('dog')"])
def test_tables_have_room(corpus: Served, chromium: Browser, path: str) -> None:
    """On a window of usual size no column is out of sight."""
    with watched(chromium, f"{corpus.url}/one/{path}", viewport={"width": 1400, "height": 900}) as page:
        loaded(page)
        cut = page.locator(".panel .scroll").evaluate_all(
            "all => all.filter((one) => one.scrollWidth > one.clientWidth).map((one) => one.ariaLabel)"
        )
        assert cut == []
        # Nor is a chart so small that its text, which is drawn at 11 pixels, cannot be read.
        scales = page.locator(".chart:not(.grid)").evaluate_all("all => all.map((one) => one.getScreenCTM().a)")
        assert min(scales, default=1) > 0.8
        assert page.locator(".panel .scroll table").count() > 1


@pytest.mark.parametrize("path", ["tokens/0", "layers", "tokens", "compare", "images/0", "?q=images()"])
def test_controls_are_within_a_phone(corpus: Served, chromium: Browser, path: str) -> None:
    """Nor are they cut off by its edge."""
    with watched(chromium, f"{corpus.url}/one/{path}", viewport={"width": 360, "height": 800}) as page:
        page.wait_for_load_state("networkidle")
        controls = page.locator("input:visible, select:visible, textarea:visible, button:visible").all()
        edges = [box["x"] + box["width"] for one in controls if (box := one.bounding_box())]
        assert len(edges) > 1
        assert max(edges) <= page.locator("main").evaluate("main => main.getBoundingClientRect().right")


def test_a_panel_fills_the_window(corpus: Served, chromium: Browser) -> None:
    plain = f"{corpus.url}/one/tokens/1"
    with watched(chromium, f"{plain}?rank=4") as page:
        page.locator("[data-whole=map]").click()
        expect(page).to_have_url(f"{plain}?rank=4&whole=map")
        page.reload()
        assert page.locator("#map").evaluate("e => e.getBoundingClientRect().height === innerHeight")
        page.keyboard.press("Escape")
        expect(page).to_have_url(f"{plain}?rank=4")


def test_other_tokens(corpus: Served, chromium: Browser) -> None:
    with watched(chromium, f"{corpus.url}/one/tokens?q=dog") as page:
        found = [int(chip.get_attribute("data-token") or "") for chip in page.locator("tbody .chip").all()]
        assert sorted(found) == [0, 1, 11]
        page.locator("tbody .chip[data-token='11']").click()
        expect(page).to_have_url(f"{corpus.url}/one/tokens/11")
        images = {id: (corpus.read(id).any((1, 2)).sum(), corpus.read(id).sum()) for id in range(16)}
        order = sorted(range(16), key=lambda id: (-images[id][0], -images[id][1], id))

        def press(name: str) -> None:
            page.locator("#copies button").first.wait_for()  # the page's script has run
            page.keyboard.press(name)

        press("n")
        expect(page).to_have_url(f"{corpus.url}/one/tokens/{order[order.index(11) + 1]}")
        press("p")
        expect(page).to_have_url(f"{corpus.url}/one/tokens/11")
        press("r")
        expect(page).to_have_url(re.compile(r"/one/tokens/\d+$"))


def test_without_script(corpus: Served, chromium: Browser) -> None:
    with watched(chromium, f"{corpus.url}/one/tokens/0?rank=3", java_script_enabled=False) as page:
        page.locator("#layers .waiting a").click()
        assert table(page, "main")["4"][0] == str(corpus.read(0, rank=3)[:, 4].any(-1).sum())


def test_tokens_without_text_and_corpora_without_patches(corpus: Served, chromium: Browser) -> None:
    with watched(chromium, f"{corpus.url}/one/tokens/15") as page:
        loaded(page)
        assert "beyond the tokenizer" in page.locator(".facts").inner_text()
        assert page.locator("h1 .chip").inner_text() == "15"
    with watched(chromium, f"{corpus.url}/text/tokens/0") as page:
        assert "no readings at image patches" in page.locator("main").inner_text()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_accessible_on_a_phone(corpus: Served, chromium: Browser, theme: str) -> None:
    options = {"color_scheme": theme, "viewport": {"width": 390, "height": 800}}
    with watched(chromium, f"{corpus.url}/one/tokens/0", **options) as page:
        loaded(page)
        accessible(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    with watched(chromium, f"{corpus.url}/one/tokens?q=", **options) as page:
        accessible(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_finger_drags_over_bars(corpus: Served, chromium: Browser) -> None:
    with watched(chromium, f"{corpus.url}/one/tokens/0", has_touch=True) as page:
        bars = page.locator("#probabilities [data-bar] .slot")
        bars.first.wait_for()
        bars.first.scroll_into_view_if_needed()
        boxes = [bars.nth(at).bounding_box() for at in (1, 3, 5)]
        places = [{"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2} for box in boxes if box]
        finger = page.context.new_cdp_session(page)
        for kind, place in zip(["touchStart", "touchMove", "touchMove"], places, strict=True):
            finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [place]})
            page.wait_for_timeout(50)
        finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        expect(page).to_have_url(re.compile(r"low=0\.05&high=0\.3"))


def test_all_panels_that_did_not_come_are_asked_again_at_once(corpus: Served, chromium: Browser) -> None:
    with watched(chromium, f"{corpus.url}/one/tokens/0", may_be_cut_off=True) as page:
        loaded(page)
        page.context.set_offline(True)
        page.select_option("#rank", index=1)
        expect(page.locator("#layers [role=alert]")).to_contain_text("The service does not answer.")
        expect(page.locator("#probabilities [role=alert]")).to_contain_text("The service does not answer.")
        page.context.set_offline(False)
        page.click("#layers [role=alert] button")
        expect(page.locator("[data-panel] [role=alert]")).to_have_count(0)
        loaded(page)
        read = corpus.read(0, rank=4)
        assert table(page, "layers")["2"][3] == str(read[:, 2].sum())
