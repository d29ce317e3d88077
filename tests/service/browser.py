"""A real browser for the tests of pages: Debian's Chromium, without a window."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Response, sync_playwright

# The others make a window for each page, which nobody sees, and its toolbar, for as much again as the page takes.
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("There is no Chromium here. On Debian: apt-get install chromium-headless-shell")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def watched(browser: Browser, url: str, may_be_cut_off: bool = False, **options: Any) -> Iterator[Page]:
    """A page at an address. At its end nothing was wrong: no error on the console, no request that failed (but on one
    that may be cut off) or that went elsewhere than to `url`'s host."""
    context = browser.new_context(**options)
    page = context.new_page()
    page.set_default_timeout(20_000)
    wrong: list[str] = []

    def on_console(message: ConsoleMessage) -> None:
        if may_be_cut_off and "net::ERR_" in message.text:
            return
        if message.type in ("error", "warning"):
            wrong.append(f"{message.type}: {message.text}")

    def on_request(request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob", "file") and parts.netloc != urlsplit(url).netloc:
            wrong.append(f"a request to {request.url}")

    def on_response(response: Response) -> None:
        # What a page asks to learn of a mistake is answered with it.
        asks = any(name in response.url for name in ("/v1/check", "/v1/query", "/ablation"))
        if response.status >= 400 and not asks:
            wrong.append(f"{response.status} from {response.url}")

    page.on("console", lambda message: None if "400 (Bad Request)" in message.text else on_console(message))
    page.on("pageerror", lambda error: wrong.append(f"an error: {error}"))
    page.on("request", on_request)
    page.on("response", on_response)
    try:
        page.goto(url)
        yield page
    finally:
        context.close()
    assert not wrong, wrong


def accessible(page: Page) -> None:
    """No finding of axe's that is more than minor."""
    # Without `preload` it fetches no style sheets, which a page of a file may not. What it has no objection to is not
    # written down, which would take longer than to look.
    options = {"preload": False, "resultTypes": ["violations"]}
    violations = Axe().run(page, options=options).response["violations"]
    found = [one for one in violations if one["impact"] != "minor"]
    assert not found, [(one["id"], [node["html"] for node in one["nodes"]][:5]) for one in found]
