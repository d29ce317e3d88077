"""A model's processor, loaded for images and text alone."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vlq.query.errors import MissingExtra, ModelError
from vlq.workers.models.files import read_config
from vlq.workers.models.weights import first_line

STAND_INS = {
    "SmolVLMProcessor": ("transformers", "Idefics3Processor"),  # the model's own wants more packages, for videos
    "FuyuProcessor": ("vlq.workers.models.fuyu", "FuyuProcessor"),  # transformers' own fails without torchvision
    "ShieldGemma2Processor": ("transformers", "Gemma3Processor"),  # the model's own takes no prompt
    "PixtralProcessor": ("vlq.workers.models.pixtral", "PixtralProcessor"),  # transformers' own wants torchvision
}
"""A processor of transformers -> module and class of one that makes the same of an image and a prompt, and needs
less."""

LEFT_OUT = ("video_processor", "feature_extractor")
"""Parts of processors that are for videos and sound, and need more packages."""

ASKING = ("MiniCPMOcrProcessor", "MiniCPMV4_6Processor", "MiniCPMV4_7Processor")
"""Processors that ask the part for videos how it is set: that for images, which has the same settings, is put in its
place."""

NAMED_IN = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
"""Files of a model's folder that may name its processor's class; the first one that does is believed."""


def load_processor(model: str, folder: Path) -> Any:
    """The model's processor. Raises ModelError, MissingExtra.

    Images are processed by Pillow wherever transformers can, so that pixels do not depend on what is installed beside
    it; by torchvision if it knows no other way for a model of this type.
    """
    backend = "torchvision" if (alone := _by_torchvision_alone(folder)) else "pil"
    if alone and find_spec("torchvision") is None:
        kind = read_config(folder)["model_type"]
        raise MissingExtra(
            f"{model} needs torchvision, which is not installed: transformers processes the images of models of type "
            f"{kind} with nothing else.",
            f"Run: {fitting_torchvision()}",
        )
    is_slow = (folder / "tokenizer.model").is_file() and not (folder / "tokenizer.json").is_file()
    if is_slow and find_spec("sentencepiece") is None:
        raise MissingExtra(
            f"The tokenizer of {model} is stored as tokenizer.model alone, and sentencepiece, which reads that, is not "
            "installed.",
            "Run: pip install sentencepiece",
        )
    try:
        # Where code of its own is all that there is, transformers would ask on the terminal whether to run it.
        processor = _class_of(folder).from_pretrained(folder, backend=backend, trust_remote_code=False)
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"The processor of {model} comes with code of its own, and VLQ runs none but that of transformers.",
                "Save the processor of another copy of this model in the folder: one of transformers' own.",
            ) from error
        raise ModelError(
            f"The processor of {model} cannot be loaded: {first_line(error)}",
            "The model's folder must also hold what its processor's save_pretrained wrote.",
        ) from error
    if getattr(processor, "image_processor", None) is None or getattr(processor, "tokenizer", None) is None:
        raise ModelError(f"The processor of {model} does not take images and text.")
    if backend_of(processor) not in ("pil", backend):
        raise ModelError(
            f"The processor of {model} has no image processing by Pillow.",
            "A newer version of transformers may have it.",
        )
    return processor


def complete(processor: Any, model: Any) -> None:
    """Fill in, from the model, what LLaVA's processors do not say that older versions of transformers saved: how large
    the tower's patches are, which of its features are taken, and whether a class token is among them."""
    if not hasattr(processor, "num_additional_image_tokens"):
        return
    if processor.patch_size is None:
        processor.patch_size = model.config.vision_config.patch_size
    if processor.vision_feature_select_strategy is None:
        # VipLLaVA has no such setting: it always leaves the class token out.
        strategy = getattr(model.config, "vision_feature_select_strategy", "default")
        processor.vision_feature_select_strategy = strategy
    if not processor.num_additional_image_tokens:
        class_tokens = ("vision_tower.embeddings.class_embedding", "vision_tower.embeddings.cls_token")
        has_one = any(name.endswith(class_tokens) for name, _ in model.named_parameters())
        processor.num_additional_image_tokens = int(has_one)


def backend_of(processor: Any) -> str:
    """What processes the images: pil or torchvision."""
    # Those of before there were backends know Pillow alone.
    return str(getattr(processor.image_processor, "backend", "pil"))


def check_torchvision() -> None:
    """Raises ModelError if torchvision is installed and cannot be imported, as then transformers cannot be either."""
    if find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except Exception as error:
        raise ModelError(
            f"torchvision {version('torchvision')}, which transformers uses where it is installed, cannot be imported "
            f"beside torch {version('torch')}: {first_line(error)}",
            f"Run: {fitting_torchvision()}; or, if nothing else needs it: pip uninstall torchvision",
        ) from error


def fitting_torchvision() -> str:
    """The command that installs the torchvision that goes with the torch that is here."""
    torch = version("torch")
    major, minor = torch.split(".")[:2]
    # Each version goes with one of torch: 0.15 with 2.0, and so on.
    which = f"'torchvision==0.{int(minor) + 15}.*'" if major == "2" else "torchvision"
    # Where it is looked for otherwise, a CPU build of torch would be given one that wants CUDA's libraries.
    where = " --index-url https://download.pytorch.org/whl/cpu" if torch.endswith("+cpu") else ""
    return f"pip install {which}{where}"


def _class_of(folder: Path) -> Any:
    """What loads a folder's processor, without the parts that are left out."""
    import transformers

    name = _name_of(folder)
    if name in STAND_INS:
        module, name = STAND_INS[name]
        return getattr(importlib.import_module(module), name)
    kind = getattr(transformers, name or "", None)
    if kind is None or not {*LEFT_OUT} & {*kind.get_attributes()}:
        return transformers.AutoProcessor
    return _without(kind)


def _name_of(folder: Path) -> str | None:
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES  # type: ignore[attr-defined]

    for file in NAMED_IN:
        if (path := folder / file).is_file() and (name := json.loads(path.read_text()).get("processor_class")):
            return str(name)
    return PROCESSOR_MAPPING_NAMES.get(str(read_config(folder).get("model_type")))


def _by_torchvision_alone(folder: Path) -> bool:
    from transformers.models.auto import image_processing_auto

    names: Mapping[str, Any] = getattr(image_processing_auto, "IMAGE_PROCESSOR_MAPPING_NAMES", {})
    kinds = names.get(str(read_config(folder).get("model_type")))
    return isinstance(kinds, dict) and "pil" not in kinds


def _without(kind: Any) -> Any:
    """A processor's class whose parts that are left out are None."""
    rest = [attribute for attribute in kind.get_attributes() if attribute not in LEFT_OUT]
    loaded: Any = type(kind.__name__, (kind,), {"get_attributes": classmethod(lambda cls: rest)})

    class Partial(kind):  # type: ignore[misc]
        @classmethod
        def _get_arguments_from_pretrained(cls, *arguments: Any, **options: Any) -> list[Any]:
            found = iter(loaded._get_arguments_from_pretrained(*arguments, **options))
            parts = {name: None if name in LEFT_OUT else next(found) for name in kind.get_attributes()}
            if kind.__name__ in ASKING:
                parts["video_processor"] = parts["image_processor"]
            return [*parts.values()]

        def check_argument_for_proper_class(self, name: str, argument: Any) -> Any:
            if name in LEFT_OUT:
                return type(argument)
            return super().check_argument_for_proper_class(name, argument)

    Partial.__name__ = kind.__name__
    return Partial
