"""Caches of random readings, written through the real writer, for tests that need no model."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save

from vlq.query.cache.tables import parquet_bytes
from vlq.query.cache.unembed import METADATA, Recipe
from vlq.query.schema import (
    RUN,
    VOCABULARY,
    Head,
    Run,
    Transform,
    array_specs,
    digest_of,
    head_key,
    plan_key,
    record_bytes,
    sum_of,
    unembed_key,
)
from vlq.query.store import Store, open_store
from vlq.workers.indexing.index import compact
from vlq.workers.models.vocabulary import vocabulary_hash
from vlq.workers.shard import write_shard

WORDS = ["dog", "Dog", "cat", "rock", "ear", "nose", "sky", "beach", "puppy", "tree"]

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


def make_run(**changes: object) -> Run:
    """A run whose fields can be chosen; two rows of its lm_head have no text. Without a grid each image has its own."""
    values: dict[str, object] = {
        "model": "synthetic",
        "model_class": "LlavaForConditionalGeneration",
        "model_hash": "0" * 64,
        "prompt": "USER: <image>\nWhat is it? ASSISTANT:",
        "prompt_ids": (0, 1, 2),
        "layers": 5,
        "grid": (3, 4),
        "patches": 12,
        "k": 4,
        "at": ("patch", "prompt"),
        "vocabulary_size": len(WORDS) + 6,
        "dtype": "float32",
        "shard_size": 4,
    }
    values |= changes
    if values["grid"] is not None:
        values["patches"] = math.prod(values["grid"])  # type: ignore[arg-type]
    vocabulary = vocabulary_table(values["vocabulary_size"])  # type: ignore[arg-type]
    values.setdefault("vocabulary_hash", vocabulary_hash(vocabulary))
    values.setdefault("checksums", {VOCABULARY: digest_of(parquet(vocabulary))})
    if values.get("keep") == "residual":
        values.setdefault("width", 4)
        digest = digest_of(head_bytes(values["vocabulary_size"]))  # type: ignore[arg-type]
        values["checksums"] = {**values["checksums"], unembed_key(digest): digest}  # type: ignore[dict-item]
    return Run(**values)  # type: ignore[arg-type]


def vocabulary_table(size: int) -> pa.Table:
    """Word-start pieces of WORDS, then mid-word 'ear' and 'dog', a special one, fillers, and two ids without text."""
    pieces: list[str | None] = [f"▁{word}" for word in WORDS] + ["ear", "dog", "<s>"]
    pieces += [f"w{i}" for i in range(size - 2 - len(pieces))]
    pieces = [*pieces[: size - 2], None, None]
    return pa.table(
        {
            "id": pa.array(range(size), pa.uint32()),
            "piece": pa.array(pieces, pa.string()),
            "text": pa.array([None if p is None else p.replace("▁", " ") for p in pieces], pa.string()),
            "word_start": pa.array([p is not None and p.startswith("▁") for p in pieces]),
            "special": pa.array([p == "<s>" for p in pieces]),
        }
    )


def head_of(size: int) -> np.ndarray:
    """(vocabulary, 4) a head whose logits are exact in float32, and many of them equal."""
    return np.random.default_rng(size).integers(-3, 4, (size, 4)).astype(np.float32) / 4


def head_bytes(size: int) -> bytes:
    """The object that makes logits of states by `head_of` alone."""
    return save({"head.weight": head_of(size)}, {METADATA: Recipe("float32").to_json()})


def random_grids(run: Run, images: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """The run's grid for each image, or some of all shapes that its most patches allow."""
    if run.grid is not None:
        return [run.grid] * images
    rows = rng.integers(1, run.patches + 1, images)
    return [(int(n), int(rng.integers(1, run.patches // n + 1))) for n in rows]


MOST_PROMPT = 6
"""Text tokens of an image's own prompt, at most."""


def random_prompts(run: Run, images: int, seed: int) -> list[list[int]]:
    """Ids of a prompt for each image, of several lengths; the run's for all if images have none of their own."""
    if run.prompt_column is None:
        return [[*run.prompt_ids]] * images
    rng = np.random.default_rng([seed, 1])
    return [rng.integers(0, len(WORDS) + 2, rng.integers(1, MOST_PROMPT + 1)).tolist() for _ in range(images)]


def random_patches(run: Run, grids: Sequence[tuple[int, int]], seed: Sequence[int]) -> list[list[int]] | None:
    """Of each image the patches that are read, from none to all; None if all are of every image."""
    if run.patches_column is None:
        return None
    rng = np.random.default_rng([*seed, 2])
    shares = rng.choice([0, 0.3, 0.7, 1], len(grids))
    return [
        np.flatnonzero(rng.random(math.prod(grid)) < share).tolist() for grid, share in zip(grids, shares, strict=True)
    ]


def as_text(ids: Sequence[int]) -> str:
    return " ".join([*WORDS, "ear", "dog"][id] for id in ids)


def random_answers(run: Run, images: int, rng: np.random.Generator) -> list[list[int]]:
    """Ids of an answer for each image, of any length that the run allows."""
    if not run.answer:
        return [[]] * images
    return [rng.integers(0, len(WORDS) + 2, rng.integers(0, run.answer + 1)).tolist() for _ in range(images)]


def random_readings(
    run: Run,
    images: int,
    rng: np.random.Generator,
    failed: Sequence[int] = (),
    grids: Sequence[tuple[int, int]] | None = None,
    answers: Sequence[Sequence[int]] | None = None,
    prompts: Sequence[Sequence[int]] | None = None,
    chosen: Sequence[Sequence[int]] | None = None,
) -> dict[str, np.ndarray]:
    """All arrays of a shard, from random logits with many equal values, so that ties and repeated readings occur.

    Those of a run with a `width` are of random states.
    """
    counts = {
        "patch": [math.prod(grid) for grid in grids or random_grids(run, images, rng)],
        "prompt": [len(prompt) for prompt in prompts or random_prompts(run, images, 0)],
        "last": [1] * images,
        "answer": [len(answer) for answer in answers or random_answers(run, images, rng)],
    }
    lengths = {site: max(1, *counts[site]) for site in run.stored}
    unread = [layer for layer in range(run.layers) if layer not in run.read_layers]
    arrays = {spec.name: np.full(spec.shape, spec.fill, spec.dtype) for spec in array_specs(run, images, lengths)}
    for site in run.at:
        shape = (images, run.layers, lengths[site], run.vocabulary_size)
        states = rng.integers(-5, 6, (*shape[:3], run.width)).astype(np.float64)
        logits = states @ head_of(run.vocabulary_size).T if run.width else rng.integers(0, 24, shape) / 4.0
        shifted = np.exp(logits - logits.max(-1, keepdims=True))
        lse = np.log(shifted.sum(-1)) + logits.max(-1)
        logprob = logits - lse[..., None]
        order = np.argsort(-logits, axis=-1, kind="stable")[..., : run.k]
        probability = np.exp(logprob)
        probability[:, unread] = 0
        values = {
            "token": order,
            "logprob": np.take_along_axis(logprob, order, -1),
            "top1": order[..., 0],
            "lse": lse,
            "entropy": -(np.exp(logprob) * logprob).sum(-1),
        }
        if run.tracked:
            every = np.argsort(np.argsort(-logits, axis=-1, kind="stable"), axis=-1) + 1
            values["tracked_logprob"] = logprob[..., list(run.tracked)]
            values["tracked_rank"] = every[..., list(run.tracked)]
        if run.keep == "all":
            values["logit"] = logits
        if run.keep == "residual":
            values["residual"] = states
        for name, value in values.items():
            array = arrays[f"{site}/{name}"]
            array[...] = value.astype(array.dtype)
            fill = np.full((), _fill(run, f"{site}/{name}"), array.dtype)
            array[list(failed)] = fill
            array[:, unread] = fill
            for image, count in enumerate(counts[site]):
                array[image, :, count:] = fill
                probability[image, :, count:] = 0
                if site == "patch" and chosen is not None:
                    others = np.delete(np.arange(lengths[site]), chosen[image])
                    array[image, :, others] = fill
                    probability[image, :, others] = 0
        kept = np.delete(probability, list(failed), axis=0)
        if site in run.summed:
            ends = np.delete(np.array(counts[site]) - 1, list(failed))
            last = kept[np.arange(len(kept)), :, ends]
            arrays[sum_of(site)][...] = kept.sum((0, 2)) if site == "patch" else last.sum(0)
    if "last" in run.stored:
        ends = np.array(counts["prompt"]) - 1
        for name in [name.partition("/")[2] for name in arrays if name.startswith("prompt/")]:
            arrays[f"last/{name}"][:, :, 0] = arrays[f"prompt/{name}"][np.arange(images), :, ends]
    return arrays


def _fill(run: Run, name: str) -> float | int:
    return next(spec.fill for spec in array_specs(run, 1, run.positions) if spec.name == name)


IDENTITY = Transform(1.0, 1.0, 0.0, 0.0, 112, 112)


def image_table(
    names: Sequence[str],
    first: int,
    failed: Sequence[int],
    run: Run,
    transform: Transform = IDENTITY,
    size: tuple[int, int] = (112, 112),
    grids: Sequence[tuple[int, int]] | None = None,
    answers: Sequence[Sequence[int]] | None = None,
    prompts: Sequence[Sequence[int]] | None = None,
    chosen: Sequence[Sequence[int]] | None = None,
    **columns: Sequence[object],
) -> pa.Table:
    """The image table of a shard; `failed` are positions within it."""
    good = [i not in failed for i in range(len(names))]
    if grids is None:
        assert run.grid is not None
        grids = [run.grid] * len(names)
    return pa.table(
        {
            "image_id": pa.array(range(first, first + len(names)), pa.uint32()),
            "image": pa.array(names, pa.string()),
            "uri": pa.array([uri_of(name) for name in names]),
            "sha256": pa.array([hashlib.sha256(name.encode()).hexdigest() for name in names]),
            "width": pa.array([size[0] if ok else None for ok in good], pa.uint32()),
            "height": pa.array([size[1] if ok else None for ok in good], pa.uint32()),
            "transform": pa.array([asdict(transform) if ok else None for ok in good], TRANSFORM),
            "grid": pa.array([grid if ok else None for grid, ok in zip(grids, good, strict=True)], GRID),
            "error": pa.array([None if ok else "truncated" for ok in good], pa.string()),
            **({} if chosen is None else {"patches_read": lists(good, chosen, pa.uint16())}),
            **({"prompt_ids": lists(good, prompts or [], pa.uint32())} if run.prompt_column else {}),
            **(answer_columns(good, answers or []) if run.answer else {}),
            **{name: pa.array(values) for name, values in columns.items()},
        }
    )


def lists(good: Sequence[bool], numbers: Sequence[Sequence[int]], kind: pa.DataType) -> pa.Array:
    """A list for each image, null for one that failed."""
    return pa.array([own if ok else None for own, ok in zip(numbers, good, strict=True)], pa.list_(kind))


def answer_columns(good: Sequence[bool], answers: Sequence[Sequence[int]]) -> dict[str, pa.Array]:
    """Texts, ids and log-probabilities, which are of an id and its place."""
    kept = [answer if ok else None for answer, ok in zip(answers, good, strict=True)]
    texts = [None if ids is None else as_text(ids) for ids in kept]
    logprobs = [None if ids is None else [-(id + place) / 8 for place, id in enumerate(ids)] for ids in kept]
    return {
        "answer": pa.array(texts, pa.string()),
        "answer_ids": pa.array(kept, pa.list_(pa.uint32())),
        "answer_logprobs": pa.array(logprobs, pa.list_(pa.float32())),
    }


def uri_of(name: str) -> str:
    """Where an image lies: of several questions about one image, a.png, a.png#2 and so on, in one place."""
    return "file:///images/" + re.sub(r"#\d+$", "", name)


def planned(names: Sequence[str], columns: Mapping[str, Sequence[object]], shard_size: int) -> pa.Table:
    """The plan of these images."""
    return pa.table(
        {
            "image_id": pa.array(range(len(names)), pa.uint32()),
            "shard": pa.array([i // shard_size for i in range(len(names))], pa.uint32()),
            "image": pa.array(names, pa.string()),
            "uri": pa.array([uri_of(name) for name in names]),
            **{name: pa.array(values) for name, values in columns.items()},
        }
    )


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def shards(count: int, size: int) -> Iterator[tuple[int, int, int]]:
    """(shard, its first image, its images)."""
    for shard, first in enumerate(range(0, count, size)):
        yield shard, first, min(size, count - first)


def edit_record(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what a record says, as another writer of records would have written it."""
    values = json.loads(path.read_bytes())
    del values["checksum"]
    change(values)
    path.write_bytes(record_bytes(values))


def make_cache(
    folder: Path | str,
    run: Run | None = None,
    *,
    images: int = 10,
    failed: Sequence[int] = (),
    seed: int = 0,
    seal: bool = True,
    names: Sequence[str] | None = None,
    columns: Mapping[str, Sequence[object]] | None = None,
    transform: Transform = IDENTITY,
    pixels: tuple[int, int] = (112, 112),
    vocabulary: pa.Table | None = None,
) -> tuple[Store, Run, dict[str, np.ndarray]]:
    """A cache of random readings, with the arrays of all its images joined (the sums added up)."""
    run = run or make_run()
    if vocabulary is not None:
        run = replace(run, checksums={**run.checksums, VOCABULARY: digest_of(parquet(vocabulary))})
    store = open_store(str(folder), create=True)
    store.create(VOCABULARY, parquet(vocabulary or vocabulary_table(run.vocabulary_size)))
    store.create(RUN, run.to_bytes())
    if run.unembed:
        store.create(run.unembed, head_bytes(run.vocabulary_size))
    rng = np.random.default_rng(seed)
    # Names whose order is not the order of the ids.
    names = names or [f"{(i * 7919) % 1000:03d}-{i}.png" for i in range(images)]
    prompts = random_prompts(run, images, seed)
    if run.prompt_column is not None:
        columns = {run.prompt_column: [as_text(ids) for ids in prompts], **(columns or {})}
    plan = parquet_bytes(planned(names, columns or {}, run.shard_size))
    count = sum(1 for _ in shards(images, run.shard_size))
    head = Head(1, plan_key(digest_of(plan)[:16]), count, images, False, None)
    store.create(head.plan, plan)
    store.create(head_key(1), head.to_bytes())
    parts = []
    for shard, first, size in shards(images, run.shard_size):
        missing = [i - first for i in failed if first <= i < first + size]
        grids = random_grids(run, size, rng)
        answers = random_answers(run, size, rng)
        asked, chosen = prompts[first : first + size], random_patches(run, grids, [seed, first])
        readings = random_readings(run, size, rng, missing, grids, answers, asked, chosen)
        own = {name: values[first : first + size] for name, values in (columns or {}).items()}
        shown = names[first : first + size]
        table = image_table(shown, first, missing, run, transform, pixels, grids, answers, asked, chosen, **own)
        write_shard(store, run, shard, first, readings, table)
        parts.append(readings)
    if seal:
        key, _ = compact(store, run, head)
        store.create(head_key(2), Head(2, head.plan, count, images, True, key).to_bytes())
    return store, run, {name: joined(run, name, [part[name] for part in parts]) for name in parts[0]}


def joined(run: Run, name: str, parts: Sequence[np.ndarray]) -> np.ndarray:
    """An array of all shards: sums added up, others behind each other, those of fewer patches filled up."""
    if name.startswith("sum/"):
        return np.asarray(np.sum(parts, axis=0))
    most = max(part.shape[2] for part in parts)
    filled = []
    for part in parts:
        whole = np.full((*part.shape[:2], most, *part.shape[3:]), _fill(run, name), part.dtype)
        whole[:, :, : part.shape[2]] = part
        filled.append(whole)
    return np.concatenate(filled)
