"""The frame of every page, in a real browser."""

from __future__ import annotations

import itertools
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from vlq.query.cache.reader import model_name

from .browser import accessible, watched
from .conftest import Site


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", "/docs", "/login"])
def test_pages_of_no_corpus(site: Site, chromium: Browser, path: str, theme: str) -> None:
    with watched(chromium, site.url + path, color_scheme=theme, viewport={"width": 390, "height": 800}) as page:
        accessible(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth") or path == "/docs"


def test_keys_are_listed(site: Site, chromium: Browser) -> None:
    with watched(chromium, f"{site.url}/docs") as page:
        page.keyboard.press("?")
        dialog = page.get_by_role("dialog", name="Keys")
        assert "these keys" in dialog.inner_text()
        page.keyboard.press("Escape")
        assert dialog.count() == 0


@pytest.mark.parametrize(
    ("path", "state", "panel"),
    [
        ("", "q=first_layer('dog')&facets=0", "answer"),
        ("layers", "at=patch", "changes"),
    ],
)
def test_a_panel_that_fills_the_window_is_in_the_address(
    site: Site, chromium: Browser, path: str, state: str, panel: str
) -> None:
    plain = f"{site.url}/one/{path}?{state}"
    with watched(chromium, plain) as page:
        assert fills(page, panel, False)
        page.locator(f"[data-whole={panel}]").click()
        assert fills(page, panel, True)
        assert parse_qs(urlsplit(page.url).query) == {**parse_qs(state), "whole": [panel]}
        page.reload()
        assert fills(page, panel, True)
        page.keyboard.press("Escape")
        assert fills(page, panel, False)
        assert parse_qs(urlsplit(page.url).query) == parse_qs(state)
        page.go_back()
        assert fills(page, panel, True)
        page.locator(f"[data-whole={panel}]").click()
        assert fills(page, panel, False)
        page.goto(f"{plain}&whole=nothing")
        assert fills(page, panel, False)
        page.keyboard.press("?")
        assert "the panel fills the window no more" in page.get_by_role("dialog", name="Keys").inner_text()


def fills(page: Page, panel: str, expected: bool) -> bool:
    """Whether a panel is as large as the window, and its button says so, or both are not so."""
    expect(page.locator(f"[data-whole={panel}]")).to_have_attribute("aria-pressed", str(expected).lower())
    box, size = page.locator(f"#{panel}").bounding_box(), page.viewport_size
    assert box is not None
    assert size is not None
    return (box["x"], box["y"], box["height"]) == (0, 0, size["height"]) if expected else box["x"] > 0


def test_tokens_that_look_alike_are_rare(site: Site, chromium: Browser) -> None:
    """Of a hundred tokens of a large vocabulary: those of nearly the same hue that have the same mark, too.

    Frequent tokens have low ids in most vocabularies, so ids are drawn evenly of their logarithms.
    """
    draws = np.random.default_rng(0)
    drawn = [np.unique(np.exp(draws.uniform(5.5, np.log(32_000), 400)).astype(int)) for _ in range(40)]
    images = [draws.permutation(ids)[:100] for ids in drawn]
    with watched(chromium, f"{site.url}/docs") as page:
        looks = page.evaluate(
            """async (images) => {
                const frame = document.querySelector("script[type=module]");
                const { hue, mark } = await import(frame.src.replace("frame.js", "chips.js"));
                return images.map((ids) => ids.map((id) => [hue(id), mark(id)]));
            }""",
            [ids.tolist() for ids in images],
        )
    alike = [
        sum(
            mark == other and min(abs(hue - another), 360 - abs(hue - another)) < 15
            for (hue, mark), (another, other) in itertools.combinations(image, 2)
        )
        for image in looks
    ]
    assert all(len(image) == 100 for image in looks)
    # As chance has it: of 4,950 pairs one in 24 has the same hue, and of these one in 40 the same mark.
    assert np.mean(alike) == pytest.approx(4950 / 24 / 40, rel=0.25)


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ("llava-hf/llava-1.5-7b-hf", "llava-hf/llava-1.5-7b-hf"),
        ("/data/models/llava", "…/models/llava"),
        ("C:\\models\\big\\llava", "…/big/llava"),
        ("llava", "llava"),
    ],
)
def test_models_are_named_without_the_way_to_them(model: str, shown: str) -> None:
    assert model_name(model) == shown
