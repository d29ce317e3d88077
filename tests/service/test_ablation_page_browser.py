"""Patches taken from an image on its page, with the mouse and with keys alone, and the model's other answer seen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect

from vlq.service.app import create_app
from vlq.service.settings import Settings

from ..doors import running
from .browser import accessible, watched

SIDE = 8
"""Rows and columns of the demo's patches."""

NUMBER, WORD, OTHER = 1, "tree", "horse"
"""A scene of a tree and a smaller horse."""


@pytest.fixture(scope="module")
def url(scenes: Path) -> Iterator[str]:
    with running(create_app(Settings({"scenes": str(scenes)}, intervene=True))) as url:
        yield url


@pytest.fixture(scope="module")
def tree(url: str) -> list[int]:
    """The patches that its box covers by more than half."""
    about = httpx2.get(f"{url}/v1/images/{NUMBER}").json()
    (x0, y0, x1, y1), x, y = about["columns"]["objects"][0]["box"], about["x"], about["y"]
    assert about["columns"]["objects"][0]["label"] == WORD == about["answer"]
    columns = [i for i in range(SIDE) if x0 <= (x[i] + x[i + 1]) / 2 <= x1]
    rows = [i for i in range(SIDE) if y0 <= (y[i] + y[i + 1]) / 2 <= y1]
    return [row * SIDE + column for row in rows for column in columns]


def click(page: Page, patch: int, *modifiers: str) -> None:
    box = page.locator("#stage").bounding_box()
    assert box is not None
    place = {
        "x": (patch % SIDE + 0.5) / SIDE * box["width"],
        "y": (patch // SIDE + 0.5) / SIDE * box["height"],
    }
    page.locator("#stage").click(position=place, modifiers=list(modifiers))


def has_state(page: Page, **values: str | None) -> None:
    def state() -> dict[str, str]:
        return {name: given[0] for name, given in parse_qs(urlsplit(page.url).query).items()}

    until = time.monotonic() + 5
    while any(state().get(name) != value for name, value in values.items()) and time.monotonic() < until:
        page.wait_for_timeout(30)
    assert {name: state().get(name) for name in values} == values


def told(page: Page) -> dict[str, str]:
    """The result, by the names of its lines."""
    names, texts = page.locator("#without-result dt"), page.locator("#without-result dd")
    return dict(zip(names.all_inner_texts(), texts.all_inner_texts(), strict=True))


def test_an_objects_patches_are_taken(url: str, tree: list[int], chromium: Browser) -> None:
    with watched(chromium, f"{url}/scenes/images/{NUMBER}", viewport={"width": 1400, "height": 900}) as page:
        page.wait_for_selector("html[data-k='5']", state="attached")
        said, take = page.locator("#without-said"), page.locator("#take")
        expect(page.locator("#target")).to_have_value(WORD)
        expect(said).to_have_text("Pin some patches on the picture.")
        expect(take).to_have_attribute("aria-disabled", "true")
        click(page, tree[0])
        click(page, tree[-1], "Shift")
        has_state(page, target=None, mode=None, ring=None, pins=",".join(map(str, tree)))
        expect(said).to_have_text("")
        take.click()
        expect(page.locator("#without-result dd").first).to_have_text(f"{WORD} → {OTHER}. The target is gone.")
        asked = {"patches": tree, "target": WORD, "mode": "mean", "buffer": 0}
        found = httpx2.post(f"{url}/v1/images/{NUMBER}/ablation", json=asked).json()
        assert found["gone"] is True
        assert found["effect"] > 1
        lines = told(page)
        numbers = [f"{found[name]:.2f}".replace("-0.00", "0.00") for name in ("effect", "before", "after")]
        numbers = [number.replace("-", "−") for number in numbers]
        assert lines["Effect"].startswith(f"{numbers[0]} nats: ")
        assert lines["Effect"].endswith(f" from {numbers[1]} to {numbers[2]}")
        assert lines["Rank"] == f"{found['rank_before']} → {found['rank_after']}"
        assert lines["Taken"] == f"{len(tree)} patches, with the mean of this image's patches in their places"
        # Fields are in the address, the result is not; of something else it says so.
        page.select_option("#mode", "zero")
        page.select_option("#ring", "1")
        has_state(page, mode="zero", ring="1")
        expect(said).to_have_text("Of other patches, or otherwise asked, than now.")
        page.locator("#target").fill("dgo")
        page.locator("#target").press("Enter")
        expect(said).to_contain_text("'dgo' is")
        has_state(page, target="dgo")
        page.locator("#target").fill(WORD)
        expect(said).not_to_contain_text("'dgo' is")
        has_state(page, target=None)
        page.reload()
        page.wait_for_selector("html[data-k='5']", state="attached")
        expect(page.locator("#mode")).to_have_value("zero")
        expect(page.locator("#ring")).to_have_value("1")
        assert told(page) == {}
        page.locator("#target").press("Enter")
        expect(page.locator("#without-result dt").first).to_be_visible()
        grown = httpx2.post(f"{url}/v1/images/{NUMBER}/ablation", json={**asked, "mode": "zero", "buffer": 1}).json()
        assert told(page)["Taken"] == f"{len(grown['patches'])} patches, with zeros in their places"
        assert len(grown["patches"]) > len(tree)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_keys_alone_and_accessible(url: str, tree: list[int], chromium: Browser, scheme: str) -> None:
    address = f"{url}/scenes/images/{NUMBER}?pins={','.join(map(str, tree))}"
    with watched(chromium, address, color_scheme=scheme, viewport={"width": 390, "height": 800}) as page:
        page.wait_for_selector("html[data-k='5']", state="attached")
        page.locator("#target").focus()
        for name in ("mode", "ring", "take"):
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement.id") == name
        page.keyboard.press("Enter")
        expect(page.locator("#without-result dd").first).to_have_text(f"{WORD} → {OTHER}. The target is gone.")
        assert page.evaluate("document.activeElement.id") == "take"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        accessible(page)


def test_where_no_model_is_loaded_there_is_no_panel(scenes: Path, chromium: Browser) -> None:
    with running(create_app(Settings({"scenes": str(scenes)}))) as url:
        with watched(chromium, f"{url}/scenes/images/{NUMBER}?pins=3&ring=1") as page:
            page.wait_for_selector("html[data-k='5']", state="attached")
            assert page.locator("#without").count() == 0
        assert 'id="without"' not in httpx2.get(f"{url}/v1/images/{NUMBER}/page").text


def test_a_file_has_no_panel(url: str, tmp_path: Path, chromium: Browser) -> None:
    """Nor has the one that a service gives that loads a model."""
    file = tmp_path / "image.html"
    file.write_bytes(httpx2.get(f"{url}/v1/images/{NUMBER}/page").content)
    with watched(chromium, file.as_uri()) as page:
        page.wait_for_selector("html[data-k]", state="attached")
        assert page.locator("#without").count() == 0
