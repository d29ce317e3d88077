"""The text in front of the image, run once: batches begin behind its keys and values.

Where each position sees only those in front of it, what a prompt has before its image is the same in every image: its
states are, and the keys and values by which all that follows sees it ("prefix caching").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, DynamicLayer

from vlq.workers.transfer import to_device

if TYPE_CHECKING:
    from vlq.workers.models.base import LensModel, Visit
    from vlq.workers.models.encoded import Encoded

PER_POSITION = {"inputs_embeds": 1, "position_ids": -1, "visual_pos_masks": -1, "vision_mask": 1, "cache_position": -1}
"""Of a decoder's arguments those that have a place for each position, and on which axis."""

KEPT = ("full_attention", "sliding_attention", "chunked_attention", "reference_sliding_attention")
"""Kinds of blocks that keep a key and a value of each position, and nothing else."""

LEAST_SHARE = 1 / 16
"""Of a batch's longest sequence. To attend to what is in front takes a mask, by which attention takes a quarter longer,
and keys and values are put together: up to a twentieth that is as much work as is saved."""


@dataclass(frozen=True)
class Prefix:
    """The first tokens of a prompt, and what a decoder makes of them."""

    ids: Tensor  # (position,), on the host
    states: Tensor  # (layer, position, d), un-normed, on the lens' device
    kept: Sequence[tuple[Tensor, Tensor]]  # each block's keys and values, (1, head, position, width)

    @classmethod
    @torch.inference_mode()
    def of(cls, model: LensModel, images: Sequence[Encoded]) -> Prefix | None:
        """What all of these sequences have in front of their images. None if that is nothing, or if what follows could
        not do with its keys and values."""
        ids = _common(model, images)
        if not (length := len(ids)):
            return None
        arguments = entering_decoder(model, images[0])
        model.entering(arguments)  # a tower adds nothing to text
        if not _sees_all(model, arguments) or told_beside(arguments, images[0].length):
            return None
        cache: Any = DynamicCache()
        states: list[Tensor] = []
        arguments |= some_positions(arguments, slice(length))
        arguments |= {"attention_mask": None, cache_name(model.decoder): cache, "use_cache": True}
        with model.watched(lambda layer, hidden: states.append(hidden[0].clone()), range(model.layers)):
            model.decoder(**arguments)
        kept = [(layer.keys, layer.values) for layer in cache.layers]
        if [keys.shape[2] for keys, _ in kept] != [length] * len(model.blocks):
            return None
        return cls(ids, torch.stack(states), kept)

    @property
    def length(self) -> int:
        return len(self.ids)

    def pays(self, model: LensModel, images: Sequence[Encoded]) -> bool:
        """Whether all of a batch's sequences begin with it, and are run faster from behind it.

        On a GPU PyTorch's fastest attention takes no mask: only what needs one anyway, for its padding, is run so.
        """
        longest, shortest = max(image.length for image in images), min(image.length for image in images)
        if self.length < LEAST_SHARE * longest:
            return False
        if model.device.type == "cuda" and model.attention == "sdpa" and longest == shortest:
            return False
        return all(torch.equal(image.tokens["input_ids"][: self.length], self.ids) for image in images)

    @contextmanager
    def in_front(self, model: LensModel, images: Sequence[Encoded], visit: Visit) -> Iterator[Visit]:
        """In this context the decoder runs a batch from behind the prefix on. What is yielded takes the states that it
        then has, and gives `visit` those of whole sequences."""
        length = max(image.length for image in images)
        padded = [(row, length - image.length) for row, image in enumerate(images) if image.length < length]
        rows = to_device(torch.tensor([row for row, _ in padded], dtype=torch.long), model.device)[:, None]
        places = torch.tensor([pads for _, pads in padded], dtype=torch.long)[:, None] + torch.arange(self.length)
        places = to_device(places, model.device)  # (padded row, position)
        before = to_device(torch.tensor([length - image.length for image in images]), model.device)[:, None]
        name = cache_name(model.decoder)

        def begin_behind(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            kwargs = dict(kwargs)
            entering = "input_ids" if kwargs.get("inputs_embeds") is None else "inputs_embeds"
            count = kwargs[entering].shape[1]
            is_prompt = count == length  # else it is a token of the answer, which finds all cached
            if padded and "position_ids" in kwargs and kwargs["position_ids"] is None:
                # The decoder would number columns, and the prefix is in front of the padding.
                first = 0 if is_prompt else kwargs[name].get_seq_length()
                columns = torch.arange(first, first + count, device=before.device)
                kwargs["position_ids"] = (columns - before).clamp(min=0)
            if padded and (mask := kwargs["attention_mask"]) is not None:
                # What shorter sequences are filled up with is behind the prefix now.
                kwargs["attention_mask"] = torch.cat(
                    [torch.ones_like(mask[:, : self.length]), mask[:, : -self.length]], 1
                )
            if is_prompt:
                behind = slice(self.length, None)
                kwargs |= {entering: kwargs[entering][:, behind]} | some_positions(kwargs, behind)
                kwargs[name] = self._cache(kwargs.get(name), len(images))
            return args, kwargs

        def visit_whole(layer: int, hidden: Tensor) -> None:
            own = self.states[layer]
            whole = torch.cat([own.expand(len(hidden), -1, -1), hidden], 1)
            if padded:
                whole[rows, places] = own
            visit(layer, whole)

        with model.decoder.register_forward_pre_hook(begin_behind, with_kwargs=True):
            yield visit_whole

    def _cache(self, cache: Any, rows: int) -> Any:
        """A cache with the prefix for so many rows: the given one, which is empty, or one that keeps nothing else."""
        if cache is None:
            return Cache(layers=[_InFront(keys, values) for keys, values in for_rows(self.kept, rows)])
        for block, (keys, values) in enumerate(for_rows(self.kept, rows)):
            cache.update(keys, values, block)
        return cache


class _InFront(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values that are put in front of a block's own, which are not kept: there is one pass."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        return torch.cat([self.keys, key_states], 2), torch.cat([self.values, value_states], 2)


def _common(model: LensModel, images: Sequence[Encoded]) -> Tensor:
    """(position,) the tokens that all sequences begin with, to their images at most."""
    every = [image.tokens["input_ids"] for image in images]
    first = min(int((ids == model.image_token_id).nonzero()[0, 0]) for ids in every)
    beginnings = torch.stack([ids[:first] for ids in every])
    return beginnings[0, : int((beginnings == beginnings[0]).all(0).cumprod(0).sum())]


# --- what a decoder is given, and what it keeps ------------------------------------------------------------------


class _AtTheDoor(Exception):
    """The decoder's arguments are known; it need not run."""


@torch.no_grad()
def entering_decoder(model: LensModel, image: Encoded) -> dict[str, Any]:
    """The decoder's arguments for an image."""
    found: list[dict[str, Any]] = []

    def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(kwargs)
        raise _AtTheDoor

    handle = model.decoder.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        model.run_decoder(model.batch([image]))
    except _AtTheDoor:
        pass
    finally:
        handle.remove()
    return found[0]


def some_positions(arguments: Mapping[str, Any], positions: slice) -> dict[str, Tensor]:
    """Of a decoder's arguments those that have a place for each position, for some of the positions."""
    given = {name: axis for name, axis in PER_POSITION.items() if arguments.get(name) is not None}
    return {
        name: arguments[name][:, positions] if axis == 1 else arguments[name][..., positions]
        for name, axis in given.items()
    }


def cache_name(decoder: nn.Module) -> str:
    """What a decoder calls keys and values: from transformers 5.20 on it is `cache`."""
    return "cache" if "cache" in signature(decoder.forward).parameters else "past_key_values"


def for_rows(kept: Sequence[tuple[Tensor, Tensor]], rows: int) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of one sequence for so many rows, without copies."""
    return [(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1)) for keys, values in kept]


def kinds_of(decoder: nn.Module) -> list[str]:
    """What each block is, such as KEPT; of a decoder that does not tell all are attention."""
    return [*(getattr(decoder.config, "layer_types", None) or ())]


def told_beside(arguments: Mapping[str, Any], length: int) -> str | None:
    """What a decoder is told of each position beside what stands for it, by its arguments for a sequence of this
    length; None if that is nothing."""
    told = [
        argument
        for argument, value in arguments.items()
        if argument not in (*PER_POSITION, "attention_mask")
        and isinstance(value, Tensor)
        and value.ndim > 1
        and value.shape[1] == length
    ]
    return ", ".join(told) or None


def _sees_all(model: LensModel, arguments: Mapping[str, Any]) -> bool:
    """Whether each position sees all that are in front of it, and none behind it, by what the decoder is told.

    Windows are cut by columns, among which padding is; and a mask that is made already knows of the columns that were.
    """
    config = model.decoder.config
    kinds = {*kinds_of(model.decoder)}
    mask = arguments.get("attention_mask")
    is_plain = mask is None or (isinstance(mask, Tensor) and mask.ndim == 2)
    return is_plain and kinds <= {"full_attention"} and not getattr(config, "sliding_window", None)
