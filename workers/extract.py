"""One shard: from its images' URIs to its arrays and its image table."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from operator import is_not

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from vlq.query.errors import ModelError, RunError, VlqError
from vlq.query.image.pictures import BadImage, decode, fetch
from vlq.query.schema import READ_COLUMNS, Run, Transform, array_specs, sum_of
from vlq.workers.images import DeadLink, Fetch, turn_of
from vlq.workers.lens import Lens, Readings
from vlq.workers.models.base import LensModel, if_not_finite
from vlq.workers.models.encoded import Answer, Encoded, prompt_ids
from vlq.workers.models.prefix import Prefix
from vlq.workers.models.weights import first_line
from vlq.workers.patches import chosen_patches
from vlq.workers.ray_errors import reason
from vlq.workers.transfer import mark, to_device, to_host

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
    unanswered: bool = False  # as a web server that may be out of reach for all
    encoded: Encoded | None = None
    prompt_ids: tuple[int, ...] | None = None  # of a prompt of its own
    patches_read: tuple[int, ...] | None = None  # those of its patches that are read, where some are

    def described(self) -> Prepared:
        """What the image table needs of it."""
        return replace(self, encoded=None)


def prepare(model: LensModel, uri: str, prompt: str | None = None, fetched: Fetch = fetch) -> Prepared:
    """Fetch, decode and preprocess one image, with a prompt of its own if it has one.

    Raises OSError if its bytes cannot be had.
    """
    digest = None
    try:
        data = fetched(uri)
        digest = hashlib.sha256(data).hexdigest()
        with turn_of(data):
            image = decode(data)
            with naming([uri]):
                try:
                    encoded = taken(model, image, prompt)
                except ModelError as error:
                    if prompt is None:
                        raise
                    raise BadImage(error.message) from error  # the model's own prompt was read when it was loaded
            own = None if prompt is None else prompt_ids(encoded)
            return Prepared(digest, image.size, encoded.grid, encoded.transform, encoded=encoded, prompt_ids=own)
    except BadImage as bad:
        unanswered = isinstance(bad, DeadLink) and not bad.was_answered
        return Prepared(sha256=digest, error=str(bad), unanswered=unanswered)


def taken(model: LensModel, image: Image.Image, prompt: str | None = None) -> Encoded:
    """The model's input for an upright RGB image, as `LensModel.encode` gives it. Raises BadImage if the model's
    processor, which took others when the model was loaded, does not take this one; ModelError."""
    try:
        return model.encode(image, prompt)
    except ValueError as error:
        raise BadImage(f"the model's processor does not take it: {first_line(error)}") from error


@contextmanager
def naming(images: Sequence[str]) -> Iterator[None]:
    """Raises RuntimeError that names the images where a model's own code raises in this context: what it says tells
    nothing of them."""
    try:
        yield
    except (VlqError, BadImage, OSError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:
        which = images[0] if len(images) == 1 else f"one of {images[0]} to {images[-1]} ({len(images)} images)"
        raise RuntimeError(f"the model fails on {which}: {reason(error)}") from error


def read_shard(
    model: LensModel, lens: Lens, run: Run, rows: pa.Table, decoders: Executor
) -> tuple[dict[str, np.ndarray], pa.Table]:
    """`read_decoded` of images that `decode_ahead` decodes."""
    return read_decoded(model, lens, run, rows, decode_ahead(model, run, rows, decoders))


def decode_ahead(
    model: LensModel, run: Run, rows: pa.Table, decoders: Executor, fetched: Fetch = fetch
) -> Iterator[Prepared]:
    """The images of the plan's rows, in their order. All are begun at once: a shard's fit into memory."""
    return decoders.map(partial(prepare, model, fetched=fetched), rows["uri"].to_pylist(), prompts_of(run, rows))


def prompts_of(run: Run, rows: pa.Table) -> Sequence[str | None]:
    """What each of the plan's rows is asked, if images have prompts of their own."""
    return [None] * rows.num_rows if run.prompt_column is None else rows[run.prompt_column].to_pylist()


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
    found: dict[int, Read] = {}  # of the images with readings, by their row
    waiting: dict[int, Encoded] = {}
    names = rows["image"].to_pylist()

    # While a GPU reads a batch, the next one is decoded and the readings of the one before are taken.
    begun: deque[tuple[list[int], Callable[[], list[Read]]]] = deque()

    def choose() -> None:
        """Of the images that wait, only the patches that are to be read; where that cannot be told, it is an error."""
        for row, patches in chosen_patches(run, rows, prepared, [*waiting]).items():
            if isinstance(patches, str):
                prepared[row] = Prepared(sha256=prepared[row].sha256, error=patches)
                del waiting[row]
            else:
                prepared[row] = replace(prepared[row], patches_read=tuple(patches))
                waiting[row] = waiting[row].at_patches(patches)

    def begin() -> None:
        if run.patches_column is not None:
            choose()
        if waiting:
            of_batch = [names[row] for row in waiting]
            with busy(), naming(of_batch):
                begun.append((list(waiting), reader.begin(list(waiting.values()), of_batch)))
        waiting.clear()

    def finish() -> None:
        at, result = begun.popleft()
        with busy(), naming([names[row] for row in at]):
            found.update(zip(at, result(), strict=True))

    for row, image in enumerate(images):
        if image.encoded is not None:
            waiting[row] = image.encoded
        prepared.append(image.described())
        if len(waiting) == run.batch_size:
            begin()
        if len(begun) > 1:
            finish()
    if waiting:
        begin()
    while begun:
        finish()
    if prepared and all(image.unanswered for image in prepared):
        raise OSError(f"not one of {len(prepared)} web servers' images arrived; {names[0]}: {prepared[0].error}")
    arrays = filled(run, prepared, {row: read.arrays for row, read in found.items()})
    answers = [found[row].answer if row in found else None for row in range(rows.num_rows)]
    return arrays | reader.sums(), image_table(run, rows, prepared, answers)


@dataclass(frozen=True)
class Read:
    """What was read of an image: arrays by their names in `schema.array_specs`, without image axis and of the layers
    alone that were read; and its answer."""

    arrays: dict[str, np.ndarray]
    answer: Answer | None


def filled(
    run: Run, prepared: Sequence[Prepared], found: Mapping[int, Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The arrays of `schema.array_specs` that have an image axis, from the readings of the images that have some.

    Where some patches were read of an image, its readings are of these; they are put where these are in its grid.
    """
    lengths, layers = dict(run.positions), list(run.read_layers)
    for site in run.uneven:
        lengths[site] = max((_room(prepared[row], site, image) for row, image in found.items()), default=1) or 1
    arrays = {}
    for spec in array_specs(run, len(prepared), lengths):
        if spec.axes[0] == "image":
            arrays[spec.name] = values = np.full(spec.shape, spec.fill, spec.dtype)
            for row, image in found.items():
                own, patches = image[spec.name], prepared[row].patches_read
                if patches is not None and spec.axes[2] == "patch":
                    values[row][np.ix_(layers, patches)] = own
                else:
                    values[row][layers, : own.shape[1]] = own
    return arrays


def _room(image: Prepared, site: str, readings: Mapping[str, np.ndarray]) -> int:
    """How many positions of a site an image takes."""
    if site == "patch" and image.grid is not None:
        return math.prod(image.grid)
    return int(readings[f"{site}/top1"].shape[1])


@dataclass(frozen=True)
class _Spots:
    """What is read of a batch."""

    places: Tensor  # (row,) in its states, image and position as one: one image's sites behind the other's
    weights: Tensor  # as `BatchReader._weights` gives them
    parts: Sequence[tuple[str, int]]  # each site of each image, and how many of the rows are its
    prefix: Prefix | None  # what is read once, for all images


class BatchReader:
    """Runs batches and adds up the probabilities of all images that it has read."""

    def __init__(self, model: LensModel, lens: Lens, run: Run) -> None:
        self._model = model
        self._lens = lens
        self._run = run
        self._sites: list[Mapping[str, Tensor]] = []  # of the batch that `_spots` belong to
        self._spots: _Spots
        self._of_prefix: tuple[Prefix, Callable[[], dict[str, dict[str, np.ndarray]]]] | None = None
        self._mass = torch.zeros(len(run.summed), len(run.read_layers), run.vocabulary_size, device=model.device)

    @torch.inference_mode()
    def begin(self, images: Sequence[Encoded], names: Sequence[str]) -> Callable[[], list[Read]]:
        """Have a batch read. `names` are the images', for messages.

        Returns what waits for a GPU to be done with it and gives what there is of each image, or raises RunError if the
        model gave no finite numbers.
        """
        run = self._run
        spots = self._where(images)
        rows = Rows(run, len(spots.places), self._model)
        number = {layer: at for at, layer in enumerate(run.read_layers)}

        def visit(layer: int, hidden: Tensor) -> None:
            if not rows.count:  # where of no image any patch is read
                return
            states = hidden.flatten(0, 1).index_select(0, spots.places)
            readings = self._lens.read(layer, states, spots.weights)
            rows.put(number[layer], readings, states)
            self._mass[:, number[layer]] += readings.mass

        answers: Sequence[Answer | None] = [None] * len(images)
        if run.answer:
            answers = self._model.answer(images, run.answer, visit, run.read_layers)
        else:
            self._model.forward(images, visit, run.read_layers)
        cuts = [rows.begin_cut(spots.parts), self._of_answers(answers), self._in_front(spots.prefix)]
        told = [answer and answer.told() for answer in answers]

        def result() -> list[Read]:
            found = cuts[0]() | cuts[1]() | cuts[2]()
            if in_front := found.get("prefix"):
                for i, encoded in enumerate(images):
                    text, behind = encoded.sites["prompt"].numpy(), found[f"{i}/prompt"]
                    own = text[text < in_front["lse"].shape[1]]
                    found[f"{i}/prompt"] = {
                        kind: np.concatenate([in_front[kind][:, own], values], 1) for kind, values in behind.items()
                    }
            read = []
            for i, (name, answer) in enumerate(zip(names, told, strict=True)):
                arrays = {f"{site}/{kind}": values for site in run.at for kind, values in found[f"{i}/{site}"].items()}
                if "last" in run.stored:
                    arrays |= {f"last/{kind}": values[:, -1:] for kind, values in found[f"{i}/prompt"].items()}
                for site in run.at:
                    check_finite(arrays[f"{site}/lse"], name, run)
                read.append(Read(arrays, answer))
            return read

        return result

    def _of_answers(self, answers: Sequence[Answer | None]) -> Callable[[], dict[str, dict[str, np.ndarray]]]:
        """The readings at the answers' tokens, by image, as `Rows.begin_cut` gives them."""
        given = [answer for answer in answers if answer is not None]
        parts = [(f"{i}/answer", len(answer.ids)) for i, answer in enumerate(given)]
        rows = Rows(self._run, sum(count for _, count in parts), self._model)
        if given and rows.count:
            none = torch.zeros(0, rows.count, device=self._model.device)
            for at, layer in enumerate(self._run.read_layers):
                states = torch.cat([answer.states[at] for answer in given])
                rows.put(at, self._lens.read(layer, states, none), states)
        return rows.begin_cut(parts)

    def _in_front(self, prefix: Prefix | None) -> Callable[[], dict[str, dict[str, np.ndarray]]]:
        """The readings at the positions of a prefix, as `Rows.begin_cut` gives them, taken once; none of no prefix,
        or where no prompt is read."""
        if prefix is None or "prompt" not in self._run.at:
            return dict
        if self._of_prefix is None or self._of_prefix[0] is not prefix:
            rows = Rows(self._run, prefix.length, self._model)
            none = torch.zeros(0, prefix.length, device=self._model.device)
            for at, layer in enumerate(self._run.read_layers):
                rows.put(at, self._lens.read(layer, prefix.states[layer], none), prefix.states[layer])
            self._of_prefix = prefix, rows.begin_cut([("prefix", prefix.length)])
        return self._of_prefix[1]

    def _where(self, images: Sequence[Encoded]) -> _Spots:
        """Kept while batches are alike, as they are where all images have one grid."""
        sites = [image.sites for image in images]
        if len(sites) != len(self._sites) or any(map(is_not, sites, self._sites)):
            prefix = self._model.prefix_of(images)
            read = images if prefix is None else [image.behind(prefix.length) for image in images]
            image, place = self._model.places(read, self._run.summed)
            length = max(encoded.length for encoded in images)
            parts = [(f"{i}/{site}", len(one.sites[site])) for i, one in enumerate(read) for site in self._run.summed]
            self._sites, self._spots = sites, _Spots(image * length + place, self._weights(read), parts, prefix)
        return self._spots

    def _weights(self, images: Sequence[Encoded]) -> Tensor:
        """(site, row): which positions go into each site's sums. Every patch, but of the prompt only its last token."""
        spans = []
        for encoded in images:
            for i, site in enumerate(self._run.summed):
                span = torch.zeros(len(self._run.summed), len(encoded.sites[site]))
                span[i, slice(None) if site == "patch" else slice(-1, None)] = 1
                spans.append(span)
        return to_device(torch.cat(spans, 1), self._model.device)

    def sums(self) -> dict[str, np.ndarray]:
        """Per site the probabilities summed over all images read: (layer, vocabulary)."""
        run, mass = self._run, to_host(self._mass)
        mark(self._mass.device)()
        sums = np.zeros((len(run.summed), run.layers, run.vocabulary_size), np.float32)
        sums[:, list(run.read_layers)] = mass.numpy()
        return dict(zip(map(sum_of, run.summed), sums, strict=True))


class Rows:
    """The readings of many positions at the layers that are read, (layer, row, ...), on the model's device until they
    are cut."""

    def __init__(self, run: Run, count: int, model: LensModel) -> None:
        self.count = count
        self._run = run
        layers, device = len(run.read_layers), model.device
        self._token = torch.empty(layers, count, run.k, dtype=torch.int32, device=device)
        self._logprob = torch.empty(layers, count, run.k, device=device)
        self._lse = torch.empty(layers, count, device=device)
        self._entropy = torch.empty(layers, count, device=device)
        self._tracked_logprob = torch.empty(layers, count, len(run.tracked), device=device)
        self._tracked_rank = torch.empty(layers, count, len(run.tracked), dtype=torch.int32, device=device)
        every = run.vocabulary_size if run.keep == "all" else 0
        self._logit = torch.empty(layers, count, every, dtype=getattr(torch, run.logprob_dtype), device=device)
        width = run.width if run.keep == "residual" else 0
        self._residual = torch.empty(layers, count, width, dtype=model.dtype, device=device)

    def put(self, at: int, readings: Readings, states: Tensor) -> None:
        """The readings of the layer that has this place among those that are read, and its (row, d) states."""
        self._token[at], self._logprob[at] = readings.token, readings.logprob
        self._lse[at], self._entropy[at] = readings.lse, readings.entropy
        self._tracked_logprob[at], self._tracked_rank[at] = readings.tracked_logprob, readings.tracked_rank
        self._logit[at] = readings.logit
        if self._run.keep == "residual":
            self._residual[at] = states

    def begin_cut(self, parts: Sequence[tuple[str, int]]) -> Callable[[], dict[str, dict[str, np.ndarray]]]:
        """What consecutive rows hold, as many as each part has, by the parts' names: as it is stored.

        Copies to the host are begun; what is returned waits for them.
        """
        id_dtype, logprob_dtype = (getattr(torch, name) for name in (self._run.id_dtype, self._run.logprob_dtype))
        stored = {
            "token": self._token.to(id_dtype),
            "logprob": self._logprob.to(logprob_dtype),
            "lse": self._lse,
            "entropy": self._entropy,
        }
        if self._run.tracked:
            stored["tracked_logprob"] = self._tracked_logprob.to(logprob_dtype)
            stored["tracked_rank"] = self._tracked_rank.to(id_dtype)
        if self._run.keep == "all":
            stored["logit"] = self._logit
        if self._run.keep == "residual":
            stored["residual"] = self._residual
        copies = {kind: to_host(values) for kind, values in stored.items()}
        done = mark(self._token.device)

        def cut() -> dict[str, dict[str, np.ndarray]]:
            done()
            if self._run.dtype == "bfloat16" and "residual" in copies:  # of which NumPy knows nothing
                copies["residual"] = copies["residual"].float()
            found = {kind: values.numpy() for kind, values in copies.items()}
            found["top1"] = found["token"][..., 0]
            parted, start = {}, 0
            for name, count in parts:
                parted[name] = {kind: values[:, start : start + count] for kind, values in found.items()}
                start += count
            return parted

        return cut


def check_finite(lse: np.ndarray, name: str, run: Run) -> None:
    """Raises RunError naming the image and the first layer at which its logits (layer that is read, position) are not
    numbers."""
    bad = ~np.isfinite(lse)
    if bad.any():
        layer, dtype = run.read_layers[int(np.argwhere(bad)[0][0])], run.dtype
        message = f"{name}: at layer {layer} the model's states are not finite in {dtype}."
        raise RunError(message, if_not_finite(dtype))


def image_table(run: Run, rows: pa.Table, prepared: Sequence[Prepared], answers: Sequence[Answer | None]) -> pa.Table:
    """The image table: those of `schema.READ_COLUMNS` that the run has, then the user's."""
    own = {
        "image_id": rows["image_id"],
        "image": rows["image"],
        "uri": rows["uri"],
        "sha256": pa.array([image.sha256 for image in prepared], pa.string()),
        "width": pa.array([image.size and image.size[0] for image in prepared], pa.uint32()),
        "height": pa.array([image.size and image.size[1] for image in prepared], pa.uint32()),
        "transform": pa.array([image.transform and asdict(image.transform) for image in prepared], TRANSFORM),
        "grid": pa.array([image.grid for image in prepared], GRID),
        "error": pa.array([image.error for image in prepared], pa.string()),
    }
    if run.patches_column is not None:
        some = [image.patches_read for image in prepared]
        own["patches_read"] = pa.array([None if read is None else list(read) for read in some], pa.list_(pa.uint16()))
    if run.prompt_column is not None:
        of_images = [image.prompt_ids for image in prepared]
        own["prompt_ids"] = pa.array([ids and list(ids) for ids in of_images], pa.list_(pa.uint32()))
    if run.answer:
        own |= {
            "answer": pa.array([answer and answer.text for answer in answers], pa.string()),
            "answer_ids": pa.array([answer and list(answer.ids) for answer in answers], pa.list_(pa.uint32())),
            "answer_logprobs": pa.array(
                [answer and list(answer.logprobs) for answer in answers], pa.list_(pa.float32())
            ),
        }
    users = [name for name in rows.column_names if name not in (*own, "shard")]
    return pa.table({name: own[name] for name in READ_COLUMNS if name in own} | {name: rows[name] for name in users})
