"""A model's weights in memory: in which dtype, on which devices, quantised or not, and how attention is computed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vlq.query.errors import MissingExtra, ModelError
from vlq.workers.models.files import read_config

DTYPES = ("float32", "bfloat16", "float16")

ATTENTIONS = ("sdpa", "eager", "flash_attention_2")
"""Ways to compute attention, by transformers' names."""

QUANTIZATIONS = ("4bit", "8bit")

FLASH_PACKAGES = ("flash_attn", "kernels")
"""Either of them brings flash attention; `kernels` fetches it from the hub."""

LONGEST = 400
"""So many characters of another library's message are passed on."""


@dataclass(frozen=True)
class Loading:
    """How a model is loaded."""

    device: str = "cpu"  # cpu or cuda
    dtype: str = "auto"  # auto: float32 on a CPU, the checkpoint's own on a GPU
    attention: str = "auto"  # auto: sdpa, or eager where a model cannot; else one of ATTENTIONS
    quantize: str | None = None  # one of QUANTIZATIONS: what the linear layers of the decoder's blocks become
    device_map: str | None = None  # auto spreads the model over all GPUs that are here
    compiled: bool = False  # whether the decoder's blocks are compiled

    @property
    def wanted_dtype(self) -> str:
        return "float32" if self.dtype == "auto" and self.device == "cpu" else self.dtype


def check_possible(how: Loading) -> None:
    """Raises ModelError or MissingExtra for what cannot be, before anything is loaded."""
    import torch

    if how.device == "cuda" and not torch.cuda.is_available():
        raise ModelError("There is no GPU here that PyTorch can use.", "Run with --device cpu.")
    if how.compiled and how.device == "cpu":
        raise ModelError("Blocks are compiled for a GPU.", "Leave --compile out.")
    if how.attention == "flash_attention_2":
        if how.device == "cpu":
            raise ModelError("Flash attention needs a GPU.", "Run with --attention auto.")
        if how.dtype == "float32":
            raise ModelError(
                "Flash attention is for float16 and bfloat16.", "Run with --attention auto, or --dtype bfloat16."
            )
        if not any(map(find_spec, FLASH_PACKAGES)):
            raise MissingExtra(
                "--attention flash_attention_2 needs flash-attn, which is not installed.",
                "Run: pip install flash-attn (it is built for this GPU). Or run with --attention auto.",
            )
    if how.quantize is not None:
        check_quantizer("Quantisation")


def check_quantizer(what: str) -> None:
    """Raises MissingExtra, which says that `what` needs it, unless bitsandbytes and accelerate are installed."""
    missing = [name for name in ("bitsandbytes", "accelerate") if find_spec(name) is None]
    if missing:
        verb = "are" if len(missing) > 1 else "is"
        raise MissingExtra(
            f"{what} needs {' and '.join(missing)}, which {verb} not installed.", "Run: pip install 'vlq[quantized]'"
        )


def load_weights(model: str, folder: Path, family: str, how: Loading) -> Any:
    """The model of a folder, `model` to its user, as a class of transformers. Raises ModelError, MissingExtra, and
    whatever transformers does on damaged or unfit files."""
    stored = read_config(folder).get("quantization_config")
    method = str(stored.get("quant_method")) if isinstance(stored, dict) else None
    if method is not None and how.quantize is not None:
        raise ModelError(f"{model} is stored quantised, by {method}.", "Leave --quantize out.")
    if method == "bitsandbytes":
        check_quantizer(f"{model}, which is stored quantised,")
    quantized = method is not None or how.quantize is not None
    options: dict[str, Any] = {"device_map": how.device_map}
    if how.quantize is not None:
        options["quantization_config"] = _quantization(folder, how.quantize)
    if quantized and how.device_map is None:
        options["device_map"] = {"": how.device}  # such weights are made where they stay
    loaded, report = _with_attention(model, folder, family, how, options)
    if report["mismatched_keys"]:
        name, stored_shape, own_shape = min(report["mismatched_keys"])
        raise ModelError(
            f"{model}: {name} is stored as {' x '.join(map(str, stored_shape))}, and by its configuration it is "
            f"{' x '.join(map(str, own_shape))}.",
            "Are config.json and the weights of the same model?",
        )
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ModelError(
            f"{model} lacks {len(missing)} weights, {missing[0]} among them; they would be random.",
            "Are the model's files complete?",
        )
    _compute_in(loaded.get_input_embeddings().weight.dtype, loaded)
    if not quantized and how.device_map is None:
        loaded.to(how.device)
    elif any(parameter.device.type != how.device for parameter in loaded.parameters()):
        raise _does_not_fit(model)
    return loaded.eval()


def head_of(model: Any) -> Any:
    """The module that gives logits: the model's own or, where it wraps a whole language model, that one's. Raises
    ModelError."""
    head = model.get_output_embeddings() or model.get_decoder().get_output_embeddings()
    if head is None:
        raise ModelError(f"{type(model).__name__}: its head is not found.")
    return head


def _does_not_fit(model: str) -> ModelError:
    return ModelError(f"{model} does not fit into the GPUs of one worker.", "Use more --gpus-per-worker.")


def _with_attention(
    model: str, folder: Path, family: str, how: Loading, options: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The model and what its loading reports, with the attention that is wanted."""
    import transformers

    from vlq.workers.models import too_old

    if not hasattr(transformers, family):
        raise too_old(model)

    def loaded_with(attention: str) -> tuple[Any, dict[str, Any]]:
        return getattr(transformers, family).from_pretrained(  # type: ignore[no-any-return]
            folder,
            dtype=how.wanted_dtype,
            attn_implementation=attention,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # the report names them
            local_files_only=True,
            **options,
        )

    if how.attention == "auto":
        try:
            return loaded_with("sdpa")
        except ValueError as error:
            if not _is_about_attention(error):
                raise
            return loaded_with("eager")  # as Gemma 2, which caps the attention's logits
    try:
        return loaded_with(how.attention)
    except (ValueError, ImportError) as error:
        if "dispatched on the CPU or the disk" in str(error):
            raise _does_not_fit(model) from error
        if not _is_about_attention(error):
            raise
        raise ModelError(
            f"{model} cannot be read with --attention {how.attention}: {first_line(error).partition(' Please ')[0]}",
            "Run with --attention auto.",
        ) from error


def _is_about_attention(error: Exception) -> bool:
    """Whether transformers refuses a way to compute attention."""
    return any(name in str(error) for name in ("scaled_dot_product_attention", "Flash Attention", "FlashAttention"))


def decisive_packages(loaded: Any) -> list[str]:
    """Distributions that decide a loaded model's bits beside PyTorch and transformers."""
    names = []
    if getattr(loaded, "quantization_method", None) == "bitsandbytes":
        names.append("bitsandbytes")
    if loaded.config._attn_implementation == "flash_attention_2":
        names.append("flash_attn")
    return names


# --- quantisation ----------------------------------------------------------------------------------------------


def _quantization(folder: Path, to: str) -> Any:
    """bitsandbytes' settings for a model's folder: NF4 (Dettmers et al., "QLoRA", 2023) or LLM.int8() (Dettmers et al.,
    2022), of the decoder's blocks alone: the lens needs the head as it is, and patches the tower and the projector."""
    import transformers

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of each cast and of each missing speed-up
    bits = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"} if to == "4bit" else {"load_in_8bit": True}
    return transformers.BitsAndBytesConfig(**bits, llm_int8_skip_modules=kept_as_stored(folder))  # type: ignore[no-untyped-call]


def _compute_in(dtype: Any, model: Any) -> None:
    """Have layers of four bits compute in the model's dtype: bitsandbytes' own choice is float32 or, on some CPUs, a
    kernel that computes in bfloat16."""
    for module in model.modules():
        if hasattr(module, "compute_dtype"):
            module.compute_dtype = dtype
            module.support_avx512bf16_for_cpu = False


def kept_as_stored(folder: Path) -> list[str]:
    """The modules of a folder's model that nobody quantises, by name: all that is beside the decoder's blocks."""
    import torch
    import transformers

    from vlq.workers.models.generic import decoder_of
    from vlq.workers.models.parts import BLOCKS, part_called

    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):  # without memory for weights
        model = transformers.AutoModelForImageTextToText.from_config(config)  # type: ignore[no-untyped-call]
    blocks = part_called(BLOCKS, decoder_of(model))
    (path,) = (name for name, module in model.named_modules() if module is blocks)
    return list(_beside(model, path))


def _beside(model: Any, path: str) -> Iterator[str]:
    """The largest modules that are not on the path to a module, nor below it, by name."""
    above, module = "", model
    for step in path.split("."):
        yield from (f"{above}{name}" for name, _ in module.named_children() if name != step)
        above, module = f"{above}{step}.", getattr(module, step)


def first_line(error: Exception) -> str:
    """The first line of what an error says: with the others where it only begins a list, and cut where it lists all
    that there is."""
    lines = [line.strip() for line in (str(error).strip() or type(error).__name__).splitlines()]
    said = " ".join(lines) if lines[0].endswith(":") else lines[0]
    return said if len(said) <= LONGEST else f"{said[:LONGEST]}..."
