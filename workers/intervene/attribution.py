"""Direct logit attribution: how much each layer's attention and MLP write towards a token at a position (Elhage et al.,
A Mathematical Framework for Transformer Circuits, 2021).

The norm in front of the head is taken as what it is at that state: a scale. What is written is then a sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vlq.query.errors import ModelError
from vlq.workers.intervene.prompted import Prompted

MIDDLE = ("pre_feedforward_layernorm", "post_attention_layernorm", "ln_2", "norm2")
"""Names of the norm that stands between a block's attention and its MLP: what enters it is the stream between them."""


@dataclass(frozen=True)
class Write:
    """What a layer writes towards a token: logits above the mean of the vocabulary's."""

    layer: int
    attention: float
    mlp: float
    tower: float = 0.0  # what a tower adds behind the block


@dataclass(frozen=True)
class Attribution:
    """What the logit of a token at a position is made of: `total` is the sum of all the rest."""

    token: int
    position: int
    embedding: float
    writes: tuple[Write, ...]  # of layers 1 to the last
    bias: float  # of the norm and the head
    total: float  # above the mean of the vocabulary's, before what the model makes of its head's output


@torch.no_grad()
def attribution(prompted: Prompted, tokens: Sequence[int], position: int) -> list[Attribution]:
    """Of each token at a position of the sequence. Raises ModelError if a block is not a sum of two parts."""
    model = prompted.model
    parts = _parts(prompted, position)
    final = parts.states[-1]
    frozen = FrozenNorm.at(model.final_norm, final)
    weight: Tensor = model.lm_head.weight  # type: ignore[assignment]
    mean = weight.float().mean(0)
    bias = getattr(model.lm_head, "bias", None)
    found = []
    for token in tokens:
        along = weight[token].float() - mean

        def towards(written: Tensor, along: Tensor = along) -> float:
            return float(frozen.linear(written) @ along)

        constant = float(frozen.shift @ along)
        if isinstance(bias, Tensor):
            constant += float(bias.float()[token] - bias.float().mean())
        writes = tuple(
            Write(layer, *map(towards, written))
            for layer, written in enumerate(zip(parts.attention, parts.mlp, parts.tower, strict=True), 1)
        )
        total = towards(final) + constant
        found.append(Attribution(token, position, towards(parts.states[0]), writes, constant, total))
    return found


@dataclass(frozen=True)
class FrozenNorm:
    """A norm as what it does to one state: a scale and a shift, behind taking the mean away where it does that."""

    scale: Tensor  # (d,)
    shift: Tensor  # (d,)
    is_centred: bool

    @classmethod
    def at(cls, norm: nn.Module, state: Tensor) -> FrozenNorm:
        """Of RMSNorm and LayerNorm, whatever they are called and however they hold their weights."""
        weight: Tensor = norm.weight  # type: ignore[assignment]
        shift = getattr(norm, "bias", None)
        shift = shift.float() if isinstance(shift, Tensor) else torch.zeros_like(weight, dtype=torch.float32)
        tried = torch.randn(len(weight), generator=torch.Generator().manual_seed(0)).to(weight)
        is_centred = bool((norm(tried + 1) - norm(tried)).abs().max() < 0.1 * norm(tried).abs().max())
        own = state.float() - state.float().mean() if is_centred else state.float()
        # (norm(h) - shift) is `weighted * own` by one factor.
        weighted = weight_of(norm) * own
        made = norm(state.to(weight)).float() - shift
        return cls(weight_of(norm) * ((made @ weighted) / (weighted @ weighted)), shift, is_centred)

    def linear(self, written: Tensor) -> Tensor:
        """(d,) what becomes of a part of the state."""
        return self.scale * (written - written.mean() if self.is_centred else written)


def weight_of(norm: nn.Module) -> Tensor:
    """(d,) by what a norm multiplies in the end: Gemma's by 1 + its weight. It shows in what it makes of a state that
    is normed already."""
    weight: Tensor = norm.weight  # type: ignore[assignment]
    normed = torch.ones_like(weight)  # of length and mean as a norm makes them
    normed[1::2] = -1
    shift = getattr(norm, "bias", None)
    made: Tensor = norm(normed).float() - (shift.float() if isinstance(shift, Tensor) else 0)
    return made * normed.float()


@dataclass
class _Parts:
    states: list[Tensor]  # (d,) by layer, in float32
    attention: list[Tensor]  # written in each block
    mlp: list[Tensor]
    tower: list[Tensor]  # added behind it


def _parts(prompted: Prompted, position: int) -> _Parts:
    """What is added to the residual stream at a position, block by block."""
    model, found = prompted.model, dict[tuple[int, str], Tensor]()

    def keep(at: tuple[int, str], output: Any) -> None:
        found[at] = (output[0] if isinstance(output, tuple) else output)[0, position].float()

    def of_input(at: tuple[int, str]) -> Any:
        return lambda module, args: keep(at, args[0])

    def of_output(at: tuple[int, str]) -> Any:
        return lambda module, args, output: keep(at, output)

    with ExitStack() as stack:
        for i, block in enumerate(model.blocks):
            hooks = [block.register_forward_hook(of_output((i, "block")))]
            middle = next((part for name in MIDDLE if (part := getattr(block, name, None)) is not None), None)
            if middle is not None:
                hooks.append(middle.register_forward_pre_hook(of_input((i, "middle"))))
            for name in ("self_attn", "mlp"):
                if (part := getattr(block, name, None)) is not None:
                    hooks.append(part.register_forward_hook(of_output((i, name))))
            for hook in hooks:
                stack.callback(hook.remove)
        states = prompted.states(range(model.layers))
    stream = [states[layer][position].float() for layer in range(model.layers)]
    attention, mlp, tower = [], [], []
    for i in range(len(model.blocks)):
        before, behind = stream[i], found[i, "block"]
        own = found.get((i, "self_attn")), found.get((i, "mlp"))
        if own[0] is not None and own[1] is not None and _is_close(before + own[0] + own[1], behind):
            attention.append(own[0])
            mlp.append(own[1])
        elif (i, "middle") in found:
            attention.append(found[i, "middle"] - before)
            mlp.append(behind - found[i, "middle"])
        else:
            raise ModelError(f"{type(model.model).__name__}: what its blocks write is not told apart.")
        tower.append(stream[i + 1] - behind)
    return _Parts(stream, attention, mlp, tower)


def _is_close(one: Tensor, other: Tensor) -> bool:
    """Up to what half precision rounds away."""
    return bool((one - other).abs().max() <= 0.02 * other.abs().max())
