"""`vlq run --dry-run`: what a run would do, and from a few of its images what that would take. Nothing is written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log, prod
from typing import Any, NamedTuple

from vlq.query.cache.records import missing_shards
from vlq.query.cache.tables import parquet_bytes
from vlq.query.errors import printable
from vlq.query.info import as_bytes, kept
from vlq.query.schema import LENS, LensSpec, Run, layers_phrase
from vlq.query.store import Store
from vlq.query.summary import count
from vlq.workers.beginning import beginning_of
from vlq.workers.images import fetching
from vlq.workers.indexing.compactor import FIRST
from vlq.workers.indexing.merge import FAN_IN
from vlq.workers.job import arrange
from vlq.workers.lenses import lens_of
from vlq.workers.machine import Here, memory, resident
from vlq.workers.plan import (
    Plan,
    RunOptions,
    check_shards,
    first_plan,
    foreseen,
)
from vlq.workers.progress import Tracker, duration
from vlq.workers.sample import Sample, read_sample, spent
from vlq.workers.worker import DECODERS, Description, load_model

RAY = 100 * 2**20
"""Bytes of a worker that are Ray's."""

SHOWN_ERRORS = 5
"""How many images that cannot be read are named."""


@dataclass(frozen=True)
class Cost:
    """What it takes to read the images that are missing, by what a sample of them took."""

    sample: Sample
    image_bytes: float  # of one that can be read
    bytes: int  # that come into the cache
    weights: int  # bytes
    memory: int | None  # bytes of a worker; None where the system does not say
    free_memory: int | None  # bytes of this machine, before the model was loaded
    cores: int
    gpus: int
    workers: int  # that a run would start on this machine
    fitting: int  # that its memory has room for
    loading: float  # seconds
    reading: float  # seconds
    indexing: float  # seconds


@dataclass(frozen=True)
class Estimate:
    """What a run would do, and what that takes if there is anything to do."""

    cache: str
    run: Run
    images: int
    shards: int
    missing_images: int
    missing_shards: int
    cost: Cost | None


def estimate(options: RunOptions, tracker: Tracker) -> Estimate:
    """Load the model in this process, and read a few images that are not cached yet.

    Raises what a run does before it begins, and InputError and RunError as `read_sample` does.
    """
    import transformers

    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    found = beginning_of(options, tracker)
    options, corpus, store, begun, lens = found.options, found.corpus, found.store, found.run, found.lens
    if store is not None and begun is not None:
        plan = foreseen(store, begun, corpus)
        if not missing_shards(store, plan.shards):
            return Estimate(options.cache, begun, plan.images, plan.shards, 0, 0, None)
    if options.ray_address or os.environ.get("RAY_ADDRESS"):
        tracker.say("The Ray cluster is not asked: what follows is of this machine.")
    machine, room = Here(), memory()
    free = room.available if room else None
    setup, most = arrange(options, lens, begun, machine)
    tracker.phase("loading the model")
    with spent() as loading:
        model, description = load_model(setup)
    found.meet(description, tracker)
    run, beside, translators = begun or description.run, 0, None
    if begun is None:
        if store is not None:
            check_shards(store, run)
        plan = first_plan(corpus, run.shard_size, run.prompt_column)
        if lens.tuned is not None:
            translators = lens.tuned.in_memory()
        beside = _bytes_beside(description, plan, translators)
    missing = [*range(plan.shards)] if store is None else missing_shards(store, plan.shards)
    rows = plan.rows_of_all(missing)
    weights = sum(tensor.nbytes for tensor in [*model.model.parameters(), *model.model.buffers()])
    reader = lens_of(model, run, store if translators is None else translators)
    loaded = resident()
    tracker.phase("reading a few images")
    sample = read_sample(model, reader, run, rows, setup.calls, fetching(options.skip_dead_links))
    workers, sizes = min(most(), len(missing)), sample.sizes
    need = None if loaded is None or sample.memory is None else loaded + round(sample.memory) + RAY
    readable = rows.num_rows * sample.images / (sample.images + len(sample.errors))
    image_bytes = sizes.arrays + sizes.postings + sizes.index + sizes.shard * len(missing) / readable
    shards = [plan.rows_of(shard).num_rows for shard in missing]
    cost = Cost(
        sample=sample,
        image_bytes=image_bytes,
        bytes=round(image_bytes * readable) + beside,
        weights=weights,
        memory=need,
        free_memory=free,
        cores=machine.cpus(),
        gpus=machine.gpus(),
        workers=workers,
        fitting=workers if need is None or free is None else max(1, free // need),
        loading=max(loading.seconds, workers * loading.cpu / machine.cpus()),  # all of them load it at once
        reading=reading_seconds(sample, shards, workers, machine.cpus(), setup.calls - 1)
        + ends_seconds(sample, shards, workers, machine.cpus(), run.batch_size, setup.calls - 1),
        indexing=sample.merging.seconds * plan.images * passes(plan.shards) + sample.summing.seconds * plan.shards,
    )
    return Estimate(options.cache, run, plan.images, plan.shards, rows.num_rows, len(missing), cost)


def reading_seconds(sample: Sample, shards: Sequence[int], workers: int, cores: int, writers: int = 1) -> float:
    """Seconds in which so many workers read shards of so many images each, and write so many shards at once. In the
    last round some may have none, or a smaller one, and leave the others alone."""
    last = len(shards) % workers or workers
    seconds = sum(shards[:-last]) * image_seconds(sample, workers, cores, len(shards), writers)
    done = 0
    for place, images in enumerate(sorted(shards[-last:])):
        busy = last - place
        seconds += (images - done) * busy * image_seconds(sample, busy, cores, len(shards), writers)
        done = images
    return seconds


def ends_seconds(
    sample: Sample, shards: Sequence[int], workers: int, cores: int, batch: int, writers: int = 1
) -> float:
    """Seconds at the beginning and the end of reading, in which a worker does one thing alone: it prepares the first
    batch, which the model then reads more slowly than others, and writes what was read last."""
    begin = min(batch, shards[0]) * sample.preparing.seconds / min(DECODERS, cores) + sample.warming
    last = max(shards[-workers:])
    alone, shared = _limits(sample, workers, cores, len(shards), writers)
    if shared > max(alone):
        # What keeps all cores busy was counted as if it were spread over them to the end.
        return begin + last * sample.writing.seconds * max(0.0, 1 - workers / cores)
    is_written_slowest = max(alone) == alone.writing > alone.reading
    return begin + last * (sample.reading if is_written_slowest else sample.writing).seconds


def image_seconds(sample: Sample, workers: int, cores: int, shards: int, writers: int = 1) -> float:
    """Seconds in which so many workers together read an image: by what each does alone, or by the cores they share."""
    alone, shared = _limits(sample, workers, cores, shards, writers)
    return max(*alone, shared)


class _Alone(NamedTuple):
    """Seconds an image, if a worker's only limit were this one."""

    reading: float
    writing: float
    preparing: float


def _limits(sample: Sample, workers: int, cores: int, shards: int, writers: int) -> tuple[_Alone, float]:
    """Seconds an image of so many workers together: by what each does alone, and by the cores they share."""
    # A worker reads one shard while it writes others, and has images prepared by several threads.
    each = sample.reading.seconds, sample.writing.seconds / writers, sample.preparing.seconds / DECODERS
    # A long run is indexed beside the reading, too, which merges its rows twice.
    merging = 2 * sample.merging.cpu if shards >= FIRST else 0.0
    # On a machine that is busy with something else a second of work takes longer; waiting for images is no work.
    work = [max(cost.seconds, cost.cpu) for cost in (sample.reading, sample.writing)]
    shared = sum(work) + sample.preparing.cpu + merging
    return _Alone(*(seconds / workers for seconds in each)), shared / cores


def passes(shards: int) -> int:
    """How many times the rows of so many shards are merged: some shards at a time, and again what comes of it."""
    return max(1, ceil(log(shards, FAN_IN) - 1e-9))


def _bytes_beside(description: Description, plan: Plan, translators: Store | None) -> int:
    """What a new cache holds beside its shards and its index. `translators` holds a tuned lens'."""
    parts = (description.vocabulary, description.tokenizer or b"", parquet_bytes(plan.table))
    of_lens = 0 if translators is None else sum(entry.size for entry in translators.list(LENS))
    return sum(map(len, parts)) + len(description.run.to_bytes()) + of_lens + description.beside


# --- what is said of it ----------------------------------------------------------------------------------------


def as_values(estimate: Estimate) -> dict[str, Any]:
    """Plain values: bytes, and seconds."""
    run, cost = estimate.run, estimate.cost
    values: dict[str, Any] = {
        "cache": estimate.cache,
        "images": estimate.images,
        "shards": estimate.shards,
        "missing": {"images": estimate.missing_images, "shards": estimate.missing_shards},
        "model": run.model,
        "model_class": run.model_class,
        "revision": run.revision,
        "dtype": run.dtype,
        "quantized": run.quantized,
        "attention": run.attention,
        "compiled": run.compiled,
        "device": run.device,
        "lens": run.lens.plain(),
        "prompt": run.prompt,
        "patches_read": run.patches_option,
        "layers": run.layers,
        "read_layers": list(run.read_layers),
        "grid": run.grid and list(run.grid),
        "patches": run.patches,
        "k": run.k,
        "keep": run.keep,
        "width": run.width or None,
        "at": list(run.at),
        "answer": run.answer,
        "tracked": [{"id": id, "piece": piece} for id, piece in zip(run.tracked, run.tracked_pieces, strict=True)],
        "batch_size": run.batch_size,
        "shard_size": run.shard_size,
        "estimates": None,
    }
    if cost is None:
        return values
    sample = cost.sample
    patches = [prod(grid) for grid in sample.grids]
    values["estimates"] = {
        "tried": {
            "images": sample.images,
            "errors": [{"image": name, "reason": reason} for name, reason in sample.errors],
            "patches": {"least": patches[0], "most": patches[-1]},
        },
        "bytes": {
            "total": cost.bytes,
            "image": round(cost.image_bytes),
            "arrays": round(sample.sizes.arrays),
            "postings": round(sample.sizes.postings),
            "index": round(sample.sizes.index),
            "shard": round(sample.sizes.shard),
        },
        "memory": {
            "worker": cost.memory,
            "weights": cost.weights,
            "gpu": sample.gpu_memory,
            "free": cost.free_memory,
        },
        "workers": {"started": cost.workers, "fitting": cost.fitting, "cores": cost.cores, "gpus": cost.gpus},
        "seconds": {
            "total": cost.loading + cost.reading + cost.indexing,
            "loading": cost.loading,
            "reading": cost.reading,
            "indexing": cost.indexing,
            "image": cost.reading / estimate.missing_images,
        },
    }
    return values


def as_text(values: dict[str, Any]) -> str:
    """The same for a person."""
    found, last, some = values["estimates"], values["layers"] - 1, values["read_layers"]
    read = f"; read are {layers_phrase(some)}" if len(some) < values["layers"] else ""
    missing = values["missing"]["images"]
    cached = values["images"] - missing
    which = [values["model_class"], values["revision"] and f"revision {values['revision'][:12]}", values["dtype"]]
    which += [values["quantized"], f"attention {values['attention']}", values["compiled"] and "compiled"]
    which += [f"on {values['device']}"]
    lines = [
        ("cache", f"{values['cache']}: {f'{cached:,} images are cached' if cached else 'nothing is cached yet'}"),
        ("images", f"{values['images']:,}, in {count(values['shards'], 'shard')} of {values['shard_size']} at most"),
        ("model", f"{values['model']} ({', '.join(filter(None, which))})"),
        ("prompt", repr(values["prompt"])),
        ("lens", str(LensSpec.of(values["lens"]))),
        ("layers", f"{values['layers']}: 0 is the embedding, {last} the last block's output{read}"),
        ("grid", _grid(values)),
        ("read at", ", ".join(values["at"])),
    ]
    if values["tracked"]:
        lines.append(("tracked", ", ".join(f"{token['piece']} ({token['id']})" for token in values["tracked"])))
    if beside := kept(values):
        lines.append(("keep", beside))
    if found is not None:
        lines += _estimates(values, found)
    text = [f"{name:<8} {value}" for name, value in lines]
    if found is None:
        return "\n".join([*text, "Nothing to do: all images are cached already."])
    tried, errors = found["tried"], found["tried"]["errors"]
    if errors:
        text.append(f"{len(errors)} of {tried['images'] + len(errors)} images that were tried cannot be read:")
        text += [f"  {printable(error['image'])}: {error['reason']}" for error in errors[:SHOWN_ERRORS]]
    text.append(f"Sizes, memory and time are estimates from {count(tried['images'], 'image')}. Nothing was written.")
    return "\n".join(text)


def _grid(values: dict[str, Any]) -> str:
    return _whole_grid(values) + (f"; read are those of {some}" if (some := values["patches_read"]) else "")


def _whole_grid(values: dict[str, Any]) -> str:
    if values["grid"]:
        return "{} x {} patches".format(*values["grid"])
    own = f"each image has its own, of at most {values['patches']:,} patches"
    if values["estimates"] is None:
        return own
    patches = values["estimates"]["tried"]["patches"]
    return f"{own}; {patches['least']:,} to {patches['most']:,} in those tried"


def _estimates(values: dict[str, Any], found: dict[str, Any]) -> list[tuple[str, str]]:
    size, need, workers, seconds = found["bytes"], found["memory"], found["workers"], found["seconds"]
    parts = ", ".join(f"{part} {as_bytes(size[part])}" for part in ("arrays", "postings", "index"))
    held = "unknown" if need["worker"] is None else f"{as_bytes(need['worker'])} a worker"
    if need["gpu"] is not None:
        held += f"; {as_bytes(need['gpu'])} on its GPU"
    free = "" if need["free"] is None else f" and {as_bytes(need['free'])} of free memory"
    gpus = f"{count(workers['gpus'], 'GPU')}, " if workers["gpus"] else ""
    started = f"{workers['started']} on this machine, with {gpus}{count(workers['cores'], 'core')}{free}"
    if workers["fitting"] < workers["started"]:
        started += f". Only {workers['fitting']} fit: use --workers {workers['fitting']}"
    each = f"{1000 * seconds['image']:.3g} ms" if seconds["image"] < 1 else f"{seconds['image']:.3g} s"
    time = f"{duration(seconds['total'])}, and Ray's start: {duration(seconds['loading'])} to load the model, "
    time += f"{duration(seconds['reading'])} to read ({each} an image), {duration(seconds['indexing'])} to index"
    return [
        ("size", f"{as_bytes(size['total'])} more; {as_bytes(size['image'])} an image ({parts})"),
        ("memory", f"{held}, {as_bytes(need['weights'])} of it for weights"),
        ("workers", started),
        ("time", time),
    ]
