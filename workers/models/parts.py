"""A model's parts, by what transformers calls them, and what its head does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vlq.query.errors import ModelError

BLOCKS = ("layers", "h")
"""What decoders call their blocks."""

NORMS = ("norm", "final_layernorm", "final_layer_norm", "ln_f", "embedding_norm")
"""What decoders call the norm behind their last block."""


def part_called(names: Sequence[str], module: nn.Module) -> Any:
    """What a module has by the first of these names that it has; None if it has nothing."""
    return next((part for name in names if (part := getattr(module, name, None)) is not None), None)


def decoder_in(model: nn.Module) -> nn.Module:
    """The module with the blocks and the norm behind them, which a language model may have in another one. Raises
    ModelError."""
    found = model
    while part_called(BLOCKS, found) is None:
        inner = part_called(("model", "decoder"), found)
        if not isinstance(inner, nn.Module):
            raise ModelError(f"{type(model).__name__}: this decoder's blocks are not found.")
        found = inner
    if part_called(NORMS, found) is None:
        raise ModelError(f"{type(model).__name__}: the norm behind this decoder's blocks is not found.")
    return found


def hook_once(module: nn.Module, hook: Callable[..., Any]) -> None:
    """Have a hook change what a module gives, unless it does: a model that is held is given another prompt again and
    again."""
    if hook not in module._forward_hooks.values():
        module.register_forward_hook(hook)


def product(states: Tensor, head: nn.Module) -> Tensor:
    """What a head gives for (..., d) states.

    On a GPU half-precision products are added up in float32 anyway, and are not rounded to half precision again: a
    logit of 20 would lose all behind its first decimal in bfloat16.
    """
    if not states.is_cuda or states.dtype == torch.float32 or type(head) is not nn.Linear:
        return head(states)  # type: ignore[no-any-return]
    found: Tensor = torch.mm(states.flatten(0, -2), head.weight.T, out_dtype=torch.float32)
    if head.bias is not None:
        found += head.bias
    return found.view(*states.shape[:-1], -1)


def soft_capped(logits: Tensor, cap: float) -> Tensor:
    """Logits between -cap and cap, as Gemma's are, in the memory of those that are given unless these are trained."""
    if logits.requires_grad:
        return torch.tanh(logits / cap) * cap
    return logits.div_(cap).tanh_().mul_(cap)
