"""What lenses should read, by numpy in float64 from what transformers' own forward pass returns."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file

from vlq.workers.models.base import LensModel


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Of the last axis."""
    highest = logits.max(-1, keepdims=True)
    return np.asarray(logits - highest - np.log(np.exp(logits - highest).sum(-1, keepdims=True)))


def states_of(model: LensModel, image: Image.Image) -> np.ndarray:
    """(layer, position, d) un-normed states at the patches and then at the prompt's text."""
    inputs = model.processor(images=[image], text=[model.prompt], return_tensors="pt")
    last: list[torch.Tensor] = []
    block = model.model.model.language_model.layers[-1]
    handle = block.register_forward_hook(lambda module, args, output: last.append(output))
    try:
        with torch.inference_mode():
            found = model.model(**inputs, output_hidden_states=True).hidden_states
    finally:
        handle.remove()
    # The library norms the last one before it returns it.
    layers = torch.stack([*found[:-1], last[0]])[:, 0].double().numpy()
    is_image = inputs["input_ids"][0] == model.image_token_id
    places = [*torch.nonzero(is_image)[:, 0].tolist(), *torch.nonzero(~is_image)[:, 0].tolist()]
    return np.asarray(layers[:, places])


def weights(model: LensModel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The final norm's, the head's and the input embeddings', by their names in the checkpoint."""
    state = model.model.state_dict()

    def of(end: str) -> np.ndarray:
        (name,) = [name for name in state if name.endswith(end)]
        return np.asarray(state[name].double().numpy())

    return of("language_model.norm.weight"), of("lm_head.weight"), of("embed_tokens.weight")


def normed(model: LensModel, states: np.ndarray) -> np.ndarray:
    """RMSNorm."""
    eps = model.model.config.get_text_config().rms_norm_eps
    return np.asarray(states / np.sqrt((states**2).mean(-1, keepdims=True) + eps) * weights(model)[0])


def logit(model: LensModel, states: np.ndarray) -> np.ndarray:
    """Log-probabilities (..., vocabulary) of softmax(head(norm(h)))."""
    return np.asarray(log_softmax(normed(model, states) @ weights(model)[1].T))


def head(model: LensModel, states: np.ndarray) -> np.ndarray:
    """Of softmax(head(h))."""
    return np.asarray(log_softmax(states @ weights(model)[1].T))


def cosines(model: LensModel, states: np.ndarray) -> np.ndarray:
    """(..., vocabulary)"""
    embedding = weights(model)[2]
    lengths = np.linalg.norm(states, axis=-1, keepdims=True) * np.linalg.norm(embedding, axis=-1)
    return np.asarray(states @ embedding.T / lengths)


def nearest(model: LensModel, states: np.ndarray) -> np.ndarray:
    """Of softmax(sqrt(d) cos(h, e))."""
    return np.asarray(log_softmax(cosines(model, states) * np.sqrt(states.shape[-1])))


def translated(folder: Path, states: np.ndarray) -> np.ndarray:
    """h + A h + b of each of the (layer, position, d) states, by a tuned lens' files."""
    moved = states.copy()
    for file in folder.glob("*.safetensors"):
        layer = int(file.stem.removeprefix("layer-"))
        tensors = load_file(file)
        moved[layer] += states[layer] @ tensors["weight"].astype(float).T + tensors["bias"].astype(float)
    return moved


def tuned(model: LensModel, folder: Path, states: np.ndarray) -> np.ndarray:
    return logit(model, translated(folder, states))


def divergence(target: np.ndarray, other: np.ndarray) -> np.ndarray:
    """KL(target || other) in nats, of log-probabilities."""
    return np.asarray((np.exp(target) * (target - other)).sum(-1))


def opened(images: Iterable[Path]) -> list[Image.Image]:
    return [Image.open(image).convert("RGB") for image in images]
