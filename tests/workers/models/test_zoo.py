"""Families that are alike: each reads what its model reads, patches are where they say, answers are the model's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor
from transformers import Glm4vForConditionalGeneration

import vlq
from vlq.query.errors import MissingExtra, ModelError
from vlq.workers.intervene.changes import Change
from vlq.workers.intervene.prompted import Prompted, Target
from vlq.workers.models import CONVERTED, FAMILIES, REFUSED, THINKERS, load, processors
from vlq.workers.models.base import LensModel
from vlq.workers.models.checks import check
from vlq.workers.models.encoded import prompt_ids
from vlq.workers.models.generic import GenericMerged
from vlq.workers.models.merged import Glm4v

from . import checks, tiny, zoo

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

MAKERS: dict[str, Callable[[Path], Path]] = {
    **zoo.MERGED,
    **zoo.ALIKE,
    **{f"pixtral-{kind}": make for kind, make in zoo.PIXTRAL.items()},
    "aya_vision": tiny.make_aya_vision,
    "chameleon": zoo.chameleon,
    "chameleon-swin": partial(zoo.chameleon, swin_norm=True),
    "emu3": zoo.emu3,
    "fuyu": zoo.fuyu,
    "gemma4": zoo.gemma4,
    "gemma4-large": partial(zoo.gemma4, **zoo.LARGE),
    "granite4_vision": zoo.granite4_vision,
    "granite_docling": zoo.granite_docling,
    "granite_docling-fine": partial(zoo.granite_docling, fine=True),
    "llava_next_video": zoo.llava_next_video,
    "minicpmv4_6": zoo.minicpm,
    "minicpmv4_7": partial(zoo.minicpm, name="MiniCPMV4_7"),
    "ovis2": zoo.ovis2,
    "qianfan_ocr": zoo.qianfan,
}

SIZES = [(64, 64), (96, 40), (35, 80)]


@pytest.fixture(scope="module", params=MAKERS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LensModel:
    torch.set_num_threads(1)
    found = load(str(MAKERS[request.param](tmp_path_factory.mktemp("models") / request.param)), answer=True)
    assert isinstance(found, GenericMerged) == (request.param in zoo.ALIKE)
    with torch.no_grad():  # random weights would answer with the image's own tokens, and these cannot be read anew
        found.lm_head.weight[found.tokenizer.convert_tokens_to_ids("▁") :] = 0  # type: ignore[index]
    return found


OF_IMAGES = ("pixel_values", "image_grid_thw", "image_sizes", "pixel_attention_mask", "tile_fine_mask")
"""What a processor says of images, and a tower is told."""


def with_deepstack(model: LensModel, inputs: Mapping[str, Tensor], states: list[Tensor]) -> None:
    """The states behind the first blocks, and what a tower adds to them before the next one."""
    tower = model.model.model.get_image_features(**{name: inputs[name] for name in OF_IMAGES if name in inputs})
    patches = inputs["input_ids"] == model.image_token_id
    found = tower.deepstack_features
    for layer, (features,) in found if isinstance(found[0][0], int) else enumerate(found, 1):
        if layer:  # what enters the first block is seen
            states[layer] = states[layer].clone()
            states[layer][patches] += features


def test_it_reads_what_the_model_reads(model: LensModel) -> None:
    checks.norms_are_not_ones(model)
    images = [checks.noise(*size, seed=i) for i, size in enumerate(SIZES)]
    assert model.grid or len({model.encode(image).grid for image in images}) == 3
    amend = with_deepstack if "deepstack" in str(model.model.config) else None
    checks.reads_what_the_model_reads(model, images, amend)


def test_patches_are_where_they_say(model: LensModel) -> None:
    checks.patches_are_where_they_say(model, checks.noise(150, 60))


def test_whole_prompts_are_taken_as_they_are(model: LensModel) -> None:
    assert model.full_prompt(model.processor, model.prompt) == model.prompt

    def in_front(prompt: str) -> int:
        sites = model.encode(checks.noise(60, 40), prompt).sites
        return int((sites["prompt"] < sites["patch"][0]).sum())

    assert in_front("What is in <image> there") > in_front("<image> there")


def test_answers_are_the_models_own(model: LensModel) -> None:
    checks.answers_what_the_model_answers(model, [checks.noise(60, 40), checks.noise(30, 70)], most=3)


UNCHANGED = {
    "Ernie4_5_VLMoe": "told more of each position than what stands for it",
    "Gemma4": "told more of each position than what stands for it",
}
"""Classes of models in which no run can be changed, and why."""


def test_a_changed_run_is_the_models_own(model: LensModel) -> None:
    """States of two patches are replaced, behind a pass that many runs share and in the whole model."""
    encoded = model.encode(checks.noise(70, 50))
    reason = UNCHANGED.get(type(model.model).__name__.removesuffix("ForConditionalGeneration"))
    if reason and getattr(model.decoder.config, "hidden_size_per_layer_input", 1):  # which a large Gemma 4 has none of
        with pytest.raises(ModelError, match=reason):
            Prompted(model, encoded)
        return
    prompted = Prompted(model, encoded)
    positions, states = (
        prompted.patches[[3, 7]],
        torch.randn(2, model.width, generator=torch.Generator().manual_seed(0)),
    )
    (found,) = prompted.outcomes([Change({1: (positions, states)})], [Target((5,))])

    def replaced(module: Any, args: Any, kwargs: Any) -> Any:
        hidden = args[0].clone()
        hidden[0, positions] = states
        return (hidden, *args[1:]), kwargs

    handle = model.blocks[1].register_forward_pre_hook(replaced, with_kwargs=True)
    with handle, torch.inference_mode():
        logits = model.model(**model.batch([encoded]), use_cache=False).logits[0, -1]
    assert found.logprob[0] == pytest.approx(float(torch.log_softmax(logits.double(), -1)[5]), abs=checks.NATS)


@pytest.mark.parametrize("make", [zoo.granite4_vision, zoo.granite_docling])
def test_patches_are_changed_at_each_layer_where_they_enter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Path]
) -> None:
    """As if the tower had made others of two patches, in the whole model."""
    model = load(str(make(tmp_path / "model")))
    encoded = model.encode(checks.noise(90, 40))
    prompted = Prompted(model, encoded)
    own = prompted.entering_patches()
    positions = prompted.patches[[3, 7]]
    generator = torch.Generator().manual_seed(0)
    new = {layer: torch.randn(2, model.width, generator=generator) * values.std() for layer, values in own.items()}
    entering = {layer: (positions, values) for layer, values in new.items()}
    (found,) = prompted.outcomes([Change({0: entering.pop(0)}, entering=entering)], [Target((5,))])

    inner, whole = model.model.model, model.model.model.get_image_features
    images = (encoded.tokens["input_ids"] == model.image_token_id).nonzero()[:, 0].tolist()
    places = [images.index(position) for position in positions.tolist()]

    def changed(*args: Any, **options: Any) -> Any:
        features = whole(*args, **options)
        deep = features.deepstack_features
        for layer, (values,) in deep if isinstance(deep[0][0], int) else enumerate(deep, 1):
            values[places] = new[layer]
        if features.pooler_output is not None:
            features.pooler_output[0][places] = new[0] / model.decoder.embedding_multiplier
        return features

    monkeypatch.setattr(inner, "get_image_features", changed)
    with torch.inference_mode():
        logits = model.model(**model.batch([encoded]), use_cache=False).logits[0, -1]
    assert len(own) > 2
    assert found.logprob[0] == pytest.approx(float(torch.log_softmax(logits.double(), -1)[5]), abs=checks.NATS)


def test_no_image_has_more_patches_than_are_said(model: LensModel) -> None:
    for size in [(1, 30), (30, 1), (8, 8), (500, 500), (700, 20)]:
        rows, columns = model.layout(*size).grid
        assert 1 <= rows * columns <= model.most_patches
        assert model.encode(checks.noise(*size)).grid == (rows, columns)


def test_all_that_have_an_adapter_are_tried() -> None:
    elsewhere = {"idefics3", "internvl", "llava_next", "llava_onevision", "paligemma", "smolvlm"}
    elsewhere |= {"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "shieldgemma2"}
    elsewhere |= {"cohere2_vision", "gemma4_unified", "kimi_k25", "lfm2_vl", "llama4", "molmo2"}  # torchvision
    elsewhere |= {
        "apertus1p5",
        "inkling_mm_model",
        "minicpm_ocr",
        "muse_glimmer",
        "muse_spark",
        "nemotron_h_omni",
        "perception_lm",
        "step3p7",
        "unlimited_ocr",
    }
    tried = {name.removeprefix("pixtral-").partition("-")[0] for name in MAKERS} | elsewhere
    assert {*FAMILIES} == tried - {*zoo.ALIKE}


# --- what is refused, and why -------------------------------------------------------------------------------------


def bare(folder: Path, kind: str) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    return str(folder)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("mllama", "its images enter through cross-attention"),
        ("blip-2", "learned queries gather"),
        ("gemma3n", "several residual streams"),
        ("florence2", "an encoder sees its images"),
        ("git", "no token of its sequence stands for an image"),
    ],
)
def test_models_whose_patches_have_no_place(tmp_path: Path, kind: str, reason: str) -> None:
    with pytest.raises(ModelError, match=f"is of type {kind}, which VLQ does not read: .*{reason}") as caught:
        load(bare(tmp_path / "model", kind))
    assert "adapters for these model types" in str(caught.value.hint)


def test_what_is_said_of_makers_layouts_is_of_no_type_of_transformers() -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    assert {*CONVERTED}.isdisjoint(CONFIG_MAPPING_NAMES)
    assert {*THINKERS} <= {*CONFIG_MAPPING_NAMES}
    assert all(hasattr(transformers, kind) for kind in THINKERS.values())


def test_what_is_refused_is_of_transformers() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    assert {*REFUSED} <= {*MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES}
    assert {*FAMILIES} <= {*MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES}
    assert {*REFUSED}.isdisjoint(FAMILIES)


@pytest.mark.parametrize(
    ("torch", "command"),
    [
        ("2.13.0", "pip install 'torchvision==0.28.*'"),
        ("2.6.0+cu124", "pip install 'torchvision==0.21.*'"),
        ("2.13.0+cpu", "pip install 'torchvision==0.28.*' --index-url https://download.pytorch.org/whl/cpu"),
        ("3.1.0", "pip install torchvision"),
    ],
)
def test_images_that_torchvision_alone_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torch: str, command: str
) -> None:
    """Which goes with a torch is said by the table in torchvision's README."""
    monkeypatch.setattr(processors, "find_spec", lambda name: None)
    monkeypatch.setattr(processors, "version", {"torch": torch}.__getitem__)
    with pytest.raises(MissingExtra, match=r"needs torchvision, which is not installed: .* type llama4") as caught:
        load(bare(tmp_path / "model", "llama4"))
    assert caught.value.hint == f"Run: {command}"


def test_a_torchvision_that_cannot_be_imported(tmp_path: Path) -> None:
    """As one that was built for another torch: transformers imports it wherever it is, so nothing goes on."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text('raise RuntimeError("operator nms does not exist")')
    (tmp_path / "torchvision-0.1.2.dist-info").mkdir()
    (tmp_path / "torchvision-0.1.2.dist-info" / "METADATA").write_text("Name: torchvision\nVersion: 0.1.2\n")
    Image.new("RGB", (64, 64)).save(tmp_path / "one.png")
    model = Path(vlq.__file__).parents[1] / "workers" / "demo" / "model"
    look = [sys.executable, "-m", "vlq", "look", "one.png", "--model", str(model)]
    paths = os.pathsep.join([str(tmp_path), str(model.parents[2])])
    found = subprocess.run(
        look, cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 2
    assert "torchvision 0.1.2, which transformers uses where it is installed, cannot be imported" in found.stderr
    assert "operator nms does not exist" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_model_that_transformers_does_not_know_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = zoo.glm(tmp_path / "model", "Glm4v", "Glm4v")
    monkeypatch.setattr(Glm4v, "family", "Glm99vForConditionalGeneration")
    with pytest.raises(ModelError, match="does not know models such as") as caught:
        load(str(folder))
    assert "--upgrade transformers" in str(caught.value.hint)


def test_a_package_that_a_model_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = zoo.glm(tmp_path / "model", "Glm4v", "Glm4v")

    def without(*arguments: Any, **options: Any) -> Any:
        raise ImportError("\nTimmWrapperModel requires the timm library but it was not found in your environment.")

    monkeypatch.setattr(Glm4vForConditionalGeneration, "from_pretrained", without)
    with pytest.raises(MissingExtra, match="needs a package that is not installed: TimmWrapperModel requires the timm"):
        load(str(folder))


def test_states_of_several_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose blocks pass on more than (image, position, d) is refused before anything is read."""
    model = load(str(zoo.glm(tmp_path / "model", "Glm4v", "Glm4v")))
    whole = model.forward

    def streams(images: Any, visit: Any, layers: Any = None) -> None:
        whole(images, lambda layer, hidden: visit(layer, torch.stack([hidden, hidden], 2)), layers)

    monkeypatch.setattr(model, "forward", streams)
    with pytest.raises(ModelError, match=r"expected states of 1 x \d+ x 32 .* Got 1 x \d+ x 2 x 32"):
        check(model)


def test_settings_that_do_not_fit(tmp_path: Path) -> None:
    folder = zoo.mistral3(tmp_path / "model")
    settings = json.loads((folder / "processor_config.json").read_text())
    (folder / "processor_config.json").write_text(json.dumps(settings | {"patch_size": 8}))
    with pytest.raises(ModelError, match="the processor's patches are of 16 pixels, the model's of 8"):
        load(str(folder))


# --- what is peculiar ---------------------------------------------------------------------------------------------


def test_rows_end_with_tokens_that_are_no_prompt(tmp_path: Path) -> None:
    model = load(str(zoo.mistral3(tmp_path / "model")))
    encoded = model.encode(checks.noise(40, 24))
    tokens = model.tokenizer.convert_ids_to_tokens(encoded.tokens["input_ids"].tolist())
    assert encoded.grid == (3, 5)
    assert tokens.count("[IMG]") == 15
    assert tokens.count("[IMG_BREAK]") == 2
    assert tokens.count("[IMG_END]") == 1
    text = model.tokenizer.convert_ids_to_tokens(model.prompt_ids)
    assert "[IMG_BREAK]" not in text
    assert "[IMG_END]" in text


def test_positions_around_rows_that_are_no_patches(tmp_path: Path) -> None:
    """HunYuanVL has some in front of an image's rows, behind each and behind the last one; each kind has one state."""
    model = load(str(zoo.hunyuan_vl(tmp_path / "model")))
    encoded = model.encode(checks.noise(40, 24))
    rows, columns = encoded.grid
    assert (rows, columns) == (3, 5)
    images = (encoded.tokens["input_ids"] == model.image_token_id).nonzero()[:, 0].tolist()
    first, last = images[0], images[-1]
    ends = [first + (row + 1) * (columns + 1) for row in range(rows)]
    assert {*images} - {*encoded.sites["patch"].tolist()} == {first, *ends, last}
    assert {*images}.isdisjoint(encoded.sites["prompt"].tolist())
    seen: list[Tensor] = []
    model.forward([encoded], lambda layer, hidden: seen.append(hidden[0].clone()), layers=[0])
    torch.testing.assert_close(seen[0][ends], seen[0][ends[:1]].expand(rows, -1))
    merger = model.model.model.vision_tower.patch_merger
    for place, state in ((first, merger.image_begin), (last, merger.image_end)):
        torch.testing.assert_close(seen[0][place], merger.after_rms(state).detach())


def test_images_are_numbered_from_nought_in_each_sequence(tmp_path: Path) -> None:
    """HunYuanVL's class numbers them through a batch; with another prompt, too, that is changed once."""
    model = load(str(zoo.hunyuan_vl(tmp_path / "model")))
    number = model.model.model.get_rope_index
    again = checks.asked(model, "Another?")
    assert again.model.model.get_rope_index is number
    encoded = [again.encode(checks.noise(*size)) for size in SIZES]
    image, place = again.places(encoded, ["patch"])
    batch = again.batch(encoded)
    names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")
    positions, _ = number(*(batch[name] for name in names))
    assert {*positions[-1, image, place].tolist()} == {0}


def test_pixtrals_own_processor_makes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers' class wants torchvision, of which for an image it uses nothing."""
    from transformers.models.pixtral import image_processing_pil_pixtral
    from transformers.utils import import_utils

    theirs = "transformers.models.pixtral.image_processing_pixtral"
    monkeypatch.setitem(sys.modules, theirs, image_processing_pil_pixtral)
    source = Path(image_processing_pil_pixtral.__file__).with_name("processing_pixtral.py")
    spec = spec_from_file_location("transformers.models.pixtral.processing_pixtral_tried", source)
    assert spec is not None and spec.loader is not None  # noqa: PT018
    monkeypatch.setattr(import_utils, "requires", lambda **options: lambda kind: kind)
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)

    model = load(str(zoo.mistral3(tmp_path / "model")))
    own = module.PixtralProcessor(model.processor.image_processor, model.tokenizer, patch_size=4, spatial_merge_size=2)
    for size in SIZES:
        expected = own(images=checks.noise(*size), text=model.prompt, return_tensors="pt")
        found = model.encode(checks.noise(*size))
        assert torch.equal(found.tokens["input_ids"], expected["input_ids"][0])
        assert torch.equal(found.values["pixel_values"], expected["pixel_values"])
        assert torch.equal(found.values["image_sizes"], torch.as_tensor(expected["image_sizes"]))


def test_a_model_that_is_given_another_prompt_is_changed_once(tmp_path: Path) -> None:
    model = load(str(zoo.mistral3(tmp_path / "model")))
    projector = model.model.model.multi_modal_projector
    before = len(projector._forward_hooks)
    type(model)(model.model, model.processor, "Another?")
    assert len(projector._forward_hooks) == before == 1


@pytest.mark.parametrize("make", [zoo.mistral3, zoo.mistral_large4])
def test_an_image_of_one_patch(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    """Alone it is as beside others, where the model's own class can read it."""
    model = load(str(make(tmp_path / "model")))
    small, larger = checks.noise(6, 5), checks.noise(20, 12)
    assert model.encode(small).grid == (1, 1)
    beside = model.model(**model.batch([model.encode(larger), model.encode(small)]), use_cache=False).logits[1]
    (layers,) = checks.read(model, [small])
    token, logprob = layers[-1]
    encoded = model.encode(small)
    places = torch.cat([encoded.sites[site] for site in checks.SITES]) - encoded.length
    checks.are_the_best(token.numpy(), logprob.numpy(), torch.log_softmax(beside[places].double(), -1).detach().numpy())


@pytest.mark.parametrize("covering", [True, False])
def test_tiles_and_the_thumbnail_before_them(tmp_path: Path, covering: bool) -> None:
    model = load(str(zoo.ovis2(tmp_path / "model", covering)))
    rng = np.random.default_rng(0)
    for _ in range(20):
        width, height = (int(side) for side in np.exp(rng.uniform(np.log(8), np.log(300), 2)))
        encoded = model.encode(checks.noise(width, height))
        tokens = model.tokenizer.convert_ids_to_tokens(encoded.tokens["input_ids"].tolist())
        rows, columns = encoded.grid[0] // 4, encoded.grid[1] // 4
        assert tokens.count("<IMG_ROW>") == rows - 1
        assert tokens.count("<IMG_COL>") == rows * (columns - 1)
        first = tokens.index("<IMG_START>") if rows * columns == 1 else tokens.index("<IMG_GRID>")
        assert encoded.sites["patch"][0] == first + 1  # the thumbnail is before <IMG_GRID>
        assert {*tokens} & {"<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>"}
        text = model.tokenizer.convert_ids_to_tokens(model.prompt_ids)
        assert not {*text} & {"<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>"}
        assert {"<IMG_START>", "<IMG_END>"} <= {*text}


@pytest.mark.parametrize("fine", [False, True])
def test_tiles_of_pages(tmp_path: Path, fine: bool) -> None:
    """Of Granite Docling: the token in front of a tile tells its place; inside it patches go row by row."""
    model = load(str(zoo.granite_docling(tmp_path / "model", fine)))
    side = 8 if fine else 4
    found = set()
    for width, height in [(30, 32), (100, 40), (60, 200), (64, 64), (33, 70)]:
        image = checks.noise(width, height)
        encoded = model.encode(image)
        rows, columns = encoded.grid
        found.add((rows // side, columns // side))
        tokens = model.tokenizer.convert_ids_to_tokens(encoded.tokens["input_ids"].tolist())
        for row, column in np.ndindex(rows, columns):
            start = tokens.index(f"<row_{row // side + 1}_col_{column // side + 1}>") + 1
            assert encoded.sites["patch"][row * columns + column] == start + row % side * side + column % side
        assert (encoded.view is None) == ("<global-img>" not in tokens) == (rows == columns == side)
        text = model.tokenizer.decode(encoded.tokens["input_ids"][encoded.sites["prompt"]])
        assert text == "What is in this image? ASSISTANT:"
        checks.patches_are_where_they_say(model, image)
    assert len(found) == 5


def test_more_tiles_of_wide_pages(tmp_path: Path) -> None:
    folder = zoo.granite_docling(tmp_path / "model", most=2)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    settings |= {"dense_max_patches": 8, "dense_min_aspect": 1.5}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    model = load(str(folder))
    assert model.encode(checks.noise(60, 60)).grid == (4, 4)
    assert model.encode(checks.noise(64, 130)).grid == (8, 4)
    assert model.encode(checks.noise(130, 64)).grid == (8, 16)
    assert model.most_patches == 8 * 16


def test_a_line_end_that_is_one_token_with_what_follows(tmp_path: Path) -> None:
    """Granite Docling's processor puts one behind an image of one tile, and none behind others."""
    model = load(str(zoo.granite_docling(tmp_path / "model")))
    model.tokenizer.add_tokens(["\n\n"], special_tokens=True)
    small, large = checks.noise(30, 32), checks.noise(100, 40)
    one, other = model.encode(small, "<image>What"), model.encode(large, "<image>What")
    assert prompt_ids(one) == prompt_ids(other)
    model.encode(large, "<image>\nWhat")
    with pytest.raises(ModelError, match="behind a small image is one token with what follows") as caught:
        model.encode(small, "<image>\nWhat")
    assert "no line end behind the image" in str(caught.value.hint)


def test_blocks_that_use_others_keys_see_all_of_the_prompt(tmp_path: Path) -> None:
    """Gemma 4's last blocks are run on the last token alone when it answers, if nobody asks for more."""
    model = load(str(zoo.gemma4(tmp_path / "model", use_bidirectional_attention="vision")), answer=True)
    image = checks.noise(70, 50)
    encoded = model.encode(image)
    seen: dict[int, Tensor] = {}
    model.answer([encoded], 2, lambda layer, hidden: seen.update({layer: hidden.clone()}))
    plain: dict[int, Tensor] = {}
    model.forward([encoded], lambda layer, hidden: plain.update({layer: hidden.clone()}))
    assert [*seen] == [*plain] == [*range(5)]
    for layer, states in plain.items():
        torch.testing.assert_close(seen[layer], states, atol=1e-4, rtol=1e-4)
    checks.reads_what_the_model_reads(model, [image, checks.noise(30, 60)])


def test_a_model_that_numbers_patches_only_with_a_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen2.5-Omni alone in a batch: without the mask its patches would be numbered as words are."""
    model = load(str(zoo.qwen25_omni(tmp_path / "model")))
    images = [checks.noise(64, 40)]
    checks.reads_what_the_model_reads(model, images)
    monkeypatch.setattr(type(model), "always_masked", False)
    with pytest.raises(AssertionError):
        checks.reads_what_the_model_reads(model, images)
