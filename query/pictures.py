"""The pixels of a corpus' image, which lie wherever they did when it was cached."""

from __future__ import annotations

import hashlib
from io import BytesIO

import numpy as np


def pixels(uri: str, sha256: str, size: tuple[int, int]) -> np.ndarray | None:
    """The image's upright pixels; None unless it is there and the same as when it was cached."""
    from PIL import Image, ImageOps

    try:
        if uri.startswith("file://"):
            with open(uri.removeprefix("file://"), "rb") as file:
                data = file.read()
        else:
            import fsspec

            with fsspec.open(uri, "rb") as file:
                data = file.read()
        if hashlib.sha256(data).hexdigest() != sha256:
            return None
        with Image.open(BytesIO(data)) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except Exception:
        # Whatever keeps a picture away (network, a missing protocol, a decoder): there is still the rest to draw.
        return None
    return np.asarray(upright) if upright.size == size else None
