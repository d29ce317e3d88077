"""One shard: from its images' URIs to its arrays and its image table."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from vlq.query.errors import RunError
from vlq.query.schema import IMAGE_COLUMNS, Run, Transform, array_specs
from vlq.workers.images import BadImage, decode, fetch, turn_of
from vlq.workers.lens import Lens
from vlq.workers.models.base import Encoded, LensModel

TRANSFORM = pa.struct(
    [
        ("scale_x", pa.float64()),
        ("scale_y", pa.float64()),
        ("offset_x", pa.float64()),
        ("offset_y", pa.float64()),
        ("width", pa.uint32()),
        ("height", pa.uint32()),
    ]
)
GRID = pa.struct([("rows", pa.uint16()), ("columns", pa.uint16())])


@dataclass(frozen=True)
class Prepared:
    """An image ready for the model, or the reason why not."""

    sha256: str | None = None
    size: tuple[int, int] | None = None  # width, height
    grid: tuple[int, int] | None = None
    transform: Transform | None = None
    error: str | None = None
    encoded: Encoded | None = None

    def described(self) -> Prepared:
        """What the image table needs of it."""
        return replace(self, encoded=None)


def prepare(model: LensModel, uri: str) -> Prepared:
    """Fetch, decode and preprocess one image. Raises OSError if its bytes cannot be had."""
    digest = None
    try:
        data = fetch(uri)
        digest = hashlib.sha256(data).hexdigest()
        with turn_of(data):
            image = decode(data)
            encoded = model.encode(image)
            return Prepared(digest, image.size, encoded.grid, encoded.transform, encoded=encoded)
    except BadImage as bad:
        return Prepared(sha256=digest, error=str(bad))


def read_shard(
    model: LensModel, lens: Lens, run: Run, rows: pa.Table, decoders: Executor
) -> tuple[dict[str, np.ndarray], pa.Table]:
    """`read_decoded` of images that `decode_ahead` decodes."""
    return read_decoded(model, lens, run, rows, decode_ahead(model, rows, decoders))


def decode_ahead(model: LensModel, rows: pa.Table, decoders: Executor) -> Iterator[Prepared]:
    """The images of the plan's rows, in their order. All are begun at once: a shard's fit into memory."""
    return decoders.map(partial(prepare, model), rows["uri"].to_pylist())


def read_decoded(
    model: LensModel,
    lens: Lens,
    run: Run,
    rows: pa.Table,
    images: Iterator[Prepared],
    busy: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> tuple[dict[str, np.ndarray], pa.Table]:
    """The arrays of `schema.array_specs` and the image table for the plan's rows of one shard.

    The time in the model and the lens is spent in contexts of `busy`. Images are batched in their order with the failed
    ones left out, so batches depend on nothing but the images. Raises OSError if an image cannot be fetched, RunError
    if the model gives no finite numbers.
    """
    reader = BatchReader(model, lens, run)
    prepared: list[Prepared] = []
    found: dict[int, dict[str, np.ndarray]] = {}  # of the images with readings, by their row
    waiting: dict[int, Encoded] = {}
    names = rows["image"].to_pylist()

    def read() -> None:
        with busy():
            readings = reader.read(list(waiting.values()), [names[row] for row in waiting])
        found.update(zip(waiting, readings, strict=True))
        waiting.clear()

    for row, image in enumerate(images):
        if image.encoded is not None:
            waiting[row] = image.encoded
        prepared.append(image.described())
        if len(waiting) == run.batch_size:
            read()
    if waiting:
        read()
    return filled(run, rows.num_rows, found) | reader.sums(), image_table(rows, prepared)


def filled(run: Run, images: int, found: Mapping[int, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of `schema.array_specs` that have an image axis, from the readings of the images that have some."""
    patches = max((image["patch/top1"].shape[-1] for image in found.values()), default=0) if "patch" in run.at else 0
    arrays = {}
    for spec in array_specs(run, images, patches if run.grid is None else run.patches):
        if spec.axes[0] == "image":
            arrays[spec.name] = values = np.full(spec.shape, spec.fill, spec.dtype)
            for row, image in found.items():
                own = image[spec.name]
                values[row, :, : own.shape[1]] = own
    return arrays


class BatchReader:
    """Runs batches and adds up the probabilities of all images that it has read."""

    def __init__(self, model: LensModel, lens: Lens, run: Run) -> None:
        self._model = model
        self._lens = lens
        self._run = run
        self._mass = torch.zeros(len(run.at), run.layers, run.vocabulary_size, device=model.device)

    @torch.inference_mode()
    def read(self, images: Sequence[Encoded], names: Sequence[str]) -> list[dict[str, np.ndarray]]:
        """Each image's readings by the names of `schema.array_specs`, without the image axis.

        `names` are the images', for messages. Raises RunError if the model gives no finite numbers.
        """
        run, device = self._run, self._model.device
        image, place = self._model.places(images, run.at)
        weights = self._weights(images)
        cells = (run.layers, len(place))
        token = torch.empty(*cells, run.k, dtype=torch.int32, device=device)
        logprob = torch.empty(*cells, run.k, device=device)
        lse = torch.empty(cells, device=device)
        entropy = torch.empty(cells, device=device)

        def visit(layer: int, hidden: Tensor) -> None:
            readings = self._lens.read(hidden[image, place], weights)
            token[layer], logprob[layer] = readings.token, readings.logprob
            lse[layer], entropy[layer] = readings.lse, readings.entropy
            self._mass[:, layer] += readings.mass

        self._model.forward(images, visit)
        found = {  # (layer, row, ...)
            "token": token.cpu().numpy().astype(run.id_dtype),
            "logprob": logprob.cpu().numpy().astype(run.logprob_dtype),
            "lse": lse.cpu().numpy(),
            "entropy": entropy.cpu().numpy(),
        }
        found["top1"] = found["token"][..., 0]
        readings = []
        start = 0
        for encoded, name in zip(images, names, strict=True):
            own: dict[str, np.ndarray] = {}
            for site in run.at:
                end = start + len(encoded.sites[site])
                own |= {f"{site}/{kind}": values[:, start:end] for kind, values in found.items()}
                check_finite(own[f"{site}/lse"], name, run.dtype)
                start = end
            readings.append(own)
        return readings

    def _weights(self, images: Sequence[Encoded]) -> Tensor:
        """(site, row): which positions go into each site's sums. Every patch, but of the prompt only its last token."""
        spans = []
        for encoded in images:
            for i, site in enumerate(self._run.at):
                span = torch.zeros(len(self._run.at), len(encoded.sites[site]))
                span[i, slice(None) if site == "patch" else slice(-1, None)] = 1
                spans.append(span)
        return torch.cat(spans, 1).to(self._model.device)

    def sums(self) -> dict[str, np.ndarray]:
        """Per site the probabilities summed over all images read: (layer, vocabulary)."""
        names = ("sum/patch" if site == "patch" else "sum/last" for site in self._run.at)
        return dict(zip(names, self._mass.cpu().numpy(), strict=True))


def check_finite(lse: np.ndarray, name: str, dtype: str) -> None:
    """Raises RunError naming the image and the first layer at which its logits (layer, position) are not numbers."""
    bad = ~np.isfinite(lse)
    if bad.any():
        layer = int(np.argwhere(bad)[0][0])
        hint = "The weights hold such values themselves." if dtype == "float32" else "Run with --dtype float32."
        raise RunError(f"{name}: at layer {layer} the model's states are not finite in {dtype}.", hint)


def image_table(rows: pa.Table, prepared: Sequence[Prepared]) -> pa.Table:
    """The image table: `schema.IMAGE_COLUMNS`, then the user's."""
    own = {
        "image_id": rows["image_id"],
        "image": rows["image"],
        "uri": rows["uri"],
        "sha256": pa.array([image.sha256 for image in prepared], pa.string()),
        "width": pa.array([image.size and image.size[0] for image in prepared], pa.uint32()),
        "height": pa.array([image.size and image.size[1] for image in prepared], pa.uint32()),
        "transform": pa.array([image.transform and asdict(image.transform) for image in prepared], TRANSFORM),
        "grid": pa.array([image.grid and tuple(image.grid) for image in prepared], GRID),
        "error": pa.array([image.error for image in prepared], pa.string()),
    }
    users = [name for name in rows.column_names if name not in (*own, "shard")]
    return pa.table({name: own[name] for name in IMAGE_COLUMNS} | {name: rows[name] for name in users})
