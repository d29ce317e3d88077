"""Random corpora that the tests of several functions ask, made once."""

from __future__ import annotations

import pytest

from .corpora import Case, make_cases


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    return make_cases(tmp_path_factory.mktemp("caches"))
