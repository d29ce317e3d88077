"""LLaVA with decoders and towers that its checkpoints on the hub do not have, and users' may."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPTNeoXConfig, MambaConfig, OPTConfig, PersimmonConfig, PhiConfig

from vlq.query.errors import ModelError
from vlq.workers.models.base import LensModel

from . import checks
from .tiny import make_llava, make_llava_next, make_vipllava

MAKERS: dict[str, Callable[[Path], Path]] = {
    # Whose norm behind the last block has another name than Llama's.
    "phi": partial(make_llava, text=PhiConfig),
    "persimmon": partial(make_llava, text=PersimmonConfig),
    "gpt_neox": partial(make_llava, text=GPTNeoXConfig),
    # Whose blocks have another name, or are in a module of their own.
    "gpt2": partial(make_llava, text=GPT2Config),
    "opt": partial(make_llava, text=partial(OPTConfig, word_embed_proj_dim=32)),
    "class-token": partial(make_llava, strategy="full"),
    "class-token-layers": partial(make_llava, strategy="full", vision_feature_layer=[-1, -2]),
}


@pytest.fixture(scope="module", params=MAKERS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LensModel:
    torch.set_num_threads(1)
    return checks.loaded(MAKERS[request.param](tmp_path_factory.mktemp("models") / request.param))


def test_it_reads_what_the_model_reads(model: LensModel) -> None:
    checks.norms_are_not_ones(model)
    checks.reads_what_the_model_reads(model, [checks.noise(64, 64), checks.noise(90, 40, seed=1)])


def test_patches_are_where_they_say(model: LensModel) -> None:
    checks.patches_are_where_they_say(model, checks.noise(60, 150))


def test_the_class_token_is_neither_patch_nor_prompt(tmp_path: Path) -> None:
    model = checks.loaded(make_llava(tmp_path / "model", strategy="full"))
    encoded = model.encode(checks.noise(64, 64))
    images: Tensor = (encoded.tokens["input_ids"] == model.image_token_id).nonzero()[:, 0]
    assert len(images) == 17
    assert encoded.sites["patch"].tolist() == images[1:].tolist()
    assert not {*images.tolist()} & {*encoded.sites["prompt"].tolist()}


@pytest.mark.parametrize("make", [make_llava, partial(make_llava, strategy="full"), make_llava_next, make_vipllava])
@pytest.mark.parametrize("kept", [(), ("patch_size",), ("patch_size", "vision_feature_select_strategy")], ids=str)
def test_processors_that_older_versions_saved(
    tmp_path: Path, make: Callable[[Path], Path], kept: tuple[str, ...]
) -> None:
    """What they do not say is as the model has it: no settings but `kept` were there, one after the other."""
    path = make(tmp_path / "model") / "processor_config.json"
    image = checks.noise(90, 40)
    expected = checks.loaded(path.parent).encode(image)
    saved = json.loads(path.read_text())
    said = ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens")
    path.write_text(json.dumps({name: value for name, value in saved.items() if name in kept or name not in said}))
    found = checks.loaded(path.parent).encode(image)
    assert torch.equal(found.tokens["input_ids"], expected.tokens["input_ids"])
    assert found.sites["patch"].tolist() == expected.sites["patch"].tolist()


def test_a_decoder_without_a_known_norm_is_named(tmp_path: Path) -> None:
    folder = make_llava(tmp_path / "model", text=MambaConfig)
    with pytest.raises(ModelError, match="MambaModel: the norm behind this decoder's blocks is not found"):
        checks.loaded(folder)
