"""The page of an image of LLaVA-1.5's size (576 patches, 33 layers) in Chromium: when it can be used, what it
loads, what pointing costs. The service is a process of its own, on a local cache."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles

from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks import synthetic
from benchmarks.measure import Figure, at_most, spread

INTERACTIVE_MS = 1000
LENS_KB = 400
FRAME_MS = 1000 / 60

WATCH = """
addEventListener("pointermove", () => (window.moved ??= performance.now()), { capture: true });
addEventListener("DOMContentLoaded", () => new MutationObserver(() => {
  const tip = document.querySelector(".tip");
  if (window.moved && tip && !tip.hidden) window.told ??= performance.now();
}).observe(document, { subtree: true, childList: true, attributes: true }));
"""
"""Notes when the first movement came, and when the tooltip answered it, from the start of the navigation."""


def run(work: Path, *, quick: bool = False, images: int = 500) -> Iterator[Figure]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        raise RuntimeError("There is no Chromium here. On Debian: apt-get install chromium")
    cache = synthetic.make(work, 32)
    with served(cache) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        interactive(browser, f"{url}/images/0")  # opens the cache, and starts the browser's processes
        found = [interactive(browser, f"{url}/images/{number}") for number in range(1, 4 if quick else 16)]
        drawn, usable = ([one[part] for one in found] for part in (0, 1))
        yield Figure("navigation to the first layer's drawing", median(drawn), "ms", note=f"{spread(drawn)}")
        yield at_most(
            "and to the first answer to the pointer", median(usable), "ms", INTERACTIVE_MS, note=spread(usable)
        )
        for k in (1, 5):
            size = compressed(f"{url.rpartition('/')[0]}/v1/images/1/lens?k={k}") / 1000
            yield at_most(f"readings, k {k}, gzipped", size, "kB", LENS_KB)
        for place in ("picture", "table"):
            moves = 40 if quick else 400
            costs = pointing(browser, f"{url}/images/1", place, moves, "timeTicks")
            yield at_most(
                f"main thread, a move on the {place}, p95",
                quantiles(costs, n=20)[-1],
                "ms",
                FRAME_MS,
                note=spread(costs),
            )
            costs = pointing(browser, f"{url}/images/1", place, moves, "threadTicks")
            yield Figure("the same, its CPU time", quantiles(costs, n=20)[-1], "ms", note=spread(costs))
        browser.close()


@contextmanager
def served(cache: Path) -> Iterator[str]:
    """The address of a corpus that a service of its own serves."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-c",
        "from vlq.query.cli import main; main()",
        "serve",
        "--cache",
        f"llava={cache}",
        "--port",
        str(port),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        until = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{url}/healthz").close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError("vlq serve does not start.") from None
                time.sleep(0.1)
        yield f"{url}/llava"
    finally:
        process.terminate()
        process.wait()


def interactive(browser: Browser, url: str) -> tuple[float, float]:
    """Milliseconds from the start of the navigation, in a browser that has kept nothing: until the first readings are
    drawn, and until the tooltip has answered the pointer (less what the test waited before it moved)."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    page.add_init_script(WATCH)
    page.goto(url, wait_until="commit")
    page.wait_for_selector("html[data-k]", state="attached")
    at(page, 0.5, 0.5)
    page.wait_for_function("window.told")
    drawn, moved, told = page.evaluate(
        "[performance.getEntriesByName('drawn')[0].startTime, window.moved, window.told]"
    )
    context.close()
    return drawn, drawn + told - moved


def at(page: Page, x: float, y: float, element: str = "#stage") -> None:
    box = page.locator(element).bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])


def compressed(url: str) -> int:
    """Bytes of an answer as they are sent."""
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept-Encoding": "gzip"})) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        return len(answer.read())


def pointing(browser: Browser, url: str, where: str, moves: int, clock: str) -> list[float]:
    """Milliseconds that the page's main thread was busy, of each move to another patch until its frame was drawn.

    By the clock on the wall (`timeTicks`), in which other processes may take their turns, or by the thread's own.
    """
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("html[data-k='5']", state="attached")
    page.wait_for_timeout(500)
    session = context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": clock})
    element = {"picture": "#stage", "table": ".scroller"}[where]
    box = page.locator(element).bounding_box()
    assert box is not None

    def busy() -> float:
        metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
        return float(metrics["TaskDuration"])

    def frame() -> None:
        page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")

    idle, costs = [], []
    for i in range(moves):
        before = busy()
        frame()
        idle.append(busy() - before)
        # By steps that are no divisors of the grid, so that every move comes to another patch, near or far.
        x, y = (i * 0.137) % 0.98 + 0.01, (i * 0.071) % 0.9 + 0.08
        before = busy()
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        frame()
        costs.append(busy() - before)
    context.close()
    # Asking for the figures, and for a frame, has the main thread busy by itself.
    return [max(0.0, 1000 * (cost - median(idle))) for cost in costs]
