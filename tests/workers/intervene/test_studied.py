"""Knockouts, directions and other images' states, shard by shard, against the whole model run anew for each of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch import Tensor

from vlq.query.cache.studies import IN_LAYERS
from vlq.query.schema import Study
from vlq.query.studies.partners import PAIRED
from vlq.workers.intervene.prompted import Target
from vlq.workers.intervene.shards import CHANGED, effects_of, encode_ahead, sources_ahead
from vlq.workers.models.base import LensModel
from vlq.workers.models.encoded import Encoded

from .test_prompted import Plain, expected, model_of
from .test_shards import encoded, moments_of, rows, study

__all__ = ["rows"]

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

KEYS = ("image_id", "set", "first_layer", "last_layer", "strength")


@pytest.fixture(scope="module", params=["llava", "qwen3_vl"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LensModel:
    return model_of(request.param, tmp_path_factory.mktemp("model"))


def found_of(model: LensModel, asked: Study, rows: pa.Table) -> list[dict[str, Any]]:
    moments = moments_of(model, rows) if "gradient" in asked.baselines else None
    with ThreadPoolExecutor(2) as decoders:
        images, sources = encode_ahead(model, rows, decoders), sources_ahead(model, asked, rows, decoders)
        effects = effects_of(model, asked, moments, rows, images, sources)
    assert effects.errors == ()
    assert effects.table.schema == IN_LAYERS
    found: list[dict[str, Any]] = effects.table.to_pylist()
    keys = [tuple(row[name] or 0 for name in KEYS) for row in found]
    assert keys == sorted({*keys})
    return found


def check(model: LensModel, asked: Study, row: dict[str, Any], image: Encoded, plain: Plain, ids: Any = None) -> None:
    """A row is what the whole model says of its image, without and with a change."""
    target = Target(asked.target_ids if ids is None else ids)
    before, after = (expected(model, image, one, [target], asked.answer) for one in (Plain(), plain))
    assert (row["before"], row["after"]) == pytest.approx((before.logprob[0], after.logprob[0]), abs=2e-4)
    assert (row["rank_before"], row["rank_after"]) == (before.rank[0], after.rank[0])
    texts = [model.tokenizer.decode(one.answer, skip_special_tokens=True).strip() for one in (before, after)]
    assert [row["answer_before"], row["answer"]] == texts
    held = any(id in target.ids for id in before.answer)
    assert row["gone"] == ((not any(id in target.ids for id in after.answer)) if held else None)


# --- knockout --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("to", "others"), [("last", False), ("prompt", True), ("last-row", False)])
def test_knockouts(model: LensModel, rows: pa.Table, to: str, others: bool) -> None:
    asked = study(intervention="knockout", mode="", windows=((1, 2), (2, 3)), to=to, others=others)
    found = found_of(model, asked, rows.slice(0, 2))
    assert {(row["set"], row["first_layer"], row["last_layer"]) for row in found} == {
        (name, *window) for name in ("all", "random 0", "random 1") for window in ((1, 2), (2, 3))
    }
    images = dict(zip(rows["image_id"].to_pylist(), encoded(model, rows), strict=True))
    for row in found:
        image = images[row["image_id"]]
        positions = image.sites["patch"].tolist()
        last, width = image.length - 1, image.grid[1]
        queries = {
            "last": {last},
            "last-row": {*positions[-width:]},
            "prompt": {*range(positions[-1] + 1, image.length)},
        }[to]
        cut = {*range(len(positions))} - {*row["patches"]} if others else row["patches"]
        layers = {*range(row["first_layer"], row["last_layer"] + 1)}
        check(model, asked, row, image, Plain(cut=[(queries, {positions[patch] for patch in cut}, layers)]))
        assert row["strength"] is row["source"] is row["source_logprob"] is None


def test_nothing_that_is_cut_off_changes_nothing_to_the_bit(model: LensModel, rows: pa.Table) -> None:
    every = [[*range(r * c)] for r, c in zip(rows["rows"].to_pylist(), rows["columns"].to_pylist(), strict=True)]
    whole = rows.set_column(7, rows.schema.field(7), pa.array(every, rows.schema.field(7).type))
    asked = study(intervention="knockout", mode="", baselines=(), windows=((1, 3),), to="last", others=True)
    for row in found_of(model, asked, whole):
        assert (row["before"], row["rank_before"], row["answer_before"]) == (
            row["after"],
            row["rank_after"],
            row["answer"],
        )


# --- steering --------------------------------------------------------------------------------------------------


def states_of(model: LensModel, image: Encoded) -> list[Tensor]:
    """(position, d) what enters each block of the whole model: by layer, the last one left out."""
    found: list[Tensor] = []

    def look(module: Any, args: Any, kwargs: Any) -> None:
        found.append((args[0] if args else kwargs["hidden_states"])[0])

    handles = [block.register_forward_pre_hook(look, with_kwargs=True) for block in model.blocks]
    with torch.no_grad():
        model.model(**model.batch([image]), use_cache=False)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("place", ["'last'", "[0]"])
def test_directions(model: LensModel, rows: pa.Table, place: str) -> None:
    strengths = (-1.0, 0.0, 0.5)
    asked = study(
        intervention="steer", mode="", baselines=(), patches=place, windows=((1, 2), (2, 2)), strengths=strengths,
        token="7", token_ids=(7, 11),
    )  # fmt: skip
    none = pa.array([[] if place == "'last'" else [0, 3]] * 3, rows.schema.field(7).type)
    rows = rows.set_column(7, rows.schema.field(7), none)
    found = found_of(model, asked, rows)
    assert len(found) == 3 * 2 * 3
    norm: Tensor = model.final_norm.weight  # type: ignore[assignment]
    head: Tensor = model.lm_head.weight  # type: ignore[assignment]
    along = (head[7] + head[11]).detach() / 2 * norm.detach()
    along = along / along.norm()
    for number, image in zip(rows["image_id"].to_pylist(), encoded(model, rows), strict=True):
        states = states_of(model, image)
        patches = image.sites["patch"].tolist()
        positions = [image.length - 1] if place == "'last'" else [patches[0], patches[3]]
        for row in (row for row in found if row["image_id"] == number):
            add = {}
            for layer in range(row["first_layer"], row["last_layer"] + 1):
                length = states[layer][positions].norm(dim=-1).mean()
                add[layer] = dict.fromkeys(positions, row["strength"] * length * along)
            check(model, asked, row, image, Plain(add=add))
            if not row["strength"]:
                assert row["before"] == row["after"]  # to the bit


# --- patching --------------------------------------------------------------------------------------------------


def with_partners(rows: pa.Table, partners: list[int], places: list[int]) -> pa.Table:
    """The rows, each with the partner at a place among them."""
    every = rows.to_pylist()
    found = []
    for row, partner in zip(every, partners, strict=True):
        other = every[partner]
        theirs = {f"source_{name}": other[name] for name in ("image", "uri", "sha256", "prompt", "rows", "columns")}
        found.append({**row, "patches": places, **theirs})
    return pa.Table.from_pylist(found, PAIRED)


@pytest.mark.parametrize("own_word", [False, True])
def test_states_of_partners(model: LensModel, rows: pa.Table, own_word: bool) -> None:
    windows = ((0, 0), (2, 2))
    asked = study(
        intervention="patch", mode="", baselines=(), patches="'last'", windows=windows, source="other",
        **({"target": "None", "target_ids": ()} if own_word else {}),
    )  # fmt: skip
    paired = with_partners(rows, [1, 0, 1], [])
    found = found_of(model, asked, paired)
    assert len(found) == 3 * 2
    images = encoded(model, rows)
    for row in found:
        place = row["image_id"] - 7
        image, source = images[place], images[[1, 0, 1][place]]
        ids = expected(model, source, Plain(), [], 1).answer if own_word else asked.target_ids
        state = states_of(model, source)[row["first_layer"]][-1]
        check(model, asked, row, image, Plain(put={row["first_layer"]: {image.length - 1: state}}), ids)
        theirs = expected(model, source, Plain(), [Target(ids)], 1)
        assert row["source_logprob"] == pytest.approx(theirs.logprob[0], abs=2e-4)
        assert row["source"] == paired["source_image"][place].as_py()


def test_states_at_patches(model: LensModel, rows: pa.Table) -> None:
    """Those of the image itself change nothing; another one's are put where they were."""
    asked = study(intervention="patch", mode="", baselines=(), patches="[0, 1]", windows=((1, 1),), source="other")
    itself = found_of(model, asked, with_partners(rows, [0, 1, 2], [0, 1]))
    for row in itself:
        assert row["after"] == pytest.approx(row["before"], abs=1e-4)
    first = rows.slice(0, 1)
    images = encoded(model, rows)
    (row,) = found_of(model, asked, with_partners(rows, [1, 0, 0], [0, 1]).slice(0, 1))
    ours, theirs = (image.sites["patch"].tolist() for image in images[:2])
    states = states_of(model, images[1])[1]
    put = {1: {ours[patch]: states[theirs[patch]] for patch in (0, 1)}}
    check(model, asked, row, images[0], Plain(put=put))
    assert row["image_id"] == first["image_id"][0].as_py()


def test_a_partner_that_is_another_file_is_told(model: LensModel, rows: pa.Table) -> None:
    asked = study(intervention="patch", mode="", baselines=(), patches="'last'", windows=((1, 1),), source="other")
    paired = with_partners(rows, [1, 0, 1], []).to_pylist()
    paired[2]["source_sha256"] = "0"
    table = pa.Table.from_pylist(paired, PAIRED)
    with ThreadPoolExecutor(1) as decoder:
        images, sources = encode_ahead(model, table, decoder), sources_ahead(model, asked, table, decoder)
        effects = effects_of(model, asked, None, table, images, sources)
    assert effects.errors == ((9, "2.png", f"1.png: {CHANGED}"),)
    assert effects.table.to_pylist() == found_of(model, asked, with_partners(rows, [1, 0, 1], []).slice(0, 2))


def test_effects_do_not_depend_on_the_shard(model: LensModel, rows: pa.Table) -> None:
    asked = study(intervention="knockout", mode="", combinations="singles", windows=((1, 2), (2, 3)), to="last")
    whole = found_of(model, asked, rows)
    assert whole == [row for i in range(3) for row in found_of(model, asked, rows.slice(i, 1))]
