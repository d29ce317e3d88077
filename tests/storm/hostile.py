"""A corpus of hostile images: what must be read is read, what cannot be is recorded, and memory stays in its bound."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlq.query.cache.reader import Cache

from ..workers.conftest import make_model
from ..workers.runs import commits, start, workers_of

BOUND = 2.5
"""GiB of a worker that images may take, beside what it takes with small ones; docs/running.md states it."""

SMALL = 64
"""Images of a few pixels that are read first: what a worker takes with them is what is compared with."""

Made = tuple[bytes, bool]  # a file, and whether it can be read


def noise(rng: random.Random, width: int = 60, height: int = 50, channels: int = 3) -> Image.Image:
    pixels = np.frombuffer(rng.randbytes(width * height * channels), np.uint8)
    return Image.fromarray(pixels.reshape((height, width, channels) if channels > 1 else (height, width)))


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def claimed(width: int, height: int, data: bytes = bytes(100)) -> bytes:
    """A PNG of a few bytes that claims a size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@cache
def plain(width: int, height: int, mode: str) -> bytes:
    """An image of one colour: small as a file, large in memory."""
    image = (
        Image.fromarray(np.full((height, width), 999, np.uint16))
        if mode == "I;16"
        else Image.new(mode, (width, height))
    )
    return saved(
        image, "TIFF" if mode == "CMYK" else "PNG", **({"compression": "tiff_deflate"} if mode == "CMYK" else {})
    )


def truncated(rng: random.Random) -> Made:
    whole = saved(noise(rng), rng.choice(("PNG", "JPEG", "BMP", "TIFF", "GIF")))
    return whole[: int(len(whole) * rng.uniform(0.05, 0.6))], False


def bomb(rng: random.Random) -> Made:
    side = rng.randint(10_000, 60_000)
    return claimed(side, rng.randint(9_000, 60_000), bytes(rng.randint(1, 4_000_000))), False


def nearly_a_bomb(rng: random.Random) -> Made:
    """Just within the limit on pixels."""
    return plain(9400, 9500, rng.choice(("RGB", "I;16", "CMYK"))), True


def wide(rng: random.Random) -> Made:
    return plain(30_000, rng.choice((300, 400, 1_000, 2_900)), rng.choice(("RGB", "L", "RGBA"))), True


def hairline(rng: random.Random) -> Made:
    return plain(30_000, rng.randint(1, 4), "RGB"), False


def wrong_extension(rng: random.Random) -> Made:
    """An image under a wrong name, or something else under an image's."""
    if rng.random() < 0.5:
        return saved(noise(rng), rng.choice(("JPEG", "GIF", "WEBP", "TIFF", "BMP"))), True
    text = rng.choice(
        (b"%PDF-1.7\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"PK\x03\x04")
    )
    return text + b"hello " * rng.randint(1, 200), False


def zero_bytes(rng: random.Random) -> Made:
    return bytes(rng.choice((0, 0, 1, 100, 10_000))), False


def random_bytes(rng: random.Random) -> Made:
    head = rng.choice((b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF", b"II*\x00"))
    return head + rng.randbytes(rng.randint(1, 50_000)), False


def cmyk(rng: random.Random) -> Made:
    return saved(noise(rng, channels=4).convert("RGB").convert("CMYK"), rng.choice(("JPEG", "TIFF"))), True


def deep(rng: random.Random) -> Made:
    values = np.frombuffer(rng.randbytes(6000), np.uint16).reshape(50, 60)
    return saved(Image.fromarray(values), rng.choice(("PNG", "TIFF"))), True


def animated(rng: random.Random) -> Made:
    frames = [noise(rng, 30, 20) for _ in range(rng.randint(2, 40))]
    format = rng.choice(("GIF", "WEBP", "PNG", "TIFF"))
    return saved(frames[0], format, save_all=True, append_images=frames[1:]), True


KINDS: tuple[Callable[[random.Random], Made], ...] = (
    truncated,
    bomb,
    nearly_a_bomb,
    wide,
    hairline,
    wrong_extension,
    zero_bytes,
    random_bytes,
    cmyk,
    deep,
    animated,
)
HUGE = 5
"""One of so many of the images that are huge when decoded is; of the others each."""


def save_hostile(folder: Path, count: int, seed: int) -> dict[str, tuple[str, bool]]:
    """`count` images behind SMALL sound ones; by name the kind of each, and whether it can be read."""
    folder.mkdir(parents=True)
    rng = random.Random(f"hostile/{seed}")
    made = {}
    for number in range(SMALL):
        name = f"{number:05d}.png"
        (folder / name).write_bytes(saved(noise(rng), "PNG"))
        made[name] = ("sound", True)
    for number in range(SMALL, SMALL + count):
        kind = rng.choice(KINDS)
        while kind in (nearly_a_bomb, wide) and rng.randrange(HUGE):
            kind = rng.choice(KINDS)
        data, readable = kind(rng)
        name = f"{number:05d}.{rng.choice(('png', 'jpg', 'gif', 'webp', 'tif'))}"
        (folder / name).write_bytes(data)
        made[name] = (kind.__name__.replace("_", " "), readable)
    return made


class Sampled:
    """Memory of a run's workers, looked at many times a second while it goes."""

    def __init__(self, process: subprocess.Popen[str], cache: Path) -> None:
        self.before: dict[int, float] = {}  # GiB by process when it had read small images only
        self.most: dict[int, float] = {}  # GiB by process, at most
        self._process, self._cache = process, cache
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while self._process.poll() is None:
            for pid in workers_of(self._process.pid):
                try:
                    status = Path(f"/proc/{pid}/status").read_text()
                    peak = int(status.partition("VmHWM:")[2].split()[0]) / 2**20
                except (OSError, IndexError):
                    continue
                self.most[pid] = peak
                if commits(self._cache) < SMALL // 2 - 2:  # a worker is at most two shards ahead
                    self.before[pid] = peak
            time.sleep(0.1)

    def ended(self) -> None:
        self._thread.join()


@dataclass(frozen=True)
class Outcome:
    """What came of a run over hostile images."""

    kinds: Counter[str]
    unread: int
    wrong: list[str]
    grown: float  # GiB of the worker that grew most
    seconds: float


def storm(work: Path, seed: int, count: int) -> Outcome:
    """One run over `count` hostile images."""
    model = make_model(work / "model")
    made = save_hostile(work / "hostile", count, seed)
    began = time.monotonic()
    process = start(model, work / "hostile", work / "cache", "--workers", "1")
    sampled = Sampled(process, work / "cache")
    _, said = process.communicate(timeout=3000)
    sampled.ended()
    seconds = time.monotonic() - began
    if process.returncode != 0:
        return Outcome(Counter(), 0, [f"exit code {process.returncode}: {said}"], 0.0, seconds)
    errors = {name: reason for _, name, reason in Cache.open(str(work / "cache")).snapshot().errors}
    wrong = [
        f"{name} ({kind}): {errors.get(name, 'read')}"
        for name, (kind, sound) in made.items()
        if (name in errors) == sound
    ]
    grown = max(most - sampled.before[pid] for pid, most in sampled.most.items())
    if grown > BOUND:
        wrong.append(f"a worker grew by {grown:.2f} GiB")
    if len(sampled.most) != 1:
        wrong.append(f"there were {len(sampled.most)} workers: some died")
    kinds = Counter(kind for kind, _ in made.values() if kind != "sound")
    return Outcome(kinds, len(errors), wrong, grown, seconds)
