"""A model's processor, loaded for images and text alone."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlq.query.errors import ModelError
from vlq.workers.models.files import read_config
from vlq.workers.models.weights import first_line

STAND_INS = {
    "SmolVLMProcessor": ("transformers", "Idefics3Processor"),  # the model's own wants more packages, for videos
    "PixtralProcessor": ("vlq.workers.models.pixtral", "PixtralProcessor"),  # transformers' own wants torchvision
}
"""A processor of transformers -> module and class of one that makes the same of an image, and needs less."""

LEFT_OUT = ("video_processor", "feature_extractor")
"""Parts of processors that are for videos and sound, and need more packages."""

NAMED_IN = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
"""Files of a model's folder that may name its processor's class; the first one that does is believed."""


def load_processor(model: str, folder: Path) -> Any:
    """The model's processor, with Pillow's image processing: the same pixels on every machine. Raises ModelError."""
    if _by_torchvision_alone(folder):
        raise ModelError(
            f"{model} cannot be read: transformers processes its images with torchvision alone, VLQ with Pillow.",
            "A newer version of transformers may do so with Pillow, too.",
        )
    try:
        processor = _class_of(folder).from_pretrained(folder, backend="pil")
    except Exception as error:
        raise ModelError(
            f"The processor of {model} cannot be loaded: {first_line(error)}",
            "The model's folder must also hold what its processor's save_pretrained wrote.",
        ) from error
    if getattr(processor, "image_processor", None) is None or getattr(processor, "tokenizer", None) is None:
        raise ModelError(f"The processor of {model} does not take images and text.")
    # Those of before there were backends know Pillow alone.
    if getattr(processor.image_processor, "backend", "pil") != "pil":
        raise ModelError(
            f"The processor of {model} has no image processing by Pillow.",
            "A newer version of transformers may have it.",
        )
    return processor


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
            return [None if attribute in LEFT_OUT else next(found) for attribute in kind.get_attributes()]

        def check_argument_for_proper_class(self, name: str, argument: Any) -> Any:
            if argument is None and name in LEFT_OUT:
                return type(None)
            return super().check_argument_for_proper_class(name, argument)

    Partial.__name__ = kind.__name__
    return Partial
