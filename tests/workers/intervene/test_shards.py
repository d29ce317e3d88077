"""A shard's effects against the whole model, run anew for each set with embeddings put in by hand; its records; and the
corpus' moments, added up shard by shard."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from vlq.query.cache.studies import EFFECTS, commit_key, sums_key
from vlq.query.errors import CorruptCache, InputError
from vlq.query.schema import Study
from vlq.query.store import Store, open_store
from vlq.query.studies.chosen import CHOSEN
from vlq.workers.intervene.ablation import Moments, MomentSums
from vlq.workers.intervene.moments import find_sums, known_moments, moments_at, put_moments, put_sums
from vlq.workers.intervene.prompted import Prompted, Target
from vlq.workers.intervene.shards import CHANGED, commit, effects_of, encode_ahead, find_commit, sums_of
from vlq.workers.models.base import LensModel
from vlq.workers.models.encoded import Encoded

from ..models import checks
from .test_prompted import Plain, expected, model_of

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIZES = [(60, 90), (80, 50), (64, 64)]


@pytest.fixture(scope="module", params=["llava", "qwen3_vl"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LensModel:
    return model_of(request.param, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def rows(model: LensModel, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """Three images; of each some patches are chosen, in two pieces."""
    folder, found = tmp_path_factory.mktemp("images"), []
    for i, size in enumerate(SIZES):
        image = checks.noise(*size, seed=i)
        path = folder / f"{i}.png"
        image.save(path)
        grid = model.encode(image).grid
        last = grid[0] * grid[1] - 1
        found.append(
            {
                "image_id": 7 + i,
                "image": path.name,
                "uri": f"file://{path}",
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "rows": grid[0],
                "columns": grid[1],
                "prompt": None,
                "patches": sorted({0, last - 1, last}),
            }
        )
    return pa.Table.from_pylist(found, CHOSEN)


def study(**changes: Any) -> Study:
    usual = Study("run", "[0]", "5", (5, 9), "mean", 0, "all", ("random",), 2, 2, 3, batch=4)
    return replace(usual, **changes)


def encoded(model: LensModel, rows: pa.Table) -> list[Encoded]:
    with ThreadPoolExecutor(1) as decoder:
        found = [image.encoded for image in encode_ahead(model, rows, decoder)]
    assert all(found)
    return found  # type: ignore[return-value]


def moments_of(model: LensModel, rows: pa.Table) -> Moments:
    """By NumPy."""
    every: dict[int, list[np.ndarray]] = {}
    for image in encoded(model, rows):
        for layer, values in Prompted(model, image).entering_patches().items():
            every.setdefault(layer, []).append(values.double().numpy())
    joined = {layer: np.concatenate(values) for layer, values in every.items()}
    return Moments(
        {layer: torch.from_numpy(values.mean(0)).float() for layer, values in joined.items()},
        {layer: torch.from_numpy(values.std(0)).float() for layer, values in joined.items()},
    )


def found_of(model: LensModel, asked: Study, moments: Moments | None, rows: pa.Table) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(2) as decoders:
        effects = effects_of(model, asked, moments, rows, encode_ahead(model, rows, decoders))
    assert effects.errors == ()
    assert effects.table.schema == EFFECTS
    found: list[dict[str, Any]] = effects.table.to_pylist()
    return found


@pytest.mark.parametrize("mode", ["mean", "zero"])
def test_effects_are_those_of_the_whole_model(model: LensModel, rows: pa.Table, mode: str) -> None:
    moments = moments_of(model, rows)
    asked = study(mode=mode, combinations="regions", baselines=("random", "register"))
    found = found_of(model, asked, moments if mode == "mean" else None, rows)
    assert [(row["image_id"], row["set"]) for row in found] == sorted((row["image_id"], row["set"]) for row in found)
    images = dict(zip(rows["image_id"].to_pylist(), encoded(model, rows), strict=True))
    chosen = dict(zip(rows["image_id"].to_pylist(), rows["patches"].to_pylist(), strict=True))
    target = Target(asked.target_ids)
    for number, image in images.items():
        own = [row for row in found if row["image_id"] == number]
        assert [row["patches"] for row in own if row["set"] == "all"] == [chosen[number]]
        assert {"all", "region 1", "region 2", "random 0", "random 1"} <= {row["set"] for row in own}
        before = expected(model, image, Plain(), [target], asked.answer)
        prompted = Prompted(model, image)
        for row in own:
            positions = prompted.patches[row["patches"]].tolist()
            states = {
                layer: {place: mean if mode == "mean" else torch.zeros_like(mean) for place in positions}
                for layer, mean in moments.mean.items()
            }
            plain = Plain(put={0: states.pop(0)}, deep=states)
            after = expected(model, image, plain, [target], asked.answer)
            assert (row["before"], row["after"]) == pytest.approx((before.logprob[0], after.logprob[0]), abs=2e-4)
            assert (row["rank_before"], row["rank_after"]) == (before.rank[0], after.rank[0])
            texts = [model.tokenizer.decode(one.answer, skip_special_tokens=True).strip() for one in (before, after)]
            assert [row["answer_before"], row["answer"]] == texts
            held = any(id in asked.target_ids for id in before.answer)
            assert row["gone"] == ((not any(id in asked.target_ids for id in after.answer)) if held else None)
            assert row["kind"] == row["set"].split()[0]


def test_a_word_that_goes_is_told(model: LensModel, rows: pa.Table) -> None:
    """The target is what the model says first: it holds, and it goes where the answer changes to one without it."""
    image = encoded(model, rows)[0]
    said = expected(model, image, Plain(), [], 1).answer
    assert len(said) == 1
    patches = rows.slice(0, 1).set_column(7, CHOSEN.field(7), pa.array([list(range(4))], CHOSEN.field(7).type))
    asked = study(target_ids=said, mode="noise", answer=1, buffer=2, repeats=4)
    found = found_of(model, asked, moments_of(model, rows), patches)
    for row in found:
        assert row["gone"] == (row["rank_after"] > 1)
        assert (row["rank_before"], row["answer_before"] != row["answer"]) == (1, row["gone"])


def test_a_piece_says_the_word_only_where_the_answer_begins(model: LensModel, rows: pa.Table) -> None:
    """Many tokenizers put no space before an answer's first word: a piece that is inside of words elsewhere."""
    image = encoded(model, rows)[0]
    first, second = expected(model, image, Plain(), [], 2).answer
    (one,) = expected(model, image, Plain(), [Target((first,))], 2).logprob
    asked = study(mode="zero", baselines=(), answer=2)
    for ids, only_first, held in [
        ((first,), (first,), True),
        ((second,), (), True),
        ((second,), (second,), first == second),
    ]:
        (row,) = found_of(model, replace(asked, target_ids=ids, only_first=only_first), None, rows.slice(0, 1))
        assert (row["gone"] is not None) == held
        assert row["before"] == pytest.approx(one, abs=2e-4) or ids != (first,)


def test_effects_do_not_depend_on_the_shard(model: LensModel, rows: pa.Table) -> None:
    asked, moments = study(mode="noise", combinations="singles"), moments_of(model, rows)
    asked = replace(asked, baselines=("random", "register", "gradient"))
    whole = found_of(model, asked, moments, rows)
    assert {row["kind"] for row in whole} >= {"all", "patch", "random", "gradient"}
    assert whole == [row for i in range(3) for row in found_of(model, asked, moments, rows.slice(i, 1))]
    assert whole != found_of(model, replace(asked, seed=4), moments, rows)


def test_an_image_with_a_prompt_of_its_own(model: LensModel, rows: pa.Table) -> None:
    asked, target = study(mode="zero", baselines=()), Target((5, 9))
    question = "What is the main object in it?"
    own = rows.set_column(6, CHOSEN.field(6), pa.array([None, question, None], pa.string()))
    found = found_of(model, asked, None, own)
    for row, prompt in zip(found, [None, question, None], strict=True):
        with Image.open(rows["uri"][row["image_id"] - 7].as_py().removeprefix("file://")) as opened:
            image = model.encode(opened.convert("RGB"), prompt)
        assert row["before"] == pytest.approx(expected(model, image, Plain(), [target], 1).logprob[0], abs=2e-4)
    assert [row["before"] for row in found] != [row["before"] for row in found_of(model, asked, None, rows)]


def test_a_file_that_is_another_one_or_gone_is_told(model: LensModel, rows: pa.Table, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    checks.noise(64, 64, seed=99).save(other)
    uris = rows["uri"].to_pylist()
    changed = rows.set_column(2, "uri", pa.array([f"file://{other}", uris[1], f"file://{tmp_path}/gone.png"]))
    with ThreadPoolExecutor(1) as decoder:
        effects = effects_of(model, study(mode="zero"), None, changed, encode_ahead(model, changed, decoder))
        sums, errors = sums_of(model, changed, encode_ahead(model, changed, decoder))
    assert effects.errors == errors == ((7, "0.png", CHANGED), (9, "2.png", "file not found"))
    assert effects.table.to_pylist() == found_of(model, study(mode="zero"), None, rows.slice(1, 1))
    assert sums.count == rows["rows"][1].as_py() * rows["columns"][1].as_py()


# --- records ---------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "cache"), create=True)


def test_of_two_commits_the_first_holds(model: LensModel, rows: pa.Table, store: Store) -> None:
    asked = study(mode="zero")
    assert find_commit(store, asked, 1) is None
    with ThreadPoolExecutor(1) as decoder:
        first, second = (
            effects_of(model, asked, None, some, encode_ahead(model, some, decoder)) for some in (rows, rows.slice(1))
        )
    record, is_ours = commit(store, asked, 1, 3, first)
    assert (is_ours, record.images) == (True, 3)
    assert commit(store, asked, 1, 2, second) == (record, False)
    assert find_commit(store, asked, 1) == record
    assert pq.read_table(pa.BufferReader(store.read(record.effects.key))).cast(EFFECTS) == first.table
    assert commit_key(asked, 1) == f"{asked.prefix}/commits/00000001.json"


def test_moments_are_added_up_shard_by_shard(model: LensModel, rows: pa.Table, store: Store) -> None:
    shards = [0, 2, 5]
    assert known_moments(store, shards) == (None, shards)
    with ThreadPoolExecutor(1) as decoder:
        for shard, row in zip(shards, range(3), strict=True):
            some = rows.slice(row, 1)
            assert put_sums(store, shard, sums_of(model, some, encode_ahead(model, some, decoder))[0])
    assert not put_sums(store, 2, MomentSums())  # it is there
    assert known_moments(store, [*shards, 6]) == (None, [6])
    key = put_moments(store, shards)
    assert known_moments(store, shards) == (key, [])
    assert put_moments(store, shards) == key
    found, wanted = moments_at(store, key), moments_of(model, rows)
    assert {*found.mean} == {*wanted.mean}
    for layer in found.mean:
        assert found.mean[layer].numpy() == pytest.approx(wanted.mean[layer].numpy(), abs=1e-6)
        assert found.deviation[layer].numpy() == pytest.approx(wanted.deviation[layer].numpy(), abs=1e-5)


def test_damaged_sums_and_moments(store: Store) -> None:
    sums = MomentSums()
    sums.add({0: torch.arange(6.0).reshape(3, 2)})
    put_sums(store, 0, sums)
    put_sums(store, 1, MomentSums())  # of a shard of which no image could be read
    assert find_sums(store, 1).count == 0
    key = put_moments(store, [0, 1])
    assert moments_at(store, key).mean[0].tolist() == [2.0, 3.0]
    data = store.read(key)
    store.delete(key)
    store.create(key, data.replace(data[-4:], b"abcd"))
    with pytest.raises(CorruptCache, match="not what was written"):
        moments_at(store, key)
    assert known_moments(store, [0, 1]) == (None, [])
    assert put_moments(store, [0, 1]) == key  # in its place
    assert store.read(key) == data
    sound = store.read(sums_key(0))
    store.delete(sums_key(0))
    store.create(sums_key(0), sound[:-1] + b"?")
    with pytest.raises(CorruptCache, match="command that made the study"):
        put_moments(store, [0, 1])
    assert known_moments(store, [0, 1, 2])[1] == [0, 2]  # it is to be made again
    with pytest.raises(InputError, match="no mean patch"):
        put_moments(store, [1])
