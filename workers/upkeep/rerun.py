"""Does the model still say what the cache holds? Some images read anew, and compared reading by reading."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import chain, count, groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import transformers
import zarr

from vlq.query.cache.reader import Cache
from vlq.query.cache.tables import parquet_table
from vlq.query.errors import CacheMismatch, CorruptCache, StoreError
from vlq.query.schema import Commit, Run, commit_key
from vlq.workers.extract import read_shard
from vlq.workers.indexing.index import Progress
from vlq.workers.lenses import lens_of
from vlq.workers.models import load
from vlq.workers.models.base import LensModel
from vlq.workers.models.files import model_hash, resolve
from vlq.workers.ray_errors import reason
from vlq.workers.upkeep.verify import RUN_AGAIN, Finding

TOLERANCE = {"float32": 1e-4, "float16": 0.05, "bfloat16": 0.4}
"""By how many nats two readings of one image may differ, batched and computed in whatever way, by dtype: some 6 steps
of the half precisions at the size of logits, which are around 10."""

MIXED = {"8bit": 1.0}
"""The same where LLM.int8() lets an image's readings depend on its batch; up to 0.3 nats were seen."""
LOGITS = 10.0
"""The size of logits that the tolerances are made for."""
LARGE = 32.0
"""Logits beyond this, as the head gives of states that are not normed, may differ by more, in proportion."""

SHOWN = 5
"""Differences of an image that are each told; the others are counted."""


def rerun(cache: Cache, model: str | None, sample: int, seed: int, progress: Progress) -> Iterator[Finding]:
    """Everything in which `sample` images, read anew, differ from what is stored. Damaged shards are passed over.

    `model` is where the run's model is now, if it moved. Raises ModelError if it cannot be loaded, CacheMismatch if it
    is another one.
    """
    run = cache.run
    chosen = _chosen(cache, sample, seed)
    progress("loading the model", 0, 0)
    loaded = model_of(run, model, cache.url)
    try:
        lens = lens_of(loaded, run, cache.store)
    except CorruptCache:
        return  # told of by `verify`
    total, done = sum(len(rows) for _, rows in chosen), count(1)

    def counted(rows: Sequence[int]) -> Iterator[int]:
        for row in rows:
            yield row
            progress("reading images anew", next(done), total)

    with ThreadPoolExecutor(1) as decoder:
        read = partial(read_shard, loaded, lens, run, decoders=decoder)
        for commit, rows in chosen:
            yield from _compare(cache, read, commit, counted(rows))


def model_of(run: Run, model: str | None, cache: str, device: str | None = None) -> LensModel:
    """The model of a cache's run, loaded as it was for it; `model` is where it is now, if it moved. On the run's device
    where there is one, unless another is asked for.

    Raises ModelError if it cannot be loaded, CacheMismatch if it is another one.
    """
    name = model or run.model
    revision = run.revision if name == run.model else None
    check_hash(name, resolve(name, revision=revision), run, cache)
    if device is None:
        device = "cuda" if run.device == "cuda" and torch.cuda.is_available() else "cpu"
    torch.set_num_threads(run.threads)
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    return load(
        name,
        revision=revision,
        prompt=run.prompt,
        device=device,
        dtype=run.dtype,
        attention=run.attention if device == run.device else "auto",
        quantize=run.quantized,
        answer=run.answer > 0,
    )


def found_among(run: Run, places: Sequence[str]) -> str | None:
    """Which of some folders or hub models is a run's model, by its hash: the first one. None if none is.

    Raises ModelError if one that is looked at is no model.
    """
    return next((place for place in places if model_hash(resolve(place)) == run.model_hash), None)


def check_hash(name: str, folder: Path, run: Run, cache: str) -> None:
    """Raises CacheMismatch if a model, whose files are in a folder, is not the one of a cache's run."""
    found = model_hash(folder)
    if found != run.model_hash:
        raise CacheMismatch(
            f"{name} is not the model of {cache}: its hash is {found[:12]}, the run's {run.model_hash[:12]}.",
            "Say where the run's model is: --model FOLDER_OR_ID",
        )


def _chosen(cache: Cache, sample: int, seed: int) -> list[tuple[Commit, list[int]]]:
    """Shards and rows of so many images, the same ones for the same seed."""
    images = [(commit, row) for commit in cache.snapshot().commits for row in range(commit.images)]
    order = np.random.default_rng(seed).permutation(len(images))[:sample]
    by_shard = groupby((images[i] for i in sorted(order)), itemgetter(0))
    return [(commit, [row for _, row in of_shard]) for commit, of_shard in by_shard]


Read = Callable[[pa.Table], tuple[dict[str, np.ndarray], pa.Table]]
"""Arrays and image table of the plan's rows, as `read_shard` gives them."""


def _compare(cache: Cache, read: Read, commit: Commit, rows: Iterable[int]) -> Iterator[Finding]:
    """What differs of some of a shard's images, which are read alone. Half precision rounds by what else is in a batch:
    where an image differs its shard is read, in the batches of the run, and what differs then, too, is told."""
    run = cache.run
    try:
        for stored in commit.objects:
            cache.read(stored)
        table = parquet_table(cache.read(commit.images_table))
    except CorruptCache:
        return
    group, images = cache.group(commit.shard), table.to_pylist()
    asked = [name for name in (run.prompt_column, run.patches_column) if name is not None]
    plan = table.select(["image_id", "image", "uri", *asked])
    found: dict[int, list[Finding]] = {}
    for row in rows:
        image = images[row]
        if image["sha256"] is None:  # it was never there, and its link may be as dead as it was
            continue
        try:
            arrays, anew = read(plan.slice(row, 1))
        except (OSError, StoreError) as error:
            yield Finding(_name(image), f"cannot be fetched: {reason(error)}", "make the images reachable from here")
            continue
        (now,) = anew.to_pylist()
        if now["sha256"] != image["sha256"]:
            what = "the file is not the one that was read" if now["sha256"] else f"cannot be fetched: {now['error']}"
            yield Finding(_name(image), what, f"bring {image['uri']} back, or cache it anew")
            continue
        found[row] = [*_differences(run, commit, group, row, image, arrays, 0, now)]
    if any(found.values()):
        fetched = [row for row, image in enumerate(images) if image["sha256"] is not None]
        with suppress(OSError, StoreError, torch.cuda.OutOfMemoryError):
            arrays, anew = read(plan.take(fetched))
            # Of other images batches would be others: what was found holds then.
            if anew["sha256"].equals(table.take(fetched)["sha256"]):
                for at, (row, now) in enumerate(zip(fetched, anew.to_pylist(), strict=True)):
                    if found.get(row):
                        found[row] = [*_differences(run, commit, group, row, images[row], arrays, at, now)]
    yield from chain.from_iterable(found.values())


def _name(image: Mapping[str, Any]) -> str:
    return f"image {image['image_id']} ({image['image']})"


def _differences(
    run: Run,
    commit: Commit,
    group: zarr.Group,
    row: int,
    image: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    at: int,
    now: Mapping[str, Any],
) -> Iterator[Finding]:
    """In what an image that was read anew differs: its row of a shard's group and of the image table, and its place in
    the new arrays and its row of their table."""
    where, redo = _name(image), f"delete {commit_key(commit.shard)}, and {RUN_AGAIN}"
    more = (*(["prompt_ids"] if run.prompt_column else []), *(["patches_read"] if run.patches_column else []))
    more = (*more, *(("answer", "answer_ids") if run.answer else ()))
    for column in ("error", "width", "height", "transform", "grid", *more):
        if now[column] != image[column]:
            yield Finding(where, f"{column} is {now[column]}, stored is {image[column]}", redo)
    if now["error"] is not None or image["error"] is not None:
        return
    for site in run.stored:
        names, layers = ["token", "logprob", "top1", "lse", "entropy"], list(run.read_layers)
        names += {"all": ["logit"], "residual": ["residual"]}.get(run.keep, [])
        names += ["tracked_logprob"] if run.tracked else []  # ranks follow from these and their neighbours
        # A shard has room for the image with most positions. Whether it has those of before was told above.
        own: slice | list[int] = slice(None)
        if site in run.uneven:
            own = sorted({*positions_of(image, site)} & {*positions_of(now, site)})
        old = {name: np.asarray(group[f"{site}/{name}"][row])[layers][:, own] for name in names}  # type: ignore[index]
        new = {name: arrays[f"{site}/{name}"][at][layers][:, own] for name in names}
        cells = list(differing(run, old, new))
        for layer, place, what in islice(cells, SHOWN):
            position = place if isinstance(own, slice) else own[place]
            yield Finding(f"{where}, layer {layer}, {site} {position}", what, redo)
        if len(cells) > SHOWN:
            yield Finding(f"{where}, {site}", f"{len(cells) - SHOWN:,} more readings differ", redo)


def positions_of(image: Mapping[str, Any], site: str) -> Sequence[int]:
    """The positions of an image that were read at a site of `Run.uneven`, by its row of the image table."""
    if site != "patch":
        return range(len(image[f"{site}_ids"]))
    read: Sequence[int] | None = image.get("patches_read")
    return range(math.prod(image["grid"].values())) if read is None else read


def differing(run: Run, old: dict[str, np.ndarray], new: dict[str, np.ndarray]) -> Iterator[tuple[int, int, str]]:
    """(layer, position, in what) of each reading that differs by more than the tolerance; arrays of one image, of the
    layers that are read.

    Ids may change places with neighbours that are as probable, and the last one with one that is not stored.
    """
    usual = max(TOLERANCE[run.dtype], MIXED.get(run.quantized or "", 0.0))
    tolerance = usual * np.maximum(1, np.abs(old["lse"].astype(np.float64)) / LARGE)  # (layer, position)
    for name in (name for name in old if name not in ("token", "top1")):
        a, b = old[name].astype(np.float64), new[name].astype(np.float64)
        if name == "residual":  # whose largest numbers are to states what logits around 10 are to readings
            largest = np.maximum(np.abs(a).max(-1), np.finfo(np.float32).tiny)
            far = ~(_apart(a, b) <= (usual * largest / LOGITS)[..., None])
            yield from _told(run, name, a, b, far)
            continue
        far = ~(_apart(a, b) <= (tolerance if a.ndim == 2 else tolerance[..., None]))
        yield from _told(run, name, a, b, far)
    logprob = old["logprob"].astype(np.float64)
    gaps = np.minimum(np.abs(np.diff(logprob, prepend=np.inf)), np.abs(np.diff(logprob, append=-np.inf)))
    gaps[..., -1] = 0
    for at, cell in _cells(run, (old["token"] != new["token"]) & ~(gaps <= 2 * tolerance[..., None])):
        yield *at, f"tokens are {new['token'][cell].tolist()}, stored are {old['token'][cell].tolist()}"
    for at, cell in _cells(run, old["top1"] != old["token"][..., 0]):
        yield *at, f"top1 is {old['top1'][cell]}, the first token {old['token'][cell][0]}"


def _apart(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """By how much they differ; NaN where one of them is no number. What is below all numbers in both is the same."""
    with np.errstate(invalid="ignore"):
        return np.where(old == new, 0.0, np.abs(old - new))


def _told(run: Run, name: str, old: np.ndarray, new: np.ndarray, far: np.ndarray) -> Iterator[tuple[int, int, str]]:
    for at, cell in _cells(run, far):
        worst = _worst(_apart(old, new)[cell])
        yield *at, f"{name} is {new[cell][worst]:.6g}, stored is {old[cell][worst]:.6g}"


def _cells(run: Run, wrong: np.ndarray) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """(layer, position) where anything is wrong, and where that is in the array."""
    anywhere = wrong.any(tuple(range(2, wrong.ndim)))
    for place, position in np.argwhere(anywhere).tolist():
        yield (run.read_layers[place], position), (place, position)


def _worst(differences: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(np.nan_to_num(differences, nan=np.inf).argmax(), differences.shape))
