"""What tests of lenses share: the tiny model with its question, images, and a tuned lens of these."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlq.workers.models import load
from vlq.workers.models.base import LensModel

from ..conftest import save_images
from ..runs import PROMPT
from .making import make_lens


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> LensModel:
    return load(str(tiny_model), prompt=PROMPT)


@pytest.fixture(scope="module")
def images(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many as the module's `IMAGES`."""
    return save_images(tmp_path_factory.mktemp("lenses") / "images", request.module.IMAGES)


@pytest.fixture(scope="module")
def lens(tiny_model: Path, model: LensModel, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tuned lens, which leaves layer 1 alone."""
    return make_lens(tmp_path_factory.mktemp("lens") / "tuned", tiny_model, model, images)
