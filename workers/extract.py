"""One shard: from its images' URIs to its arrays and its image table."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from vlq.query.errors import RunError
from vlq.query.schema import IMAGE_COLUMNS, Run, Transform, array_specs
from vlq.workers.images import BadImage, decode, fetch, turn_of
from vlq.workers.lens import Lens
from vlq.workers.models.base import LensModel, Pixels

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
    pixels: Pixels | None = None
    error: str | None = None


def prepare(model: LensModel, uri: str) -> Prepared:
    """Fetch, decode and preprocess one image. Raises OSError if its bytes cannot be had."""
    digest = None
    try:
        data = fetch(uri)
        digest = hashlib.sha256(data).hexdigest()
        with turn_of(data):
            image = decode(data)
            return Prepared(digest, image.size, model.preprocess(image))
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
    arrays = {spec.name: np.full(spec.shape, spec.fill, spec.dtype) for spec in array_specs(run, rows.num_rows)}
    reader = BatchReader(model, lens, run)
    prepared: list[Prepared] = []
    waiting: list[int] = []
    pixels: list[Pixels] = []
    names = rows["image"].to_pylist()

    def read() -> None:
        with busy():
            reader.read(pixels, waiting, arrays, [names[i] for i in waiting])
        pixels.clear()
        waiting.clear()

    for i, image in enumerate(images):
        if image.pixels is not None:
            pixels.append(image.pixels)
            waiting.append(i)
        # Only what the image table needs is kept.
        prepared.append(Prepared(image.sha256, image.size, None, image.error))
        if len(pixels) == run.batch_size:
            read()
    if pixels:
        read()
    for name, sums in reader.sums():
        arrays[name][...] = sums
    return arrays, image_table(model, run, rows, prepared)


class BatchReader:
    """Runs batches, puts their readings into a shard's arrays and adds up its probabilities."""

    def __init__(self, model: LensModel, lens: Lens, run: Run) -> None:
        self._model = model
        self._lens = lens
        self._run = run
        sites = {"patch": model.patch_positions, "prompt": model.prompt_positions}
        chosen = [sites[site] for site in run.at]
        self._positions = torch.cat(chosen).to(model.device)  # in the sequence, site after site
        lengths = [len(positions) for positions in chosen]
        self._spans = {site: slice(sum(lengths[:i]), sum(lengths[: i + 1])) for i, site in enumerate(run.at)}
        # Which positions go into each site's sums: every patch, but of the prompt only its last token.
        self._weights = torch.zeros(len(run.at), sum(lengths), device=model.device)
        for i, site in enumerate(run.at):
            span = self._spans[site]
            self._weights[i, span if site == "patch" else slice(span.stop - 1, span.stop)] = 1
        self._mass = torch.zeros(len(run.at), run.layers, run.vocabulary_size, device=model.device)

    @torch.inference_mode()
    def read(
        self, images: Sequence[Pixels], at: Sequence[int], arrays: dict[str, np.ndarray], names: Sequence[str]
    ) -> None:
        """Read a batch into rows `at` of the arrays. `names` are the images', for messages."""
        run, device, count = self._run, self._model.device, len(images)
        cells = (run.layers, count, len(self._positions))
        token = torch.empty(*cells, run.k, dtype=torch.int32, device=device)
        logprob = torch.empty(*cells, run.k, device=device)
        lse = torch.empty(cells, device=device)
        entropy = torch.empty(cells, device=device)
        weights = self._weights.repeat(1, count)  # (site, image * position)

        def visit(layer: int, hidden: Tensor) -> None:
            readings = self._lens.read(hidden[:, self._positions].flatten(0, 1), weights)
            token[layer] = readings.token.view(*cells[1:], run.k)
            logprob[layer] = readings.logprob.view(*cells[1:], run.k)
            lse[layer] = readings.lse.view(cells[1:])
            entropy[layer] = readings.entropy.view(cells[1:])
            self._mass[:, layer] += readings.mass

        self._model.forward(images, visit)
        found = {
            name: values.transpose(0, 1).cpu().numpy()  # (image, layer, position, ...)
            for name, values in (("token", token), ("logprob", logprob), ("lse", lse), ("entropy", entropy))
        }
        check_finite(found["lse"], names, run.dtype)
        rows = list(at)
        for site, span in self._spans.items():
            for name, values in found.items():
                arrays[f"{site}/{name}"][rows] = values[:, :, span]
            arrays[f"{site}/top1"][rows] = found["token"][:, :, span, 0]

    def sums(self) -> Iterator[tuple[str, np.ndarray]]:
        """Per site the probabilities summed over all images read: (layer, vocabulary)."""
        for i, site in enumerate(self._run.at):
            yield ("sum/patch" if site == "patch" else "sum/last"), self._mass[i].cpu().numpy()


def check_finite(lse: np.ndarray, names: Sequence[str], dtype: str) -> None:
    """Raises RunError naming the first image and layer whose logits (image, layer, position) are not numbers."""
    bad = ~np.isfinite(lse)
    if bad.any():
        image, layer, _ = np.argwhere(bad)[0]
        hint = "The weights hold such values themselves." if dtype == "float32" else "Run with --dtype float32."
        raise RunError(f"{names[image]}: at layer {layer} the model's states are not finite in {dtype}.", hint)


def image_table(model: LensModel, run: Run, rows: pa.Table, prepared: Sequence[Prepared]) -> pa.Table:
    """The image table: `schema.IMAGE_COLUMNS`, then the user's."""
    transforms: list[Transform | None] = [
        model.transform(*image.size) if image.size is not None else None for image in prepared
    ]
    grid = {"rows": run.grid[0], "columns": run.grid[1]}
    own = {
        "image_id": rows["image_id"],
        "image": rows["image"],
        "uri": rows["uri"],
        "sha256": pa.array([image.sha256 for image in prepared], pa.string()),
        "width": pa.array([image.size and image.size[0] for image in prepared], pa.uint32()),
        "height": pa.array([image.size and image.size[1] for image in prepared], pa.uint32()),
        "transform": pa.array([transform and asdict(transform) for transform in transforms], TRANSFORM),
        "grid": pa.array([grid if image.size is not None else None for image in prepared], GRID),
        "error": pa.array([image.error for image in prepared], pa.string()),
    }
    users = [name for name in rows.column_names if name not in (*own, "shard")]
    return pa.table({name: own[name] for name in IMAGE_COLUMNS} | {name: rows[name] for name in users})
