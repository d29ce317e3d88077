"""Large images take turns, and their memory goes back to the system."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

from PIL import Image

from vlq.query.image.pictures import FORMATS

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
