"""The frame of every page, in a real browser."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser

from vlq.query.cache import model_name

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
