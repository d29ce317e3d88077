"""Whole runs with models whose images have grids of their own: what is stored is what the model reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from PIL import Image

import vlq

from ..conftest import save_images
from ..here import printed
from . import checks, test_qwen_vl
from .tiny import make_llava_next

IMAGES = 7

MODELS: dict[str, Callable[[Path], Path]] = {
    "qwen2_vl": lambda folder: test_qwen_vl.make_model(folder, "qwen2_vl"),
    "llava_next": make_llava_next,
}


@pytest.mark.parametrize("family", MODELS)
def test_what_is_stored_is_what_the_model_reads(tmp_path: Path, family: str) -> None:
    folder = MODELS[family](tmp_path / "model")
    images = save_images(tmp_path / "images", IMAGES)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": end_of_some(folder, images)}))
    (images / "0002.png").write_bytes(b"no image")
    cache = tmp_path / "cache"
    options = ["--model", folder, "--cache", cache, "--k", "5", "--shard-size", "3", "--batch-size", "2"]
    options += ["--answer", "3"]
    printed("run", images, *options)

    corpus = vlq.open(str(cache))
    assert corpus.cache.run.grid is None
    model = checks.loaded(folder)
    shards = sorted(path.parent for path in cache.glob("shards/*/zarr.json"))
    tables = [pq.read_table(path).to_pylist() for path in sorted(cache.glob("images/*.parquet"))]
    lengths, answers = set(), set()
    for shard, rows in zip(shards, tables, strict=True):
        group = zarr.open_group(shard, mode="r")
        for number, row in enumerate(rows):
            stored = {name: array_of(group, f"patch/{name}")[number] for name in ("token", "logprob", "top1")}
            if row["image"] == "0002.png":
                assert row["grid"] is row["answer"] is None
                assert (stored["top1"] == corpus.cache.run.no_id).all()
                continue
            patches = row["grid"]["rows"] * row["grid"]["columns"]
            lengths.add(patches)
            image = Image.open(images / row["image"])
            expected = checks.of_the_model(model, image)
            for layer, values in enumerate(expected):
                token, logprob = (stored[name][layer, :patches] for name in ("token", "logprob"))
                best = -np.sort(-values[:patches], -1)[:, :5]
                np.testing.assert_allclose(logprob, best, atol=checks.NATS)
                own = np.take_along_axis(values[:patches], token.astype(int), -1)
                np.testing.assert_allclose(own, best, atol=checks.NATS)
                assert (stored["top1"][layer, patches:] == corpus.cache.run.no_id).all()
                assert (stored["top1"][layer, :patches] == token[:, 0]).all()
            ids, logprobs = checks.answered(model, image, 3)
            assert row["answer_ids"] == ids
            answers.add(len(ids))
            assert row["answer_logprobs"] == pytest.approx(logprobs, abs=checks.NATS)
            assert row["answer"] == model.tokenizer.decode(ids, skip_special_tokens=True).strip()
            # At the last layer an answer's token reads the next one.
            answer = array_of(group, "answer/token")[number, -1, : len(ids), 0]
            assert answer.tolist()[:-1] == ids[1:]
            top = corpus.top(row["image"], rank=1).rows
            assert [found["token"] for found in top] == stored["top1"][:, :patches].reshape(-1).tolist()
    assert len(lengths) > 2
    assert len(answers) > 1 or family == "llava_next"  # of which random weights answer every image alike
    printed("verify", "--deep", "--cache", cache)


def end_of_some(folder: Path, images: Path) -> int:
    """A token that some answers come to sooner than others, so that their lengths differ where it ends them."""
    model = checks.loaded(folder)
    answers = [checks.answered(model, Image.open(image), 3)[0] for image in sorted(images.iterdir())]

    def lengths(end: int) -> set[int]:
        return {ids.index(end) if end in ids else len(ids) for ids in answers}

    return max(sorted({id for ids in answers for id in ids}), key=lambda end: len(lengths(end)))


def array_of(group: zarr.Group, name: str) -> Any:
    return np.asarray(group[name][...])  # type: ignore[index]
