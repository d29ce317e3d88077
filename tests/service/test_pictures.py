"""Each page has a picture, which README and docs show."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
PAGES = list(runpy.run_path(str(ROOT / "docs" / "screenshots.py"))["PAGES"])


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_shown(page: str) -> None:
    assert f"](pictures/{page}.png)" in (ROOT / "docs" / "pages.md").read_text()
    assert f"docs/pictures/{page}.png" in (ROOT / "README.md").read_text()
    with Image.open(ROOT / "docs" / "pictures" / f"{page}.png") as picture:
        assert picture.width > 1000


def test_nothing_else_is() -> None:
    assert sorted(path.stem for path in (ROOT / "docs" / "pictures").glob("*.png")) == sorted(PAGES)
