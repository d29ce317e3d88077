"""The corpus' page in a real browser: ask, see, click, and find the same again by the address."""

from __future__ import annotations

import hashlib
import io
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

import vlq
from vlq.query.cache.reader import Cache
from vlq.query.client.local import LocalCorpus
from vlq.query.schema import Transform
from vlq.service.app import create_app
from vlq.service.pages.rendering import static_files
from vlq.service.settings import Settings

from ..doors import running
from ..synthetic import make_cache, make_run
from .browser import accessible, watched
from .conftest import Site

SIZE = (150, 90)
"""Width and height of the pictures, in pixels."""

SCALE = 112 / 90
CROPPED = Transform(SCALE, SCALE, -(150 * SCALE - 112) / 2, 0.0, 112, 112)
"""As CLIP's processor has it: the shorter side is scaled to 112, and the middle of the other is taken."""

GRID = (3, 4)

HOSTILE = "<img src=x onerror=alert(1)>'\"&\u202e{{7*7}}.png"

DOGS = {0, 1}  # the ids of `dog` and `Dog` in the tests' vocabulary


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A corpus of grey pictures; one without patches; one whose run goes on."""
    folder = tmp_path_factory.mktemp("pages")
    images = 30
    names = [f"{(i * 7) % images:02d}.png" for i in range(images)]
    names[0] = HOSTILE
    files = [folder / f"{i}.png" for i in range(images)]
    for i, file in enumerate(files):
        Image.new("RGB", SIZE, (90, 90, 90 + i)).save(file)
    columns: dict[str, Any] = {
        "uri": [file.as_uri() for file in files],
        "sha256": [hashlib.sha256(file.read_bytes()).hexdigest() for file in files],
        "label": [("beach", "it's <b>", "grass")[i % 3] for i in range(images)],
        "a <b> class": [i % 2 for i in range(images)],
    }
    run = make_run(grid=GRID)
    _, _, arrays = make_cache(
        folder / "one", run, images=images, names=names, columns=columns, transform=CROPPED, pixels=SIZE
    )
    make_cache(folder / "words", make_run(at=("prompt",), k=3), images=5)
    make_cache(folder / "growing", images=6, seal=False, seed=3)
    make_cache(folder / "other", replace(run, read_layers=(0, 2, 4)), images=images, names=names, seed=9)
    caches = {name: str(folder / name) for name in ("one", "words", "growing", "other")}
    app = create_app(Settings(caches))
    with running(app) as url, httpx2.Client(base_url=url, timeout=30) as client:
        yield Site(url, app, LocalCorpus(Cache.open(caches["one"])), arrays, client)


def at(site: Site, corpus: str = "one", **state: object) -> str:
    return f"{site.url}/{corpus}/" + (f"?{urlencode(state)}" if state else "")


def says(page: Page, expected: dict[str, str]) -> None:
    """Wait until the address has this state, and no other: it changes a moment later."""
    found: dict[str, str] = {}
    for _ in range(100):
        found = {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}
        if found == expected:
            return
        page.wait_for_timeout(50)
    assert found == expected


def rows(page: Page) -> Locator:
    return page.locator("table.rows tbody tr")


def settled(page: Page) -> None:
    """Wait until an answer and its facets are here."""
    expect(page.locator("#answer")).not_to_have_attribute("aria-busy", "true")
    expect(page.locator("#facets")).not_to_have_attribute("aria-busy", "true")


# --- without script --------------------------------------------------------------------------------------------


def test_without_script(site: Site, chromium: Browser) -> None:
    query = "first_layer('dog', min_patches=3)"
    expected = site.corpus.query(query)
    with watched(chromium, at(site, q=query), java_script_enabled=False) as page:
        expect(page.locator(".headline")).to_have_text(expected.headline)
        assert rows(page).count() == len(expected)
        assert [rows(page).nth(i).locator("td").nth(2).inner_text() for i in range(len(expected))] == [
            str(row["layer"]) for row in expected.rows
        ]
        assert page.locator(".tokens .chip").all_inner_texts() == ["▁dog", "▁Dog"]
        page.get_by_role("link", name="Images", exact=True).click()
        assert page.locator(".card").count() == min(24, len(expected))
        page.get_by_role("link", name="Show facets").click()
        page.locator(".facet[data-column=label] a", has_text="grass").click()
        grass = site.corpus.query(f"{query}.where(label == 'grass')")
        assert page.locator("#query").input_value() == grass.query
        expect(page.locator(".headline")).to_have_text(grass.headline)
        page.locator("#query").fill("first_layer('dgo')")
        page.get_by_role("button", name="Run").click()
        expect(page.locator(".wrong")).to_contain_text("'dgo' is no word of this vocabulary.")
        expect(page.locator(".wrong")).to_contain_text("Did you mean 'dog'?")
        assert page.locator(".wrong mark").inner_text() == "'dgo'"


def test_examples_can_be_asked(site: Site, chromium: Browser) -> None:
    for corpus in ("one", "words", "growing"):
        with watched(chromium, at(site, corpus), java_script_enabled=False) as page:
            found = page.locator(".examples a")
            queries = [link.get_attribute("title") for link in found.all()]
            assert len(queries) >= 3
            for query in queries:
                assert site.query(query or "", corpus=corpus).json()["total"] >= 0
            if corpus == "growing":
                assert "so far" in page.locator("h1").inner_text()
                found.first.click()
                assert (
                    page.locator(".headline").inner_text() == site.query(queries[0], corpus=corpus).json()["headline"]
                )
                assert page.locator(".note").count() > 0


# --- typing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("first_layer('dog', laier=3)", "laier=3"),
        ("  first_layer(['dog', '🐕 é'], laier=3)", "laier=3"),
        ("images() = 5", "="),
    ],
)
def test_a_mistake_is_underlined_where_it_is(site: Site, chromium: Browser, query: str, wrong: str) -> None:
    with watched(chromium, at(site)) as page:
        box = page.locator("#query")
        box.fill(query)
        mark = page.locator("#mirror mark")
        expect(mark).to_have_text(wrong)
        told = site.query(query).json()
        expect(page.locator("#said")).to_contain_text(told["message"])
        if told["hint"]:
            expect(page.locator("#said")).to_contain_text(told["hint"].splitlines()[0])
        # In the box the characters stand where the letters before them end.
        x, y, width = page.evaluate(
            """([before, wrong]) => {
              const box = document.getElementById("query"), style = getComputedStyle(box);
              const context = document.createElement("canvas").getContext("2d");
              context.font = `${style.fontSize} ${style.fontFamily}`;
              const wide = (text) => context.measureText(text).width, { left, top } = box.getBoundingClientRect();
              const inset = parseFloat(style.borderLeftWidth) + parseFloat(style.paddingLeft);
              return [left + inset + wide(before), top + parseFloat(style.paddingTop), wide(wrong)];
            }""",
            [query[: query.index(wrong)], wrong],
        )
        found = mark.bounding_box()
        assert found is not None
        assert found["x"] == pytest.approx(x, abs=1)
        assert found["width"] == pytest.approx(width, abs=1)
        assert y - 3 < found["y"] < y + 8


def test_no_underline_is_written_as_safari_does_not_read_it() -> None:
    """Before 26.2 it drops `text-decoration: underline wavy red`; the style and the colour by themselves it reads."""
    sheets = [data.decode() for path, data in static_files().items() if path.endswith(".css")]
    values = [value for sheet in sheets for value in re.findall(r"text-decoration:\s*([^;}]+)", sheet)]
    assert {*values} == {"none", "underline"}


def test_the_box_is_as_high_as_its_text(site: Site, chromium: Browser) -> None:
    lines = ["first_layer('dog',", "layers=2)", "", "dog", ".where(layer > 2)" * 20]
    with watched(chromium, at(site), viewport={"width": 700, "height": 800}) as page:
        page.evaluate("document.getElementById('query').style.fieldSizing = 'fixed'")  # as before Safari 26.2
        box, heights = page.locator("#query"), []
        for count in range(1, len(lines) + 1):
            box.fill("\n".join(lines[:count]))
            height, text = box.evaluate("box => [box.clientHeight, box.scrollHeight]")
            assert height == text
            heights.append(height)
        ways = list(pairwise(heights))
        assert all(after - before == 21 for before, after in ways[:3])
        assert ways[3][1] - ways[3][0] > 4 * 21
    with watched(
        chromium, at(site, q=lines[-1]), java_script_enabled=False, viewport={"width": 700, "height": 800}
    ) as page:
        assert page.locator("#query").bounding_box() == page.locator("#mirror").bounding_box()


def test_what_is_begun_is_no_mistake_until_it_is_left(site: Site, chromium: Browser) -> None:
    with watched(chromium, at(site)) as page:
        box, mark, said = page.locator("#query"), page.locator("#mirror mark"), page.locator("#said")
        box.press_sequentially("first_layer(token='do", delay=5)
        expect(said).to_have_text("Unfinished")
        expect(said).not_to_have_class("mistake")
        expect(mark).to_have_count(0)
        expect(box).to_have_attribute("aria-invalid", "false")
        # What stands before the end is said at once.
        box.fill("first_layr(token='do")
        expect(mark).to_have_text("first_layr")
        expect(said).to_have_class("mistake")
        box.fill("first_layer(token='do")
        expect(said).to_have_text("Unfinished")
        expect(mark).to_have_count(0)
        # Who goes back in it, leaves it or asks it has ended it.
        page.keyboard.press("Home")
        expect(mark).to_have_text("'")
        expect(said).to_contain_text("This quote is never closed.")
        page.keyboard.press("End")
        page.keyboard.type("g")
        expect(said).to_have_text("Unfinished")
        box.blur()
        expect(mark).to_have_text("'")
        box.fill("first_layer('dog'")
        expect(said).to_have_text("Unfinished")
        page.keyboard.press("Escape")
        page.keyboard.press("Enter")
        expect(page.locator(".wrong .mistake")).to_contain_text("This parenthesis is never closed.")
        expect(mark).to_have_text("(")
        page.keyboard.type(")")
        expect(mark).to_have_count(0)
        expect(said).to_contain_text("rows:")


def test_how_much_is_found_is_said_while_typing(site: Site, chromium: Browser) -> None:
    requests: list[str] = []
    with watched(chromium, at(site)) as page:
        page.on("request", lambda request: requests.append(urlsplit(request.url).path))
        page.locator("#query").press_sequentially("readings('cat')", delay=5)
        expected = site.corpus.query("readings('cat')")
        expect(page.locator("#said")).to_have_text(f"{len(expected)} rows: {expected.headline}")
        # Fifteen characters were typed: not each of them is asked about.
        assert requests.count("/v1/query") <= 2
        assert requests.count("/v1/check") <= 4
        assert page.locator(".headline").count() == 0  # nothing was asked yet


def test_completion_by_keyboard(site: Site, chromium: Browser) -> None:
    with watched(chromium, at(site)) as page:
        page.keyboard.press("/")
        box, ways = page.locator("#query"), page.locator("#ways li")
        expect(box).to_be_focused()
        page.keyboard.type("first_l")
        expect(ways.first).to_contain_text("first_layer(")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        assert box.input_value() == "first_layer("
        page.keyboard.type("'pu")
        images = np.count_nonzero((site.arrays["patch/top1"] == 8).any((1, 2)))  # puppy
        expect(ways.first).to_contain_text(f"▁puppy, read in {images} images")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Tab")
        assert box.input_value() == "first_layer('puppy'"
        page.keyboard.type(", min_pr")
        expect(ways.first).to_contain_text("min_prob=")
        page.keyboard.press("Escape")
        expect(page.locator("#ways")).to_be_hidden()
        page.keyboard.press("Backspace")
        page.keyboard.type("r")
        expect(ways.first).to_be_visible()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        page.keyboard.type("0.0001).where(lab")
        expect(ways.first).to_contain_text("label")
        page.keyboard.press("Escape")
        page.keyboard.type("el == 'beach')")
        page.keyboard.press("Enter")
        expected = site.corpus.query("first_layer('puppy', min_prob=0.0001).where(label == 'beach')")
        expect(page.locator(".headline")).to_have_text(expected.headline)
        says(page, {"q": box.input_value()})
        page.locator("h1").click()
        page.keyboard.press("?")
        assert "in the query: run it" in page.get_by_role("dialog", name="Keys").inner_text()


# --- clicking --------------------------------------------------------------------------------------------------


def test_facets_narrow_and_widen(site: Site, chromium: Browser) -> None:
    query = "first_layer('dog', min_patches=2)"
    everything = site.corpus.query(query)
    layers = [row["layer"] for row in everything.rows]
    layer = max({*layers}, key=layers.count)
    with watched(chromium, at(site, q=query)) as page:
        bar = page.locator(f".facet[data-column=layer] a[aria-label^='layer {layer}:']")
        expect(bar).to_have_attribute("aria-label", f"layer {layer}: {layers.count(layer)}")
        bar.locator(".room").click()
        expect(page.locator("span.rows")).to_have_text(f"{layers.count(layer)} rows")
        assert page.locator("#query").input_value() == f"{query}.where(layer == {layer})"
        settled(page)
        label = page.locator(".facet[data-column=label] a", has_text="it's <b>")
        expected = site.corpus.query(f"""{query}.where(layer == {layer} and label == "it's <b>")""")
        expect(label.locator(".number")).to_have_text(str(len(expected)))
        label.click()
        expect(page.locator(".headline")).to_have_text(expected.headline)
        assert rows(page).count() == len(expected)
        settled(page)
        # The facet goes on showing the other layers, and another one can be chosen.
        assert page.locator(".facet[data-column=layer] a[aria-current]").count() == 1
        page.get_by_role("link", name=f"Remove layer == {layer}").click()
        beach = site.corpus.query(f"""{query}.where(label == "it's <b>")""")
        expect(page.locator(".headline")).to_have_text(beach.headline)
        settled(page)
        page.locator(".facet[data-column=label] a[aria-current]").click()
        expect(page.locator(".headline")).to_have_text(everything.headline)
        page.go_back()
        expect(page.locator(".headline")).to_have_text(beach.headline)
        assert page.locator("#query").input_value() == beach.query
        settled(page)


def test_order_groups_and_pages(site: Site, chromium: Browser) -> None:
    query = "readings('cat', rank=4)"
    expected = site.corpus.query(query)
    assert len(expected) > 200
    with watched(chromium, at(site, q=query, view="table")) as page:
        assert rows(page).count() == 100
        head = page.locator("th", has_text="logprob").get_by_role("link")
        head.click()
        expect(page.locator("th[aria-sort=ascending]")).to_contain_text("logprob")
        ordered = site.corpus.query(f"{query}.sort(logprob)").rows
        page.get_by_role("link", name="Next", exact=True).click()
        expect(page.locator(".pages")).to_contain_text(f"101 to 200 of {len(expected)}")
        first = [text.replace("\u202e", "�") for text in (ordered[100]["image"], str(ordered[100]["layer"]))]
        assert rows(page).first.locator("td").all_inner_texts()[1:3] == first
        cursor = page.url
        page.get_by_role("link", name="First", exact=True).click()
        expect(page.locator(".pages")).to_contain_text("1 to 100 of")
        head.click()
        expect(page.locator("th[aria-sort=descending]")).to_contain_text("logprob")
        head.click()
        expect(page.locator("#query")).to_have_value(query)
        settled(page)
        page.get_by_text("Group by").click()
        page.get_by_role("link", name="layer: count").click()
        grouped = site.corpus.query(f"{query}.group(layer).count()")
        expect(page.locator(".headline")).to_have_text(grouped.headline)
        assert [row.locator("td").all_inner_texts() for row in rows(page).all()] == [
            [str(row["layer"]), str(row["count"])] for row in grouped.rows
        ]
        page.get_by_role("link", name="Remove group(layer).count()").click()
        expect(page.locator(".headline")).to_have_text(expected.headline)
        settled(page)
        page.goto(cursor)
        expect(page.locator(".pages")).to_contain_text(f"101 to 200 of {len(expected)}")
        settled(page)
        # One of an answer that is another by now, as where the cache has grown, leads to its beginning.
        page.goto(at(site, q=query, cursor=parse_qs(urlsplit(cursor).query)["cursor"][0]))
        expect(page.locator(".mistake")).to_contain_text("the cache has grown since")
        page.get_by_role("link", name="From the first row").click()
        expect(page.locator(".pages")).to_contain_text(f"1 to 100 of {len(expected)}")
        assert "cursor" not in page.url


def test_images_are_chosen_compared_and_kept(site: Site, chromium: Browser) -> None:
    query = "images(label == 'grass')"
    numbers = [row["image_id"] for row in site.corpus.query(query).rows]
    with watched(chromium, at(site, q=query)) as page:
        for number in numbers[:2]:
            page.locator(f".pick input[value='{number}']").check()
        expect(page.locator("#selection")).to_contain_text("2 images selected")
        compare = page.get_by_role("link", name="Compare", exact=True).last
        assert compare.get_attribute("href") == f"/one/compare?images={numbers[0]},{numbers[1]}"
        says(page, {"q": query, "chosen": f"{numbers[0]},{numbers[1]}"})
        page.locator(f".pick input[value='{numbers[2]}']").check()
        of_three = page.get_by_role("link", name="Compare the first two")
        assert of_three.get_attribute("href") == f"/one/compare?images={numbers[0]},{numbers[1]}"
        page.locator(f".pick input[value='{numbers[2]}']").uncheck()
        page.get_by_label("Name").fill("<i>two</i>")
        page.get_by_role("button", name="Save set").click()
        page.get_by_role("button", name="Clear").click()
        expect(page.locator("#selection")).to_be_empty()
        page.locator("#query").fill("readings('dog').where(layer < 3)")
        page.keyboard.press("Enter")
        expect(page.locator(".headline")).to_contain_text("dog")
        settled(page)
        page.get_by_role("button", name="<i>two</i> (2)").click()
        listed = f"image_id in [{numbers[0]}, {numbers[1]}]"
        expected = site.corpus.query(f"readings('dog', images={listed}).where(layer < 3)")
        expect(page.locator(".headline")).to_have_text(expected.headline)
        settled(page)
        page.reload()
        page.get_by_role("link", name="Link to <i>two</i>").click()
        expect(page.locator(".headline")).to_have_text(site.corpus.query(f"images({listed})").headline)
        expect(page.locator("#selection")).to_contain_text("2 images selected")
        assert page.get_by_label("Name").input_value() == "<i>two</i>"
        settled(page)
        page.get_by_role("button", name="Forget <i>two</i>").click()
        assert page.locator("#sets").inner_text() == ""


CONTROLS = [
    ({"q": "first_layer('dog')", "view": "images"}, "#view-images[aria-current]"),
    ({"q": "first_layer('dog')", "view": "chart"}, "img.chart"),
    ({"q": "first_layer('dog')", "facets": "0"}, ".below.alone #tool-facets[aria-pressed=false]"),
    ({"q": "first_layer('dog')", "plan": "1"}, "#plan pre"),
    ({"q": "first_layer('dog')", "chosen": "2,5"}, "tr.picked >> nth=1"),
    ({"q": "first_layer('dog')", "chosen": "2", "set": "mine"}, "#selection form"),
    ({"q": "first_layer('dog').group(label).count()"}, ".chosen li"),
    ({"q": "first_layer('dog').sort(layer, descending=True)"}, "th[aria-sort=descending]"),
]


@pytest.mark.parametrize(("state", "shows"), CONTROLS)
def test_the_address_is_the_whole_state(site: Site, chromium: Browser, state: dict[str, str], shows: str) -> None:
    with watched(chromium, at(site, **state)) as page:
        below = (
            page.locator(shows)
            if ".below.alone #" not in shows
            else page.locator(".below.alone").locator("#tool-facets")
        )
        expect(below).to_be_visible()
        assert page.locator("#query").input_value() == state["q"]
        settled(page)
        page.locator("#query").focus()
        page.keyboard.press("Enter")  # the same again
        settled(page)
        says(page, state)


def test_a_plan_is_scrolled_by_itself(site: Site, chromium: Browser) -> None:
    with watched(chromium, at(site, q="first_layer('dog')", plan=1), viewport={"width": 600, "height": 800}) as page:
        plan = page.locator("#plan pre")
        expect(plan).to_contain_text("SELECT")
        assert plan.evaluate("plan => plan.scrollWidth > plan.clientWidth")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_controls_write_the_address(site: Site, chromium: Browser) -> None:
    query = "first_layer('dog')"
    with watched(chromium, at(site, q=query)) as page:
        settled(page)
        page.get_by_role("button", name="Facets").click()
        page.get_by_role("button", name="Plan").click()
        expect(page.locator("#plan pre")).to_contain_text("SELECT")
        page.get_by_role("link", name="Images", exact=True).click()
        expect(page.locator(".card").first).to_be_visible()
        says(page, {"q": query, "view": "images", "facets": "0", "plan": "1"})
        page.reload()
        expect(page.locator("#plan pre")).to_contain_text("SELECT")
        page.get_by_role("button", name="Facets").click()
        expect(page.locator(".facet").first).to_be_visible()
        says(page, {"q": query, "view": "images", "plan": "1"})
        settled(page)


def test_what_is_shown_is_copied(site: Site, chromium: Browser) -> None:
    query = """images(label == "it's <b>")"""
    with watched(chromium, at(site, q=query), permissions=["clipboard-read", "clipboard-write"]) as page:
        copied = {}
        for name in ("link", "query", "Python", "CLI"):
            page.get_by_role("button", name=f"Copy {name}").click()
            expect(page.locator(".copies output")).to_have_text("Copied.")
            copied[name] = page.evaluate("navigator.clipboard.readText()")
        assert copied["query"] == query
        assert parse_qs(urlsplit(copied["link"]).query) == {"q": [query]}
        names: dict[str, Any] = {"vlq": vlq}
        assert len(eval(copied["Python"], names)) == len(site.corpus.query(query))
        command = shlex.split(copied["CLI"])
        assert command == ["vlq", query, "--cache", f"{site.url}/one"]
        settled(page)


# --- pictures --------------------------------------------------------------------------------------------------


def edges(axis: int) -> list[float]:
    """Where patches begin and end in the picture's pixels: CROPPED undone by hand, and clipped to the picture."""
    cells, scale, offset = GRID[1 - axis], SCALE, (CROPPED.offset_x, 0.0)[axis]
    found = [(i * 112 / cells - offset) / scale for i in range(cells + 1)]
    return [min(max(value, 0.0), SIZE[axis]) for value in found]


@pytest.mark.parametrize("scale", [1, 2])
def test_outlines_are_where_the_patches_are(site: Site, chromium: Browser, scale: int) -> None:
    top1 = site.arrays["patch/top1"]
    read = np.isin(top1, [*DOGS])  # image, layer, patch
    with watched(
        chromium,
        at(site, q="first_layer('dog')", view="images"),
        device_scale_factor=scale,
        viewport={"width": 1200, "height": 900},
    ) as page:
        for card in page.locator(".card").all()[:6]:
            number = int(card.get_attribute("data-image") or "")
            layer = int(read[number].any(-1).argmax())
            patches = {*np.flatnonzero(read[number, layer]).tolist()}
            assert f"layer {layer}, {len(patches)} patch" in card.inner_text()
            link = card.locator("a.frame").get_attribute("href")
            assert link == f"/one/images/{number}?layer={layer}&pins={','.join(map(str, sorted(patches)))}"
            frame = card.locator("a.frame")
            expect(frame.locator("img")).to_have_js_property("complete", True)
            card.scroll_into_view_if_needed()
            box = frame.bounding_box()
            assert box is not None
            # With what lies outside of the picture: lines at its border are as wide as others.
            from_x, from_y = float(int(box["x"]) - 4), float(int(box["y"]) - 4)
            width, height = float(int(box["width"]) + 9), float(int(box["height"]) + 9)
            shot = page.screenshot(clip={"x": from_x, "y": from_y, "width": width, "height": height})
            pixels = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)
            yellow = (pixels[..., 0] > 200) & (pixels[..., 1] > 180) & (pixels[..., 2] < 90)
            margin = (box["x"] - from_x) * scale, (box["y"] - from_y) * scale
            x = [margin[0] + value * box["width"] * scale / SIZE[0] for value in edges(0)]
            y = [margin[1] + value * box["height"] * scale / SIZE[1] for value in edges(1)]
            columns = GRID[1]

            def near(across: float, down: float, yellow: np.ndarray = yellow) -> bool:
                reach = 1 + scale
                top, left = round(down), round(across)
                return bool(
                    yellow[max(0, top - reach) : top + reach + 1, max(0, left - reach) : left + reach + 1].any()
                )

            for patch in range(GRID[0] * columns):
                row, column = divmod(patch, columns)
                middle = (x[column] + x[column + 1]) / 2, (y[row] + y[row + 1]) / 2
                neighbours = {
                    (middle[0], y[row]): patch - columns if row else None,
                    (middle[0], y[row + 1]): patch + columns if row + 1 < GRID[0] else None,
                    (x[column], middle[1]): patch - 1 if column else None,
                    (x[column + 1], middle[1]): patch + 1 if column + 1 < columns else None,
                }
                for place, neighbour in neighbours.items():
                    assert near(*place) == ((patch in patches) != (neighbour in patches)), (number, patch, place)
            left, right = np.flatnonzero(yellow.any(0))[[0, -1]]
            wanted = [x[patch % columns] for patch in patches], [x[patch % columns + 1] for patch in patches]
            # A line of two CSS pixels lies half on either side. Browsers set it to whole device pixels.
            assert left == pytest.approx(min(wanted[0]) - scale, abs=1.5)
            assert right + 1 == pytest.approx(max(wanted[1]) + scale, abs=1.5)
        # The strip has each layer that reads it.
        card = page.locator(".card").first
        number = int(card.get_attribute("data-image") or "")
        counts = read[number].sum(-1)
        titles = [title.text_content() for title in card.locator(".strip title").all()]
        assert titles == [f"layer {layer}: {count}" for layer, count in enumerate(counts.tolist())]


def test_readings_are_outlined_together(site: Site, chromium: Browser) -> None:
    """Rows by patch and layer: an image once, with the patches of all its rows."""
    read = np.isin(site.arrays["patch/top1"], [*DOGS])[:, 2:]
    amounts = read.sum((1, 2))
    with watched(chromium, at(site, q="readings('dog', layers=(2, 4))", view="images")) as page:
        numbers = [int(card.get_attribute("data-image") or "") for card in page.locator(".card").all()]
        assert [amounts[number] for number in numbers] == sorted(amounts[amounts > 0].tolist(), reverse=True)[:24]
        for number, card in zip(numbers[:4], page.locator(".card").all(), strict=False):
            assert f"{amounts[number]} rows, {read[number].any(0).sum()} patches" in card.inner_text()
        if np.count_nonzero(amounts) > 24:
            page.get_by_role("link", name="Next", exact=True).click()
            expect(page.locator(".pages")).to_contain_text(f"25 to {np.count_nonzero(amounts)} of")
        settled(page)


def test_a_picture_that_is_gone_says_so(site: Site, chromium: Browser) -> None:
    context = chromium.new_context()
    page = context.new_page()
    page.goto(at(site, "growing", q="images()", view="images"))  # whose pictures never were
    frame = page.locator(".frame").first
    expect(frame).to_have_class("frame gone")
    shown = page.evaluate("getComputedStyle(document.querySelector('.frame.gone'), '::after').content")
    assert shown == '"Not where it was, or no longer the same"'
    context.close()


def test_charts(site: Site, chromium: Browser) -> None:
    query = "first_layer('dog', min_patches=3)"
    with watched(chromium, at(site, q=query, view="chart")) as page:
        chart = page.locator("img.chart")
        expect(chart).to_have_attribute("alt", site.corpus.query(query).headline)
        page.wait_for_function("document.querySelector('img.chart').naturalWidth > 0")
        page.locator("#query").fill("images().select(label)")
        page.keyboard.press("Enter")
        nothing = site.query("images().select(label)", format="svg").json()
        expect(page.locator("#answer .empty")).to_contain_text(nothing["message"])
        settled(page)


# --- everything, to everybody ----------------------------------------------------------------------------------


def test_names_and_values_are_texts(site: Site, chromium: Browser) -> None:
    with watched(chromium, at(site, q="images(image_id == 0)")) as page:
        settled(page)
        name = HOSTILE.replace("\u202e", "�")
        assert rows(page).locator("td").nth(1).inner_text() == name
        assert rows(page).get_by_role("link").first.get_attribute("href") == "/one/images/0"
        page.get_by_role("link", name="Images", exact=True).click()
        expect(page.locator(".card .name")).to_have_text(name)
        assert page.locator("img[src=x]").count() == 0
        settled(page)
        page.get_by_text("Group by").click()
        page.get_by_role("link", name="a <b> class: count").click()
        expect(page.locator("#query")).to_have_value("images(image_id == 0).group(col('a <b> class')).count()")
        expect(rows(page)).to_have_count(1)
        settled(page)


def test_a_corpus_without_images_yet(tmp_path: Path, chromium: Browser) -> None:
    make_cache(tmp_path / "begun", images=4, seal=False)
    for commit in (tmp_path / "begun" / "commits").iterdir():
        commit.unlink()
    app = create_app(Settings({"begun": str(tmp_path / "begun")}))
    with running(app) as url, watched(chromium, f"{url}/begun/?q=images()") as page:
        assert "0 images so far" in page.locator("h1").inner_text()
        expect(page.locator(".wrong")).to_be_visible()
        settled(page)


def test_two_caches_side_by_side(site: Site, chromium: Browser) -> None:
    query = "compare('other', 'one', first_layer('dog', layers=[0, 2]))"
    rows_here = site.query(query).json()["rows"]
    with watched(chromium, at(site, q=query), java_script_enabled=False) as page:
        heads = [head.split()[0] for head in page.locator("table.rows th:visible").all_inner_texts()]
        assert {"layer_a", "layer_b", "difference"} <= {*heads}
        links = page.locator("table.rows tbody a")
        assert (links.first.get_attribute("href") or "").startswith(f"/other/images/{rows_here[0]['image_id']}")
        assert page.locator(".pick").count() == 0  # the images are another corpus'
    with watched(
        chromium, at(site, q="compare('one', 'other', first_layer('dog', layers=[0, 2]))", view="images")
    ) as page:
        expect(page.locator(".card").first).to_contain_text("a: layer")
        assert page.locator(".card").first.locator("path.set2").count() == 1
        settled(page)
    with watched(chromium, at(site, "other", q="readings('dog')", view="table")) as page:
        expect(page.locator(".facet[data-column=layer] title")).to_have_count(3)
        settled(page)
    answer = site.client.get("/other/answer", params={"q": "readings('dog')", "view": "images"}).text
    assert "layer 1: not read" in answer
    assert "layer 2: not read" not in answer


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_everybody_can_use_it(site: Site, chromium: Browser, theme: str) -> None:
    query = "first_layer('dog', min_patches=2).where(layer < 4).sort(logprob)"
    state = {"q": query, "chosen": "2,3", "plan": "1"}
    with watched(chromium, at(site, **state), color_scheme=theme, viewport={"width": 1200, "height": 900}) as page:
        expect(page.locator(".facet").first).to_be_visible()
        expect(page.locator("#plan pre")).to_contain_text("SELECT")
        accessible(page)
        page.locator("#query").fill("first_layr('do")
        expect(page.locator("#mirror mark")).to_be_attached()
        accessible(page)
        page.locator("#query").fill("first_layer('do")
        expect(page.locator("#said")).to_have_text("Unfinished")
        page.keyboard.type("g")
        expect(page.locator("#ways li").first).to_be_visible()
        accessible(page)
    for view, wanted in (("images", ".card"), ("table", "table.rows") if theme == "light" else ("chart", "img.chart")):
        with watched(
            chromium, at(site, q=query, view=view), color_scheme=theme, viewport={"width": 390, "height": 800}
        ) as page:
            expect(page.locator(wanted).first).to_be_visible()
            expect(page.locator(".facet").first).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            if view == "images":
                accessible(page)


def test_an_answer_that_does_not_come_leaves_no_other_in_its_place(site: Site, chromium: Browser) -> None:
    with watched(chromium, at(site, q="first_layer('dog')"), may_be_cut_off=True) as page:
        settled(page)
        had = page.locator(".headline").inner_text()
        page.context.set_offline(True)
        page.fill("#query", "first_layer('cat')")
        page.keyboard.press("Enter")
        for part in ("#answer", "#facets"):
            expect(page.locator(f"{part} [role=alert]")).to_contain_text("The service does not answer. Is it running?")
        assert had not in page.locator("main").inner_text()
        page.context.set_offline(False)
        page.click("#answer [role=alert] button")
        expect(page.locator("#answer .headline")).to_contain_text("cat: ")
        page.click("#facets [role=alert] button")
        expect(page.locator("#facets .facet").first).to_be_visible()
        # What was said while it was typed is said no more, either, when it is asked again.
        page.context.set_offline(True)
        page.fill("#query", "first_layer('cat') ")
        expect(page.locator("#said")).to_contain_text("The service does not answer.")
        page.context.set_offline(False)
        page.fill("#query", "first_layer('cat')")
        page.keyboard.press("Enter")
        settled(page)
        expect(page.locator("#said")).not_to_contain_text("The service does not answer.")


def test_facets_that_there_are_none_of_say_so(site: Site, chromium: Browser) -> None:
    with watched(chromium, at(site, q="images(image_id == 2).limit(1)")) as page:
        expect(page.locator("#facets")).to_have_text("No facets: no column tells these rows apart.")
