"""The page that compares, in a real browser: locked cursors, and figures against the arrays."""

from __future__ import annotations

import io
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

import vlq
from vlq.query.schema import Transform
from vlq.service.app import create_app
from vlq.service.settings import Settings

from ..doors import running
from ..synthetic import make_cache, make_run
from .browser import accessible, watched

LABELS = list("aababbaab")


@dataclass
class Served:
    url: str
    arrays: dict[str, dict[str, np.ndarray]]  # of each corpus

    def tokens(self, run: str, image: int, layer: int) -> np.ndarray:
        """(patch, k)"""
        found: np.ndarray = self.arrays[run]["patch/token"][image, layer]
        return found


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Two runs over the same images, and one of another grid, depth and k."""
    folder = tmp_path_factory.mktemp("compared")
    runs = {"one": (make_run(), 0), "again": (make_run(k=5), 3), "other": (make_run(grid=(2, 2), layers=3, k=2), 4)}
    arrays = {}
    for name, (run, seed) in runs.items():
        *_, arrays[name] = make_cache(folder / name, run, images=9, failed=[2], seed=seed, columns={"label": LABELS})
    sink = io.BytesIO()
    Image.new("RGB", (112, 112), (60, 70, 140)).save(sink, "PNG")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlq.service.api.images.picture", lambda image, side: (sink.getvalue(), "image/png"))
        with running(create_app(Settings({name: str(folder / name) for name in runs}))) as url:
            yield Served(url, arrays)


def panel(page: Page, name: str) -> list[list[str]]:
    """The cells of a panel's table, when it is there."""
    place = page.locator(f"#{name}")
    place.scroll_into_view_if_needed()
    expect(place.locator(".content[aria-busy]")).to_have_count(0)
    return [row.locator("th, td").all_text_contents() for row in place.locator("tbody tr").all()]


def said(page: Page, side: str) -> list[int]:
    """The tokens that a side tells of the patch under the cursor."""
    return [
        int((chip.get_attribute("href") or "").rpartition("/")[2]) for chip in page.locator(f"#said-{side} .chip").all()
    ]


def hover(page: Page, side: str, patch: int, grid: tuple[int, int]) -> None:
    """To the middle of a patch; the pictures are 112 pixels wide and high, without margins."""
    picture = page.locator(f"[data-side={side}] .picture")
    picture.locator("img").wait_for()
    picture.scroll_into_view_if_needed()
    box = picture.bounding_box()
    assert box
    row, column = divmod(patch, grid[1])
    page.mouse.move(
        box["x"] + (column + 0.5) / grid[1] * box["width"], box["y"] + (row + 0.5) / grid[0] * box["height"]
    )


def outline(page: Page, side: str) -> list[float]:
    names = ("x", "y", "width", "height")
    edge = page.locator(f"[data-side={side}] .cursor .edge")
    return [float(edge.get_attribute(name) or "nan") for name in names]


def test_cursors_are_locked(corpora: Served, chromium: Browser) -> None:
    with watched(chromium, f"{corpora.url}/one/compare?images=4,5&layers=1,3") as page:
        expect(page.locator("[data-side=b] .picture img")).to_be_visible()
        for at, side in ((7, "a"), (2, "b"), (11, "a")):
            hover(page, side, at, (3, 4))
            expect(page.locator("#said-b")).to_contain_text(f"Patch {at} ")
            assert said(page, "a") == corpora.tokens("one", 4, 1)[at].tolist()
            assert said(page, "b") == corpora.tokens("one", 5, 3)[at].tolist()
            row, column = divmod(at, 4)
            expected = [column * 28, row * 112 / 3, 28, 112 / 3]
            assert outline(page, "a") == pytest.approx(expected)
            assert outline(page, "b") == pytest.approx(expected)
        # A click holds the patch, in the address too; Escape lets go.
        page.mouse.down()
        page.mouse.up()
        page.mouse.move(2, 2)
        expect(page).to_have_url(f"{corpora.url}/one/compare?images=4%2C5&layers=1%2C3&patch=11")
        page.reload()
        expect(page.locator("#said-a")).to_contain_text("Patch 11 ")
        expect(page.locator("#said-a")).to_contain_text("held")
        assert (page.locator("[data-side=a] .name a").get_attribute("href") or "").endswith(
            "/one/images/4?layer=1&pins=11"
        )
        page.keyboard.press("Escape")
        expect(page.locator("#said-a")).to_be_empty()
        # By keys: the first arrow shows a patch, the next ones move.
        page.locator("[data-side=a] .picture").focus()
        for name in ("ArrowRight", "ArrowRight", "ArrowDown"):
            page.keyboard.press(name)
        expect(page.locator("#said-b")).to_contain_text("Patch 5 ")


@pytest.mark.parametrize(("size", "grid"), [((960, 96), (1, 10)), ((20, 1600), (40, 1))])
def test_outlines_of_pictures_of_another_shape(
    tmp_path: Path, chromium: Browser, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], grid: tuple[int, int]
) -> None:
    """A patch is told of and outlined where it is, and no picture is many windows long."""
    transform = Transform(1.0, 1.0, 0.0, 0.0, *size)
    make_cache(tmp_path, make_run(grid=grid), images=2, transform=transform, pixels=size)
    sink = io.BytesIO()
    Image.new("RGB", size, (60, 70, 140)).save(sink, "PNG")
    monkeypatch.setattr("vlq.service.api.images.picture", lambda image, side: (sink.getvalue(), "image/png"))
    with (
        running(create_app(Settings({"long": str(tmp_path)}))) as url,
        watched(chromium, f"{url}/long/compare?images=0,1", viewport={"width": 1200, "height": 800}) as page,
    ):
        picture = page.locator("[data-side=a] .picture img")
        picture.wait_for()
        box = picture.bounding_box()
        assert box
        assert box["height"] <= 2.5 * 800
        assert box["width"] / box["height"] == pytest.approx(size[0] / size[1], rel=0.02)
        column = 7 % grid[1]
        page.mouse.move(box["x"] + (column + 0.5) / grid[1] * box["width"], box["y"] + 0.5 / grid[0] * box["height"])
        expect(page.locator("#said-b")).to_contain_text(f"Patch {column} ")
        edge = page.locator("[data-side=a] .cursor .edge").bounding_box()
        assert edge
        expected = [column / grid[1] * box["width"] + box["x"], box["y"], box["width"] / grid[1]]
        assert [edge["x"], edge["y"], edge["width"]] == pytest.approx(expected, abs=4)
        assert edge["height"] == pytest.approx(box["height"] / grid[0], abs=4)


@pytest.mark.parametrize("width", [1280, 700, 360])
def test_nothing_moves_when_a_patch_is_told(corpora: Served, chromium: Browser, width: int) -> None:
    url = f"{corpora.url}/one/compare?runs=again,one"
    with watched(chromium, url, viewport={"width": width, "height": 900}) as page:
        page.locator("[data-side=b] .picture img").wait_for()
        panel(page, "patches")

        def places() -> list[float]:
            found: list[float] = page.locator("#swap, #copies, #pair-panels .panel").evaluate_all(
                "all => all.map((one) => one.getBoundingClientRect().top + scrollY)"
            )
            return found

        before = places()
        hover(page, "a", 3, (3, 4))
        page.locator("#said-a li").nth(4).wait_for()
        assert places() == before


@pytest.mark.parametrize("width", [1280, 360])
def test_a_tall_picture_is_seen_whole(corpora: Served, chromium: Browser, width: int) -> None:
    with watched(chromium, f"{corpora.url}/one/compare", viewport={"width": width, "height": 900}) as page:
        page.locator("[data-side=a] .picture img").wait_for()
        height = page.locator("[data-side=a] .picture").evaluate(
            "(picture) => { picture.style.setProperty('--ratio', 1 / 8); return picture.clientWidth * 8; }"
        )
        assert 600 < height < 900


def test_grids_that_differ(corpora: Served, chromium: Browser) -> None:
    with watched(chromium, f"{corpora.url}/one/compare?images=4&runs=one,other&layers=4,2") as page:
        hover(page, "a", 11, (3, 4))
        expect(page.locator("#said-b")).to_contain_text("Patch 3 ")
        assert said(page, "b") == corpora.tokens("other", 4, 2)[3].tolist()
        hover(page, "b", 1, (2, 2))
        expect(page.locator("#said-a")).to_contain_text("Patch 3 ")  # its centre, (1/4, 3/4) of the picture, is there
        page.locator("#patches").scroll_into_view_if_needed()
        expect(page.locator("#patches .headline")).to_contain_text("The grids differ (3 x 4 and 2 x 2)")


@pytest.mark.parametrize("address", ["images=4,5&layers=1,3", "images=6&layers=0,4", "images=3&runs=one,again"])
def test_differences(corpora: Served, chromium: Browser, address: str) -> None:
    values = dict(part.split("=") for part in address.split("&"))
    images, layers, runs = (
        (values.get(name, usual).split(",") * 2)[:2]
        for name, usual in (("images", ""), ("layers", "4"), ("runs", "one"))
    )
    sides = [(run, int(image), int(layer)) for run, image, layer in zip(runs, images, layers, strict=True)]
    first, second = (corpora.tokens(*side) for side in sides)
    probabilities = [
        np.exp(corpora.arrays[run]["patch/logprob"][image, layer].astype(np.float64)) for run, image, layer in sides
    ]
    changes = []
    for patch in range(12):
        dense = np.zeros((2, 16))
        dense[0, first[patch]], dense[1, second[patch]] = (one[patch] for one in probabilities)
        changes.append(abs(dense[0] - dense[1]).sum() / 2)
    order = sorted(range(12), key=lambda patch: (-round(changes[patch], 9), patch))
    with watched(chromium, f"{corpora.url}/one/compare?{address}") as page:
        rows = panel(page, "patches")
        assert [int(row[0].split()[0]) for row in rows] == order
        assert [row[-1] for row in rows] == [f"{changes[patch]:.3f}" for patch in order]
        counts = [Counter(tokens[:, 0].tolist()) for tokens in (first, second)]
        found = {}
        for row in page.locator("#tokens tbody tr").all() if panel(page, "tokens") else []:
            a, b, difference = row.locator("td").all_text_contents()
            assert int(difference) == int(b) - int(a)
            found[int(row.locator(".chip").get_attribute("data-token") or "")] = int(a), int(b)
        assert found == {id: (counts[0][id], counts[1][id]) for id in counts[0] | counts[1]}
        # Marked are the patches that decode to different tokens.
        page.locator("#pair").scroll_into_view_if_needed()
        differ = int((first[:, 0] != second[:, 0]).sum())
        drawn = page.locator("[data-side=a] .differs")
        expect(drawn).to_have_attribute("d", re.compile("M" if differ else "^$"))
        assert (drawn.get_attribute("d") or "").count("M") == differ
        page.locator("#marks").uncheck()
        expect(drawn).to_have_attribute("d", "")


def test_controls(corpora: Served, chromium: Browser) -> None:
    plain = f"{corpora.url}/one/compare"
    with watched(chromium, plain) as page:
        page.locator("#images-b").fill("7")
        page.locator("#layers-a").select_option("2")
        page.locator("#runs-b").select_option("again")
        page.locator("#marks").uncheck()
        expect(page).to_have_url(f"{plain}?images=0%2C7&layers=2%2C4&runs=one%2Cagain&marks=0")
        page.reload()
        page.locator("[data-side=b] .picture img").wait_for()
        shown = {
            name: page.locator(f"#{name}").input_value() for name in ("images-a", "images-b", "layers-a", "runs-b")
        }
        assert shown == {"images-a": "0", "images-b": "7", "layers-a": "2", "runs-b": "again"}
        assert not page.locator("#marks").is_checked()
        page.locator("#swap").click()
        expect(page.locator("#images-a")).to_have_value("7")
        expect(page.locator("#runs-a")).to_have_value("again")
        page.go_back()
        expect(page.locator("#images-a")).to_have_value("0")
        # A panel that fills the window is let go before the patch that is held.
        page.goto(f"{plain}?patch=2&whole=patches")
        assert page.locator("#patches").evaluate("e => e.getBoundingClientRect().height === innerHeight")
        page.keyboard.press("Escape")
        expect(page).to_have_url(f"{plain}?patch=2")
        page.keyboard.press("Escape")
        expect(page).to_have_url(plain)


def test_what_is_of_another_run_leads_there(corpora: Served, chromium: Browser) -> None:
    """An id means another token in another vocabulary, and a query has another answer."""
    url = f"{corpora.url}/one/compare?runs=one,other&images=0,0&layers=1,2"
    size, permissions = {"width": 1280, "height": 1400}, ["clipboard-read", "clipboard-write"]
    with watched(chromium, url, permissions=permissions, viewport=size) as page:
        hover(page, "b", 3, (2, 2))
        page.locator("#said-b .chip").first.wait_for()
        for side, run in (("a", "one"), ("b", "other")):
            pages = {chip.get_attribute("href") for chip in page.locator(f"#said-{side} .chip").all()}
            assert {re.sub(r"\d+$", "", href or "") for href in pages} == {f"/{run}/tokens/"}
        panel(page, "tokens")
        asked = page.locator("#tokens .asked")
        assert asked.evaluate_all("all => all.map((one) => one.innerText)") == [
            "top(0, layers=1)",
            "top(0, layers=2) of other",
        ]
        for at, run in enumerate(("one", "other")):
            asked.nth(at).locator("summary").click()
            href = asked.nth(at).get_by_text("Ask it on the corpus page").get_attribute("href") or ""
            assert href.startswith(f"/{run}/?q=")
            asked.nth(at).get_by_role("button", name="Copy CLI").click()
            expect(asked.nth(at).locator("output")).to_have_text("Copied.")
            assert page.evaluate("navigator.clipboard.readText()").endswith(f"--cache '{corpora.url}/{run}'")
        # Rows of both sides lead to the one that has the token.
        top1 = corpora.tokens("one", 0, 1)[:, 0], corpora.tokens("other", 0, 2)[:, 0]
        for chip in page.locator("#tokens tbody .chip").all():
            _, run, _, id = (chip.get_attribute("href") or "").split("/")
            assert int(id) in top1[run == "other"]
        page.goto(f"{corpora.url}/one/compare?runs=other,one")
        page.locator("#copies").get_by_role("button", name="Copy Python").click()
        expect(page.locator("#copies output")).to_have_text("Copied.")
        assert f'vlq.open("{corpora.url}/other")' in page.evaluate("navigator.clipboard.readText()")


@pytest.mark.parametrize(
    ("address", "asked"),
    [
        ("runs=one,again&images=3,3&layers=2,2", [("one", "compare('one', 'again', top(3, layers=2))")]),
        ("images=3,5&layers=2,4", [("one", "top(3, layers=2)"), ("one", "top(5, layers=4)")]),
        ("images=3,3&layers=2,2", [("one", "top(3, layers=2)")]),
        ("runs=again,other&images=3,4&layers=2,2", [("again", "top(3, layers=2)"), ("other", "top(4, layers=2)")]),
    ],
)
def test_what_is_copied_asks_for_both_sides(
    corpora: Served, chromium: Browser, address: str, asked: list[tuple[str, str]]
) -> None:
    permissions = ["clipboard-read", "clipboard-write"]
    with watched(chromium, f"{corpora.url}/one/compare?{address}", permissions=permissions) as page:
        for side in "ab":
            page.locator(f"[data-side={side}] .picture img").wait_for()

        def copied(name: str) -> list[str]:
            page.evaluate("navigator.clipboard.writeText('')")
            page.locator("#copies").get_by_role("button", name=name).click()
            expect(page.locator("#copies output")).to_have_text("Copied.")
            text: str = page.evaluate("navigator.clipboard.readText()")
            return text.splitlines()

        assert copied("Copy query") == [query for _, query in asked]
        url = corpora.url
        assert copied("Copy Python") == [f'vlq.open("{url}/{run}").query("{query}")' for run, query in asked]
        commands = [shlex.split(line) for line in copied("Copy CLI")]
        assert commands == [["vlq", query, "--cache", f"{url}/{run}"] for run, query in asked]
    # What is asked has the readings of both sides.
    found = [
        {int(value) for name, value in row.items() if name.startswith("token") and value is not None}
        for run, query in asked
        for row in vlq.open(f"{url}/{run}").query(query).rows
    ]
    sides = parse_qs(address)
    images, layers, runs = (
        sides.get(name, [usual])[0].split(",") for name, usual in (("images", ""), ("layers", ""), ("runs", "one,one"))
    )
    for run, image, layer in zip(runs, images, layers, strict=True):
        assert {*corpora.tokens(run, int(image), int(layer))[:, 0].tolist()} <= set().union(*found)


def test_what_the_address_leaves_open(corpora: Served, chromium: Browser) -> None:
    """Without script, so that it is the service that reads it."""
    for address, expected in {
        "images=4,5,6&layers=2": ("4", "5", "2", "2"),
        "images=7": ("7", "7", "4", "4"),
        "images=x,6&layers=1,99": ("0", "6", "1", "4"),
        "images-a=3&images-b=8&layers-a=0&layers-b=1": ("3", "8", "0", "1"),
    }.items():
        with watched(chromium, f"{corpora.url}/one/compare?{address}", java_script_enabled=False) as page:
            names = ("images-a", "images-b", "layers-a", "layers-b")
            assert tuple(page.locator(f"#{name}").input_value() for name in names) == expected


def test_two_sets(corpora: Served, chromium: Browser) -> None:
    top1 = corpora.arrays["one"]["patch/top1"]
    good = [image for image in range(9) if image != 2]
    a = {image for image in good if LABELS[image] == "a"}
    b = {image for image in good if (top1[image] == 2).any()}
    with watched(chromium, f"{corpora.url}/one/compare?a=images(label == 'a')&b=first_layer('cat')&at=1") as page:
        rows = panel(page, "counts")
        assert [row[1] for row in rows[:2]] == [str(len(a)), str(len(b))]
        assert rows[0][2].startswith(f"{len(a) / 8:.1%} (")
        assert rows[2][2].startswith(f"{100 * (len(b) - len(a)) / 8:+.1f} (")
        parts = page.locator("#counts .parts li").all()
        for part, members in zip(parts, (a - b, b - a, a & b), strict=True):
            assert {int(link.inner_text()) for link in part.locator("a").all()} == members
        read = {
            id: {image for image in good if (top1[image, 1] == id).any()} for id in np.unique(top1[good, 1]).tolist()
        }
        panel(page, "readings")
        found = {}
        for row in page.locator("#readings tbody tr").all():
            cells = row.locator("td").all_text_contents()
            found[int(row.locator(".chip").get_attribute("data-token") or "")] = [
                int(cell.split()[0]) for cell in cells[1:]
            ]
        assert found == {id: [len(images & a), len(images & b)] for id, images in read.items()}
        panel(page, "by-layer")
        expect(page.locator("#by-layer .headline")).to_contain_text("no layer on both sides")
        # Another set; by layer there are figures where both have one.
        page.locator("#a").fill("readings('dog')")
        page.locator("#a").press("Enter")
        expect(page.locator("#counts tbody th").first).to_contain_text("readings('dog')")
        page.locator("#by-layer").scroll_into_view_if_needed()
        expect(page.locator("#by-layer .headline")).to_contain_text("largest difference")
        page.locator("#by-layer summary").first.click()
        # The dog is asked with case folded: tokens 0 and 1. A first layer is one for each image.
        by_layer = {row[0]: row[1:] for row in panel(page, "by-layer")}
        for layer in range(5):
            assert by_layer[str(layer)][0].split()[0] == str(np.isin(top1[good, layer], [0, 1]).any(-1).sum())
            first = sum((top1[image] == 2).any(-1).argmax() == layer for image in b)
            assert by_layer[str(layer)][1].split()[0] == str(first)
        # Mistakes show in place.
        page.locator("#b").fill("first_layer('dgo')")
        page.get_by_role("button", name="Compare").click()
        expect(page.locator("#mistake")).to_contain_text("Did you mean 'dog'?")
        expect(page.locator("#set-panels")).to_be_hidden()
        page.locator("#b").fill("defaults()")
        page.locator("#b").press("Enter")
        expect(page.locator("#mistake")).to_contain_text("defaults() has no rows by image")


def test_sets_that_are_kept_have_names(corpora: Served, chromium: Browser) -> None:
    """A set comes by its link, is kept, is taken by its name, and is known to whoever gets the comparison's link."""
    three = "images(image_id in [0, 1, 4])"
    link = f"{corpora.url}/one/?{urlencode({'q': three, 'chosen': '0,1,4', 'set': 'my <b>three</b>'})}"
    with watched(chromium, link) as page:
        page.get_by_role("button", name="Save set").click()
        expect(page.locator("#sets")).to_contain_text("my <b>three</b> (3)")
        page.goto(f"{corpora.url}/one/compare?b=images(label == 'a')")
        expect(page.locator("#b_name")).to_be_visible()
        page.locator("#a_name").select_option("my <b>three</b>")
        expect(page.locator("#a")).to_have_value(three)
        rows = panel(page, "counts")
        assert rows[0][1] == "3"
        expect(page.locator("#counts tbody th").first).to_contain_text("my <b>three</b>")
        expect(page.locator("#counts tbody th").nth(1)).to_contain_text("images(label == 'a')")
        state = parse_qs(urlsplit(page.url).query)
        assert state == {"a": [three], "a_name": ["my <b>three</b>"], "b": ["images(label == 'a')"]}
        address = page.url
        # Another query is no longer that set.
        page.locator("#a").fill("images(image_id in [0])")
        page.locator("#a").press("Enter")
        expect(page.locator("#counts tbody th").first).not_to_contain_text("three")
        assert page.locator("#a_name").input_value() == ""
        page.go_back()
        expect(page.locator("#counts tbody th").first).to_contain_text("my <b>three</b>")
    with watched(chromium, address) as page:  # a browser that keeps no sets
        panel(page, "counts")
        expect(page.locator("#counts tbody th").first).to_contain_text("my <b>three</b>")
        assert page.locator("#a_name").input_value() == "my <b>three</b>"
        expect(page.locator("#b_name")).to_be_hidden()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_accessible_on_a_phone(corpora: Served, chromium: Browser, theme: str) -> None:
    options = {"color_scheme": theme, "viewport": {"width": 390, "height": 800}}
    with watched(chromium, f"{corpora.url}/one/compare?a=images()&b=first_layer('cat')&patch=3", **options) as page:
        for name in ("counts", "by-layer", "readings", "patches", "tokens"):
            panel(page, name)
        accessible(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_side_that_does_not_come_can_be_asked_again(corpora: Served, chromium: Browser) -> None:
    with watched(chromium, f"{corpora.url}/one/compare?images=0,1", may_be_cut_off=True) as page:
        expect(page.locator("[data-side=a] .picture svg")).to_be_attached()
        page.context.set_offline(True)
        page.fill("#images-a", "3")
        expect(page.locator("#said-a [role=alert]")).to_contain_text("The service does not answer.")
        expect(page.locator("[data-side=a] .name a")).to_have_text("image 3")
        page.context.set_offline(False)
        page.click("#said-a button")
        expect(page.locator("[data-side=a] .name a")).to_have_attribute("href", re.compile("/images/3[?]"))
        expect(page.locator("[data-side=a] .picture svg")).to_be_attached()
        expect(page.locator("#said-a [role=alert]")).to_have_count(0)
