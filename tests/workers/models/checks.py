"""What must hold of every family's adapter, checked against the model itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from vlq.query.image.geometry import patch_box
from vlq.workers.lenses import logit_lens
from vlq.workers.models import load
from vlq.workers.models.base import LensModel
from vlq.workers.models.encoded import Encoded

SITES = ("patch", "prompt")
K = 6
NATS = 1e-4
"""By so much readings may differ that were computed in another batch, in float32."""

Amend = Callable[[LensModel, Mapping[str, Tensor], list[Tensor]], None]
"""Is given a model, its inputs and the states that its class returns, one (1, sequence, d) per layer. Turns these
into the residual stream, where some of it is added between two blocks."""


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def loaded(folder: Path, prompt: str | None = None) -> LensModel:
    """The model with the checks at load passed, which is what a worker has."""
    return load(str(folder), prompt=prompt)


def read(
    model: LensModel, images: Sequence[Image.Image], prompts: Sequence[str] | None = None
) -> list[list[tuple[Tensor, Tensor]]]:
    """Per image and layer its ids and log-probabilities, each (position, k), as a batch of these images reads them,
    with prompts of their own if they have some."""
    batch = [model.encode(*pair) for pair in zip(images, prompts or [None] * len(images), strict=True)]
    image, place = model.places(batch, SITES)
    lens = logit_lens(model, K, 64)
    layers: list[tuple[Tensor, Tensor]] = []

    def visit(layer: int, hidden: Tensor) -> None:
        found = lens.read(layer, hidden[image, place], torch.zeros(0, len(place), device=model.device))
        layers.append((found.token, found.logprob))

    model.forward(batch, visit)
    return [[(token[image == i], logprob[image == i]) for token, logprob in layers] for i in range(len(images))]


def inputs_of(model: LensModel, image: Image.Image) -> dict[str, Tensor]:
    """What the processor makes of an image and the prompt, in the model's dtype: some give half precision."""
    found = model.processor(images=[image], text=[model.prompt], return_tensors="pt")
    return {
        name: values.to(model.dtype) if isinstance(values, Tensor) and values.is_floating_point() else values
        for name, values in found.items()
    }


@torch.inference_mode()
def of_the_model(model: LensModel, image: Image.Image, amend: Amend | None = None) -> list[np.ndarray]:
    """Per layer the log-probabilities (position, vocabulary), from `output_hidden_states` of the model's own class.

    What lies between the states and the logits is the model's own, too: the norm and the head by name, and the last
    layer's logits as the model returns them.
    """
    inputs = inputs_of(model, image)
    outputs = model.model(**inputs, output_hidden_states=True)
    encoded = model.encode(image)
    places = torch.cat([encoded.sites[site] for site in SITES])
    states = list(outputs.hidden_states[:-1])  # the last one is normed already
    if amend:
        amend(model, inputs, states)
    found = []
    for state in states:
        found.append(torch.log_softmax(model.unembed(state[0, places]).double(), -1).numpy())
    return [*found, torch.log_softmax(outputs.logits[0, places].double(), -1).numpy()]


def reads_what_the_model_reads(model: LensModel, images: Sequence[Image.Image], amend: Amend | None = None) -> None:
    """Every layer of every image, alone and in a batch with the others."""
    together = read(model, images)
    for image, batched in zip(images, together, strict=True):
        expected = of_the_model(model, image, amend)
        for found in (read(model, [image])[0], batched):
            assert len(found) == len(expected) == model.layers
            for (token, logprob), values in zip(found, expected, strict=True):
                are_the_best(token.numpy(), logprob.numpy(), values)


def are_the_best(token: np.ndarray, logprob: np.ndarray, values: np.ndarray) -> None:
    """The k best of log-probabilities (position, vocabulary), each (position, k)."""
    best = -np.sort(-values, -1)[:, : token.shape[-1]]
    np.testing.assert_allclose(logprob, best, atol=NATS)
    # Ids may change places where they are as probable.
    own = np.take_along_axis(values, token.astype(int), -1)
    np.testing.assert_allclose(own, best, atol=NATS)


def asked(model: LensModel, prompt: str) -> LensModel:
    """The same weights with this as the one prompt of all images."""
    return type(model)(model.model, model.processor, prompt)


def norms_are_not_ones(model: LensModel) -> None:
    """With ones, a norm applied twice would go unseen."""
    signs = torch.ones(model.lm_head.weight.shape[1])  # type: ignore[index]
    signs[::2] = -1  # of mean 0 and variance 1: what any norm makes of it are its weights
    assert float((model.final_norm(signs).detach() * signs - 1).abs().max()) > 0.3


def patches_are_where_they_say(model: LensModel, image: Image.Image, share: float = 0.9) -> None:
    """A patch's box is painted over: it is that patch whose embedding changes most, for nearly every one that shows
    enough of the image."""
    before, encoded = embeddings(model, image)
    rows, columns = encoded.grid
    hits = []
    for patch in np.random.default_rng(0).permutation(rows * columns)[:24]:
        x0, y0, x1, y1 = patch_box(encoded.transform, image.size, encoded.grid, int(patch))
        if x1 - x0 < 2 or y1 - y0 < 2:
            continue
        painted = image.copy()
        # Inside its edges, so that no neighbour changes by resampling.
        inset_x, inset_y = (x1 - x0) / 8, (y1 - y0) / 8
        ImageDraw.Draw(painted).rectangle((x0 + inset_x, y0 + inset_y, x1 - inset_x, y1 - inset_y), fill=(255, 0, 0))
        after, _ = embeddings(model, painted)
        hits.append(int((after - before).norm(dim=-1).argmax()) == patch)
    assert len(hits) >= 4
    assert np.mean(hits) >= share, f"{sum(hits)} of {len(hits)}"


def embeddings(model: LensModel, image: Image.Image) -> tuple[Tensor, Encoded]:
    """What enters the decoder at each patch (patch, d), row by row."""
    encoded = model.encode(image)
    found: list[Tensor] = []
    places = encoded.sites["patch"]
    model.forward([encoded], lambda layer, hidden: found.append(hidden[0, places].clone()), layers=[0])
    return found[0], encoded


@torch.inference_mode()
def answered(model: LensModel, image: Image.Image, most: int, types: int = 0) -> tuple[list[int], list[float]]:
    """A greedy answer, word by word: the whole sequence anew for each token, without a cache. Ids, log-probabilities.

    `types` is what `token_type_ids` are of the answer's own tokens, if the model goes by them; else 0.
    """
    inputs = inputs_of(model, image)
    inputs.pop("labels", None)
    if types:
        inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    ids: list[int] = []
    logprobs: list[float] = []
    while len(ids) < most:
        logprob = torch.log_softmax(model.model(**inputs, use_cache=False).logits[0, -1].double(), -1)
        id = int(logprob.argmax())
        if id in model.ends:
            break
        ids.append(id)
        logprobs.append(float(logprob[id]))
        added = {"input_ids": id, "attention_mask": 1, "mm_token_type_ids": 0, "token_type_ids": types}
        added["moe_mm_token_type_ids"] = 0
        for name, value in added.items():
            if name in inputs:
                inputs[name] = torch.cat([inputs[name], torch.tensor([[value]])], 1)
    return ids, logprobs


def answers_what_the_model_answers(
    model: LensModel, images: Sequence[Image.Image], most: int = 5, types: int = 0
) -> None:
    """Each image alone and in a batch with the others; and the lens at the answer's tokens reads what comes next."""
    encoded = [model.encode(image) for image in images]
    together = model.answer(encoded, most, lambda layer, hidden: None)
    expected = [answered(model, image, most, types) for image in images]
    assert any(ids for ids, _ in expected)
    for one, batched, (ids, logprobs) in zip(encoded, together, expected, strict=True):
        (alone,) = model.answer([one], most, lambda layer, hidden: None)
        for found in (alone, batched):
            assert list(found.ids) == ids
            assert found.logprobs == tuple(pytest.approx(logprob, abs=NATS) for logprob in logprobs)
            assert found.states.shape[:2] == (model.layers, len(ids))
            assert found.text == model.tokenizer.decode(ids, skip_special_tokens=True).strip()
            with torch.inference_mode():
                lens = torch.log_softmax(model.unembed(found.states[-1]).double(), -1)
            assert [float(lens[at, id]) for at, id in enumerate(ids[1:])] == pytest.approx(logprobs[1:], abs=NATS)
        np.testing.assert_allclose(alone.states.numpy(), batched.states.numpy(), atol=1e-3)
