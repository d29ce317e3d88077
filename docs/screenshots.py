"""The pictures of the pages in README and docs, of the demo's cache: python docs/screenshots.py (after `make demo`)."""

from __future__ import annotations

import io
import shutil
import threading
import time
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from vlq.query.cache.reader import demo_url
from vlq.service.app import create_app
from vlq.service.server import server
from vlq.service.settings import Settings

FOLDER = Path(__file__).parent / "pictures"

PAGES = {
    "corpus": "?q=first_layer('dog')&view=images",
    "image": "images/10?layer=6&pins=52,35",
    "token": "tokens/286",
    "layers": "layers",
    "compare": "compare?images=10,169",
}
"""What is shown of each page, by its name."""

WIDTH, HEIGHT = 1280, 900


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    made = server(create_app(Settings({"demo": demo_url()})), "127.0.0.1", 0, log_level="warning")
    thread = threading.Thread(target=made.run, daemon=True)
    thread.start()
    while not made.started:
        time.sleep(0.05)
    url = f"http://127.0.0.1:{made.servers[0].sockets[0].getsockname()[1]}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, where in PAGES.items():
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
            page.goto(f"{url}/demo/{where}")
            page.wait_for_load_state("networkidle")
            taken = Image.open(io.BytesIO(page.screenshot()))
            # Few colours take a third of the bytes.
            taken.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(FOLDER / f"{name}.png", optimize=True)
            page.close()
        browser.close()
    made.should_exit = True
    thread.join()


if __name__ == "__main__":
    main()
