"""The service under load: 50 clients at once that ask without a pause, on a cache of LLaVA-1.5's size.

The clients are a process of their own, on the same cores as the server, of which they are to take little: they speak
HTTP/1.1 over kept connections as browsers do, read each answer whole, and unpack one in UNPACKED. What they ask:
queries (6 of 10), of which half are new to the server each time; images with their readings (2), tokens (1), and a
search for one (1). Before the clock starts each kind was asked once: what is measured is warm.

Times are of the first minute. The clients then go on for two more, over which memory is to stay as it is: within the
first it grows, as answers are kept until they take what they may.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, median, quantiles
from typing import Any

import httpx2

from benchmarks.measure import Figure, at_most, figures_of, number
from benchmarks.readings import OBJECTS
from benchmarks.synthetic import make

CLIENTS = 50
SECONDS = 60.0
LASTS = 3
"""So many times as long they ask: memory is watched behind the first of these."""
IMAGES = 256
P99_MS = 500.0
GROWTH = 1.05
UNPACKED = 20
"""One in so many answers is unpacked, to see whether it is sound."""


def run(work: Path, *, quick: bool = False, images: int = 500) -> Iterator[Figure]:
    cache = make(work, 32 if quick else IMAGES)
    seconds = 5.0 if quick else SECONDS
    with served(cache) as (url, process):
        command = [sys.executable, "-m", "benchmarks.load", url, str(seconds), str(process.pid)]
        told = figures_of(command)
    asked = sum(len(times) for times in told["times"].values())
    yield Figure("requests", asked / seconds, "a second", note=f"{asked:,} in {seconds:g} s, {CLIENTS} clients at once")
    note = "; ".join([f"of {told['answered']:,}", *told["errors"]])
    yield at_most("requests that failed", told["failed"], "", 0, note=note)
    for kind, times in told["times"].items():
        shown = f"median {number(median(times))} ms, {len(times):,} requests"
        p99 = quantiles(times, n=100)[98]
        if kind.startswith("queries"):
            yield at_most(f"{kind}: p99", p99, "ms", P99_MS, note=shown)
        else:
            yield Figure(f"{kind}: p99", p99, "ms", note=shown)
    begun, warm, end = told["memory"]
    kept = [f"{size / 2**20:,.0f} MiB" for size in told["kept"]]
    note = f"{begun:,.0f} MiB at its beginning, {warm:,.0f} at its end, {kept[0]} of them answers that are kept"
    yield Figure("memory of the server, growth in these seconds", warm / begun, "", note=note)
    note = f"{warm:,.0f} MiB before, {end:,.0f} at the end, {kept[1]} of them answers that are kept"
    name = f"memory of the server, growth in the {(LASTS - 1) * seconds:g} s behind them"
    yield at_most(name, end / warm, "", GROWTH, note=note)


@contextmanager
def served(cache: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server of a cache, in a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    command = [sys.executable, "-m", "vlq", "serve", "--cache", f"load={cache}", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                httpx2.get(f"{url}/healthz")
                break
            except httpx2.TransportError:
                if process.poll() is not None:
                    raise RuntimeError("the server ended") from None
                time.sleep(0.1)
        yield url, process
    finally:
        process.terminate()
        process.wait()


# --- the clients -----------------------------------------------------------------------------------------------


def kinds(images: int, words: list[str], draw: random.Random) -> dict[str, tuple[float, Any]]:
    """What is asked, by kind: its share, and what draws the path and the body of a request."""

    def known() -> tuple[str, Any]:
        word = draw.choice(words)
        forms = ("first_layer('{}')", "first_layer('{}', min_patches=3)", "emergence('{}')", "last_layer('{}')")
        return "/v1/query", {"query": draw.choice(forms).format(word), "limit": 50}

    def new() -> tuple[str, Any]:
        low = draw.uniform(0.01, 0.9)
        return "/v1/query", {"query": f"first_layer('{draw.choice(words)}', min_prob={low:.6f})", "limit": 50}

    def image() -> tuple[str, Any]:
        return f"/v1/images/{draw.randrange(images)}{draw.choice(('', '/lens?k=1', '/lens'))}", None

    return {
        "queries": (0.3, known),
        "queries with a new bound each": (0.3, new),
        "images and their readings": (0.2, image),
        "tokens": (0.1, lambda: (f"/v1/tokens/{draw.randrange(32_000)}", None)),
        "searches": (0.1, lambda: (f"/v1/tokens?q={draw.choice(words)[:2]}", None)),
    }


class Connection:
    """One client's: a request at a time."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._asked = 0

    async def ask(self, path: str, body: Any = None) -> tuple[int, bytes]:
        """The status and the body as it came. Raises ValueError if that is damaged, OSError, EOFError."""
        if not self._asked:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        self._asked += 1
        sent = b"" if body is None else json.dumps(body).encode()
        kind = "" if body is None else f"Content-Type: application/json\r\nContent-Length: {len(sent)}\r\n"
        head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
        head += f"Accept: */*\r\nAccept-Encoding: gzip, deflate\r\nUser-Agent: load\r\n{kind}\r\n"
        self._writer.write(head.encode() + sent)
        first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        answer = await self._reader.readexactly(int(headers["content-length"]))
        if headers.get("content-encoding") == "gzip" and self._asked % UNPACKED == 0:
            gzip.decompress(answer)
        return int(first.split()[1]), answer


async def clients(url: str, seconds: float, pid: int) -> dict[str, Any]:
    """Times of so many seconds; the process' memory (MiB) when they begin, when they end, and at the end of all."""
    host, _, port = url.removeprefix("http://").partition(":")
    times: dict[str, list[float]] = {}
    errors: dict[str, int] = {}
    memory: list[float] = []
    kept: list[float] = []
    answered = 0
    client = Connection(host, int(port))
    images = json.loads((await client.ask("/v1/corpora"))[1])["corpora"][0]["images"]
    draw = random.Random(0)
    asked = kinds(images, list(OBJECTS), draw)
    for _, ask in asked.values():
        for _ in range(5):
            await client.ask(*ask())
    warm = time.perf_counter() + seconds
    end = warm + (LASTS - 1) * seconds
    shares = [share for share, _ in asked.values()]

    async def one() -> None:
        nonlocal answered
        connection = Connection(host, int(port))
        while time.perf_counter() < end:
            (kind,) = draw.choices(list(asked), shares)
            path, body = asked[kind][1]()
            begun = time.perf_counter()
            try:
                status, answer = await connection.ask(path, body)
                wrong = "" if status == 200 else f"{status} {answer[:200]!r}"
            except (OSError, EOFError, ValueError, KeyError) as error:
                wrong = f"{type(error).__name__}: {error}"
                connection = Connection(host, int(port))
            answered += 1
            if begun < warm:
                times.setdefault(kind, []).append((time.perf_counter() - begun) * 1000)
            if wrong:
                errors[wrong] = errors.get(wrong, 0) + 1

    async def watch() -> None:
        for until in (warm, end):
            while time.perf_counter() < until:
                memory.append(resident(pid))
                await asyncio.sleep(0.5)
            marks.append(len(memory))
            told = (await Connection(host, int(port)).ask("/metrics"))[1]  # who is silent for long is left
            found = re.search(
                rb"^vlq_kept_bytes (\S+)", told if told[:2] != b"\x1f\x8b" else gzip.decompress(told), re.M
            )
            kept.append(float(found.group(1)) if found else 0.0)

    marks: list[int] = []
    await asyncio.gather(watch(), *(one() for _ in range(CLIENTS)))
    parts = memory[: marks[0] // 6], memory[marks[0] * 5 // 6 : marks[0]], memory[marks[0] // -6 :]
    return {
        "times": times,
        "failed": sum(errors.values()),
        "errors": list(errors)[:3],
        "answered": answered,
        "memory": [mean(part) for part in parts],
        "course": memory[::20],
        "kept": kept,
    }


def resident(pid: int) -> float:
    """MiB of memory that a process holds."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found.group(1)) / 1024 if found else 0.0


if __name__ == "__main__":
    print(json.dumps(asyncio.run(clients(sys.argv[1], float(sys.argv[2]), int(sys.argv[3])))))
