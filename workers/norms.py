"""A decoder's norms as one kernel each on a GPU, where that gives what their modules give."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vlq.workers.lens import triton_works

if TYPE_CHECKING:
    from vlq.workers.models.base import LensModel

TRIED = 64
"""Rows of states on which a kernel must agree with the module."""


@torch.inference_mode()
def fastest(norm: nn.Module, device: torch.device) -> Callable[[Tensor], Tensor]:
    """What does to (..., d) states on a device what `norm` does: a kernel, if it gives the same but for the
    rounding of the last bits; else the module.
    """
    weight, eps = getattr(norm, "weight", None), getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    if weight is None or eps is None or not triton_works(device):
        return norm
    from vlq.workers.kernels import rms_norm

    generator = torch.Generator().manual_seed(0)
    states = torch.randn(TRIED, len(weight), generator=generator) * torch.logspace(-3, 3, TRIED)[:, None]
    states = states.to(device, weight.dtype)
    expected = norm(states).double()
    kernels = [
        partial(_flat, partial(rms_norm, weight=weight, eps=eps, plus_one=plus_one, rounds_first=rounds_first))
        for plus_one, rounds_first in product((False, True), repeat=2)
    ]
    errors = [(kernel(states).double() - expected).abs() for kernel in kernels]
    best = min(range(len(kernels)), key=lambda i: float(errors[i].mean()))
    few = 4 * torch.finfo(weight.dtype).eps * expected.abs()  # steps of the last bit: each is within two of the truth
    return kernels[best] if bool((errors[best] <= few).all()) else norm


def quicken(model: LensModel) -> None:
    """Have the norms of the residual stream in a decoder's blocks be one kernel each: modules are half a dozen, each of
    which reads and writes all states."""
    if not triton_works(model.device) or getattr(model.model, "hf_device_map", None):
        return
    for module in [module for block in model.blocks for module in block.modules()]:
        if getattr(getattr(module, "weight", None), "shape", None) != (model.width,):
            continue
        kernel = fastest(module, model.device)
        if kernel is not module:
            module.forward = partial(_norm, kernel, module.forward, module.weight.dtype)


def _norm(kernel: Callable[[Tensor], Tensor], norm: Callable[..., Tensor], dtype: Any, states: Tensor) -> Tensor:
    """The kernel where it may stand in for the norm: it has no gradient, and gives what it is given in its dtype."""
    return norm(states) if states.requires_grad or states.dtype != dtype else kernel(states)


def _flat(norm: Callable[[Tensor], Tensor], states: Tensor) -> Tensor:
    return norm(states.flatten(0, -2).contiguous()).view(states.shape)
