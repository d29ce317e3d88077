"""Models by family, and how one is loaded. A new family is a subclass of `LensModel` and a line in FAMILIES."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlq.query.errors import ModelError, VlqError
from vlq.workers.models.files import read_config, resolve
from vlq.workers.models.weights import Loading, check_possible, first_line, load_weights

if TYPE_CHECKING:
    from vlq.workers.models.base import LensModel

FAMILIES = {
    "idefics3": ("vlq.workers.models.idefics3", "Idefics3"),
    "internvl": ("vlq.workers.models.internvl", "InternVL"),
    "llava": ("vlq.workers.models.llava", "Llava"),
    "llava_next": ("vlq.workers.models.llava_next", "LlavaNext"),
    "llava_onevision": ("vlq.workers.models.llava_next", "LlavaOnevision"),
    "paligemma": ("vlq.workers.models.paligemma", "PaliGemma"),
    "qwen2_5_vl": ("vlq.workers.models.qwen_vl", "Qwen25VL"),
    "qwen2_vl": ("vlq.workers.models.qwen_vl", "Qwen2VL"),
    "qwen3_vl": ("vlq.workers.models.qwen_vl", "Qwen3VL"),
    "smolvlm": ("vlq.workers.models.idefics3", "SmolVLM"),
}
"""config.json's model_type -> module and class of the adapter."""

GENERIC = ("vlq.workers.models.generic", "Generic")
"""For a model type without an adapter of its own."""

REFUSED = {
    "mllama": "its images enter through cross-attention, so that no position of the sequence is a patch",
}
"""model_type -> why there is no lens at the patches of such a model."""

PROCESSORS = {
    "smolvlm": "Idefics3Processor",
}
"""model_type -> a processor that does the same with images as the model's own, which needs more packages for videos."""

PLACEHOLDER = "<image>"
"""Where the image goes in a prompt, whatever a family's own token for it is."""


def load(
    model: str,
    *,
    revision: str | None = None,
    prompt: str | None = None,
    device: str = "cpu",
    dtype: str = "auto",
    attention: str = "auto",
    quantize: str | None = None,
    check_images: int = 1,
    device_map: str | None = None,
    compiled: bool = False,
    answer: bool = False,
    questions: Sequence[str] = (),
) -> LensModel:
    """A model with its checks passed.

    `revision` is a hub model's; the rest of how it is loaded is as in `weights.Loading`. The checks run with
    `check_images` images at once, so that what does not fit shows now; with `answer` the model's answers are
    checked, too. `questions` are some of those that images bring themselves. Raises ModelError, MissingExtra.
    """
    import torch

    how = Loading(device, dtype, attention, quantize, device_map, compiled)
    check_possible(how)
    folder = resolve(model, revision=revision)
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32
    generic = family_of(model, folder) == GENERIC
    try:
        return _checked(model, folder, prompt, how, check_images, answer, questions)
    except ModelError as error:
        if not generic:
            raise
        kind = read_config(folder)["model_type"]
        raise ModelError(
            f"There is no adapter for models of type {kind}, and this one cannot be read without: {error.message}",
            " ".join(filter(None, [error.hint, known_families()])),
        ) from error


def _checked(
    model: str,
    folder: Path,
    prompt: str | None,
    how: Loading,
    check_images: int,
    answer: bool,
    questions: Sequence[str],
) -> LensModel:
    import torch

    from vlq.workers.models.base import check, compile_blocks

    adapter = adapter_of(model, folder)
    try:
        processor = load_processor(model, folder)
        lens_model: LensModel = adapter(load_weights(model, folder, adapter.family, how), processor, prompt)
        check(lens_model, check_images, answer, questions)
        if how.compiled:
            compile_blocks(lens_model)
            check(lens_model, check_images, answer, questions)
    except VlqError:
        raise
    except torch.cuda.OutOfMemoryError as error:
        raise ModelError(
            f"{model} with {check_images} images a batch does not fit into the GPU's memory.",
            "Use a smaller --batch-size, --dtype bfloat16, or --quantize 4bit.",
        ) from error
    except Exception as error:
        # from_pretrained raises nearly anything on damaged or unfit files.
        raise ModelError(f"{model} cannot be loaded: {first_line(error)}", "Are the model's files complete?") from error
    return lens_model


def family_of(model: str, folder: Path) -> tuple[str, str]:
    """An entry of FAMILIES for a model's folder, or GENERIC. Raises ModelError if the model reads no images."""
    kind = str(read_config(folder).get("model_type"))
    if kind in FAMILIES:
        return FAMILIES[kind]
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    if kind in REFUSED:
        raise ModelError(f"{model} is of type {kind}, which VLQ does not read: {REFUSED[kind]}.", known_families())
    if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return GENERIC
    raise ModelError(f"{model} is of type {kind}: not an image-text-to-text model.", known_families())


def layers_of(folder: Path) -> int:
    """How many layers the model of a folder has, its embedding among them, by its configuration."""
    from transformers import AutoConfig

    return int(AutoConfig.from_pretrained(folder).get_text_config().num_hidden_layers) + 1


def known_families() -> str:
    """A sentence that names the model types with an adapter of their own."""
    return f"VLQ has adapters for these model types: {', '.join(sorted(FAMILIES))}."


def adapter_of(model: str, folder: Path) -> type[LensModel]:
    """The class for a model's folder. Raises ModelError as `family_of` does."""
    module, name = family_of(model, folder)
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


def load_processor(model: str, folder: Path) -> Any:
    """The model's processor, with Pillow's image processing: the same pixels on every machine. Raises ModelError."""
    try:
        processor = _processor_class(folder).from_pretrained(folder, backend="pil")
    except Exception as error:
        raise ModelError(
            f"The processor of {model} cannot be loaded: {first_line(error)}",
            "The model's folder must also hold what its processor's save_pretrained wrote.",
        ) from error
    if processor.image_processor.backend != "pil":
        raise ModelError(
            f"The processor of {model} has no image processing by Pillow.",
            "A newer version of transformers may have it.",
        )
    return processor


def _processor_class(folder: Path) -> Any:
    """What loads a model's processor. Where a family's takes videos, too, it is one that takes only images: processing
    videos needs torchvision."""
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES  # type: ignore[attr-defined]

    family = str(read_config(folder).get("model_type"))
    if family in PROCESSORS:
        return getattr(transformers, PROCESSORS[family])
    kind = getattr(transformers, PROCESSOR_MAPPING_NAMES.get(family) or "", None)
    if kind is None or "video_processor" not in kind.get_attributes():
        return transformers.AutoProcessor
    rest = [attribute for attribute in kind.get_attributes() if attribute != "video_processor"]
    return type(kind.__name__, (kind,), {"get_attributes": classmethod(lambda cls: rest)})
