"""Families whose images transformers processes with torchvision alone: they read what the model reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vlq.query.errors import ModelError
from vlq.query.image.pictures import BadImage
from vlq.workers.models import FAMILIES, load
from vlq.workers.models.base import LensModel
from vlq.workers.models.codes import Resized
from vlq.workers.models.generic import Generic, GenericMerged
from vlq.workers.models.merged import Merged
from vlq.workers.models.processors import backend_of
from vlq.workers.models.vocabulary import vocabulary_table
from vlq.workers.worker import Setup, describe_run

from ..conftest import make_model
from . import checks, test_zoo

pytest.importorskip("torchvision")

from . import torchvision_zoo as zoo

SIZES = [(64, 64), (96, 40), (35, 80), (20, 12)]

MAKERS: dict[str, Callable[[Path], Path]] = zoo.MAKERS


@pytest.fixture(scope="module", params=MAKERS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LensModel:
    torch.set_num_threads(1)
    if request.param == "perception_lm":
        pytest.importorskip("timm")
    found = load(str(MAKERS[request.param](tmp_path_factory.mktemp("models") / request.param)), answer=True)
    assert isinstance(found, GenericMerged) == (request.param.partition("-")[0] not in FAMILIES)
    with torch.no_grad():  # random weights would answer with the image's own tokens, and these cannot be read anew
        found.lm_head.weight[found.tokenizer.convert_tokens_to_ids("▁") :] = 0  # type: ignore[index]
    return found


def test_it_reads_what_the_model_reads(model: LensModel) -> None:
    checks.norms_are_not_ones(model)
    images = [checks.noise(*size, seed=i) for i, size in enumerate(SIZES)]
    assert len({model.encode(image).grid for image in images}) >= 3
    checks.reads_what_the_model_reads(model, images)


@pytest.mark.parametrize("size", [(64, 64), (150, 60), (60, 150), (40, 33), (91, 100)], ids=str)
def test_patches_are_where_they_say(model: LensModel, size: tuple[int, int]) -> None:
    checks.patches_are_where_they_say(model, checks.noise(*size))


def test_answers_are_the_models_own(model: LensModel) -> None:
    checks.answers_what_the_model_answers(model, [checks.noise(60, 40), checks.noise(30, 70)], most=3)


def test_no_image_has_more_patches_than_are_said(model: LensModel) -> None:
    rng = np.random.default_rng(0)
    sizes = [(1, 1), (1, 30), (30, 1), (8, 8), (500, 500), (400, 20), (20, 400)]
    for side, aspect in np.exp(rng.uniform((0, -2.5), (np.log(100), 2.5), (40, 2))):
        sizes.append((int(side), max(1, int(side * aspect))))
    for size in sizes:
        rows, columns = model.layout(*size).grid
        assert 1 <= rows * columns <= model.most_patches
        assert model.encode(checks.noise(*size)).grid == (rows, columns)


def test_the_whole_image_once_more(model: LensModel) -> None:
    """What shows patches again, smaller, covers the image, and is none of them."""
    encoded = model.encode(checks.noise(90, 70))
    places = {*encoded.sites["patch"].tolist()}
    images = {*(encoded.tokens["input_ids"] == model.image_token_id).nonzero()[:, 0].tolist()}
    if isinstance(model, Merged | Resized) or getattr(model.processor.image_processor, "use_thumbnail", True) is False:
        assert encoded.view is None
        assert images == places
        return
    again = {*encoded.shown_again(range(len(places))).tolist()}
    assert again == images - places - padding_of(model, encoded)
    assert not again & places


def padding_of(model: LensModel, encoded: Any) -> set[int]:
    """Image positions of LLaMA 4 and Inkling that show padding alone: those that are neither patch nor view. Of
    Unlimited-OCR those that end a row and an image."""
    if type(model).__name__ == "UnlimitedOcr":
        ends = [end for rows, columns in (encoded.grid, (6, 6)) for end in [*[False] * columns, True] * rows] + [True]
        images = (encoded.tokens["input_ids"] == model.image_token_id).nonzero()[:, 0].tolist()
        return {place for place, end in zip(images, ends, strict=True) if end}
    if type(model).__name__ not in ("Llama4", "Inkling"):
        return set()
    images = (encoded.tokens["input_ids"] == model.image_token_id).nonzero()[:, 0].tolist()
    view = 16 if encoded.view else 0  # it is last, of 4 x 4
    return {*images[: len(images) - view]} - {*encoded.sites["patch"].tolist()}


def test_tokens_of_an_image_are_no_prompt(model: LensModel) -> None:
    """However many tiles and rows there are, the prompt's tokens are the same; only what is around an image may be."""
    found = {tuple(model.encode(checks.noise(*size)).tokens["input_ids"].tolist()) for size in SIZES}
    assert len(found) > 1
    pieces = model.tokenizer.convert_ids_to_tokens(model.prompt_ids)
    inside = ("separator", "LINE_BREAK", "im_", "img_row", "thumbnail", "<|patch|>", "<|image|>")
    assert not [piece for piece in pieces if any(part in piece for part in inside)]


def test_what_processed_the_images_is_recorded(model: LensModel, tmp_path: Path) -> None:
    run = describe_run(
        Setup(model.model.name_or_path, None, 5, ("patch",), "cpu", "auto", 1, 8, 32), model, vocabulary_hash="0" * 64
    )
    assert run.image_processor["backend"] == "torchvision"
    assert run.versions["torchvision"] == version("torchvision")


def test_a_head_without_rows_for_an_images_tokens(tmp_path: Path) -> None:
    """Molmo 2's tokenizer has more tokens than its head has rows: the vocabulary is the head's."""
    model = load(str(zoo.molmo2(tmp_path / "model")))
    assert len(model.tokenizer) > model.vocabulary_size
    table = vocabulary_table(model.tokenizer, model.vocabulary_size)
    pieces = model.tokenizer.convert_ids_to_tokens([*range(model.vocabulary_size)])
    assert table["piece"].to_pylist() == pieces
    assert len(model.input_embedding) == model.vocabulary_size
    assert max(model.prompt_ids) < model.vocabulary_size


def test_a_view_of_more_patches_than_tiles_have(tmp_path: Path) -> None:
    """LFM2-VL's processor fails on such an image, which is that image's error."""
    model = load(str(zoo.lfm2_vl(tmp_path / "model")))
    with pytest.raises(BadImage, match="of 2000 x 30 is 40 patches, more than the processor puts beside its tiles"):
        model.encode(checks.noise(2000, 30))


def test_sequences_in_which_padding_would_count(tmp_path: Path) -> None:
    """From a column on LLaMA 4 and Inkling temper attention, wherever a shorter sequence begins."""
    folder = zoo.llama4(tmp_path / "model", tempered_from=100)
    with pytest.raises(ModelError, match=r"are 1\d\d tokens. From 100 on .* padding moves: lower max_patches"):
        load(str(folder))
    folder = zoo.inkling(tmp_path / "inkling", tempered_from=60)
    with pytest.raises(ModelError, match=r"an image of 200 x 160 and .* From 60 on .* padding moves"):
        load(str(folder))


def test_an_image_of_more_patches_than_can_be_stored(tmp_path: Path) -> None:
    """Inkling's processor keeps every size."""
    model = load(str(zoo.inkling(tmp_path / "model")))
    with pytest.raises(BadImage, match="an image of 4200 x 3600 has 67,200 patches; VLQ reads 65,535 at most"):
        model.encode(Image.new("RGB", (4200, 3600)))


def test_a_narrow_image_is_filled_up_to_a_square(tmp_path: Path) -> None:
    """What shows nothing else is no patch of Step 3.7's, of tiles and of the view of an image that is not cut."""
    model = load(str(zoo.step3p7(tmp_path / "model")))
    images = [checks.noise(100, 20), checks.noise(8, 45)]
    encoded = [model.encode(image) for image in images]
    assert [one.grid for one in encoded] == [(2, 6), (3, 1)]
    assert encoded[0].view is not None
    assert encoded[0].view.grid == (1, 3)
    checks.reads_what_the_model_reads(model, images)
    checks.patches_are_where_they_say(model, images[0])


@pytest.mark.parametrize("make", [zoo.apertus1p5, zoo.unlimited_ocr])
def test_a_changed_run_is_the_models_own(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    """Unlimited-OCR's blocks, too, see all of what is in front: its windows are of answers."""
    test_zoo.test_a_changed_run_is_the_models_own(load(str(make(tmp_path / "model"))))


def test_images_that_are_not_cut(tmp_path: Path) -> None:
    """Unlimited-OCR's are put into the middle of the view, or stretched to a small one."""
    images = [checks.noise(*size, seed=i) for i, size in enumerate([(64, 64), (96, 40), (35, 80), (20, 12)])]
    for name, most, grids in (("filled", 0, [(6, 6), (4, 6), (6, 4), (4, 6)]), ("stretched", 48, [(6, 6)] * 4)):
        folder = zoo.unlimited_ocr(tmp_path / name, cut=False, maximum_pad_value=most)
        model = load(str(folder), answer=True)
        assert [model.encode(image).grid for image in images] == grids
        assert model.most_patches == 36
        checks.reads_what_the_model_reads(model, images)
        for image in images:
            checks.patches_are_where_they_say(model, image)


def test_a_view_that_is_not_of_whole_patches(tmp_path: Path) -> None:
    folder = zoo.unlimited_ocr(tmp_path / "model")
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"size": {"height": 44, "width": 44}}))
    with pytest.raises(ModelError, match=r"expected a view of a multiple of 8 pixels\. Got 44"):
        load(str(folder))


def test_an_images_own_tokens_are_the_same_in_half_precision(tmp_path: Path) -> None:
    """Apertus' tower is in float32 whatever the model is, and is given what the processor gives."""
    folder = zoo.apertus1p5(tmp_path / "model")
    image = checks.noise(70, 50)
    model, half = load(str(folder)), load(str(folder), dtype="bfloat16")
    assert half.dtype == torch.bfloat16
    whole = half.model.model.vision_tokenizer.encode(checks.inputs_of(model, image)["pixel_values"]).image_tokens
    codes = half.batch([half.encode(image)])["input_ids"][0][half.encode(image).sites["patch"]]
    assert torch.equal(codes, whole.flatten() + half.model.config.image_token_offset)
    assert torch.equal(codes, model.batch([model.encode(image)])["input_ids"][0][model.encode(image).sites["patch"]])


def test_slices_that_are_scaled_by_what_they_show(tmp_path: Path) -> None:
    folder = zoo.minicpm_ocr(tmp_path / "model", small_image_upsize="adaptive")
    with pytest.raises(ModelError, match="scales each slice by what it shows") as caught:
        load(str(folder))
    assert 'small_image_upsize to "always"' in str(caught.value.hint)


def test_a_tower_of_timms(tmp_path: Path) -> None:
    """FastVLM needs no torchvision itself, but timm does."""
    pytest.importorskip("timm")
    model = load(str(zoo.fast_vlm(tmp_path / "model")), answer=True)
    assert isinstance(model, Generic)
    assert model.grid == (4, 4)
    checks.norms_are_not_ones(model)
    images = [checks.noise(*size, seed=i) for i, size in enumerate([(64, 64), (90, 40), (400, 300)])]
    checks.reads_what_the_model_reads(model, images)
    for size in [(64, 64), (180, 70), (70, 180), (24, 30)]:
        checks.patches_are_where_they_say(model, checks.noise(*size))
    with torch.no_grad():
        model.lm_head.weight[model.tokenizer.convert_tokens_to_ids("▁") :] = 0  # type: ignore[index]
    checks.answers_what_the_model_answers(model, images[:2], most=3)


def test_pillow_is_kept_where_it_will_do(tmp_path: Path) -> None:
    model = load(str(make_model(tmp_path / "model")))
    assert backend_of(model.processor) == "pil"
