"""The language's page says what the registry says."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlq.query.language.reference import reference

pytestmark = pytest.mark.here("the language's page")

DOCS = Path(__file__).parents[2] / "docs"


def test_the_language_page_ends_with_the_registrys_reference() -> None:
    page = (DOCS / "language.md").read_text()
    assert page.partition("## Functions\n\n")[2] == reference() + "\n"
