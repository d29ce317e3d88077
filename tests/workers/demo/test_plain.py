"""`effect` and `prominence` against the demo's model as transformers has it: nothing of VLQ runs the model there."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor, LlavaForConditionalGeneration

import vlq
from vlq.query.client.local import LocalCorpus

from ...brute import Site, read_site
from ..here import printed, without_ray
from .conftest import MODEL

pytestmark = pytest.mark.timeout(900)

SIDE = 8
"""Patches on each side of a scene."""

DOG, ROCK = (286, 306), (297, 310)
IMAGES = 10
"""So many have effects."""

LOOKED_AT = 60
"""So many are looked at for their objects."""

ANSWER = 4


class Plain:
    """The model, and what is done to it while it runs."""

    def __init__(self, corpus: LocalCorpus) -> None:
        self.rows = {row["image_id"]: row for row in corpus.query("images().select([image_id, uri, objects])").rows}
        self._prompt = corpus.cache.run.prompt
        self._unchanged: dict[int, tuple[Tensor, list[int]]] = {}
        self._processor: Any = AutoProcessor.from_pretrained(MODEL)
        self._model: Any = LlavaForConditionalGeneration.from_pretrained(
            MODEL, dtype=torch.float32, attn_implementation="eager"
        ).eval()

    def _inputs(self, image: int) -> dict[str, Tensor]:
        with Image.open(self.rows[image]["uri"].removeprefix("file://")) as picture:
            return dict(self._processor(text=self._prompt, images=picture.convert("RGB"), return_tensors="pt"))

    @cached_property
    def mean_patch(self) -> Tensor:
        """The mean of what enters the decoder at all patches of all images."""
        with torch.no_grad():
            tower, project = self._model.model.vision_tower, self._model.model.multi_modal_projector
            pixels = torch.cat([self._inputs(image)["pixel_values"] for image in self.rows])
            found: Tensor = project(tower(pixels).last_hidden_state[:, 1:]).double().mean((0, 1)).float()
            return found

    @contextmanager
    def taken(self, patches: list[int], state: Tensor | float) -> Iterator[None]:
        """Something else enters the decoder at some patches."""

        def change(module: Any, args: Any, output: Tensor) -> Tensor:
            output = output.clone()
            output.view(SIDE * SIDE, -1)[patches] = state
            return output

        handle = self._model.model.multi_modal_projector.register_forward_hook(change)
        yield
        handle.remove()

    @contextmanager
    def cut_off(self, image: int, patches: list[int], layers: range) -> Iterator[None]:
        """The prompt's last token, and the answer's, do not see some patches in the blocks of some layers."""
        ids = self._inputs(image)["input_ids"][0]
        keys = (ids == self._model.config.image_token_id).nonzero()[patches, 0]

        def change(module: Any, args: Any, kwargs: Any) -> Any:
            mask = kwargs["attention_mask"].clone()
            mask[0, 0, len(ids) - 1 :, keys] = torch.finfo(mask.dtype).min
            return args, {**kwargs, "attention_mask": mask}

        with ExitStack() as stack:
            for layer in layers:
                block = self._model.model.language_model.layers[layer - 1].self_attn
                stack.callback(block.register_forward_pre_hook(change, with_kwargs=True).remove)
            yield

    @torch.no_grad()
    def said(self, image: int) -> tuple[Tensor, list[int]]:
        """Log-probabilities of the answer's first token, and the answer, each token by a run of its own."""
        inputs, answer, first = self._inputs(image), [], None
        while len(answer) < ANSWER:
            logprobs = torch.log_softmax(self._model(**inputs, use_cache=False).logits[0, -1].double(), -1)
            first = logprobs if first is None else first
            if (best := int(logprobs.argmax())) == self._model.generation_config.eos_token_id:
                break
            answer.append(best)
            inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([[best]])], 1)
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        assert first is not None
        return first, answer

    def effect(self, image: int, ids: tuple[int, ...], changed: Callable[[], Any]) -> dict[str, Any]:
        """What a change does to a word."""
        if image not in self._unchanged:
            self._unchanged[image] = self.said(image)
        before, answer_before = self._unchanged[image]
        with changed():
            after, answer = self.said(image)
        told: dict[str, Any] = {}
        for name, logprobs in (("before", before), ("after", after)):
            told[name] = pytest.approx(math.log(sum(math.exp(logprobs[id]) for id in ids)), abs=1e-3)
            told[f"rank_{name}"] = min(1 + int((logprobs > logprobs[id]).sum()) for id in ids)
        for name, said in (("answer_before", answer_before), ("answer", answer)):
            told[name] = self._processor.tokenizer.decode(said, skip_special_tokens=True).strip()
        told["effect"] = pytest.approx(told["before"].expected - told["after"].expected, abs=2e-3)
        told["gone"] = not {*ids} & {*answer} if {*ids} & {*answer_before} else None
        return told


@pytest.fixture(scope="module")
def corpus(demo_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> LocalCorpus:
    """A copy of the demo's cache, with studies."""
    cache = tmp_path_factory.mktemp("studies") / "cache"
    shutil.copytree(demo_cache, cache)
    more = ("--limit", IMAGES, "--repeats", 1, "--answer", ANSWER, "--cache", cache)
    with without_ray():
        printed("ablate", "'dog'", "--target", "dog", *more)
        printed("ablate", "readings('rock')", "--target", "rock", "--mode", "zero", "--buffer", 1, *more)
        printed("knockout", "locate('dog', layer=7)", "--target", "dog", "--window", 3, *more)
    found = vlq.open(str(cache))
    assert isinstance(found, LocalCorpus)
    return found


@pytest.fixture(scope="module")
def plain(corpus: LocalCorpus) -> Plain:
    return Plain(corpus)


@pytest.fixture(scope="module")
def site(demo_cache: Path) -> Site:
    shards = sorted(str(path.parent.relative_to(demo_cache)) for path in demo_cache.glob("shards/*/zarr.json"))
    return read_site(demo_cache, shards, "patch")


def reading(site: Site, image: int, ids: tuple[int, ...]) -> list[int]:
    """The patches that decode to one of these tokens at any layer."""
    return [int(patch) for patch in np.flatnonzero(np.isin(site.token[image, :, :, 0], ids).any(0))]


def ring(patches: list[int]) -> list[int]:
    """The patches, and all that touch them by a side or a corner."""
    places = [divmod(patch, SIDE) for patch in patches]
    near = [(row + down, column + right) for row, column in places for down in (-1, 0, 1) for right in (-1, 0, 1)]
    return sorted({row * SIDE + column for row, column in near if 0 <= row < SIDE and 0 <= column < SIDE})


def area(objects: list[dict[str, Any]], pixels: int = 112) -> float:
    """The share of a scene's pixels that are in one of the boxes, whose corners are pixels' corners."""
    covered = np.zeros((pixels, pixels), bool)
    for item in objects:
        x0, y0, x1, y1 = map(int, item["box"])
        assert [x0, y0, x1, y1] == item["box"]
        covered[y0:y1, x0:x1] = True
    return float(covered.mean())


def test_patches_that_are_taken(corpus: LocalCorpus, plain: Plain, site: Site) -> None:
    labelled = corpus.effect("dog", "dog").rows
    read = corpus.effect(vlq.readings("rock"), "rock", mode="zero", buffer=1).rows
    assert len(labelled) == len(read) == IMAGES
    for row in labelled:
        told = plain.effect(row["image_id"], DOG, lambda row=row: plain.taken(row["patches"], plain.mean_patch))
        assert {name: row[name] for name in told} == told
    for row in read:
        assert row["patches"] == ring(reading(site, row["image_id"], ROCK))
        told = plain.effect(row["image_id"], ROCK, lambda row=row: plain.taken(row["patches"], 0.0))
        assert {name: row[name] for name in told} == told
    assert {row["gone"] for row in labelled + read} == {True, None}
    assert max(row["effect"] for row in labelled) > 5


def test_attention_that_is_cut(corpus: LocalCorpus, plain: Plain, site: Site) -> None:
    rows = corpus.query("effect(knockout=locate('dog', layer=7), on='dog', by='layer')").rows
    assert len(rows) == IMAGES * 6
    for row in rows:
        image, layers = row["image_id"], range(row["layer"], row["last_layer"] + 1)
        assert len(layers) == 3
        assert row["patches"] == np.flatnonzero(np.isin(site.token[image, 7, :, 0], DOG)).tolist()
        told = plain.effect(
            image, DOG, lambda row=row, layers=layers: plain.cut_off(row["image_id"], row["patches"], layers)
        )
        assert {name: row[name] for name in told} == told
    assert max(row["effect"] for row in rows) > 3


def test_which_object_is_the_object(corpus: LocalCorpus, plain: Plain, site: Site) -> None:
    rows = corpus.prominence(["dog", "rock"], images=vlq.col("image_id") < LOOKED_AT).rows
    studied = {
        "dog": {row["image_id"]: row["effect"] for row in corpus.effect("dog", "dog").rows},
        "rock": {
            row["image_id"]: row["effect"] for row in corpus.effect(vlq.readings("rock"), "rock", mode="zero", buffer=1)
        },
    }
    firsts: dict[int, list[dict[str, Any]]] = {}
    found = {(row["image_id"], row["object"]): row for row in rows}
    seen = 0
    for image in range(LOOKED_AT):
        answer = plain.said(image)[1]
        for word, ids in (("dog", DOG), ("rock", ROCK)):
            objects = [item for item in plain.rows[image]["objects"] if item["label"] == word]
            patches = reading(site, image, ids)
            places = [place for place, id in enumerate(answer) if id in ids]
            row = found.get((image, word))
            assert (row is not None) == bool(objects or patches or places), (image, word)
            if row is None:
                continue
            seen += 1
            assert row["area"] == (pytest.approx(area(objects), abs=1e-6) if objects else None)
            assert (row["patches"] or [], row["read_by"]) == (patches, len(patches))
            assert row["mention"] == (pytest.approx(places[0] / len(answer)) if places else None)
            effect = studied[word].get(image)
            assert row["effect"] == (None if effect is None else pytest.approx(effect, abs=1e-9))
            firsts.setdefault(image, []).append(row)
    for some in firsts.values():
        by_effect = all(row["effect"] is not None for row in some if row["mention"] is not None)
        measured = [row for row in some if row["effect"] is not None]
        named = [row for row in some if row["mention"] is not None]
        if by_effect and measured:
            (first,) = (row for row in some if row["first"])
            assert first["effect"] == max(row["effect"] for row in measured)
        else:
            assert sum(row["first"] for row in some) == bool(named)
    assert seen == len(rows) > 10
