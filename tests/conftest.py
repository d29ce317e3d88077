"""Before anything is imported."""

import os
import shutil

if shutil.which("nvidia-smi") is None:
    os.environ["TRITON_INTERPRET"] = "1"  # Triton, whose kernels are interpreted then, looks for it when it is imported
# The cores are shared with other processes: threads that wait for each other in a loop would take them from these.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from collections.abc import Iterator

import pytest
from hypothesis import settings

from . import examples


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--door", choices=("local", "http"), default="local", help="how tests/query open corpora")
    parser.addoption("--examples", type=float, default=1.0, help="the share of its examples that a test asks")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "here(what): of what is in this process, and of no service")
    examples.SHARE = config.getoption("--examples")  # before any test is imported
    # How long an example takes says more of what else the machine does: a test that is about time says what it may.
    settings.register_profile("any machine", deadline=None)
    settings.load_profile("any machine")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Where processes share the files, those of whole runs come first, and many that take seconds last.
    items.sort(key=lambda item: "query" in item.path.parts)
    if config.getoption("--examples") < 1:
        tests: dict[str, list[pytest.Item]] = {}
        for item in items:
            tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
        chosen = {item for asked in tests.values() for item in examples.spread(asked)}
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = [item for item in items if item in chosen]
    if config.getoption("--door") == "http":
        for item in items:
            if (mark := item.get_closest_marker("here")) is not None:
                item.add_marker(pytest.mark.skip(reason=": ".join(("of what is in this process", *mark.args))))


@pytest.fixture(scope="session", autouse=True)
def door(request: pytest.FixtureRequest) -> Iterator[None]:
    """With --door http the client's tests ask a server."""
    if request.config.getoption("--door") == "local":
        yield
        return
    from .doors import through_http

    with through_http():
        yield
