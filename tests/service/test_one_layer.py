"""Pages of a run that read one layer alone."""

from __future__ import annotations

from pathlib import Path

from starlette.testclient import TestClient

from vlq.service.app import create_app
from vlq.service.settings import Settings

from ..synthetic import make_cache, make_run


def test_the_page_of_the_layers_names_it(tmp_path: Path) -> None:
    make_cache(tmp_path / "one", make_run(read_layers=(3,)), images=2)
    with TestClient(create_app(Settings({"one": str(tmp_path / "one")})), base_url="http://127.0.0.1") as client:
        text = client.get("/one/layers").text
    assert "synthetic: layer 3<" in text
