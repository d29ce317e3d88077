"""Models by family, and how one is loaded. A new family is a subclass of `LensModel` and a line in FAMILIES."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlq.query.errors import MissingExtra, ModelError, VlqError
from vlq.workers.models.files import read_config, resolve
from vlq.workers.models.processors import check_torchvision, complete
from vlq.workers.models.processors import load_processor as load_processor
from vlq.workers.models.weights import Loading, check_possible, first_line, load_weights

if TYPE_CHECKING:
    from vlq.workers.models.base import LensModel

FAMILIES = {
    "apertus1p5": ("vlq.workers.models.codes", "Apertus"),
    "aya_vision": ("vlq.workers.models.tiles", "AyaVision"),
    "chameleon": ("vlq.workers.models.codes", "Chameleon"),
    "cohere2_vision": ("vlq.workers.models.tiles", "Cohere2Vision"),
    "emu3": ("vlq.workers.models.codes", "Emu3"),
    "ernie4_5_vl_moe": ("vlq.workers.models.merged", "Ernie45VLMoe"),
    "exaone4_5": ("vlq.workers.models.qwen_vl", "Exaone45"),
    "fuyu": ("vlq.workers.models.fuyu", "Fuyu"),
    "gemma4": ("vlq.workers.models.gemma4", "Gemma4"),
    "gemma4_unified": ("vlq.workers.models.gemma4", "Gemma4Unified"),
    "glm46v": ("vlq.workers.models.merged", "Glm46V"),
    "glm4v": ("vlq.workers.models.merged", "Glm4v"),
    "glm4v_moe": ("vlq.workers.models.merged", "Glm4vMoe"),
    "glm_ocr": ("vlq.workers.models.merged", "GlmOcr"),
    "granite4_vision": ("vlq.workers.models.llava_next", "Granite4Vision"),
    "granite_docling": ("vlq.workers.models.tiles", "GraniteDocling"),
    "hunyuan_vl": ("vlq.workers.models.merged", "HunYuanVL"),
    "idefics3": ("vlq.workers.models.idefics3", "Idefics3"),
    "inkling_mm_model": ("vlq.workers.models.inkling", "Inkling"),
    "internvl": ("vlq.workers.models.tiles", "InternVL"),
    "kimi_k25": ("vlq.workers.models.kimi", "KimiK25"),
    "lfm2_vl": ("vlq.workers.models.lfm2_vl", "Lfm2Vl"),
    "lighton_ocr": ("vlq.workers.models.pixtral", "LightOnOcr"),
    "llama4": ("vlq.workers.models.llama4", "Llama4"),
    "llava": ("vlq.workers.models.llava", "Llava"),
    "llava_next": ("vlq.workers.models.llava_next", "LlavaNext"),
    "llava_next_video": ("vlq.workers.models.llava_next", "LlavaNextVideo"),
    "llava_onevision": ("vlq.workers.models.llava_next", "LlavaOnevision"),
    "minicpm_ocr": ("vlq.workers.models.minicpm", "MiniCPMOcr"),
    "minicpmv4_6": ("vlq.workers.models.minicpm", "MiniCPMV46"),
    "minicpmv4_7": ("vlq.workers.models.minicpm", "MiniCPMV47"),
    "mistral3": ("vlq.workers.models.pixtral", "Mistral3"),
    "mistral_large4": ("vlq.workers.models.pixtral", "MistralLarge4"),
    "molmo2": ("vlq.workers.models.molmo2", "Molmo2"),
    "muse_glimmer": ("vlq.workers.models.muse", "MuseGlimmer"),
    "muse_spark": ("vlq.workers.models.muse", "MuseSpark"),
    "nemotron_h_omni": ("vlq.workers.models.nemotron", "NemotronHOmni"),
    "ovis2": ("vlq.workers.models.tiles", "Ovis2"),
    "paddleocr_vl": ("vlq.workers.models.merged", "PaddleOCRVL"),
    "paligemma": ("vlq.workers.models.paligemma", "PaliGemma"),
    "perception_lm": ("vlq.workers.models.tiles", "PerceptionLM"),
    "qianfan_ocr": ("vlq.workers.models.tiles", "QianfanOCR"),
    "qwen2_5_omni_thinker": ("vlq.workers.models.merged", "Qwen25OmniThinker"),
    "qwen2_5_vl": ("vlq.workers.models.qwen_vl", "Qwen25VL"),
    "qwen2_vl": ("vlq.workers.models.qwen_vl", "Qwen2VL"),
    "qwen3_5": ("vlq.workers.models.qwen_vl", "Qwen35"),
    "qwen3_5_moe": ("vlq.workers.models.qwen_vl", "Qwen35Moe"),
    "qwen3_vl": ("vlq.workers.models.qwen_vl", "Qwen3VL"),
    "qwen3_vl_moe": ("vlq.workers.models.qwen_vl", "Qwen3VLMoe"),
    "shieldgemma2": ("vlq.workers.models.shieldgemma2", "ShieldGemma2"),
    "smolvlm": ("vlq.workers.models.idefics3", "SmolVLM"),
    "step3p7": ("vlq.workers.models.step", "Step3p7"),
    "unlimited_ocr": ("vlq.workers.models.unlimited", "UnlimitedOcr"),
    "video_llama_3": ("vlq.workers.models.merged", "VideoLlama3"),
}
"""config.json's model_type -> module and class of the adapter."""

TOWERS = {
    ("llava", "pixtral"): ("vlq.workers.models.pixtral", "LlavaPixtral"),
}
"""model_type and that of its vision_config -> the same, where a tower has images of another shape."""

GENERIC = ("vlq.workers.models.generic", "Generic")
"""For a model type without an adapter of its own."""

_BY_ATTENTION = "its images enter through cross-attention, so that no position of the sequence is a patch"
_BY_QUERIES = (
    "its decoder is shown what a fixed number of learned queries gather from all of an image, so that no position of "
    "the sequence is a patch"
)
_OF_STREAMS = "each of its positions has several residual streams at once, and the lens reads one"
_OF_ENCODER = "an encoder sees its images, and a decoder the encoder's output, so that no position of it is a patch"

REFUSED = {
    **dict.fromkeys(("blip", "evolla", "idefics", "mllama"), _BY_ATTENTION),
    **dict.fromkeys(
        ("aria", "blip-2", "deepseek_ocr2", "idefics2", "instructblip", "instructblipvideo", "kosmos-2", "kosmos-2.5"),
        _BY_QUERIES,
    ),
    **dict.fromkeys(("gemma3n", "glm5_next", "hy_v4_vl", "inkling2", "inkling2_loop", "qwen4_exp"), _OF_STREAMS),
    **dict.fromkeys(
        ("florence2", "pix2struct", "pp_formulanet", "t5gemma2", "udop", "vision-encoder-decoder"), _OF_ENCODER
    ),
    "diffusion_gemma": "it fills in blocks of its answer, and no token follows from those in front of it",
    "git": "no token of its sequence stands for an image",
    "pi0": "it answers with a robot's actions, and not with words",
}
"""model_type -> why there is no lens at the patches of such a model."""

CONVERTED = {
    "Emu3": "BAAI/Emu3-Chat-hf",
    "GOT": "stepfun-ai/GOT-OCR-2.0-hf",
    "internvl_chat": "OpenGVLab/InternVL3-1B-hf",
    "llava_qwen2": "KamilaMila/FastVLM-7B",
    "multi_modality": "deepseek-community/Janus-Pro-1B and deepseek-community/deepseek-vl-7b-chat",
    "ovis": "thisisiron/Ovis2-1B-hf",
}
"""model_type of those who made a model -> hub ids of such models in the layout of transformers."""

LLAVAS = "llava-hf/llava-1.5-7b-hf, llava-hf/llava-v1.6-mistral-7b-hf and llava-hf/llava-onevision-qwen2-7b-ov-hf"
"""The same of LLaVA, whose makers' models name the tower instead of having it."""

THINKERS = {
    "qwen2_5_omni": "Qwen2_5OmniThinkerForConditionalGeneration",
    "qwen3_omni_moe": "Qwen3OmniMoeThinkerForConditionalGeneration",
}
"""model_type -> the class in transformers of the part that sees and writes, in a model that also speaks."""

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
    check_torchvision()
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

    from vlq.workers.models.base import compile_blocks
    from vlq.workers.models.checks import check, share_prefix
    from vlq.workers.models.generic import Generic, fits
    from vlq.workers.norms import quicken

    adapter = adapter_of(model, folder)
    processor = load_processor(model, folder)
    if adapter is Generic:
        adapter = fits(processor)
    loaded = None
    try:
        loaded = load_weights(model, folder, adapter.family, how)
        complete(processor, loaded)
        lens_model: LensModel = adapter(loaded, processor, prompt)
        if not how.compiled:  # which makes one kernel of a norm and what is around it
            quicken(lens_model)
        tried = check(lens_model, check_images, answer, questions)
        if how.compiled:  # for each block anew, if it were given keys and values
            compile_blocks(lens_model)
            check(lens_model, check_images, answer, questions)
        else:
            share_prefix(lens_model, tried, answer)
    except VlqError:
        raise
    except torch.cuda.OutOfMemoryError as error:
        raise ModelError(
            f"{model} with {check_images} images a batch does not fit into the GPU's memory.",
            "Use a smaller --batch-size, --dtype bfloat16, or --quantize 4bit.",
        ) from error
    except ImportError as error:
        raise MissingExtra(
            f"{model} needs a package that is not installed: {first_line(error)}", "Install it, and try again."
        ) from error
    except Exception as error:
        # from_pretrained raises nearly anything on damaged or unfit files, and models on unfit inputs.
        if loaded is None:
            hint = "Are the model's files complete?"
            raise ModelError(f"{model} cannot be loaded: {first_line(error)}", hint) from error
        hint = "Do the settings of its processor fit the model?"
        raise ModelError(f"{model} cannot be run on an image: {first_line(error)}", hint) from error
    return lens_model


def folder_of(model: str, *, revision: str | None = None, download: bool = True) -> Path:
    """A model's folder, as `resolve` finds it: of a hub's model that VLQ does not read no weights are downloaded.
    Raises ModelError, as `family_of` does, too."""
    family_of(model, resolve(model, revision=revision, download=download, weights=False))
    return resolve(model, revision=revision, download=download)


def family_of(model: str, folder: Path) -> tuple[str, str]:
    """An entry of FAMILIES for a model's folder, or GENERIC. Raises ModelError if the model reads no images."""
    config = read_config(folder)
    kind = str(config.get("model_type"))
    quantized = config.get("quantization_config") or config.get("quantization")
    if isinstance(quantized, dict) and "group_size" in quantized and "quant_method" not in quantized:
        raise ModelError(
            f"{model} is stored quantised for MLX, which transformers does not read.",
            "Give the model that it was made of.",
        )
    is_llavas = "vision_config" not in config and (kind == "llava" or "mm_vision_tower" in config)
    if copies := CONVERTED.get(kind) or (LLAVAS if is_llavas else None):
        raise ModelError(
            f"{model} is of type {kind} in the layout of those who made it, for code of their own, and VLQ runs none "
            "but that of transformers.",
            f"Give a copy in the layout of transformers, as the hub has it of such models: {copies}.",
        )
    if isinstance(vision := config.get("vision_config"), dict):
        tower = (kind, str(vision.get("model_type")))
        if tower in TOWERS:
            return TOWERS[tower]
    if kind in FAMILIES:
        return FAMILIES[kind]
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES  # type: ignore[attr-defined]
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    if kind in REFUSED:
        raise ModelError(f"{model} is of type {kind}, which VLQ does not read: {REFUSED[kind]}.", known_families())
    if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return GENERIC
    if kind in THINKERS:
        raise ModelError(
            f"{model} is of type {kind}, which also speaks. VLQ reads the part of it that sees and writes.",
            f"Save that in a folder, and the processor's files beside it: transformers.{THINKERS[kind]}"
            f".from_pretrained({model!r}).save_pretrained('FOLDER')",
        )
    elsewhere = (
        "There may be a copy in the layout of transformers, such as the hub's ids that end in -hf or begin with the "
        f"name of a community. {known_families()}"
    )
    if "auto_map" in config:
        which = f"{model} is of type {kind}, which" if config.get("model_type") else model
        raise ModelError(f"{which} comes with code of its own, and VLQ runs none but that of transformers.", elsewhere)
    if config.get("model_type") is None:
        raise ModelError(f"The config.json of {model} names no model_type.", "Is it a model's, and complete?")
    if kind not in CONFIG_MAPPING_NAMES:
        version = transformers.__version__
        raise ModelError(f"{model} is of type {kind}, which transformers {version} does not know.", elsewhere)
    raise ModelError(f"{model} is of type {kind}: not an image-text-to-text model of transformers.", known_families())


def decoder_config(model: str, folder: Path) -> Any:
    """What the configuration in a model's folder says of its decoder. Raises ModelError."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder).get_text_config()
    except Exception as error:  # nearly anything
        raise ModelError(f"{model} cannot be loaded: {first_line(error)}", "Is its config.json complete?") from error


def known_families() -> str:
    """A sentence that names the model types with an adapter of their own."""
    return f"VLQ has adapters for these model types: {', '.join(sorted(FAMILIES))}."


def adapter_of(model: str, folder: Path) -> type[LensModel]:
    """The class for a model's folder. Raises ModelError as `family_of` does."""
    module, name = family_of(model, folder)
    try:
        return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]
    except ImportError as error:  # of a part that an older transformers does not have
        raise too_old(model) from error


def too_old(model: str) -> ModelError:
    import transformers

    return ModelError(
        f"transformers {transformers.__version__} does not know models such as {model}.",
        "Run: pip install --upgrade transformers",
    )
