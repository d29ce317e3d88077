"""A corpus' images as a browser shows them."""

from __future__ import annotations

import io
from functools import lru_cache

from vlq.query.client.one import OneImage
from vlq.query.image.pictures import pixels

LARGEST = 4096
"""Pixels of the longer side at most."""

SMALL = 2**18
"""So many pixels at most are stored without loss."""


def picture(image: OneImage, side: int) -> tuple[bytes, str] | None:
    """An image's upright pixels, the longer side no longer than `side`, and its media type.

    None unless the image is where it was, and the same as when it was cached: nothing else is ever shown.
    """
    try:
        return _encoded(image.uri, image.sha256, image.size, side)
    except LookupError:  # which is not remembered: the image may come back
        return None


@lru_cache(maxsize=256)
def _encoded(uri: str, sha256: str, size: tuple[int, int], side: int) -> tuple[bytes, str]:
    from PIL import Image

    found = pixels(uri, sha256, size)
    if found is None:
        raise LookupError(uri)
    drawn = Image.fromarray(found)
    drawn.thumbnail((side, side))
    sink = io.BytesIO()
    if drawn.width * drawn.height <= SMALL:
        drawn.save(sink, "PNG")
        return sink.getvalue(), "image/png"
    drawn.save(sink, "JPEG", quality=90)
    return sink.getvalue(), "image/jpeg"
