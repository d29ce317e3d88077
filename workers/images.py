"""How images come to a worker: large ones take turns, and links that are dead may be passed over."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO

from PIL import Image

from vlq.query.image.pictures import FORMATS, WEB, BadImage, Unfetched, fetch

BACK_OFF = (1.0, 2.0, 4.0)
"""Seconds before a link is tried again, give or take a half."""

LARGE = 2**24
"""Pixels beyond which an image is large. A process has one such in memory at a time, however many threads decode."""

# Pillow's usual blocks of 16 MiB are small enough for malloc to keep them for the thread that freed them: each of a
# worker's threads would hold on to a large image's gigabyte. These go back to the system.
Image.core.set_block_size(2**26)  # type: ignore[attr-defined]

_one_large = threading.Lock()


@contextmanager
def turn_of(data: bytes) -> Iterator[None]:
    """Wait until no other large image is in memory, if this one is large: decode and use it in this context."""
    if _is_large(data):
        with _one_large:
            yield
    else:
        yield


def _is_large(data: bytes) -> bool:
    """What the image's head says of its size. What has none is for `decode` to judge."""
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            return image.width * image.height > LARGE
    except Exception:
        return False


# --- dead links ------------------------------------------------------------------------------------------------


class DeadLink(BadImage):
    """A web server does not give an image."""

    def __init__(self, error: Unfetched) -> None:
        super().__init__(f"not fetched: {error.said}")
        self.was_answered = error.is_refusal
        """Whether it says so itself. If not, it may be the network."""


Fetch = Callable[[str], bytes]
"""From a URI to the file's bytes. Raises what `pictures.fetch` does."""


def fetching(skip_dead_links: bool) -> Fetch:
    """How a worker fetches images. Raises DeadLink where links that are dead are to be skipped."""
    return _fetch_alive if skip_dead_links else _fetch_all


def _fetch_all(uri: str) -> bytes:
    try:
        return fetch(uri)
    except Unfetched as error:
        if uri.startswith(WEB):
            error.hint = "With --skip-dead-links images that web servers do not give are recorded, and the others read."
        raise


def _fetch_alive(uri: str) -> bytes:
    """Raises DeadLink where a web server refuses an image, or does not give it in four tries."""
    for pause in (*BACK_OFF, None):
        try:
            return fetch(uri)
        except Unfetched as error:
            if not uri.startswith(WEB):
                raise
            if error.is_refusal or pause is None:
                raise DeadLink(error) from error
            time.sleep(pause * random.uniform(0.5, 1.5))
    raise AssertionError("unreachable")
