"""How exact readings are: each dtype and device against the same model in float64 on the CPU, layer by layer.

The demo's model, which is trained, and its scenes. Its norms, which transformers computes in float32 whatever the
dtype, are computed in float64 there too. Top-1 agreement is the share of positions whose best token is the same; the
error is the largest difference of a stored log-probability from that of the same token in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.inputs import PROMPT, small
from benchmarks.measure import Figure, number
from vlq.workers.lenses import logit_lens
from vlq.workers.models import load
from vlq.workers.models.base import LensModel

IMAGES = 32
K = 20
SITES = ("patch", "prompt")
DTYPES = ("float32", "bfloat16", "float16")


def run(work: Path, *, quick: bool = False, images: int = 0) -> Iterator[Figure]:
    case = small(work, quick=True)
    paths = sorted(case.images.glob("*.png"))[: 4 if quick else IMAGES]
    exact = in_float64(load(str(case.model), prompt=PROMPT), paths)
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for dtype in DTYPES:
            model = load(str(case.model), prompt=PROMPT, device=device, dtype=dtype)
            yield compared(f"{dtype} on {device_name(device)}", readings(model, paths), exact)


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "CPU"


def compared(name: str, found: list[tuple[np.ndarray, np.ndarray]], exact: list[np.ndarray]) -> Figure:
    """The largest error of all layers; in the note, each layer's agreement and error."""
    agreement, errors = [], []
    for (token, logprob), values in zip(found, exact, strict=True):
        agreement.append(float((token[:, 0] == values.argmax(-1)).mean()))
        errors.append(float(np.abs(np.take_along_axis(values, token, -1) - logprob).max()))
    note = f"top-1 agreement of at least {min(agreement):.2%}; by layer: " + ", ".join(
        f"{share:.2%} {number(error)}" for share, error in zip(agreement, errors, strict=True)
    )
    return Figure(f"{name}, largest error of a log-probability", max(errors), "nats", note=note)


def batches(model: LensModel, paths: list[Path]) -> Iterator[tuple[Any, torch.Tensor, torch.Tensor]]:
    for at in range(0, len(paths), 8):
        batch = [model.encode(Image.open(path).convert("RGB")) for path in paths[at : at + 8]]
        yield batch, *model.places(batch, SITES)


def readings(model: LensModel, paths: list[Path]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per layer the ids and log-probabilities of all positions, (position, k)."""
    lens = logit_lens(model, K, 320)
    layers: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(model.layers)]
    for batch, image, place in batches(model, paths):

        def visit(layer: int, hidden: torch.Tensor, image: Any = image, place: Any = place) -> None:
            read = lens.read(layer, hidden[image, place], torch.zeros(0, len(place), device=model.device))
            layers[layer].append((read.token.long().cpu().numpy(), read.logprob.cpu().numpy()))

        model.forward(batch, visit)
    return [(np.concatenate([t for t, _ in parts]), np.concatenate([p for _, p in parts])) for parts in layers]


def in_float64(model: LensModel, paths: list[Path]) -> list[np.ndarray]:
    """Per layer the log-probabilities of all positions and tokens."""
    model.prefix = None  # which was run in float32
    model.model.double()
    for module in model.model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = exact_norm(module)
    layers: list[list[np.ndarray]] = [[] for _ in range(model.layers)]
    for batch, image, place in batches(model, paths):

        def visit(layer: int, hidden: torch.Tensor, image: Any = image, place: Any = place) -> None:
            layers[layer].append(torch.log_softmax(model.unembed(hidden[image, place]), -1).numpy())

        model.forward(batch, visit)
    found = [np.concatenate(parts) for parts in layers]
    assert found[0].dtype == np.float64
    return found


def exact_norm(module: Any) -> Any:
    def forward(states: torch.Tensor) -> torch.Tensor:
        assert states.dtype == torch.float64
        scale = torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + module.variance_epsilon)
        return states * scale * module.weight  # type: ignore[no-any-return]

    return forward
