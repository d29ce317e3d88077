"""How many images a second a worker's threads fetch, decode and prepare for LLaVA-1.5's vision tower (336 pixels).

No model runs beside them. A model that reads more than so many has to wait for images.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.inputs import PROMPT, build_wide, made, save_photos
from benchmarks.measure import Figure
from vlq.workers.extract import prepare
from vlq.workers.machine import cpu_count
from vlq.workers.models import load
from vlq.workers.worker import DECODERS


def run(work: Path, *, quick: bool = False, images: int = 0) -> Iterator[Figure]:
    model = load(str(made(work / "wide-random-model", build_wide)), prompt=PROMPT)
    count = 16 if quick else 256
    folders = {
        "640 x 480 JPEGs": made(work / f"photos-{count}", lambda folder: save_photos(folder, count)),
        "4,000 x 3,000 JPEGs": made(work / f"large-photos-{count // 8}", lambda folder: save_large(folder, count // 8)),
    }
    for name, folder in folders.items():
        uris = [str(path) for path in sorted(folder.iterdir())]
        for threads in (1, DECODERS):
            with ThreadPoolExecutor(threads) as decoders:
                list(decoders.map(partial(prepare, model), uris[:threads]))
                start = time.perf_counter()
                found = list(decoders.map(partial(prepare, model), uris))
                seconds = time.perf_counter() - start
            assert all(image.error is None for image in found)
            counted = f"{threads} thread{'s' if threads > 1 else ''} on {cpu_count()} cores"
            yield Figure(f"{name}, {counted}", len(uris) / seconds, "images/s")


def save_large(folder: Path, count: int) -> None:
    """Pictures as large as a telephone's: 12 megapixels, with noise as sensors have it."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((4000, 3000), Image.Resampling.BICUBIC)).astype(np.int16)
        pixels += rng.integers(-8, 9, pixels.shape, dtype=np.int16)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:05d}.jpg", quality=90)
