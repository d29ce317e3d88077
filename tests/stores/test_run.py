"""A whole run into a bucket, from images in it, on a bad day; and what is then asked of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from unittest.mock import patch

import pytest

from ..faults import FAULTS, Faults
from ..s3 import SECRET, environment
from ..storm.objects import compared
from ..workers.conftest import make_model, save_images
from ..workers.here import printed
from ..workers.runs import run_of

pytestmark = pytest.mark.timeout(600)

CONNECTIONS = ("reset", "cut short", "answer lost", "slow")
"""What befalls connections to the real server. Refusals and silence come from the proxy alone: moto's day has them."""


@pytest.mark.parametrize("server", ["moto", "radosgw"])
def test_a_run_on_a_bad_day_ends_as_one_on_a_good_day(
    server: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    environ: Mapping[str, str] = os.environ
    if server == "moto":
        environ = environment(request.getfixturevalue("moto"))
    elif "VLQ_TEST_RADOSGW" not in os.environ:
        pytest.skip("the real S3 server is for `make test-s3`")
    faults = Faults(share=0.08, seed=7, lag=0.2, kinds=FAULTS if server == "moto" else CONNECTIONS)
    model = make_model(tmp_path / "model")
    outcome = compared(model, save_images(tmp_path / "images", 8), environ, faults, good=run_here)
    assert faults.happened.keys() >= {*faults.kinds}
    assert len(outcome.good) > 60
    assert outcome.differing == []
    assert not any(SECRET.encode() in data for data in outcome.good.values())

    cache = f"s3://{outcome.bucket}/bad"
    with patch.dict(os.environ, {**environ, "VLQ_HOME": str(tmp_path / "home")}):
        verified = printed("verify", "--cache", cache)
        rows = printed("top('0000.png', layers=3)", "--cache", cache, "--explain")
    assert "8 images" in verified
    assert "0000.png" in rows
    assert SECRET not in verified + rows


def run_here(model: Path, images: str, cache: str, environ: Mapping[str, str]) -> None:
    with patch.dict(os.environ, environ):
        printed(*run_of(model, images, cache, "--workers", "1"))
