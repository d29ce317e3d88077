"""The same readings written as others write such things, and one question asked of each: bytes, time, first answer.

*VLM-Lens*: its table of SQLite (github.com/compling-wat/vlm-lens), a row with a `torch.save` blob for each image and
layer. *JSON*: a file for each image, the tokens and log-probabilities of each patch at each layer. *HTML*: a page for
each image, a table of the best token by patch and layer, with the others to hover over. All of them hold the k best
tokens with their log-probabilities; VLQ also writes entropies, logsumexp and sums, checksums, and its index.

The question: the first layer at which any patch of each image reads a word, and the patches. Opened anew each time; the
libraries are loaded and the files in the page cache. Pages are for eyes, and are not asked.
"""

from __future__ import annotations

import html
import io
import json
import math
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch

import vlq
from benchmarks.measure import Figure, faster, in_turns, milliseconds, spread
from benchmarks.query import Answer, as_answer, ask, token_of
from benchmarks.readings import OBJECTS, World, shard_readings
from benchmarks.synthetic import RUN_OF, begin, image_table, seal
from vlq.workers.shard import write_shard

ROUNDS = 3
WORD = next(iter(OBJECTS))


@dataclass(frozen=True)
class Image:
    """One image's readings: ids and log-probabilities, each (layer, patch, k)."""

    name: str
    token: np.ndarray
    logprob: np.ndarray


@dataclass(frozen=True)
class Side:
    """One way to keep readings: how they are written into a folder, and how the question is asked of it."""

    write: Callable[[Path], None]
    ask: Callable[[Path], Answer] | None = None


def run(work: Path, *, quick: bool = False, images: int = 0) -> Iterator[Figure]:
    shards, size = (1, 4) if quick else (2, RUN_OF.shard_size)
    world = World(RUN_OF.vocabulary_size)
    made = [shard_readings(world, RUN_OF, range(shard * size, (shard + 1) * size)) for shard in range(shards)]
    read = [
        Image(f"{shard * size + row:06d}.jpg", arrays["patch/token"][row], arrays["patch/logprob"][row])
        for shard, arrays in enumerate(made)
        for row in range(size)
    ]
    pieces, token = [piece.replace("▁", " ") for piece in world.pieces()], token_of(WORD)
    sides = {
        "VLQ": Side(lambda to: write_cache(to, made), lambda to: as_answer(ask(vlq.open(str(to)), WORD))),
        "VLM-Lens": Side(lambda to: write_sqlite(to, read), lambda to: ask_sqlite(to, token)),
        "JSON": Side(lambda to: write_json(to, read, pieces), lambda to: ask_json(to, pieces[token])),
        "HTML": Side(lambda to: write_html(to, read, pieces)),
    }
    with TemporaryDirectory(dir=work) as folder:
        yield from written(Path(folder), sides, len(read))
        yield from asked(Path(folder), sides, 1 if quick else ROUNDS)


def written(folder: Path, sides: Mapping[str, Side], images: int) -> Iterator[Figure]:
    """How long each takes to write, on one thread of Python, and how much there is then."""
    for name, side in sides.items():
        (folder / name).mkdir()
        seconds = milliseconds(partial(side.write, folder / name)) / 1000
        size = sum(path.stat().st_size for path in (folder / name).rglob("*") if path.is_file())
        yield Figure(f"{name}, written", seconds / images * 1000, "ms an image", note=f"{images} images")
        yield Figure(f"{name}, bytes", size / images / 1024, "KiB an image")


def asked(folder: Path, sides: Mapping[str, Side], rounds: int) -> Iterator[Figure]:
    """How long the first answer takes of each. All must give the same."""
    asks = {name: partial(side.ask, folder / name) for name, side in sides.items() if side.ask}
    answers = {name: call() for name, call in asks.items()}
    for name, answer in answers.items():
        if answer != answers["VLQ"]:
            raise AssertionError(f"VLQ and {name} do not agree")
    times = in_turns(rounds, *(partial(milliseconds, call) for call in asks.values()))
    ours = median(times[0])
    for name, theirs in [*zip(asks, times, strict=True)][1:]:
        note = f"{len(answers[name])} images read '{WORD}'; VLQ {spread(times[0])}, {name} {spread(theirs)}"
        yield faster("first answer", ours, median(theirs), name, note=note)


# --- VLQ -------------------------------------------------------------------------------------------------------


def write_cache(folder: Path, made: Sequence[Mapping[str, np.ndarray]]) -> None:
    images = sum(len(arrays["patch/token"]) for arrays in made)
    store, run, plan, head = begin(folder, images)
    first = 0
    for shard, arrays in enumerate(made):
        rows = plan.table.slice(first, len(arrays["patch/token"]))
        write_shard(store, run, shard, first, arrays, image_table(run, rows))
        first += rows.num_rows
    seal(store, run, head)


# --- VLM-Lens --------------------------------------------------------------------------------------------------


def write_sqlite(folder: Path, images: Sequence[Image]) -> None:
    connection = sqlite3.connect(folder / "readings.db")
    connection.execute(
        "CREATE TABLE tensors (id INTEGER PRIMARY KEY, name TEXT NOT NULL, architecture TEXT NOT NULL, "
        "timestamp DATETIME DEFAULT CURRENT_TIMESTAMP, image_path TEXT NOT NULL, prompt TEXT NOT NULL, "
        "layer TEXT NOT NULL, tensor BLOB NOT NULL)"
    )
    for image in images:
        for layer, (token, logprob) in enumerate(zip(image.token, image.logprob, strict=True)):
            blob = io.BytesIO()
            torch.save({"token": torch.from_numpy(token.astype(np.int32)), "logprob": torch.from_numpy(logprob)}, blob)
            row = (RUN_OF.model, RUN_OF.model_class, image.name, RUN_OF.prompt, str(layer), blob.getvalue())
            connection.execute(
                "INSERT INTO tensors (name, architecture, image_path, prompt, layer, tensor) VALUES (?, ?, ?, ?, ?, ?)",
                row,
            )
        connection.commit()
    connection.close()


def ask_sqlite(folder: Path, token: int) -> Answer:
    found: dict[str, tuple[int, list[int]]] = {}
    connection = sqlite3.connect(folder / "readings.db")
    for name, layer, blob in connection.execute("SELECT image_path, layer, tensor FROM tensors ORDER BY id"):
        if name not in found:
            best = torch.load(io.BytesIO(blob), weights_only=True)["token"][:, 0]
            if reads := (best == token).nonzero().flatten().tolist():
                found[name] = int(layer), reads
    connection.close()
    return answer(found)


# --- a file for each image -------------------------------------------------------------------------------------


def write_json(folder: Path, images: Sequence[Image], pieces: Sequence[str]) -> None:
    for image in images:
        readings = {
            "image": image.name,
            "token": [[[pieces[id] for id in best] for best in layer] for layer in image.token.tolist()],
            "logprob": image.logprob.astype(np.float64).round(3).tolist(),
        }
        (folder / f"{image.name}.json").write_text(json.dumps(readings))


def ask_json(folder: Path, word: str) -> Answer:
    found = {}
    for path in folder.iterdir():
        readings = json.loads(path.read_text())
        for layer, patches in enumerate(readings["token"]):
            if reads := [patch for patch, best in enumerate(patches) if best[0] == word]:
                found[readings["image"]] = layer, reads
                break
    return answer(found)


def write_html(folder: Path, images: Sequence[Image], pieces: Sequence[str]) -> None:
    escaped = [html.escape(piece, quote=True) for piece in pieces]

    def cell(ids: Sequence[int], logprobs: Sequence[float]) -> str:
        best = ", ".join(f"{escaped[id]} {math.exp(value):.3f}" for id, value in zip(ids, logprobs, strict=True))
        return f'<td title="{best}">{escaped[ids[0]]}</td>'

    for image in images:
        patches = zip(image.token.swapaxes(0, 1).tolist(), image.logprob.swapaxes(0, 1).tolist(), strict=True)
        rows = [f"<tr>{''.join(map(cell, ids, logprobs))}</tr>" for ids, logprobs in patches]
        page = f"<!doctype html><title>{image.name}</title><table>{''.join(rows)}</table>"
        (folder / f"{image.name}.html").write_text(page)


def answer(found: Mapping[str, tuple[int, list[int]]]) -> Answer:
    """By image number, as `first_layer` says it."""
    return sorted((int(name.partition(".")[0]), layer, patches) for name, (layer, patches) in found.items())
