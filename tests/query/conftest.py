"""Random corpora that the tests of several functions ask, made once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .corpora import Case


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    from .corpora import make_cases

    return make_cases(tmp_path_factory.mktemp("caches"))
