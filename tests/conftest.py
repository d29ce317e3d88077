"""Before anything is imported."""

import os
import shutil

if shutil.which("nvidia-smi") is None:
    os.environ["TRITON_INTERPRET"] = "1"  # Triton, whose kernels are interpreted then, looks for it when it is imported

from collections.abc import Iterator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--door", choices=("local", "http"), default="local", help="how tests/query open corpora")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "here: of a cache that is read in this process, and of no service")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--door") == "http":
        for item in items:
            if item.get_closest_marker("here"):
                item.add_marker(pytest.mark.skip(reason="of a cache that is read in this process"))


@pytest.fixture(scope="session", autouse=True)
def door(request: pytest.FixtureRequest) -> Iterator[None]:
    """With --door http the client's tests ask a server."""
    if request.config.getoption("--door") == "local":
        yield
        return
    from .doors import through_http

    with through_http():
        yield
