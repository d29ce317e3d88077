"""A sample of `make storm`: hostile images as one shard."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vlq.workers.corpus import list_images
from vlq.workers.extract import prepare
from vlq.workers.models import load

from ..workers.conftest import make_model
from ..workers.runs import PROMPT
from .hostile import save_hostile

pytestmark = pytest.mark.filterwarnings("ignore")  # of Pillow's, which a worker does not show either


def test_what_can_be_read_is_read_and_the_rest_recorded(tmp_path: Path) -> None:
    model = load(str(make_model(tmp_path / "model")), prompt=PROMPT)
    made = save_hostile(tmp_path / "images", 40, seed=1)
    assert len({kind for kind, _ in made.values()}) > 8
    rows = list_images(str(tmp_path / "images"))
    with ThreadPoolExecutor(4) as decoders:
        found = decoders.map(lambda uri: prepare(model, uri), rows["uri"].to_pylist())
        errors = {name: image.error for name, image in zip(rows["image"].to_pylist(), found, strict=True)}
    assert {name for name, error in errors.items() if error} == {name for name, (_, sound) in made.items() if not sound}
