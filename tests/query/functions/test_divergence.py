"""divergence equals entropies of counts and of the arrays' own distributions, layer by layer."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

import vlq
from vlq.query.answers import render
from vlq.query.errors import BadArgument, CacheError, CorruptCache
from vlq.query.schema import IndexManifest
from vlq.query.store import open_store
from vlq.workers.indexing.index import rebuild
from vlq.workers.shard import write_shard

from ...synthetic import image_table, make_cache, make_run
from ..corpora import (
    LABELS,
    SETTINGS,
    SNAPSHOTS,
    Case,
    asked,
    layer_choices,
    layers_of,
    of_case,
    shapes,
    sites,
    snapshot,
)

NATS = 1e-6
"""Random corpora are small: their float32 sums and entropies are this exact."""


def groups(cache: str) -> list[zarr.Group]:
    shards = sorted(path.parent for path in Path(cache).glob("shards/*/zarr.json"))
    return [zarr.open_group(shard, mode="r") for shard in shards]


def from_sums(cache: str, at: str, good: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(layer,): the mean entropy and the divergence, from the sums and entropies of all shards."""
    mass = sum(np.asarray(group[f"sum/{at}"][...]).astype(np.float64) for group in groups(cache))
    stored = "prompt" if at == "last" else at
    arrays = [np.asarray(group[f"{stored}/entropy"][...]) for group in groups(cache)]
    images = [image[:, ~np.isnan(image).all(0)] for array in arrays for image in array]
    images = [image[:, -1:] if at == "last" else image for image in images]
    entropy = np.concatenate([image for image, is_good in zip(images, good, strict=True) if is_good], 1)
    mean = mass / entropy.shape[1]  # (layer, vocabulary)
    of_mean = [-sum(p * np.log(p) for p in layer if p > 0) for layer in mean]
    mean_entropy = entropy.astype(np.float64).mean(1)
    return mean_entropy, of_mean - mean_entropy


def brute(case: Case, at: str, unit: str, layers: Any, images: str | None) -> list[dict[str, Any]]:
    """Without what the sums say."""
    top1 = case.sites[at].token[case.chosen(images, at)][..., 0]  # (image, layer, position)
    rows = []
    for layer in layers_of(layers, case.run) if len(top1) else []:
        counts: Counter[int] = Counter()
        for image in top1[:, layer]:
            image = image[image != case.run.no_id].tolist()
            if not image:  # it answered nothing
                continue
            if unit == "position":
                counts.update(image)
            else:
                ids = Counter(image)
                counts[min(ids, key=lambda id: (-ids[id], id))] += 1
        if not counts:
            continue
        token = min(counts, key=lambda id: (-counts[id], id))
        p = np.array(list(counts.values())) / counts.total()
        row = {"layer": layer, "tokens": len(counts), "token": token, "piece": case.pieces[token][0], "share": p.max()}
        rows.append(row | {"top1_entropy": pytest.approx(-(p * np.log(p)).sum(), abs=1e-12)})
    return rows


SUMMED = ("mean_entropy", "divergence", "rise")


@SETTINGS
@given(
    name=shapes,
    at=sites(),
    unit=st.sampled_from(["image", "position"]),
    images=st.sampled_from([None, None, *LABELS]),
    data=st.data(),
)
def test_equals_brute_force(
    cases: dict[str, Case], name: str, at: Any, unit: Any, images: str | None, data: st.DataObject
) -> None:
    case = cases[name]
    at = of_case(case, at)
    layers = data.draw(layer_choices(case.run))
    result = case.corpus.divergence(at, unit=unit, layers=layers, **asked({"images": images}))
    rows = result.rows
    assert [{key: row[key] for key in row if key not in SUMMED} for row in rows] == brute(
        case, at, unit, layers, images
    )
    summary = result.summary
    assert summary["images"] == case.chosen(images, at).sum()
    if rows:
        assert summary["tokens"] == median(row["tokens"] for row in rows)
        assert summary["share"] == median(row["share"] for row in rows)
    assert result.headline
    if images is not None or at not in ("patch", "last"):
        assert all(row[key] is None for row in rows for key in SUMMED)
        assert (summary["divergence"], summary["layer"], summary["rise"]) == (None, None, None)
        assert "divergence" in result.notes[-1 - (not case.corpus.cache.snapshot().sealed)]
        return

    mean_entropy, divergence = from_sums(case.corpus.cache.url, at, case.good)
    chosen = [row["layer"] for row in rows]
    assert [row["mean_entropy"] for row in rows] == pytest.approx(mean_entropy[chosen], abs=NATS)
    assert [row["divergence"] for row in rows] == pytest.approx(divergence[chosen], abs=NATS)
    rise = {at: divergence[at] - divergence[below] for below, at in pairwise(case.run.read_layers) if at in chosen}
    assert {row["layer"]: row["rise"] for row in rows if row["rise"] is not None} == pytest.approx(rise, abs=NATS)
    assert summary["divergence"] == pytest.approx(median(divergence[chosen]), abs=NATS)
    if rise and max(rise.values()) > NATS:
        assert summary["layer"] == max(rise, key=lambda layer: rise[layer])
        assert summary["rise"] == pytest.approx(max(rise.values()), abs=NATS)
    elif not rise or max(rise.values()) < -NATS:
        assert (summary["layer"], summary["rise"]) == (None, None)


@pytest.mark.parametrize("at", ["patch", "last"])
def test_it_is_the_mean_divergence_of_each_from_the_mean(cases: dict[str, Case], at: Any) -> None:
    """With every token stored, the distributions are there: the mean of KL(p, mean p), without sums or entropies."""
    case = cases["the whole vocabulary stored"]
    site = case.sites[at]
    size = case.run.vocabulary_size
    p = np.zeros((*site.token.shape[:3], size))
    np.put_along_axis(p, site.token.astype(int), np.exp(site.logprob.astype(np.float64)), -1)
    p = p[case.good].transpose(1, 0, 2, 3).reshape(case.run.layers, -1, size)  # (layer, image * position, vocabulary)
    mean = p.mean(1, keepdims=True)
    divergence = (p * np.log(p / mean)).sum(-1).mean(1)
    assert case.corpus.divergence(at).arrow()["divergence"].to_pylist() == pytest.approx(divergence, abs=NATS)


# --- readings of which the answer is known ---------------------------------------------------------------------


def readings_of(run: Any, p: np.ndarray) -> dict[str, np.ndarray]:
    """A shard's arrays at the prompt's one position, from distributions (image, layer, vocabulary); NaN is failed."""
    failed = np.isnan(p).any((1, 2))
    token = np.argsort(-p, axis=-1, kind="stable")[:, :, None, : run.k]
    with np.errstate(divide="ignore", invalid="ignore"):
        logprob = np.log(np.take_along_axis(p[:, :, None], token, -1))
        entropy = -np.where(p > 0, p * np.log(p), np.where(failed[:, None, None], np.nan, 0)).sum(-1)[:, :, None]
    token[failed] = run.no_id
    return {
        "prompt/token": token.astype(run.id_dtype),
        "prompt/logprob": logprob.astype(np.float32),
        "prompt/top1": token[..., 0].astype(run.id_dtype),
        "prompt/lse": entropy.astype(np.float32),
        "prompt/entropy": entropy.astype(np.float32),
        "sum/last": p[~failed].sum(0).astype(np.float32),
    }


def made_of(folder: Path, p: np.ndarray, shard_size: int = 2) -> vlq.Corpus:
    """A cache, not compacted, of one prompt position's distributions (image, layer, vocabulary)."""
    images, layers, size = p.shape
    run = make_run(layers=layers, at=("prompt",), prompt_ids=(1,), k=2, vocabulary_size=size, shard_size=shard_size)
    store, _, _ = make_cache(folder, run, images=images, seal=False)
    for shard, first in enumerate(range(0, images, shard_size)):
        part = p[first : first + shard_size]
        store.delete(f"commits/{shard:08d}.json")
        failed = np.flatnonzero(np.isnan(part).any((1, 2))).tolist()
        names = [f"{first + i}.png" for i in range(len(part))]
        write_shard(store, run, shard, first, readings_of(run, part), image_table(names, first, failed, run))
    return vlq.open(str(folder))


def certain(tokens: list[list[int]], size: int = 18) -> np.ndarray:
    """Distributions that are sure of a token: (image, layer) -> (image, layer, vocabulary)."""
    return np.eye(size)[np.array(tokens)]


def test_images_that_agree_and_images_that_do_not(tmp_path: Path) -> None:
    p = certain([[3, 3, 0], [3, 3, 1], [3, 4, 2], [3, 5, 3]])
    p[:, 1] = (p[:, 1] + np.eye(18)[7]) / 2  # half of everything is the same
    corpus = made_of(tmp_path, p)
    rows = corpus.divergence().rows
    half = (np.log(2) * 1.5) / 2  # the other half: two of four agree
    assert [row["divergence"] for row in rows] == pytest.approx([0, half, np.log(4)], abs=NATS)
    assert [row["mean_entropy"] for row in rows] == pytest.approx([0, np.log(2), 0], abs=NATS)
    assert [row["tokens"] for row in rows] == [1, 3, 4]
    assert [row["token"] for row in rows] == [3, 3, 0]
    assert [row["top1_entropy"] for row in rows] == pytest.approx([0, np.log(2) * 1.5, np.log(4)])
    assert str(rows[0]["divergence"]) == str(rows[0]["top1_entropy"]) == "0.0"
    assert (corpus.divergence().summary["layer"], corpus.divergence(layers=(0, 1)).summary["layer"]) == (2, 1)


def test_images_that_failed_are_in_no_mean(tmp_path: Path) -> None:
    p = certain([[3], [4], [5], [6], [3]])
    p[[1, 4]] = np.nan
    corpus = made_of(tmp_path, p)
    (row,) = corpus.divergence().rows
    assert row["divergence"] == pytest.approx(np.log(3), abs=NATS)
    assert (row["tokens"], row["share"], corpus.divergence().summary["images"]) == (3, 1 / 3, 3)


def test_one_image_differs_from_nothing(tmp_path: Path) -> None:
    (row,) = made_of(tmp_path, certain([[3]])).divergence().rows
    assert (row["divergence"], row["top1_entropy"], row["share"], row["rise"]) == (0, 0, 1, None)


def test_what_is_rounded_is_no_divergence_to_people(tmp_path: Path) -> None:
    """Of one image float32 leaves a billionth of a nat: sentence, tables and charts have 0, JSON has what there is."""
    make_cache(tmp_path, images=1)
    corpus = vlq.open(str(tmp_path))
    found = corpus.divergence()
    noise = max(abs(row["divergence"]) for row in found.rows)
    assert 0 < noise < 1e-6
    assert "e-" in render.to_json(found)
    assert corpus.divergence_layer().summary["corpus_rise"] > 0
    for answer in (found, corpus.divergence_layer(), corpus.divergence_layer(by="corpus")):
        for shown in (str(answer), answer._repr_html_()):
            assert not re.search(r"\de-|-0\.0", shown)
            assert "rises" not in shown
    lines = [axes.lines[0].get_ydata() for axes in found.plot().axes]
    assert not any(0 < abs(float(y)) < 1e-3 for line in lines for y in line)


@pytest.mark.parametrize("seal", [False, True])
def test_no_image_has_readings(tmp_path: Path, seal: bool) -> None:
    make_cache(tmp_path, failed=list(range(10)), seal=seal)
    corpus = vlq.open(str(tmp_path))
    for query in ("divergence()", "divergence('patch')", "divergence_layer()", "divergence_layer(by='corpus')"):
        assert corpus.query(query).rows == []
        assert corpus.query(query).headline


# --- of a run at any moment ------------------------------------------------------------------------------------


def test_while_a_run_goes_on(tmp_path: Path) -> None:
    """The same answers from the index, from shards alone, and from an index with shards beside it."""
    make_cache(tmp_path / "sealed", images=12, failed=[1, 6])
    expected = vlq.open(str(tmp_path / "sealed")).divergence("patch").rows

    make_cache(tmp_path / "loose", images=12, failed=[1, 6], seal=False)
    assert vlq.open(str(tmp_path / "loose")).divergence("patch").rows == expected

    store, run, _ = make_cache(tmp_path / "growing", images=12, failed=[1, 6], seal=False)
    last = store.read("commits/00000002.json")
    store.delete("commits/00000002.json")
    rebuild(store, run)  # of two shards
    corpus = vlq.open(str(tmp_path / "growing"))
    assert corpus.cache.snapshot().loose == ()
    of_two = corpus.divergence("patch").rows
    assert of_two != expected
    store.create("commits/00000002.json", last)
    assert [commit.shard for commit in corpus.cache.snapshot().loose] == [2]
    assert corpus.divergence("patch").rows == expected


def test_a_gap_in_a_run(tmp_path: Path) -> None:
    store, _, _ = make_cache(tmp_path, images=12, seal=False)
    store.delete("commits/00000001.json")
    corpus = vlq.open(str(tmp_path))
    assert corpus.divergence().summary["images"] == 8
    arrays = [np.asarray(group["sum/last"][...]) for group in groups(str(tmp_path))]
    mean = (arrays[0].astype(float) + arrays[2]) / 8
    row = corpus.divergence(layers=2).rows[0]
    of_mean = -(mean[2] * np.log(mean[2])).sum()
    assert row["divergence"] + row["mean_entropy"] == pytest.approx(of_mean, abs=NATS)


def test_nothing_cached_yet(tmp_path: Path) -> None:
    store, _, _ = make_cache(tmp_path, images=4, seal=False)
    store.delete("commits/00000000.json")
    with pytest.raises(CacheError, match="holds no readings yet"):
        _ = vlq.open(str(tmp_path)).divergence().rows


def without_the_table(folder: Path) -> str:
    """As an older VLQ left it: an index without the table. Returns the cache's URL."""
    store = open_store(str(folder))
    (key,) = (entry.key for entry in store.list("index") if entry.key.endswith(".json"))
    manifest = IndexManifest.from_bytes(store.read(key), key)
    tables = {name: files for name, files in manifest.tables.items() if name != "divergence"}
    (table,) = manifest.tables["divergence"]
    store.delete(table.key)
    store.delete(key)
    store.create(key, IndexManifest(**{**manifest.__dict__, "tables": tables}).to_bytes())
    return str(folder)


def test_an_index_of_an_older_vlq(tmp_path: Path) -> None:
    store, run, _ = make_cache(tmp_path)
    expected = vlq.open(str(tmp_path)).divergence().rows
    url = without_the_table(tmp_path)
    corpus = vlq.open(url)
    for query in ("divergence()", "divergence_layer(at='patch')"):
        with pytest.raises(CacheError) as caught:
            _ = corpus.query(query).rows
        assert caught.value.message == f"The index of {url} has no table divergence: it is older."
        assert caught.value.hint == "Run: vlq index"
    # What needs no sums is answered.
    assert corpus.divergence("prompt").rows
    assert corpus.divergence(images=vlq.col("width") > 0).rows
    rebuild(store, run)
    assert vlq.open(url).divergence().rows == expected


def test_a_damaged_table(tmp_path: Path) -> None:
    make_cache(tmp_path)
    (path,) = tmp_path.glob("index/*/divergence-000.parquet")
    path.write_bytes(b"damaged")
    with pytest.raises(CorruptCache, match="vlq index"):
        _ = vlq.open(str(tmp_path)).divergence().rows


@pytest.mark.parametrize("array", ["sum/last", "prompt/entropy"])
def test_a_damaged_array(tmp_path: Path, array: str) -> None:
    make_cache(tmp_path, seal=False)
    (path,) = (path for path in tmp_path.glob(f"shards/00000001-*/{array}/c/**/*") if path.is_file())
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CorruptCache, match=f"shards/00000001-.*/{array}.* is not what was written"):
        _ = vlq.open(str(tmp_path)).divergence().rows


# --- words -----------------------------------------------------------------------------------------------------


def test_the_sentence(cases: dict[str, Case]) -> None:
    corpus = cases["several shards"].corpus
    result = corpus.query("divergence(layers=(1, 3))")
    found = result.summary
    tokens, share = found["tokens"], found["share"]
    assert result.headline == (
        f"Divergence at the last prompt token of 8 images (layers 1 to 3): median {found['divergence']:.2f} nats, "
        f"rises most at layer {found['layer']} (by {found['rise']:.2g} nats); "
        f"in the median layer {tokens:g} distinct tokens, the most common in {share:.0%} of the images"
    )
    assert result.notes == []
    one = corpus.query("divergence('patch', layers=2, unit='position')")
    assert one.headline == (
        f"Divergence at the patches of 8 images (layer 2): {one.rows[0]['divergence']:.2f} nats; "
        f"{one.rows[0]['tokens']} distinct tokens, the most common in {one.rows[0]['share']:.0%} of the positions"
    )
    part = corpus.query("divergence('patch', images=label == 'beach')")
    assert part.headline.startswith(
        "Divergence at the patches of 3 images (images with label == 'beach'): in the median layer "
    )
    assert len(part.notes) == 2
    assert part.notes[1] == (
        "The divergence of a part of the images is not known: probabilities are summed over all of them."
    )
    assert corpus.query("divergence('prompt')").notes[1] == (
        "The divergence is not known at the prompt's tokens: "
        "probabilities are summed at the patches and the last prompt token only."
    )
    (note,) = corpus.query("divergence('patch')").notes
    assert note.endswith("mean_entropy and divergence are over all positions.")
    none = corpus.query("divergence(images=label == 'desert')")
    assert none.rows == []
    assert none.headline == (
        "Divergence at the last prompt token of 0 images (images with label == 'desert'): nothing is read"
    )


def test_layers_compare(cases: dict[str, Case]) -> None:
    corpus = cases["several shards"].corpus
    rows = corpus.divergence().rows
    above = corpus.query("divergence() > divergence('patch')").rows
    patches = corpus.divergence("patch").rows
    assert [row["layer"] for row in above] == sorted(
        (row["layer"] for row, patch in zip(rows, patches, strict=True) if row["divergence"] > patch["divergence"]),
        key=lambda layer: (rows[layer]["divergence"], patches[layer]["divergence"]),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("divergence(unit='patch')", "unit: expected 'image' or 'position'. Got 'patch'."),
        ("divergence('first')", "at: expected 'patch' or 'last' or 'prompt' or 'answer'. Got 'first'."),
    ],
)
def test_mistakes(cases: dict[str, Case], text: str, message: str) -> None:
    with pytest.raises(BadArgument) as caught:
        cases["several shards"].corpus.query(text)
    assert caught.value.message == message


def test_a_site_that_was_not_cached(tmp_path: Path) -> None:
    make_cache(tmp_path, make_run(at=("patch",)), images=2)
    corpus = vlq.open(str(tmp_path))
    with pytest.raises(BadArgument, match=r"at: this cache has readings at patch only\. Got 'last'\."):
        corpus.query("divergence()")
    assert corpus.divergence("patch").rows


def test_sql(cases: dict[str, Case]) -> None:
    text = "divergence(layers=(1, 3))"
    result = cases["several shards"].corpus.query(text)
    assert snapshot(result, text) == (SNAPSHOTS / "divergence.sql").read_text()
