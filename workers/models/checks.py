"""Checks at load: made-up images are run, and what the lens reads is compared with what the model computes."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlq.query.errors import ModelError
from vlq.query.schema import MOST_POSITIONS
from vlq.workers.models.base import SAMPLES, LensModel, if_not_finite
from vlq.workers.models.encoded import Answer, Encoded, prompt_ids
from vlq.workers.models.prefix import Prefix

STEPS, STEPS_OF_HALF = 64, 16
"""By so many steps of a logit's last place the lens may differ from the model's logits, in float32 and in half."""


def check(model: LensModel, images: int = 1, answer: bool = False, questions: Sequence[str] = ()) -> list[Encoded]:
    """Run made-up images, a batch of so many and one of several sizes, and compare the lens with the model.

    `questions` are some of those that images bring themselves, the longest last: they are read beside one another.

    Checked: as many image positions as the grid has cells, no more than can be stored, the same tokens of a prompt
    beside every image, a tokenizer no larger than the head, every layer seen once and in order, and at the last layer
    the model's own logits. Returns the images of several sizes. Raises ModelError.
    """
    name = type(model.model).__name__
    # Molmo 2's head has no rows for the tokens of an image: these are embedded, and never written.
    known = max(model.vocabulary_size, model.model.get_input_embeddings().weight.shape[0])
    if len(model.tokenizer) > known:
        raise ModelError(
            f"{name}: the tokenizer has {len(model.tokenizer)} tokens, the head only {model.vocabulary_size}.",
            "This tokenizer belongs to another model.",
        )
    if (most := model.most_patches) > MOST_POSITIONS:
        raise ModelError(
            f"{name}: its processor lets an image have {most:,} patches; VLQ reads {MOST_POSITIONS:,} at most.",
            "Lower the most pixels of an image in the processor's settings.",
        )
    prompts: Sequence[str | None] = questions or [None]
    by_prompt = [[model.encode(noise(*size), prompt) for size in SAMPLES] for prompt in prompts]
    for (width, height), encoded in zip(SAMPLES, by_prompt[0], strict=True):
        if model.grid not in (None, encoded.grid):
            (rows, columns), (own_rows, own_columns) = model.grid, encoded.grid
            raise ModelError(
                f"{name}: expected a grid of {rows} x {columns} patches of every image. Got {own_rows} x {own_columns} "
                f"of one of {width} x {height} pixels.",
                "Have the processor crop images (do_center_crop), or resize them to one height and width (size).",
            )
    if any(len({*map(prompt_ids, encoded)}) > 1 for encoded in by_prompt):
        raise ModelError(f"{name}: beside images of several sizes the prompt's tokens differ.")
    tried = [by_prompt[i % len(prompts)][i] for i in range(len(SAMPLES))]
    for batch in [by_prompt[-1][:1] * images] + ([tried] if model.grid is None or questions else []):
        check_batch(model, batch)
    if answer:
        check_answers(model, tried)
    model.check_more()
    return tried


def share_prefix(model: LensModel, tried: Sequence[Encoded], answer: bool = False) -> None:
    """Have the model run what is in front of the image once, from here on: where it has anything there, where that
    saves time in what is `tried`, and where the last layer's readings are the model's own logits with it, too. With
    `answer` its answers must be the same as well.

    No model is refused for this: whatever goes wrong, the whole of each sequence is run.
    """
    if getattr(model.model, "is_loaded_in_8bit", False):  # whose columns depend on all that is run together
        return
    try:
        prefix = Prefix.of(model, tried)
        if prefix is None or not prefix.pays(model, tried):
            return
        whole = model.answer(tried, 3, _look_away) if answer else []
        model.prefix = prefix
        check_batch(model, tried[:1])
        check_batch(model, tried)
        if answer:
            check_same_answers(model, whole, model.answer(tried, 3, _look_away))
    except Exception as error:
        model.prefix = None
        logging.getLogger(__name__).info("The text in front of the image is run with each image: %s", error)


def _look_away(layer: int, hidden: Tensor) -> None:
    pass


@torch.inference_mode()
def check_same_answers(model: LensModel, expected: Sequence[Answer], found: Sequence[Answer]) -> None:
    """Raises ModelError unless answers have the same tokens, and states that the lens reads alike."""
    for one, other in zip(expected, found, strict=True):
        if one.ids == other.ids:
            lens, again = (model.unembed(answer.states[-1]).float() for answer in (one, other))
            if not len(lens) or float((lens - again).abs().max()) <= 2 * noise_of(model, lens):
                continue
        raise ModelError(f"{type(model.model).__name__}: the answers are others.")


@torch.inference_mode()
def check_batch(model: LensModel, batch: Sequence[Encoded]) -> None:
    """Raises ModelError unless all layers are seen, and the last one's readings are the model's own logits."""
    seen: list[int] = []
    last: list[Tensor] = []
    image, place = model.places(batch, ("patch", "prompt"))

    def visit(layer: int, hidden: Tensor) -> None:
        seen.append(layer)
        shape = (len(batch), max(one.length for one in batch), model.width)
        if hidden.shape != shape:
            raise ModelError(
                f"{type(model.model).__name__}: expected states of {' x '.join(map(str, shape))} (image, position, d) "
                f"at layer {layer}. Got {' x '.join(map(str, hidden.shape))}."
            )
        if layer == model.layers - 1:
            last.append(hidden[image, place])

    model.forward(batch, visit)
    if seen != list(range(model.layers)):
        raise ModelError(f"{type(model.model).__name__}: expected layers 0 to {model.layers - 1} in order. Got {seen}.")
    for i, one in enumerate(batch):
        # To which columns LLM.int8() gives more bits depends on all images of a batch.
        beside = [*batch[:i], *batch[i + 1 :]] if getattr(model.model, "is_loaded_in_8bit", False) else []
        check_last_layer(model, one, last[0][image == i], beside)


@torch.inference_mode()
def check_answers(model: LensModel, batch: Sequence[Encoded]) -> None:
    """Raises ModelError unless the last layer's readings in front of an answer's tokens are what chose them."""
    image, place = model.places(batch, ("prompt",))
    last: list[Tensor] = []

    def visit(layer: int, hidden: Tensor) -> None:
        if layer == model.layers - 1:
            last.append(hidden[image, place])

    for i, answer in enumerate(model.answer(batch, 3, visit)):
        before = torch.cat([last[0][image == i][-1:], answer.states[-1, :-1]])[: len(answer.ids)]
        lens = model.unembed(before).float()
        for logits, id, logprob in zip(lens, answer.ids, answer.logprobs, strict=True):
            if not abs(float(torch.log_softmax(logits, -1)[id]) - logprob) <= 2 * noise_of(model, logits):
                raise ModelError(
                    f"{type(model.model).__name__}: the answer's tokens are not what the lens reads in front of them.",
                    "Run without --answer.",
                )


@torch.inference_mode()
def check_last_layer(model: LensModel, image: Encoded, last: Tensor, beside: Sequence[Encoded] = ()) -> None:
    """Raises ModelError unless the lens gives the model's own logits for an image's states after the last block.

    `last` (position, d) are those at its patches and its prompt. The model is given the image alone, or with those
    `beside` it.
    """
    batch = [image, *beside]
    which, places = model.places(batch, ("patch", "prompt"))
    logits = model.model(**model.batch(batch), use_cache=False).logits[0]
    own = logits[places[which == 0]].float()  # (position, vocabulary)
    if not bool(own.isfinite().all()):
        name, dtype = type(model.model).__name__, str(model.dtype).removeprefix("torch.")
        raise ModelError(f"{name}: the model's logits are not finite in {dtype}.", if_not_finite(dtype))
    lens = model.unembed(last).float()
    noise = noise_of(model, own)
    difference = float((own - lens).abs().max())
    best = own.argmax(-1, keepdim=True)
    shortfall = float((lens.amax(-1, keepdim=True) - lens.gather(1, best)).max())
    if not difference <= noise or not shortfall <= noise:
        raise ModelError(
            f"{type(model.model).__name__}: the lens at the last layer differs from the model's logits by "
            f"{difference:.3g}; the noise of {model.dtype} explains {noise:.3g}.",
            "The adapter misses a step between the last block and the logits.",
        )


def noise_of(model: LensModel, logits: Tensor) -> float:
    """By so much logits that were computed in two ways may differ: steps of the last place of the largest one.

    In half precision few steps are much. In float32 all blocks' rounding shows, and more in some models than in others.
    Tokens that are never written have the lowest number there is, which is not computed.
    """
    steps, number = STEPS if model.dtype == torch.float32 else STEPS_OF_HALF, torch.finfo(model.dtype)
    largest = logits.where(logits > number.min, 0).abs().max().clamp(min=1)
    return (steps * number.eps + model.own_noise) * float(largest)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
