"""The page of an image, in a real browser. Where things are, and what they say, the tests compute from the cache."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

import vlq.service.pictures
from vlq.query.cache.reader import Cache
from vlq.query.client.local import LocalCorpus
from vlq.query.client.one import one_image
from vlq.query.language.parse import parse
from vlq.query.schema import Run, Transform
from vlq.service.app import create_app
from vlq.service.settings import Settings

from .. import synthetic
from ..doors import running
from ..synthetic import make_cache, make_run, random_readings, vocabulary_table
from .browser import accessible, watched

Box = tuple[float, float, float, float]


@dataclass
class Shown:
    """A corpus whose pages are looked at. Of each patch what it shows is as its processor's arithmetic has it."""

    url: str
    run: Run
    arrays: dict[str, np.ndarray]
    size: tuple[int, int]  # of its images, in pixels
    transform: Transform
    folder: Path

    def page(self, number: int = 0, state: str = "") -> str:
        return f"{self.url}/images/{number}{state and '?' + state}"

    @property
    def grid(self) -> tuple[int, int]:
        assert self.run.grid is not None
        return self.run.grid

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]

    def box(self, patch: int) -> Box:
        """x0, y0, x1, y1 in shares of the picture: the patch's part of the model's input, led back to the picture."""
        rows, columns = self.grid
        row, column = divmod(patch, columns)
        t = self.transform
        x = [(t.width * edge / columns - t.offset_x) / t.scale_x / self.size[0] for edge in (column, column + 1)]
        y = [(t.height * edge / rows - t.offset_y) / t.scale_y / self.size[1] for edge in (row, row + 1)]
        (x0, x1), (y0, y1) = np.clip(x, 0, 1), np.clip(y, 0, 1)
        return float(x0), float(y0), float(x1), float(y1)

    def is_padding(self, patch: int) -> bool:
        x0, y0, x1, y1 = self.box(patch)
        return x1 - x0 <= 0 or y1 - y0 <= 0

    def top1(self, number: int = 0) -> np.ndarray:
        """(layer, patch) ids."""
        found: np.ndarray = self.arrays["patch/token"][number, :, :, 0]
        return found


SHAPES: dict[str, tuple[dict[str, Any], tuple[int, int], Transform]] = {
    # a wide picture, whose left and right no patch shows
    "cropped": ({"grid": (6, 6), "answer": 3}, (90, 60), Transform(2.0, 2.0, -30.0, 0.0, 120, 120)),
    # a smaller picture in a wide input: two columns and a row of patches show padding alone
    "padded": ({"grid": (5, 7)}, (80, 60), Transform(0.8, 0.8, 18.5, 0.0, 112, 80)),
    "thinned": ({"grid": (4, 6), "read_layers": (0, 2, 4)}, (60, 40), Transform(1.0, 1.0, 0.0, 0.0, 60, 40)),
    "wide": ({"grid": (1, 40)}, (1600, 20), Transform(1.0, 1.0, 0.0, 0.0, 1600, 20)),
    "tall": ({"grid": (40, 1)}, (20, 1600), Transform(1.0, 1.0, 0.0, 0.0, 20, 1600)),
    "texts": ({"grid": (2, 3), "at": ("prompt",)}, (60, 40), Transform(1.0, 1.0, 0.0, 0.0, 60, 40)),
}

PIECES = vocabulary_table(make_run().vocabulary_size)["piece"].to_pylist()


def named(id: int) -> str:
    """What the page shows of a token."""
    return PIECES[id] if PIECES[id] is not None else str(id)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Shown]]:
    folder, made, at = tmp_path_factory.mktemp("shown"), {}, {}
    patch = pytest.MonkeyPatch()
    patch.setattr(synthetic, "random_readings", steeper)
    for name, (changes, size, transform) in SHAPES.items():
        run = make_run(
            **{"at": ("patch", "prompt", "answer") if "answer" in changes else ("patch", "prompt"), **changes}
        )
        run = make_run(**{**changes, "at": changes.get("at", run.at), "k": 8})
        names = [f"{name} '{i}' <b>.png" for i in range(3)]
        made[name] = make_cache(
            folder / name,
            run,
            images=3,
            failed=[1],
            seed=3,
            names=names,
            transform=transform,
            pixels=size,
            columns={"caption": ["<i>a dog", None, None], "sizes": [[1, 2], None, None]},
        )
        at[name] = str(folder / name)
    patch.setattr(vlq.service.pictures, "pixels", lambda uri, sha256, size: drawn(size))
    with running(create_app(Settings(at))) as url:
        yield {
            name: Shown(f"{url}/{name}", made[name][1], made[name][2], size, transform, folder / name)
            for name, (_, size, transform) in SHAPES.items()
        }
    patch.undo()
    vlq.service.pictures._encoded.cache_clear()


def steeper(*arguments: Any) -> dict[str, np.ndarray]:
    """Readings of which every second patch is sure: what comes behind its first token has next to no probability."""
    arrays = random_readings(*arguments)
    if "patch/logprob" in arrays:
        arrays["patch/logprob"][:, :, 1::2] -= np.arange(arrays["patch/logprob"].shape[-1], dtype=np.float32)
    return arrays


def drawn(size: tuple[int, int]) -> np.ndarray:
    """A picture for images that are in no file."""
    return np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)


def ready(page: Page, k: int = 5) -> None:
    """The page has as many tokens of each reading as it will ask for."""
    page.wait_for_selector(f"html[data-k='{k}']", state="attached")


def pixels_of(page: Page) -> np.ndarray:
    """(y, x, 3) of what is in the window, in device pixels."""
    return np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(int)


def on_screen(page: Page, box: Box) -> Box:
    """Where shares of the picture are in the window."""
    stage = page.locator("#picture").bounding_box()
    assert stage is not None
    x, y, width, height = stage["x"], stage["y"], stage["width"], stage["height"]
    return x + box[0] * width, y + box[1] * height, x + box[2] * width, y + box[3] * height


def middle(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def changed(before: np.ndarray, after: np.ndarray) -> tuple[int, int, int, int]:
    """The rectangle around all device pixels that are another colour than before."""
    ys, xs = np.nonzero((before != after).any(-1))
    return xs.min(), ys.min(), xs.max() + 1, ys.max() + 1


def told(page: Page) -> list[tuple[str, float]]:
    """The tooltip's tokens and probabilities."""
    page.locator(".tip").wait_for()
    lines = page.locator(".tip .line:visible")
    return [(line.split("\n")[0], float(line.split("\n")[-1])) for line in lines.all_inner_texts()]


def check_told(page: Page, shown: Shown, number: int, layer: int, patch: int) -> None:
    found = told(page)
    tokens = shown.arrays["patch/token"][number, layer, patch, :5]
    assert [token for token, _ in found] == [named(id) for id in tokens]
    expected = np.exp(shown.arrays["patch/logprob"][number, layer, patch, :5])
    assert [p for _, p in found] == pytest.approx(expected.tolist(), abs=1e-3)


def state_of(page: Page) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


def has_state(page: Page, **values: str | None) -> None:
    """The address says so, or does so soon; of None that it says nothing of it."""
    until = time.monotonic() + 5
    while any(state_of(page).get(name) != value for name, value in values.items()) and time.monotonic() < until:
        page.wait_for_timeout(30)
    assert {name: state_of(page).get(name) for name in values} == values


def test_who_comes_back_to_a_page_that_was_left_too_early_sees_it(shown: dict[str, Shown], chromium: Browser) -> None:
    """Safari shows it as it was left, and has cancelled what it waited for."""
    one = shown["cropped"]
    with watched(chromium, one.page(), may_be_cut_off=True) as page:
        ready(page)
        page.route("**/lens?*", lambda route: route.abort())
        page.reload()
        said = page.locator("main > [role=alert]")
        expect(said).to_contain_text("The service does not answer. Is it running?")
        expect(said.get_by_role("button", name="Try again")).to_be_visible()
        page.unroute("**/lens?*")
        page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
        expect(said).to_have_count(0)
        ready(page)


def test_what_does_not_come_is_said_and_can_be_asked_again(shown: dict[str, Shown], chromium: Browser) -> None:
    one = shown["cropped"]
    with watched(chromium, one.page(), may_be_cut_off=True) as page:
        ready(page)
        page.context.set_offline(True)
        token = int(one.arrays["patch/token"][0, -1, 0, 7])  # the eighth: of that the page knows nothing yet
        page.fill("#word", str(token))
        expect(page.locator("#trouble [role=alert]")).to_contain_text("The service does not answer. Is it running?")
        expect(page.locator("#trouble")).to_contain_text("only the 5 best tokens are here")
        page.context.set_offline(False)
        page.click("#trouble button")
        ready(page, 8)
        expect(page.locator("#trouble")).to_be_empty()
        expect(page.locator("#word-said")).to_contain_text(f"({token})")


def test_fingers_are_told_what_they_touch(shown: dict[str, Shown], chromium: Browser) -> None:
    one = shown["cropped"]
    with watched(chromium, one.page(0, "layer=1"), has_touch=True, viewport={"width": 390, "height": 844}) as page:
        ready(page)
        page.locator(".scroller").scroll_into_view_if_needed()
        corner = page.locator(".scroller").bounding_box()
        assert corner is not None
        page.touchscreen.tap(corner["x"] + 98 + 1.5 * 66, corner["y"] + 22 + 3.5 * 22)  # layer 1 of the fourth row
        has_state(page, pins="3", layer="1")
        check_told(page, one, 0, 1, 3)


def test_the_layer_that_is_shown_is_in_view(shown: dict[str, Shown], chromium: Browser) -> None:
    one = shown["cropped"]
    seen = "() => [document.querySelector('.scroller').scrollLeft, document.querySelector('.scroller').clientWidth]"
    with watched(chromium, one.page(), viewport={"width": 390, "height": 844}) as page:
        ready(page)
        for layer in (*range(one.run.layers)[::-1], 2, one.run.layers - 1):
            page.locator(f".slot[data-layer='{layer}']").click()
            has_state(page, layer=None if layer == one.run.layers - 1 else str(layer))
            left, width = page.evaluate(seen)
            assert left <= layer * 66 <= (layer + 1) * 66 <= left + width - 98
        page.goto(one.page())
        ready(page)
        left, width = page.evaluate(seen)
        assert left + width - 98 == one.run.layers * 66


def test_keys_count_over_several_layers(shown: dict[str, Shown], chromium: Browser) -> None:
    one = shown["cropped"]
    last = one.run.layers - 1
    with watched(chromium, one.page()) as page:
        ready(page)
        page.locator(".slot[aria-pressed=true]").focus()
        for keys, layer, counted in (
            ("Shift+ArrowLeft", last - 1, (last - 1, last)),
            ("Shift+ArrowLeft", last - 2, (last - 2, last)),
            ("Shift+ArrowRight", last - 1, (last - 1, last)),
            ("ArrowLeft", last - 2, None),
            ("Shift+ArrowRight", last - 1, (last - 2, last - 1)),
            ("Shift+ArrowLeft", last - 2, None),
        ):
            page.keyboard.press(keys)
            has_state(page, layer=str(layer), range=counted and f"{counted[0]}-{counted[1]}")
            first, end = counted or (layer, layer)
            tokens = Counter(one.top1()[first : end + 1].reshape(-1).tolist())
            expect(page.locator("#legend-title")).to_contain_text(f"{len(tokens)} token")
            expect(page.locator("#legend .counts button").first).to_have_text(str(max(tokens.values())))


def test_brackets_that_need_another_key(shown: dict[str, Shown], chromium: Browser) -> None:
    """On many keyboards they are on AltGr, which Windows tells as Ctrl and Alt, or on Option."""
    one = shown["cropped"]
    last = one.run.layers - 1
    with watched(chromium, one.page()) as page:
        ready(page)
        event = "new KeyboardEvent('keydown', {key: '[', bubbles: true, ...held})"
        press = f"(held) => document.body.dispatchEvent({event})"
        page.evaluate(press, {"ctrlKey": True, "altKey": True})
        has_state(page, layer=str(last - 1))
        page.evaluate(press, {"altKey": True})
        has_state(page, layer=str(last - 2))
        for held in ({"metaKey": True}, {"ctrlKey": True}):  # the browser's: back, and escape
            page.evaluate(press, held)
        page.wait_for_timeout(200)
        has_state(page, layer=str(last - 2))


def test_back_leads_to_what_was_shown_last(shown: dict[str, Shown], chromium: Browser) -> None:
    """Also where that was chosen a moment before."""
    one = shown["cropped"]
    with watched(chromium, one.page()) as page:
        ready(page)
        page.evaluate("""() => {
            document.body.dispatchEvent(new KeyboardEvent("keydown", {key: "[", bubbles: true}));
            const colour = document.getElementById("colour");
            colour.value = "entropy";
            colour.dispatchEvent(new Event("change"));
        }""")
        has_state(page, colour="entropy", layer=str(one.run.layers - 2))
        page.go_back()
        has_state(page, colour=None, layer=str(one.run.layers - 2))


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("name", ["cropped", "padded"])
def test_what_is_pointed_at(shown: dict[str, Shown], chromium: Browser, name: str, scale: int) -> None:
    one = shown[name]
    patches = [patch for patch in range(one.patches) if not one.is_padding(patch)]
    with watched(chromium, one.page(), device_scale_factor=scale) as page:
        ready(page)
        for size, patch in zip(
            [(1400, 900), (800, 900), (390, 800)], (patches[0], patches[len(patches) // 2], patches[-1]), strict=True
        ):
            page.set_viewport_size({"width": size[0], "height": size[1]})
            page.locator("#picture").scroll_into_view_if_needed()
            page.evaluate("document.getElementById('stage').scrollIntoView({block: 'center'})")
            page.mouse.move(1, 1)
            page.keyboard.press("Escape")
            page.wait_for_timeout(100)
            before, scrolled = pixels_of(page), page.evaluate("document.querySelector('.scroller').scrollTop")
            box = on_screen(page, one.box(patch))
            page.mouse.move(*middle(box))
            check_told(page, one, 0, one.run.layers - 1, patch)
            page.evaluate("document.getElementById('tip').style.visibility = 'hidden'")
            page.evaluate("document.getElementById('readings').style.visibility = 'hidden'")
            hidden = pixels_of(page)
            page.evaluate("for (const id of ['tip', 'readings']) document.getElementById(id).style.visibility = ''")
            stage = [round(edge * scale) for edge in on_screen(page, (0, 0, 1, 1))]
            part = np.s_[max(0, stage[1] - 4) : stage[3] + 4, max(0, stage[0] - 4) : stage[2] + 4]
            found = np.array(changed(before[part], hidden[part])) + np.array(
                [max(0, stage[0] - 4), max(0, stage[1] - 4)] * 2
            )
            assert np.abs(found - np.array(box) * scale).max() <= 1, (size, found, np.array(box) * scale)
            # The row is marked where it is; nothing was scrolled for it.
            assert page.evaluate("document.querySelector('.scroller').scrollTop") == scrolled
            assert row_on_screen(page, one, patch) == pytest.approx(mark_on_screen(page), abs=1)
            # A click keeps the patch, and its row comes into view.
            page.mouse.click(*middle(box))
            has_state(page, pins=str(patch))
            scroller = page.locator(".scroller").bounding_box()
            assert scroller is not None
            top, bottom = row_on_screen(page, one, patch)
            assert scroller["y"] + 20 <= top < bottom <= scroller["y"] + scroller["height"] + 1


@pytest.mark.parametrize("name", ["wide", "tall"])
def test_a_picture_of_80_to_1_is_scrolled(shown: dict[str, Shown], chromium: Browser, name: str) -> None:
    one = shown[name]
    with watched(chromium, one.page(), viewport={"width": 1200, "height": 800}) as page:
        ready(page)
        stage, reach = (page.locator(name).bounding_box() for name in ("#stage", "#reach"))
        assert stage is not None
        assert reach is not None
        sides = sorted((stage["width"], stage["height"]))
        assert sides[0] >= 20
        assert sides[1] / sides[0] == pytest.approx(80, rel=0.02)  # as it is, and not stretched
        assert reach["height"] <= 800
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.locator("#stage").focus()
        further, back = ("ArrowRight", "ArrowLeft") if name == "wide" else ("ArrowDown", "ArrowUp")
        for key, times, patch in ((further, 19, 38), (back, 38, 0)):  # the first one is that of the middle
            for _ in range(times):
                page.keyboard.press(key)
            has_state(page, patch=str(patch))
            page.wait_for_timeout(200)
            box = on_screen(page, one.box(patch))  # it came to be seen, and is pointed at there
            reach = page.locator("#reach").bounding_box()
            assert reach is not None
            assert reach["x"] <= box[0]
            assert box[2] <= reach["x"] + reach["width"]
            assert reach["y"] <= box[1]
            assert box[3] <= reach["y"] + reach["height"]
            page.mouse.move(*middle(box))
            check_told(page, one, 0, one.run.layers - 1, patch)
            page.mouse.move(1, 1)


def row_on_screen(page: Page, shown: Shown, index: int) -> tuple[float, float]:
    """Where the table's row of that number is: all have the same height, below a head as high as they are."""
    top, height, scrolled = page.evaluate(
        "(() => { const s = document.querySelector('.scroller');"
        " return [s.getBoundingClientRect().top + s.clientTop, s.scrollHeight, s.scrollTop]; })()"
    )
    texts = len(shown.run.prompt_ids) + page.locator("h2:text-is('Answer') + p .chip").count()
    row = height / (1 + shown.patches + texts)
    return top + (1 + index) * row - scrolled, top + (2 + index) * row - scrolled


def mark_on_screen(page: Page) -> tuple[float, float]:
    box = page.locator(".row-mark").bounding_box()
    assert box is not None
    return box["y"], box["y"] + box["height"]


def cell_on_screen(page: Page, shown: Shown, index: int, layer: int) -> Box:
    """Where a cell of the table is: the label first, then as many columns of one width as there are layers."""
    left, width, scrolled = page.evaluate(
        "(() => { const s = document.querySelector('.scroller'), r = s.getBoundingClientRect();"
        " return [r.left + s.clientLeft, document.querySelector('.space').offsetWidth, s.scrollLeft]; })()"
    )
    label = 98
    cell = (width - label) / shown.run.layers
    top, bottom = row_on_screen(page, shown, index)
    return left + label + layer * cell - scrolled, top, left + label + (layer + 1) * cell - scrolled, bottom


def test_cells_tell_of_their_layer(shown: dict[str, Shown], chromium: Browser) -> None:
    one = shown["cropped"]
    with watched(chromium, one.page(2), viewport={"width": 1400, "height": 900}) as page:
        ready(page)
        for patch, layer in ((7, 1), (3, 3)):
            page.mouse.move(*middle(cell_on_screen(page, one, patch, layer)))
            check_told(page, one, 2, layer, patch)
            outline = page.locator("#stage .outline").bounding_box()
            assert outline is not None
            expected = on_screen(page, one.box(patch))
            found = (outline["x"], outline["y"], outline["x"] + outline["width"], outline["y"] + outline["height"])
            assert found == pytest.approx(expected, abs=1)
        assert state_of(page) == {}
        page.mouse.click(*middle(cell_on_screen(page, one, 3, 3)))
        has_state(page, layer="3", pins="3", patch="3")
        page.mouse.click(*middle(cell_on_screen(page, one, 3, 1)))
        has_state(page, layer="1", pins="3", patch="3")  # the layer was meant
        page.mouse.click(*middle(cell_on_screen(page, one, 3, 1)))
        has_state(page, pins=None)
        page.mouse.click(*middle(cell_on_screen(page, one, 3, 1)))
        has_state(page, layer="1", pins="3")
        ready(page, 8)
        # Rows of the text: the last one of the prompt, behind all patches.
        page.locator(".scroller").evaluate("element => (element.scrollTop = 1e6)")
        last = one.patches + len(one.run.prompt_ids) - 1
        page.mouse.move(*middle(cell_on_screen(page, one, last, 2)))
        assert "last prompt token" in page.locator(".tip").inner_text()
        tokens = one.arrays["prompt/token"][2, 2, len(one.run.prompt_ids) - 1, :5]
        assert [token for token, _ in told(page)] == [named(id) for id in tokens]


def test_several_are_pinned_and_a_rectangle(shown: dict[str, Shown], chromium: Browser) -> None:
    one = shown["cropped"]
    with watched(chromium, one.page()) as page:
        ready(page)
        click = lambda patch, **more: page.locator("#stage").click(position=within(page, one, patch), **more)  # noqa: E731
        click(14)
        click(1)
        has_state(page, pins="14,1")
        click(8, modifiers=["Shift"])
        has_state(page, pins="14,1,2,7,8")
        click(14)
        has_state(page, pins="1,2,7,8")
        page.keyboard.press("Escape")
        has_state(page, pins=None)


def within(page: Page, shown: Shown, patch: int) -> Any:
    """A patch's middle, on the picture."""
    x, y = middle(on_screen(page, shown.box(patch)))
    left, top, _, _ = on_screen(page, (0, 0, 1, 1))
    return {"x": x - left, "y": y - top}


def drag(page: Page, shown: Shown, path: list[tuple[float, float]]) -> None:
    """Along places, in shares of the picture."""
    places = [on_screen(page, (x, y, x, y))[:2] for x, y in path]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=3)
    page.mouse.up()


def counts_of(page: Page, list: str) -> dict[str, int]:
    # At once: entries are made anew while the page goes on.
    texts = page.locator(f"{list} .counts li").evaluate_all(
        "all => all.map(one => [...one.children].map(part => part.innerText))"
    )
    return {" ".join(token.split()): int(count) for token, count in texts}


def has_counts(page: Page, list: str, expected: Mapping[str, int]) -> None:
    """So many of each token are counted there, or soon."""
    until = time.monotonic() + 5
    while counts_of(page, list) != expected and time.monotonic() < until:
        page.wait_for_timeout(30)
    assert counts_of(page, list) == expected


@pytest.mark.parametrize("tool", ["pin", "box", "lasso"])
def test_drags_over_the_picture_select_no_text(shown: dict[str, Shown], chromium: Browser, tool: str) -> None:
    one = shown["cropped"]
    with watched(chromium, one.page(0, f"layer=2&tool={tool}")) as page:
        ready(page)
        drag(page, one, [(0.1, 0.1), (0.5, 0.5), (0.5, 1.3)])
        assert page.evaluate("String(getSelection())") == ""
        # As in Safari, where a selection begins there, too, and what is selected is taken along.
        for kind in ("selectstart", "dragstart"):
            begins = "(stage, kind) => stage.dispatchEvent(new Event(kind, {bubbles: true, cancelable: true}))"
            assert not page.locator("#stage").evaluate(begins, kind)


@pytest.mark.parametrize("tool", ["box", "lasso", "shift"])
def test_what_is_drawn_around_is_counted_and_asked(shown: dict[str, Shown], chromium: Browser, tool: str) -> None:
    one = shown["padded"]
    with watched(chromium, one.page(0, "layer=2")) as page:
        ready(page)
        if tool == "lasso":
            page.get_by_role("button", name="Lasso").click()
            corner = [(0.05, 0.05), (0.95, 0.05), (0.05, 0.95)]
            drag(page, one, corner)
            inside = lambda x, y: x > 0.05 and y > 0.05 and x + y < 1  # noqa: E731
        else:
            if tool == "box":
                page.get_by_role("button", name="Box").click()
            else:
                page.keyboard.down("Shift")
            drag(page, one, [(0.1, 0.2), (0.8, 0.7)])
            page.keyboard.up("Shift")
            inside = lambda x, y: 0.1 < x < 0.8 and 0.2 < y < 0.7  # noqa: E731
        chosen = [p for p in range(one.patches) if not one.is_padding(p) and inside(*middle(one.box(p)))]
        assert len(chosen) > 2
        expected = Counter(named(id) for id in one.top1()[2, chosen])
        has_counts(page, "#chosen", expected)
        query = parse_qs(urlsplit(page.locator("#ask").get_attribute("href") or "").query)["q"][0]
        assert str(parse(query)) == query  # as the language writes it
        corpus = LocalCorpus(Cache.open(str(one.folder)))
        rows = corpus.query(query).rows
        most = max(Counter(one.top1()[2, chosen].tolist()).items(), key=lambda item: (item[1], -item[0]))[0]
        assert {(row["layer"], row["patch"]) for row in rows} == {
            (layer, patch) for layer in range(one.run.layers) for patch in chosen if one.top1()[layer, patch] == most
        }
        assert {row["image"] for row in rows} == {"padded '0' <b>.png"}
        page.reload()
        ready(page)
        has_counts(page, "#chosen", expected)
        page.get_by_role("button", name="Clear").click()
        has_state(page, area=None)
        page.go_back()
        has_counts(page, "#chosen", expected)


CONTROLS = {
    "colour": ("select", "#colour", "entropy"),
    "order": ("select", "#rows", "similar"),
    "threshold": ("range", "#threshold", "0.25"),
    "opacity": ("range", "#opacity", "0.9"),
    "token": ("type", "#word", "cat"),
    "tool": ("click", "[data-tool=lasso]", "lasso"),
    "layer": ("slot", "[data-layer='1']", "1"),
    "range": ("drag", "[data-layer='1'] [data-layer='3']", "1-3"),
    "patch": ("key", "ArrowDown", "21"),  # arrows begin in the middle
    "pins": ("key", "Enter", "21"),
    "whole": ("click", "[data-whole=readings]", "readings"),
}
"""Each field of the state: how it is changed, where, and to what."""


def change(page: Page, how: str, where: str, value: str) -> None:
    if how == "select":
        page.select_option(where, value)
    elif how == "range":
        page.locator(where).fill(value)
    elif how == "type":
        page.fill(where, value)
    elif how == "click" or how == "slot":
        page.locator(where).click()
    elif how == "drag":
        first, last = where.split()
        page.locator(first).hover()
        page.mouse.down()
        page.locator(last).hover()
        page.mouse.up()
    elif how == "key":
        page.locator("#stage").focus()
        page.keyboard.press(where)


def controls_of(page: Page) -> Any:
    """What the controls say."""
    return page.evaluate(
        """() => ({
            values: ["colour", "rows", "threshold", "opacity", "word"].map((id) => document.getElementById(id).value),
            pressed: [...document.querySelectorAll("[aria-pressed=true]")].map((one) => one.textContent),
            counted: document.querySelectorAll(".slot.counted").length,
            active: document.querySelector(".spoken [role=rowheader]")?.textContent,
            chosen: document.querySelector("#chosen").innerText,
            curves: document.querySelectorAll("#curves .curve").length,
        })"""
    )


def test_every_control_is_in_the_address(shown: dict[str, Shown], chromium: Browser) -> None:
    one = shown["cropped"]
    with watched(chromium, one.page()) as page:
        ready(page)
        usual = controls_of(page)
        assert state_of(page) == {}
        for field, (how, where, value) in CONTROLS.items():
            change(page, how, where, value)
            has_state(page, **{field: value})
        has_state(page, layer="3", range="1-3", tool="lasso", pins="21")
        ready(page, 8)
        now = controls_of(page)
        assert all(now[name] != usual[name] for name in ("values", "pressed", "counted", "active", "curves"))
        page.reload()
        ready(page, 8)
        assert controls_of(page) == now


def test_a_link_restores_all_of_it(shown: dict[str, Shown], chromium: Browser) -> None:
    one = shown["cropped"]
    state = "layer=2&range=1-3&patch=8&pins=8,20&texts=1&colour=heat&token=dog&threshold=0.1&opacity=0.3&order=first"
    state += "&tool=box&area=1-3,9"
    with watched(chromium, one.page(2, state)) as page:
        ready(page, 8)
        page.keyboard.press("]")
        has_state(page, layer="3", range=None)
        page.keyboard.press("[")
        has_state(page, layer="2", pins="8,20", texts="1", area="1-3,9")
        assert page.locator("#curves .curve").count() == 3
        assert controls_of(page)["values"] == ["heat", "first", "0.1", "0.3", "dog"]
        href = page.locator("#previous").get_attribute("href")
        assert urlsplit(href or "").path == "/cropped/images/0"  # the one between has no readings
        kept = {name: value for name, (value,) in parse_qs(urlsplit(href or "").query).items()}
        assert kept == {
            "layer": "2",
            "colour": "heat",
            "token": "dog",
            "threshold": "0.1",
            "opacity": "0.3",
            "order": "first",
        }


def test_keys(shown: dict[str, Shown], chromium: Browser) -> None:
    one = shown["cropped"]
    with watched(chromium, one.page(), viewport={"width": 1400, "height": 900}) as page:
        ready(page)
        page.locator("#stage").focus()
        page.keyboard.press("ArrowRight")
        has_state(page, patch="21")
        for key, patch in (("ArrowRight", "22"), ("ArrowDown", "28"), ("ArrowLeft", "27"), ("ArrowUp", "21")):
            page.keyboard.press(key)
            has_state(page, patch=patch)
        check_told(page, one, 0, 4, 21)
        assert named(one.top1()[4, 21]) in page.locator("#said").inner_text()
        page.keyboard.press("Enter")
        page.keyboard.press("[")
        page.keyboard.press("[")
        has_state(page, pins="21", patch="21", layer="2")
        ready(page, 8)
        check_told(page, one, 0, 2, 21)
        page.locator(".scroller").focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowRight")
        has_state(page, patch="22", layer="3")
        # What is heard of the active row and cell.
        active = page.locator(f"#{page.locator('.scroller').get_attribute('aria-activedescendant')}")
        assert (
            active.text_content()
            == f"layer 3: {named(one.top1()[3, 22])}, {np.exp(one.arrays['patch/logprob'][0, 3, 22, 0]):.3f}"
        )
        page.keyboard.press("End")
        assert "answer" in (page.locator(".spoken [role=rowheader]").text_content() or "")
        page.keyboard.press("Escape")
        has_state(page, pins=None, patch=None)
        page.locator(".tip").wait_for(state="hidden")
        page.keyboard.press("?")
        assert "Esc" in page.get_by_role("dialog").inner_text()


def rows_in_order(page: Page, count: int) -> list[int]:
    """The patches, as the arrows come by them in the table."""
    page.locator(".scroller").focus()
    page.keyboard.press("Home")
    found = []
    for _ in range(count):
        name = page.locator(".spoken [role=rowheader]").text_content() or ""
        found.append(int(name.split()[1].rstrip(",")))
        page.keyboard.press("ArrowDown")
    return found


def test_rows_of_texts_are_called_by_their_tokens(shown: dict[str, Shown], chromium: Browser) -> None:
    drawn = """window.drawn = new Set();
        const fill = CanvasRenderingContext2D.prototype.fillText;
        CanvasRenderingContext2D.prototype.fillText = function (text, ...more) {
          drawn.add(text);
          return fill.call(this, text, ...more);
        };"""
    run = shown["cropped"].run
    with watched(chromium, shown["cropped"].page()) as page:
        page.add_init_script(drawn)
        page.reload()
        page.locator("html[data-k]").wait_for(state="attached")
        page.evaluate("drawn.clear()")
        page.locator(".scroller").evaluate("scroller => scroller.scrollTo(0, 1e6)")
        answer = page.evaluate("fetch('/v1/images/0?corpus=cropped').then((found) => found.json())")["answer_tokens"]
        names = [f"p{i}" for i in range(len(run.prompt_ids) - 1)] + ["last"] + [f"a{i}" for i in range(len(answer))]
        tokens = [named(id) for id in (*run.prompt_ids, *(token["id"] for token in answer))]
        assert len(answer) > 0
        page.wait_for_function("(names) => names.every((name) => drawn.has(name))", arg=[*names, *tokens])


def test_rows_by_likeness_and_by_first_layer(shown: dict[str, Shown], chromium: Browser) -> None:
    one = shown["padded"]
    top1 = one.top1()  # (layer, patch)
    chain, left = [0], list(range(1, one.patches))
    while left:
        left.sort(key=lambda patch: (-int((top1[:, patch] == top1[:, chain[-1]]).sum()), patch))
        chain.append(left.pop(0))
    dogs = {PIECES.index("▁dog"), PIECES.index("▁Dog")}
    first = [next((layer for layer in range(5) if top1[layer, patch] in dogs), 99) for patch in range(one.patches)]
    assert len({*first}) > 3
    with watched(chromium, one.page(0, "order=similar")) as page:
        ready(page)
        assert rows_in_order(page, one.patches) == chain
        page.goto(one.page(0, "order=first&token=dog"))
        ready(page, 8)
        assert rows_in_order(page, one.patches) == sorted(range(one.patches), key=lambda patch: (first[patch], patch))


def test_the_legend_counts_and_outlines(shown: dict[str, Shown], chromium: Browser) -> None:
    one = shown["cropped"]
    with watched(chromium, one.page(0, "layer=3"), viewport={"width": 1400, "height": 1500}) as page:
        ready(page)
        expected = Counter(named(id) for id in one.top1()[3])
        has_counts(page, "#legend", expected)
        entry = page.locator("#legend .counts li").first
        id = max(Counter(one.top1()[3].tolist()).items(), key=lambda item: (item[1], -item[0]))[0]
        assert (entry.locator("a").get_attribute("href") or "").endswith(f"/cropped/tokens/{id}")
        before = pixels_of(page)
        entry.hover()
        after = pixels_of(page)
        page.mouse.move(1, 1)
        entry.locator("a").focus()
        focused = pixels_of(page)
        for patch in range(one.patches):
            x0, y0, x1, y1 = (round(edge) for edge in on_screen(page, one.box(patch)))
            inner = np.s_[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2]
            is_of_it = one.top1()[3, patch] == id and not one.is_padding(patch)
            assert (before[inner] != after[inner]).any() == is_of_it
            assert (before[inner] != focused[inner]).any() == is_of_it
        # Over several layers; a click on a number colours by the token.
        page.mouse.move(1, 1)
        change(page, *CONTROLS["range"])
        has_counts(page, "#legend", Counter(named(id) for id in one.top1()[1:4].ravel()))
        page.locator("#legend .counts li button").first.click()
        has_state(page, colour="heat", range="1-3")


@pytest.mark.parametrize(("width", "height"), [(1400, 900), (390, 844)])
def test_picture_legend_and_table_are_seen_together(
    shown: dict[str, Shown], chromium: Browser, width: int, height: int
) -> None:
    """In one window, on a phone once one has scrolled to the picture; and with however many tokens, nothing moves."""
    one = shown["cropped"]
    with watched(chromium, one.page(0, "layer=3"), viewport={"width": width, "height": height}) as page:
        ready(page)
        parts = ("#stage", "#layers", "#legend", ".scroller")
        if width < 1000:
            page.locator("#stage").evaluate("stage => stage.scrollIntoView()")

        def places() -> list[dict[str, float]]:
            boxes = [page.locator(part).bounding_box() for part in parts]
            return [{**box} for box in boxes if box]

        before = places()
        for box in before[:3]:
            assert box["y"] >= -1  # windows scroll by whole pixels
            assert box["y"] + box["height"] <= height
        table = before[3]
        assert min(table["y"] + table["height"], height) - table["y"] >= 4 * 22  # its head, and some rows
        entry = page.locator("#legend .counts li").first
        entry.hover()
        expect(page.locator("#legend .counts li").first).to_be_in_viewport()
        assert places() == before
        # Over all layers there are many tokens, which are scrolled by themselves.
        page.mouse.move(1, 1)
        page.evaluate("history.replaceState(null, '', `${location.pathname}?layer=3&range=0-4&area=7-16`)")
        page.reload()
        ready(page)
        if width < 1000:
            page.locator("#stage").evaluate("stage => stage.scrollIntoView()")
        expect(page.locator("#legend-title")).to_contain_text("at layers 0 to 4")
        assert len({*one.top1().ravel().tolist()}) > len({*one.top1()[3].tolist()})
        assert places() == before
        chosen = page.locator("#chosen")
        expect(chosen.locator("#ask")).to_be_visible()
        if width > 1000:
            expect(chosen).to_be_in_viewport(ratio=1)


def test_what_is_not_known_looks_like_nothing_else(shown: dict[str, Shown], chromium: Browser) -> None:
    """In the table: without their colours, cells that are unknown, below the threshold, zero, and not read."""
    one = shown["thinned"]
    rock = PIECES.index("▁rock")
    token, logprob = (one.arrays[f"patch/{name}"][0] for name in ("token", "logprob"))
    cells: dict[str, tuple[int, int]] = {"unread": (1, 0)}
    for layer in one.run.read_layers:
        for patch in range(one.patches):
            stored = np.flatnonzero(token[layer, patch] == rock)
            if len(stored):
                p = float(np.exp(logprob[layer, patch, stored[0]]))
                kind = "zero, stored" if p < 0.0004 else "below" if 0.0006 < p < 0.009 else "value" if p > 0.011 else ""
            else:
                most = min(np.exp(logprob[layer, patch, -1]), 1 - np.exp(logprob[layer, patch]).sum())
                kind = "zero" if most < 0.0004 else "below, by its bound" if 0.0006 < most < 0.009 else "unknown"
            cells.setdefault(kind, (layer, patch))
    assert {"value", "below", "zero", "unknown"} <= cells.keys()
    with watched(
        chromium, one.page(0, "token=rock&colour=heat&threshold=0.01"), viewport={"width": 1400, "height": 900}
    ) as page:
        ready(page, 8)
        page.mouse.move(1, 1)
        seen, picture = {}, pixels_of(page).mean(-1)
        for name, (layer, patch) in cells.items():
            _, y0, x1, _ = (round(edge) for edge in cell_on_screen(page, one, patch, layer))
            part = picture[y0 + 2 : y0 + 18, x1 - 26 : x1 - 10]
            # Wherever a pattern begins within the cell: how dark its lines and its columns are.
            seen[name] = bool(part.std() > 4), [sorted(part.mean(axis).round().tolist()) for axis in (0, 1)]
        assert not seen["value"][0]  # one colour; the others are patterns
        assert all(seen[name][0] for name in ("unread", "unknown", "below", "zero"))
        different = [seen[name][1] for name in ("unread", "unknown", "below", "zero")]
        assert all(a != b for i, a in enumerate(different) for b in different[:i])
        for name, (_, pixels) in seen.items():
            kind = name.partition(",")[0]
            assert kind in ("value", "") or pixels == seen[kind][1]


def test_curves_are_probabilities(shown: dict[str, Shown], chromium: Browser) -> None:
    one = shown["cropped"]
    token, logprob = (one.arrays[f"patch/{name}"][0] for name in ("token", "logprob"))
    with watched(chromium, one.page(0, "pins=9,30")) as page:
        ready(page, 8)

        def expected(patch: int, ids: set[int]) -> dict[int, float]:
            found = {}
            for layer in range(one.run.layers):
                stored = [rank for rank in range(one.run.k) if token[layer, patch, rank] in ids]
                if stored:
                    found[layer] = float(np.exp(logprob[layer, patch, stored]).sum())
            return found

        def drawn_points(patch: int) -> dict[int, float]:
            points = page.locator(f".curve[data-row='{patch}'] circle")
            return {
                int(at): float(p)
                for at, p in points.evaluate_all("all => all.map((one) => [one.dataset.layer, one.dataset.p])")
            }

        for patch in (9, 30):
            assert drawn_points(patch) == pytest.approx(expected(patch, {int(token[4, patch, 0])}), abs=1e-3)
        page.fill("#word", "dog")
        has_state(page, token="dog", colour="heat")
        for patch in (9, 30):
            dogs = {PIECES.index("▁dog"), PIECES.index("▁Dog")}
            assert drawn_points(patch) == pytest.approx(expected(patch, dogs), abs=1e-3)


def test_layers_play(shown: dict[str, Shown], chromium: Browser) -> None:
    one = shown["thinned"]
    with watched(chromium, one.page(0, "layer=0")) as page:
        ready(page)
        page.locator("#play").click()
        has_state(page, play="1")
        page.reload()
        for layer in ("2", None, "0"):  # those that were read, round and round; the last one is usual
            has_state(page, layer=layer)
        page.locator("#play").click()
        has_state(page, play=None)
        page.locator("[data-layer='1']").click()
        page.mouse.move(*middle(on_screen(page, one.box(3))))
        assert "This layer was not read." in page.locator(".tip").inner_text()


def test_copied_queries(shown: dict[str, Shown], chromium: Browser) -> None:
    one = shown["padded"]
    corpus = LocalCorpus(Cache.open(str(one.folder)))
    with watched(chromium, one.page(0, "layer=2"), permissions=["clipboard-read", "clipboard-write"]) as page:
        ready(page)
        for state, patches in (("layer=2", range(one.patches)), ("layer=2&pins=9", [9]), ("layer=2&pins=9,3", [3, 9])):
            page.goto(one.page(0, state))
            ready(page, 8 if "pins" in state else 5)
            page.get_by_role("button", name="Copy query").click()
            query = page.evaluate("navigator.clipboard.readText()")
            assert str(parse(query)) == query
            rows = corpus.query(query).rows
            assert {(row["patch"], row["rank"], row["token"]) for row in rows} == {
                (patch, rank + 1, int(one.arrays["patch/token"][0, 2, patch, rank]))
                for patch in patches
                for rank in range(5)
            }


def test_an_image_without_readings(shown: dict[str, Shown], chromium: Browser) -> None:
    with watched(chromium, shown["cropped"].page(1)) as page:
        assert "truncated" in page.get_by_role("alert").inner_text()
        assert "cropped '1' <b>.png" in page.locator("h1").inner_text()
        page.locator("#next").click()
        assert page.url == shown["cropped"].page(2)


def test_a_corpus_without_patches(shown: dict[str, Shown], chromium: Browser) -> None:
    one = shown["texts"]
    with watched(chromium, one.page()) as page:
        ready(page)
        assert page.locator("#picture").is_visible()
        page.mouse.move(*middle(on_screen(page, (0, 0, 1, 1))))
        assert page.locator(".tip").is_hidden()
        page.locator(".scroller").focus()
        page.keyboard.press("Home")
        tokens = one.arrays["prompt/token"][0, 4, 0, :5]
        assert [token for token, _ in told(page)] == [named(id) for id in tokens]
        page.keyboard.press("Enter")
        has_state(page, texts="0")


def test_grids_and_prompts_of_their_own(tmp_path: Path, chromium: Browser) -> None:
    run = make_run(
        grid=None,
        patches=14,
        k=3,
        prompt="USER: <image> {question} ASSISTANT:",
        prompt_ids=(),
        prompt_column="question",
    )
    _, _, arrays = make_cache(tmp_path, run, images=4, names=["a.png", "a.png#2", "b.png", "c.png"], seed=6)
    corpus = LocalCorpus(Cache.open(str(tmp_path)))
    with running(create_app(Settings({"own": str(tmp_path)}))) as url:
        for number in (1, 3):
            one = one_image(corpus, number)
            with watched(chromium, f"{url}/own/images/{number}?area=0-13") as page:
                ready(page, 3)
                tokens = arrays["patch/token"][number, -1, : one.patches, 0]
                has_counts(page, "#legend", Counter(named(id) for id in tokens))
                query = page.locator("#ask").inner_text()
                assert {row["image"] for row in corpus.query(query).rows} == {one.name}
                page.locator(".scroller").focus()
                page.keyboard.press("End")
                assert "last prompt token" in (page.locator(".spoken [role=rowheader]").text_content() or "")
                last = arrays["last/token"][number, -1, 0]
                assert [token for token, _ in told(page)] == [named(id) for id in last]


def test_some_patches(tmp_path: Path, chromium: Browser) -> None:
    _, run, arrays = make_cache(tmp_path, make_run(patches_column="objects"), images=8, seed=1)
    token = arrays["patch/token"][:, :, :, 0]  # (image, layer, patch)
    there = token[:, 0] != run.no_id
    number = next(n for n in range(8) if 2 < there[n].sum() < 11)
    unread, read = int(np.flatnonzero(~there[number])[0]), np.flatnonzero(there[number])
    with running(create_app(Settings({"some": str(tmp_path)}))) as url:
        for state in ("area=0-11", "order=similar", "order=first&token=dog&colour=heat", "colour=agrees"):
            with watched(chromium, f"{url}/some/images/{number}?{state}") as page:
                ready(page, 4)
                assert f"({len(read)} read)" in page.locator("h1").inner_text()
                expected = Counter(named(id) for id in token[number, -1, read])
                has_counts(page, "#legend", expected)
                if "area" in state:
                    has_counts(page, "#chosen", expected)
                page.goto(f"{page.url.partition('?')[0]}?patch={unread}&pins={unread},{read[0]}")
                ready(page, 4)
                page.locator(".scroller").focus()
                page.keyboard.press("]")
                page.keyboard.press("ArrowUp")
                page.keyboard.press("ArrowDown" if unread else "Home")
                page.locator(".tip", has_text="This patch was not read.").wait_for()
        with watched(chromium, f"{url}/some/images/{number}?patch={unread}", java_script_enabled=False) as page:
            assert page.locator("noscript p").inner_text() == "It was not read."


@pytest.mark.parametrize("name", ["cropped", "padded"])
def test_the_picture_has_its_place_before_scripts_run(shown: dict[str, Shown], chromium: Browser, name: str) -> None:
    """In browsers whose attr() gives text alone, too."""
    one = shown[name]
    with watched(chromium, one.page()) as page:
        ready(page)
        before = page.locator("#stage").bounding_box()
        page.evaluate("document.getElementById('stage').style.setProperty('--ratio', 'none')")
        box = page.locator("#stage").bounding_box()
        assert before is not None
        assert box is not None
        assert box["width"] / box["height"] == pytest.approx(before["width"] / before["height"], rel=0.01)
        assert page.locator("#picture").bounding_box() == box


def test_without_script(shown: dict[str, Shown], chromium: Browser) -> None:
    one = shown["padded"]
    with watched(chromium, one.page(), java_script_enabled=False) as page:
        box = page.locator("#picture").bounding_box()
        assert box is not None
        assert box["width"] / box["height"] == pytest.approx(one.size[0] / one.size[1], rel=0.01)
        assert page.locator("h2:text-is('Columns') + table tr").all_inner_texts() == [
            "caption\t<i>a dog",
            "sizes\t[1, 2]",
        ]
        page.locator("#patch").fill("9")
        page.get_by_role("button", name="Show what it reads").click()
        rows = page.locator("noscript table tbody tr, main .scroll tbody tr").all_inner_texts()
        assert len(rows) == one.run.layers
        for layer, text in enumerate(rows):
            found = text.split()
            expected = one.arrays["patch/token"][0, layer, 9, :5]
            assert found[0] == str(layer)
            assert [word for word in found[1:] if word.replace(".", "").isdigit() is False or "." not in word] == [
                named(id) for id in expected
            ]


SHIFTS = """new Promise((done) => {
    const observer = new PerformanceObserver((list) => done(list.getEntries().map((entry) => entry.value)));
    observer.observe({ type: "layout-shift", buffered: true });
    setTimeout(() => done([]), 300);
})"""
"""How much of what was seen has jumped, each time, since the page began to load."""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_accessible(shown: dict[str, Shown], chromium: Browser, theme: str) -> None:
    state = "pins=9,30&area=1-3&patch=9&token=dog&colour=heat&threshold=0.1&range=1-3&layer=3"
    with watched(
        chromium, shown["cropped"].page(0, state), color_scheme=theme, viewport={"width": 360, "height": 800}
    ) as page:
        ready(page, 8)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert sum(page.evaluate(SHIFTS)) < 0.01  # of 0.1 Chromium would call it good
        accessible(page)
        page.locator(".scroller").focus()
        page.keyboard.press("ArrowDown")
        page.locator(".tip").wait_for()
        accessible(page)
