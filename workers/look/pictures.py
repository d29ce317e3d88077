"""What a person looks at: a file, an image of Pillow's, or an array, as the bytes of an image file."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from vlq.query.errors import InputError
from vlq.query.image.pictures import BadImage, Unfetched, check_size, decode, fetch, to_rgb, upright
from vlq.query.image.tables import reason
from vlq.workers.corpus import list_images

IN_MEMORY = "image.png"
"""The name of an image that has none."""

HOW = "Give one image: a path or URL, a Pillow image, or an array."

EXPECTED = "image: an array is of shape (height, width) or (height, width, 3), and holds uint8, or floats from 0 to 1."


@dataclass(frozen=True)
class Picture:
    """One image. `uri` is where it lies; None if it came without a place."""

    name: str
    uri: str | None
    data: bytes  # of the file
    pixels: Image.Image  # upright, RGB


def picture_of(image: Any) -> Picture:
    """The image at a path or URL, in a Pillow image, or in an array. Raises InputError, StoreError."""
    name = IN_MEMORY
    try:
        if isinstance(image, str | os.PathLike):
            name, uri = _one(os.fspath(image))
            data = _fetched(uri)
            return Picture(name, uri, data, decode(data))
        if not isinstance(image, Image.Image):
            image = _from_array(image)
        check_size(*image.size)
        pixels = to_rgb(upright(image))
    except BadImage as bad:
        raise InputError(f"{name}: {bad}.", HOW) from bad
    except (OSError, SyntaxError, ValueError) as error:  # Pillow reads a file when its pixels are asked for
        raise InputError(f"{name}: cannot be decoded: {reason(error)}.", HOW) from error
    return Picture(name, None, _as_png(pixels), pixels)


def _one(source: str) -> tuple[str, str]:
    """Name and URI. Raises InputError."""
    try:
        table = list_images(source, 2)
    except InputError as error:
        raise InputError(error.message, HOW) from error
    if table.num_rows > 1:
        raise InputError(f"{source} holds several images.", "Give one of them. vlq run reads many into a cache.")
    return table["image"][0].as_py(), table["uri"][0].as_py()


def _fetched(uri: str) -> bytes:
    """The file's bytes. Raises BadImage, InputError, StoreError."""
    try:
        return fetch(uri)
    except Unfetched as error:
        raise InputError(f"{error}.", error.hint) from error
    except OSError as error:
        raise InputError(f"{uri} cannot be read: {reason(error)}.") from error


def _from_array(image: Any) -> Image.Image:
    """An image of an array's values. Raises InputError."""
    values = np.asarray(image)
    if values.ndim not in (2, 3) or values.shape[2:] not in ((), (1,), (3,), (4,)) or 0 in values.shape:
        got = f"an array of shape {values.shape}" if values.ndim else f"a {type(image).__name__}"
        raise InputError(f"{EXPECTED} Got {got}.", HOW)
    if values.dtype.kind == "f":
        if not (values.min() >= 0 and values.max() <= 1):
            raise InputError(f"{EXPECTED} Got floats from {values.min():g} to {values.max():g}.", HOW)
        values = np.round(values * 255).astype(np.uint8)
    elif values.dtype != np.uint8:
        raise InputError(f"{EXPECTED} Got {values.dtype}.", HOW)
    return Image.fromarray(values.squeeze(2) if values.shape[2:] == (1,) else values)


def _as_png(pixels: Image.Image) -> bytes:
    sink = io.BytesIO()
    pixels.save(sink, "PNG", compress_level=1)
    return sink.getvalue()
