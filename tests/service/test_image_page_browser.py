"""The page of an image, in a real browser. Where things are, and what they say, the tests compute from the cache."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

import vlq.service.pictures
from vlq.query.cache import Cache
from vlq.query.client import LocalCorpus
from vlq.query.parse import parse
from vlq.query.schema import Run, Transform
from vlq.service.app import create_app
from vlq.service.settings import Settings

from ..doors import running
from ..synthetic import make_cache, make_run, vocabulary_table
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
    "thinned": ({"grid": (2, 3), "read_layers": (0, 2, 4)}, (60, 40), Transform(1.0, 1.0, 0.0, 0.0, 60, 40)),
    "texts": ({"grid": (2, 3), "at": ("prompt",)}, (60, 40), Transform(1.0, 1.0, 0.0, 0.0, 60, 40)),
}

PIECES = vocabulary_table(make_run().vocabulary_size)["piece"].to_pylist()


def named(id: int) -> str:
    """What the page shows of a token."""
    return PIECES[id] if PIECES[id] is not None else str(id)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Shown]]:
    folder, made, at = tmp_path_factory.mktemp("shown"), {}, {}
    for name, (changes, size, transform) in SHAPES.items():
        run = make_run(
            **{"at": ("patch", "prompt", "answer") if "answer" in changes else ("patch", "prompt"), **changes}
        )
        run = make_run(**{**changes, "at": run.at if "at" not in changes else changes["at"], "k": 8})
        names = [f"{name} '{i}'.png" for i in range(3)]
        made[name] = make_cache(
            folder / name, run, images=3, failed=[1], seed=3, names=names, transform=transform, pixels=size
        )
        at[name] = str(folder / name)
    patch = pytest.MonkeyPatch()
    patch.setattr(vlq.service.pictures, "pixels", lambda uri, sha256, size: drawn(size))
    with running(create_app(Settings(at))) as url:
        yield {
            name: Shown(f"{url}/{name}", made[name][1], made[name][2], size, transform, folder / name)
            for name, (_, size, transform) in SHAPES.items()
        }
    patch.undo()
    vlq.service.pictures._encoded.cache_clear()


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
    lines = page.locator(".tip .line:visible")
    return [(line.split("\n")[0], float(line.split("\n")[-1])) for line in lines.all_inner_texts()]


def check_told(page: Page, shown: Shown, number: int, layer: int, patch: int) -> None:
    found = told(page)
    tokens = shown.arrays["patch/token"][number, layer, patch, :5]
    assert [token for token, _ in found] == [named(id) for id in tokens]
    expected = np.exp(shown.arrays["patch/logprob"][number, layer, patch, :5])
    assert [p for _, p in found] == pytest.approx(expected.tolist(), abs=1e-3)


def state_of(page: Page) -> dict[str, str]:
    page.wait_for_timeout(200)  # until the address says what is the case
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


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
            assert state_of(page)["pins"] == str(patch)
            scroller = page.locator(".scroller").bounding_box()
            assert scroller is not None
            top, bottom = row_on_screen(page, one, patch)
            assert scroller["y"] + 20 <= top < bottom <= scroller["y"] + scroller["height"] + 1


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
        assert state_of(page) == {"layer": "3", "pins": "3", "patch": "3"}
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
        assert state_of(page)["pins"] == "14,1"
        click(8, modifiers=["Shift"])
        pins = [int(patch) for patch in state_of(page)["pins"].split(",")]
        assert pins[:2] == [14, 1]
        assert sorted(pins) == [1, 2, 7, 8, 14]
        click(14)
        assert "14" not in state_of(page)["pins"].split(",")
        page.keyboard.press("Escape")
        assert "pins" not in state_of(page)


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
    texts = page.locator(f"{list} .counts li").all_inner_texts()
    return {" ".join(text.split()[:-1]): int(text.split()[-1]) for text in texts}


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
        assert counts_of(page, "#chosen") == expected
        query = parse_qs(urlsplit(page.locator("#ask").get_attribute("href") or "").query)["q"][0]
        assert str(parse(query)) == query  # as the language writes it
        corpus = LocalCorpus(Cache.open(str(one.folder)))
        rows = corpus.query(query).rows
        most = max(Counter(one.top1()[2, chosen].tolist()).items(), key=lambda item: (item[1], -item[0]))[0]
        assert {(row["layer"], row["patch"]) for row in rows} == {
            (layer, patch) for layer in range(one.run.layers) for patch in chosen if one.top1()[layer, patch] == most
        }
        assert {row["image"] for row in rows} == {"padded '0'.png"}
        page.reload()
        ready(page)
        assert counts_of(page, "#chosen") == expected
        page.get_by_role("button", name="Clear").click()
        assert "area" not in state_of(page)
        page.go_back()
        assert counts_of(page, "#chosen") == expected
