"""The divergence that is made of shards' sums against the model itself, in double precision."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

import vlq
from vlq.query.cache.reader import Cache
from vlq.query.cache.sums import entropies
from vlq.query.cache.tables import parquet_bytes
from vlq.query.schema import VOCABULARY, Head, digest_of, head_key
from vlq.query.store import open_store
from vlq.workers.corpus import list_images
from vlq.workers.extract import read_shard
from vlq.workers.indexing.index import compact
from vlq.workers.lenses import lens_of
from vlq.workers.models import load
from vlq.workers.models.vocabulary import vocabulary_hash, vocabulary_table
from vlq.workers.shard import write_shard
from vlq.workers.worker import Setup, describe_run

from ..synthetic import make_cache, make_run
from .conftest import save_images

PROMPT = "USER: <image>\nWhat is the main object? ASSISTANT:"
IMAGES, SHARD, FAILED = 14, 4, (6, 13)

NATS = 1e-5
"""What sums and entropies in float32 are good for."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = save_images(tmp_path_factory.mktemp("sums"), IMAGES)
    for number in FAILED:
        (images / f"{number:04d}.png").write_bytes(b"")
    return images


@pytest.fixture(scope="module")
def corpus(tiny_model: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> vlq.Corpus:
    """A cache of the tiny model, read shard by shard in batches that fill none of them."""
    model = load(str(tiny_model), prompt=PROMPT)
    setup = Setup(str(tiny_model), PROMPT, 5, ("patch", "prompt"), "cpu", "auto", 1, 3, SHARD)
    vocabulary = vocabulary_table(model.tokenizer, model.vocabulary_size)
    data = parquet_bytes(vocabulary)
    run = describe_run(setup, model, vocabulary_hash(vocabulary))
    run = replace(run, checksums={VOCABULARY: digest_of(data)})
    store = open_store(str(tmp_path_factory.mktemp("cache")), create=True)
    store.create("run.json", run.to_bytes())
    store.create(VOCABULARY, data)
    rows = list_images(str(folder))
    with ThreadPoolExecutor(2) as decoders:
        for shard, first in enumerate(range(0, IMAGES, SHARD)):
            lens = lens_of(model, run)
            readings, table = read_shard(model, lens, run, rows.slice(first, SHARD), decoders)
            write_shard(store, run, shard, first, readings, table)
    head = Head(1, "plan", shard + 1, IMAGES, False, None)
    key, _ = compact(store, run, head)
    store.create(head_key(2), Head(2, "plan", shard + 1, IMAGES, True, key).to_bytes())
    return vlq.open(store.url)


@pytest.fixture(scope="module")
def distributions(tiny_model: Path, folder: Path) -> dict[str, np.ndarray]:
    """By site (layer, image * position, vocabulary), of the images that can be read: transformers alone, float64."""
    plain = LlavaForConditionalGeneration.from_pretrained(tiny_model).double()
    processor = AutoProcessor.from_pretrained(tiny_model, backend="pil")
    found: dict[str, list[np.ndarray]] = {"patch": [], "last": []}
    for number in set(range(IMAGES)) - set(FAILED):
        image = Image.open(folder / f"{number:04d}.png").convert("RGB")
        inputs = processor(images=image, text=PROMPT, return_tensors="pt")
        inputs["pixel_values"] = inputs["pixel_values"].double()
        with torch.inference_mode():
            output = plain(**inputs, output_hidden_states=True)
            states = [plain.model.language_model.norm(state) for state in output.hidden_states[:-1]]
            states.append(output.hidden_states[-1])  # has been through the norm
            p = plain.lm_head(torch.cat(states)).softmax(-1).numpy()  # (layer, position, vocabulary)
        found["patch"].append(p[:, (inputs["input_ids"][0] == plain.config.image_token_id).numpy()])
        found["last"].append(p[:, -1:])
    return {site: np.concatenate(parts, 1) for site, parts in found.items()}


@pytest.mark.parametrize("at", ["patch", "last"])
def test_the_divergence_is_the_models(corpus: vlq.Corpus, distributions: dict[str, np.ndarray], at: Any) -> None:
    p = distributions[at]
    mean = p.mean(1, keepdims=True)
    rows = corpus.divergence(at).rows
    assert len(rows) == len(p) == corpus.cache.run.layers
    entropy = -(p * np.log(p)).sum(-1).mean(1)
    assert [row["mean_entropy"] for row in rows] == pytest.approx(entropy, abs=NATS)
    # The mean of each one's KL divergence from the mean: H(mean p) - mean H(p) by another way.
    divergence = (p * np.log(p / mean)).sum(-1).mean(1)
    assert max(divergence) > 100 * NATS
    assert [row["divergence"] for row in rows] == pytest.approx(divergence, abs=NATS)
    rise = np.diff(divergence)
    assert corpus.divergence(at).summary["layer"] == 1 + int(rise.argmax())
    assert corpus.divergence_layer(at, by="corpus").rows[0]["rise"] == pytest.approx(rise.max(), abs=NATS)


def test_all_read_the_same_before_they_see_the_image(corpus: vlq.Corpus) -> None:
    """The last prompt token's embedding is that of every image."""
    first = corpus.divergence().rows[0]
    assert (first["tokens"], first["share"]) == (1, 1)
    assert 0 <= first["divergence"] < NATS


def test_rows_of_the_table(tmp_path: Path) -> None:
    """Counts of what has readings, and in every cell what numpy makes of the joined arrays."""
    _, run, arrays = make_cache(tmp_path, images=11, failed=[2, 3, 8])
    cache = Cache.open(str(tmp_path))
    rows = entropies(cache, cache.snapshot().commits, ["patch", "last"]).to_pylist()
    assert [(row["site"], row["layer"]) for row in rows] == [(at, i) for at in ("patch", "last") for i in range(5)]
    for row in rows:
        positions = run.positions[row["site"]]
        assert (row["images"], row["positions"]) == (8, 8 * positions)
        stored = arrays["patch/entropy" if row["site"] == "patch" else "prompt/entropy"][:, row["layer"], -positions:]
        assert row["mean_entropy"] == pytest.approx(np.nanmean(stored.astype(np.float64)), abs=1e-9)
        mean = arrays[f"sum/{row['site']}"][row["layer"]].astype(np.float64) / (8 * positions)
        assert row["entropy_of_mean"] == pytest.approx(-(mean * np.log(mean)).sum(), abs=1e-6)


@pytest.mark.parametrize(("at", "sites"), [(("patch",), ["patch"]), (("prompt",), ["last"])])
def test_only_sites_that_were_cached(tmp_path: Path, at: tuple[str, ...], sites: list[str]) -> None:
    _, run, _ = make_cache(tmp_path, make_run(at=at))
    import pyarrow.parquet as pq

    (path,) = Cache.open(str(tmp_path)).snapshot().files("divergence")
    assert sorted(set(pq.read_table(path)["site"].to_pylist())) == sites
    assert pq.read_table(path).num_rows == run.layers


def test_the_last_bits_of_a_logarithm_change_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processors differ in them; the table is compared byte by byte."""
    make_cache(tmp_path)
    cache = Cache.open(str(tmp_path))
    before = entropies(cache, cache.snapshot().commits, ["patch", "last"])
    log = np.log
    monkeypatch.setattr(np, "log", lambda x: np.nextafter(log(x), 0))
    assert entropies(cache, cache.snapshot().commits, ["patch", "last"]).equals(before)
