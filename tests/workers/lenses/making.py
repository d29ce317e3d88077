"""Tuned lenses, runs with every lens, and what checks find in their caches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vlq.query.cache.reader import Cache
from vlq.query.cli import main
from vlq.workers.corpus import list_images
from vlq.workers.job import run_job
from vlq.workers.lenses.command import record
from vlq.workers.lenses.files import write
from vlq.workers.lenses.train import Options, train
from vlq.workers.models.base import LensModel
from vlq.workers.models.files import model_hash
from vlq.workers.plan import RunOptions
from vlq.workers.upkeep.verify import Finding, verify

from ..here import without_ray
from ..runs import PROMPT, Silent

KINDS = ("logit", "head", "nearest", "tuned")
K, SHARD = 4, 2


def make_lens(folder: Path, path: Path, model: LensModel, images: Path, steps: int = 30) -> Path:
    """A tuned lens that leaves layer 1 alone."""
    options = Options(steps=steps)
    trained = train(model, list_images(str(images)).to_pylist(), options, lambda what, done, of: None)
    kept = {layer: translator for layer, translator in trained.translators.items() if layer != 1}
    made = record(str(path), None, model_hash(path), model, replace(trained, translators=kept), options)
    write(folder, made, (translator.to_bytes() for translator in kept.values()))
    return folder


def options(model: Path, images: Path, cache: Path, lens: Path | str, **changes: Any) -> RunOptions:
    values = {"prompt": PROMPT, "k": K, "shard_size": SHARD, "batch_size": 2, "workers": 1} | changes
    return RunOptions(str(images), str(model), str(cache), lens=str(lens), **values)


def caches_of(
    folder: Path, model: Path, images: Path, tuned: Path, read: int, bad: int = 0, **changes: Any
) -> dict[str, Path]:
    """A cache by each lens: so many images, of which some could not be read."""
    for kind in KINDS:
        lens = tuned if kind == "tuned" else kind
        with without_ray():
            outcome = run_job(options(model, images, folder / kind, lens, **changes), Silent())
        assert (outcome.images, len(outcome.errors)) == (read, bad)
    return {kind: folder / kind for kind in KINDS}


def findings(cache: Path) -> list[Finding]:
    return list(verify(Cache.open(str(cache)), lambda what, done, of: None))


def deeply_verified(cache: Path) -> int:
    """The exit code."""
    with pytest.raises(SystemExit) as ended:
        main(["verify", "--deep", "--cache", str(cache)])
    return int(ended.value.code or 0)
