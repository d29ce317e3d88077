"""Whole runs that keep the residual stream: of any token all is known, with every lens."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import vlq
from vlq.query.cache.reader import Cache
from vlq.query.errors import CacheMismatch, InputError, VlqError
from vlq.query.info import as_text as info_text
from vlq.query.info import info
from vlq.query.store import open_store
from vlq.workers.estimate import as_text, as_values, estimate
from vlq.workers.indexing.index import rebuild
from vlq.workers.job import run_job
from vlq.workers.lenses import train
from vlq.workers.models import load
from vlq.workers.models.base import LensModel
from vlq.workers.upkeep.gc import leftovers
from vlq.workers.upkeep.repair import Finding, Mended, command_of, repair

from ...synthetic import make_cache, make_run
from ..here import printed, without_ray
from ..runs import PROMPT, Silent, Vlq, contents, run_of
from . import exact
from .making import KINDS, K, caches_of, deeply_verified, findings, options

pytestmark = pytest.mark.timeout(600)  # a run takes seconds, but a minute on a machine that is busy

IMAGES = 5

BROKEN = 3
"""The image that cannot be read."""

READ = [image for image in range(IMAGES) if image != BROKEN]

IDS = (0, 9, 30, 54)
"""Of a vocabulary of 55; the last one has no text."""

EXPECTED = {"logit": exact.logit, "head": exact.head, "nearest": exact.nearest}

NATS = 1e-4


@pytest.fixture(scope="module")
def images(images: Path) -> Path:
    sorted(images.iterdir())[BROKEN].write_bytes(b"no image")
    return images


def asked(model: Path, images: Path, cache: Path, lens: Path | str = "logit", **changes: Any) -> Any:
    return options(model, images, cache, lens, keep="residual", **changes)


@pytest.fixture(scope="module")
def caches(tiny_model: Path, images: Path, lens: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A cache by each lens."""
    return caches_of(tmp_path_factory.mktemp("caches"), tiny_model, images, lens, IMAGES, 1, keep="residual")


@pytest.fixture(scope="module")
def states(model: LensModel, images: Path) -> np.ndarray:
    """(image, layer, position, d) float64: at the patches and then at the prompt, of the images that can be read."""
    opened = exact.opened(path for number, path in enumerate(sorted(images.iterdir())) if number != BROKEN)
    return np.stack([exact.states_of(model, image) for image in opened])


@pytest.mark.parametrize("kind", KINDS)
def test_any_token_is_answered_as_the_model_would(
    kind: str, caches: dict[str, Path], lens: Path, model: LensModel, states: np.ndarray
) -> None:
    corpus = vlq.open(str(caches[kind]))
    patches = corpus.cache.run.patches
    for site, places in (("patch", slice(None, patches)), ("prompt", slice(patches, None))):
        stored = corpus.zarr[f"{site}/residual"]
        assert stored.dims == ("image", "layer", site, "d")
        assert stored.dtype == np.float32
        chunks = corpus.cache.array(0, f"{site}/residual").chunks
        assert chunks == (1, 1, stored.shape[2], model.width)  # a layer of an image
        assert np.isnan(stored[BROKEN]).all()
        np.testing.assert_allclose(stored[:][READ], states[:, :, places], atol=1e-4)

    every = np.stack(
        [exact.tuned(model, lens, one) if kind == "tuned" else EXPECTED[kind](model, one) for one in states]
    )
    if kind == "tuned":  # which leaves layer 1 alone
        every[:, 1] = np.stack([exact.logit(model, one[1:2])[0] for one in states])
    for id in IDS:
        own = every[..., id]
        for site, places in (
            ("patch", slice(None, patches)),
            ("prompt", slice(patches, None)),
            ("last", slice(-1, None)),
        ):
            expected = own[:, :, places]
            found = corpus.query(f"prob({id}, at='{site}')")
            assert found.summary["source"] == "residuals kept"
            rows = placed(found.rows, site, expected.shape)
            np.testing.assert_allclose(
                [rows[cell]["prob"] for cell in np.ndindex(expected.shape)],
                np.exp(expected).reshape(-1),
                atol=1e-5,
                rtol=NATS,
            )
            ranks = placed(corpus.query(f"rank({id}, at='{site}')").rows, site, expected.shape)
            around = every[:, :, places]
            least = 1 + (around > expected[..., None] + NATS).sum(-1)
            most = (around >= expected[..., None] - NATS).sum(-1)
            for cell in np.ndindex(expected.shape):
                assert least[cell] <= ranks[cell]["rank"] <= most[cell]
                known = rows[cell]["rank"]
                assert known == (ranks[cell]["rank"] if ranks[cell]["rank"] <= K else None)


def placed(rows: list[dict[str, Any]], site: str, shape: tuple[int, ...]) -> dict[tuple[int, ...], dict[str, Any]]:
    """Rows by (image that can be read, layer, position): each is there."""
    name = {"patch": "patch", "prompt": "position"}.get(site)
    found = {(READ.index(row["image_id"]), row["layer"], row[name] if name else 0): row for row in rows}
    assert len(rows) == len(found) == np.prod(shape)
    return found


@pytest.mark.parametrize("kind", ["logit", "tuned"])
def test_upkeep(kind: str, caches: dict[str, Path], tiny_model: Path, tmp_path: Path) -> None:
    cache = Path(shutil.copytree(caches[kind], tmp_path / "cache"))
    before, run = contents(cache), Cache.open(str(cache)).run
    assert deeply_verified(cache) == 0
    assert leftovers(Cache.open(str(cache)), 0) == []
    rebuild(open_store(str(cache)), run)
    assert contents(cache) == before
    assert "--keep residual" in command_of(run, str(cache))
    assert run.unembed in before
    for harm in (lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")):
        harm(cache / run.unembed)
        (finding,) = findings(cache)
        assert finding.where == run.unembed
        if kind == "logit":
            with pytest.raises(VlqError, match=r"lens/unembed-\w+\.safetensors"):
                vlq.open(str(cache)).query("prob(3)").rows  # noqa: B018
        lost = list(repair(Cache.open(str(cache)), str(tmp_path / "nowhere"), lambda what, done, of: None))
        assert [type(one) for one in lost] == [Finding]
        (mended,) = repair(Cache.open(str(cache)), str(tiny_model), lambda what, done, of: None)
        assert isinstance(mended, Mended)
        assert str(mended).endswith("made again of the model's weights.")
        assert contents(cache) == before
    # States follow from nothing else: their shard is read again, and the cache is what it was.
    lost_states = next(cache.glob("shards/00000001-*/patch/residual/c/0/0/0/0"))
    lost_states.unlink()
    assert any("has to be read again" in str(one) for one in repair(Cache.open(str(cache)), None, lambda *told: None))


def test_bytes_do_not_depend_on_how_a_run_went(
    caches: dict[str, Path], tiny_model: Path, images: Path, tmp_path: Path, one_ray: None
) -> None:
    """A shard less, and without what makes logits of states: the same command goes on; and on two workers of Ray's."""
    cache, undisturbed = Path(shutil.copytree(caches["logit"], tmp_path / "cache")), contents(caches["logit"])
    run = Cache.open(str(cache)).run
    for path in (
        cache / "commits/00000001.json",
        cache / str(run.unembed),
        *cache.glob("commits/head-0000000[2-9].json"),
    ):
        path.unlink()
    shutil.rmtree(cache / "index")
    with without_ray():
        run_job(asked(tiny_model, images, cache), Silent())
    assert contents(cache) == undisturbed
    again = tmp_path / "again"
    run_job(asked(tiny_model, images, again, workers=2), Silent())
    assert contents(again) == undisturbed
    assert run_job(asked(tiny_model, images, again), Silent()).fresh == 0
    for keep in ("topk", "all"):
        with pytest.raises(CacheMismatch, match=f"keep: the cache has 'residual', asked for '{keep}'"):
            run_job(replace(asked(tiny_model, images, again), keep=keep), Silent())


def test_what_is_said_of_it(caches: dict[str, Path], tiny_model: Path, images: Path, tmp_path: Path) -> None:
    cache = Cache.open(str(caches["logit"]))
    said = info_text(info(cache))
    assert "k        4 tokens a reading; and the residual stream, 32 numbers each" in said
    found = as_values(estimate(asked(tiny_model, images, tmp_path / "cache"), Silent()))
    assert (found["keep"], found["width"]) == ("residual", 32)
    assert "keep     the residual stream, 32 numbers each" in as_text(found)
    assert found["estimates"]["bytes"]["total"] == pytest.approx(
        sum(map(len, contents(caches["logit"]).values())), rel=0.2
    )
    few = as_values(estimate(options(tiny_model, images, tmp_path / "cache", "logit"), Silent()))
    assert "keep  " not in as_text(few)
    beside = len(contents(caches["logit"])[str(cache.run.unembed)])
    gained = found["estimates"]["bytes"]["total"] - few["estimates"]["bytes"]["total"]
    assert gained > beside + len(READ) * 4 * 25 * 32 * 3  # four layers, 25 positions, hardly compressed
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype: str, tiny_model: Path, images: Path, no_ray: None, tmp_path: Path) -> None:
    """Answers, prompts of their own, and some layers: what follows of states is what was read."""
    manifest = tmp_path / "manifest.csv"
    lines = [f"{path},What is {'in ' * number}it?" for number, path in enumerate(sorted(images.iterdir()))]
    manifest.write_text("\n".join(["image,question", *lines]))
    changes = {"dtype": dtype, "answer": 3, "at": ("patch", "prompt", "answer"), "layers": (0, 2, 3)}
    run_job(asked(tiny_model, manifest, tmp_path / "cache", prompt=None, prompt_column="question", **changes), Silent())
    assert deeply_verified(tmp_path / "cache") == 0
    corpus = vlq.open(str(tmp_path / "cache"))
    run = corpus.cache.run
    model = load(str(tiny_model), dtype=dtype)
    for site in run.positions:
        stored = {
            name: corpus.zarr[f"{run.stored_at(site)[0]}/{name}"][:] for name in ("residual", "logprob", "token", "lse")
        }
        assert stored["residual"].dtype == ("float16" if dtype == "float16" else "float32")
        there = np.isfinite(stored["lse"])
        assert not there[:, 1].any()
        states = torch.tensor(stored["residual"][there]).to(model.dtype)
        assert np.array_equal(states.float().numpy(), stored["residual"][there].astype("f4"))  # nothing was rounded
        with torch.inference_mode():
            logits = model.unembed(states).float()
        whole = np.full((*there.shape, run.vocabulary_size), np.nan)
        whole[there] = torch.log_softmax(logits, -1).numpy()
        noise = 8 * torch.finfo(model.dtype).eps * float(logits.abs().max())
        for id in IDS:
            rows = corpus.query(f"prob({id}, at='{site}')").rows
            place = {"patch": "patch", "last": None}.get(site, "position")
            assert len(rows) == there.sum()
            for row in rows:
                cell = row["image_id"], row["layer"], row[place] if place else 0
                assert np.log(row["prob"]) == pytest.approx(whole[cell][id], abs=noise)
                stored_rank = np.flatnonzero(stored["token"][cell] == id)
                assert row["rank"] == (stored_rank[0] + 1 if len(stored_rank) else None)
            ranks = corpus.query(f"rank({id}, at='{site}')").rows
            assert len(ranks) == len(rows)
            for row in ranks:
                cell = row["image_id"], row["layer"], row[place] if place else 0
                own = whole[cell]
                assert 1 + (own > own[id] + noise).sum() <= row["rank"] <= (own >= own[id] - noise).sum()


def test_a_lens_is_trained_on_what_is_kept(
    caches: dict[str, Path], tiny_model: Path, images: Path, tmp_path: Path, vlq: Vlq, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same as on the images themselves, whose states are those that are kept but for the last bits."""
    more = ["--steps", 40, "--positions-per-image", 12, "--seed", 3, "--holdout", 0.3]
    fly, kept = tmp_path / "fly", tmp_path / "kept"
    code, said, _ = vlq("lens", "train", images, "--model", tiny_model, "--prompt", PROMPT, *more, "--out", fly)
    assert code == 0
    # Not even the images need be there.
    monkeypatch.setattr(train.Reader, "_encoded", None)
    code, same, _ = vlq("lens", "train", "--cache", caches["logit"], *more, "--out", kept)
    assert code == 0
    assert "Left out: 0003.png: not an image" in said
    assert "Left out: 0003.png: not an image" in same
    records = [json.loads((folder / "lens.json").read_bytes()) for folder in (fly, kept)]
    assert records[0]["translators"].keys() == records[1]["translators"].keys()
    assert records[0]["training"] == records[1]["training"]
    for layer, files in (
        (layer, [folder / f"layer-000{layer}.safetensors" for folder in (fly, kept)]) for layer in "012"
    ):
        first, second = map(load_file, files)
        for name in first:
            np.testing.assert_allclose(second[name], first[name], atol=1e-4)
        overall = [record["metrics"][int(layer)]["overall"] for record in records]
        assert overall[0]["positions"] == overall[1]["positions"]
        assert overall[0]["tuned"] == pytest.approx(overall[1]["tuned"], abs=1e-3)


def test_a_lens_is_trained_on_the_patches_that_were_read(tiny_model: Path, images: Path, tmp_path: Path) -> None:
    chosen = [[9, 2], [15], [], [0, 7, 8]]
    names = [str(path) for path in sorted(images.iterdir()) if path.name != f"{BROKEN:04d}.png"]
    rows = [{"image": name, "which": patches} for name, patches in zip(names, chosen, strict=False)]
    (tmp_path / "some.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for cache, more in ((tmp_path / "some", ["--patches", "which"]), (tmp_path / "all", [])):
        printed(*run_of(tiny_model, tmp_path / "some.jsonl", cache, "--keep", "residual", *more))
    whole = vlq.open(str(tmp_path / "all")).zarr["patch/residual"]
    cache = vlq.open(str(tmp_path / "some")).cache
    model = load(str(tiny_model), prompt=PROMPT)
    reader = train.CachedReader(model, train.Options(at=("patch",)), lambda *told: None, cache)
    for image, patches in enumerate(chosen):
        (found,) = reader.read([{"image_id": image, "error": None}], "reading")
        np.testing.assert_allclose(found.states, whole[image][:, sorted(patches)], atol=1e-4)
    # The one that is held out has none.
    with pytest.raises(InputError, match="has no states of the 1 held-out images at patch"):
        train.train(
            model,
            [{"image_id": image, "error": None} for image in range(4)],
            train.Options(at=("patch",), steps=1),
            lambda *told: None,
            cache,
        )


def test_lenses_that_cannot_be_trained_on_a_cache(
    caches: dict[str, Path], tiny_model: Path, images: Path, tmp_path: Path, vlq: Vlq
) -> None:
    some, few = tmp_path / "some", tmp_path / "few"
    make_cache(few)
    make_cache(some, make_run(keep="residual", read_layers=(0, 2), at=("patch",)))
    make_cache(tmp_path / "patches", make_run(keep="residual", at=("patch",)))
    good = caches["logit"]
    expected = {
        "A lens is trained on images, or on the states": [],
        "on a cache's states.\nGive one of them": [images, "--cache", good],
        "--model is missing": [images],
        "--prompt, --dtype does not go with --cache": ["--cache", good, "--prompt", "What?", "--dtype", "float32"],
        "There is no cache at": ["--cache", tmp_path / "nowhere"],
        f"{few} does not keep states.\nMake one that does: vlq run": ["--cache", few],
        "keeps the states of layers 0, 2, of 5": ["--cache", some],
        "has no states at prompt.\nTrain at others: --at patch": ["--cache", tmp_path / "patches"],
        "is not the model of": ["--cache", tmp_path / "patches", "--at", "patch", "--model", tiny_model],
    }
    for message, wrong in expected.items():
        code, _, said = vlq("lens", "train", *wrong, "--out", tmp_path / "lens")
        assert code == 2
        assert message in said
        assert "Traceback" not in said
    assert not (tmp_path / "lens").exists()
