"""A cache has images that were read in one way: who reads them otherwise does not go on with it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import vlq
from vlq.query.cache.reader import Cache
from vlq.query.errors import CacheMismatch
from vlq.query.schema import READING, RUN, commit_key
from vlq.workers.beginning import beginning_of
from vlq.workers.plan import RunOptions

from .runs import PROMPT, Silent, contents


def test_an_older_cache_is_asked_and_not_gone_on_with(
    tiny_model: Path, images: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run = Cache.open(str(undisturbed)).run
    assert run.reading == READING > 1
    folder = shutil.copytree(undisturbed, tmp_path / "cache")
    (folder / RUN).write_bytes(replace(run, reading=1).to_bytes())
    assert b'"reading"' not in (folder / RUN).read_bytes()  # as older records are
    asked = RunOptions(str(images), str(tiny_model), str(folder), prompt=PROMPT, k=run.k)

    assert beginning_of(asked, Silent()).run == replace(run, reading=1)  # nothing is left to be read
    before = vlq.open(str(undisturbed)).first_layer("dog").rows
    assert vlq.open(str(folder)).first_layer("dog").rows == before

    more = shutil.copytree(images, tmp_path / "more")
    shutil.copy(next(more.glob("*.png")), more / "another.png")
    whole = contents(folder)
    with pytest.raises(CacheMismatch, match=r"readings are of revision 1, and these would be of \d"):
        beginning_of(replace(asked, images=str(more)), Silent())
    assert contents(folder) == whole

    (folder / commit_key(0)).unlink()
    with pytest.raises(CacheMismatch, match="was begun by another VLQ"):
        beginning_of(asked, Silent())
    (folder / RUN).write_bytes(run.to_bytes())
    assert beginning_of(asked, Silent()).run == run
