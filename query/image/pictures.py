"""From a URI to upright RGB pixels, or to the reason why not: one way for what a model reads and for what is drawn.

What is wrong with an image's bytes is a `BadImage`, recorded and counted. What keeps the bytes from arriving whole
(permission, network) raises `OSError` or `StoreError`, so that a shard is tried again: it says nothing about the
image.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import struct
import zlib
from http import HTTPStatus
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vlq.query.errors import StoreError
from vlq.query.image.embedded import SCHEME, embedded
from vlq.query.image.members import MEMBER, Changed, Member
from vlq.query.stores.files import read_object
from vlq.query.stores.location import kind_of, path_here

MAX_PIXELS = 89_478_485
"""Images of more pixels are taken for decompression bombs: Pillow's own limit."""

MAX_BYTES = 2**30
"""Files of more bytes are no images that are read: so many pixels of 16 bits and four channels take less."""

MAX_ASPECT = 100
"""Processors scale the shorter side up; a hairline would become gigabytes."""

BAND = 2**20
"""Pixels of a deep image that are scaled at a time."""

Image.init()
FORMATS = tuple(
    name
    for name in (
        "AVIF",
        "BMP",
        "DIB",
        "GIF",
        "ICO",
        "JPEG",
        "JPEG2000",
        "PCX",
        "PNG",
        "PPM",
        "QOI",
        "TGA",
        "TIFF",
        "WEBP",
    )
    if name in Image.OPEN
)
"""Raster formats only, as far as this Pillow was built with them: it would hand EPS to Ghostscript."""


WEB = ("http://", "https://")

PATIENCE = {"total": 300, "sock_connect": 30, "sock_read": 60}
"""Seconds that a web server has for an image, to be reached, and to send anything more of it."""

PASSING = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)
"""What a web server says that may answer otherwise a moment later, as with all that begins with 5."""


class BadImage(Exception):
    """The bytes are there and are no usable image. The message is the reason, short."""


class Unfetched(OSError):
    """An image's bytes did not arrive."""

    said = ""
    """Why, in a few words."""

    is_refusal = False
    """Whether a web server said that it will not give them, and would say the same again."""

    hint: str | None = None


def fetch(uri: str) -> bytes:
    """The file's bytes.

    Raises BadImage if the file's folder, bucket or server is there without it, if what is there is no file, or one that
    is larger than any image; OSError
    or StoreError if it cannot be read, which a folder that is gone is taken for: a mount went away, and says nothing
    about its images.
    """
    if (path := path_here(uri)) is not None:
        return _fetch_local(path)
    if uri.startswith(SCHEME):
        return _fetch_embedded(uri)
    if uri.startswith(MEMBER):
        return _fetch_member(uri)
    if not kind_of(uri):
        return _fetch_elsewhere(uri)
    try:
        size, data = read_object(uri, MAX_BYTES)
    except FileNotFoundError as error:
        raise BadImage("file not found") from error
    except ValueError as error:
        raise BadImage("keys with empty parts, dots for one, or control characters are not read") from error
    check_bytes(size)
    return data


def _fetch_local(path: str) -> bytes:
    try:
        about = os.stat(path)
        if not stat.S_ISREG(about.st_mode):  # reading a pipe would wait, and a device may have no end
            raise BadImage("a folder, not a file" if os.path.isdir(path) else "not a regular file")
        check_bytes(about.st_size)
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError as error:
        if not os.path.isdir(folder := os.path.dirname(path)):
            raise FileNotFoundError(errno.ENOENT, "No such folder", folder) from error
        raise BadImage("file not found") from error
    except ValueError as error:  # NUL
        raise BadImage("file not found: that is no name of a file") from error
    except OSError as error:
        if error.errno not in NO_FILE:
            raise
        raise BadImage(f"file not found: {os.strerror(error.errno or 0).lower()}") from error


NO_FILE = (errno.ELOOP, errno.ENAMETOOLONG)
"""What the system says of names behind which there can be no file, however often one asks."""


def _fetch_embedded(uri: str) -> bytes:
    """From a row of a Parquet file. That this is gone, or no such file any more, says nothing about its images."""
    try:
        data = embedded(uri)
    except IndexError as error:
        raise BadImage(f"not in its table: {error}") from error
    except StoreError:
        raise
    except Exception as error:  # of Arrow, of file systems, and what their libraries raise
        raise _unreadable(uri, error) from error
    if data is None:
        raise BadImage("no image in its row")
    check_bytes(len(data))
    return data


def _fetch_member(uri: str) -> bytes:
    """Of a tar. That this is gone, or another one, says nothing about its images."""
    try:
        member, tar = Member.of_uri(uri)
        check_bytes(member.length)
        return member.read(tar)
    except (BadImage, StoreError):
        raise
    except Exception as error:  # of file systems, and what their libraries raise
        found = _unreadable(uri, error)
        if isinstance(error, Changed):
            found.hint = "Put the tar back as it was, or read the images of the one that is there into another --cache."
        raise found from error


def _fetch_elsewhere(uri: str) -> bytes:
    """By fsspec, whose file systems raise errors of the libraries that they use."""
    import fsspec

    try:
        files, path = fsspec.core.url_to_fs(uri)  # of zip://a.png::b.zip this opens b.zip, which is no image
    except Exception as error:
        raise _unreadable(uri, error) from error
    try:
        return _of_server(files, path) if uri.startswith(WEB) else bytes(files.cat_file(path))
    except BadImage:
        raise
    except Exception as error:
        if isinstance(error, FileNotFoundError) or getattr(error, "status", None) == HTTPStatus.GONE:
            raise BadImage("file not found") from error
        raise _unreadable(uri, error) from error


def _of_server(files: Any, url: str) -> bytes:
    """By one GET of a web server, until it is larger than any image: it may have no end."""
    import aiohttp

    patience = files.client_kwargs.get("timeout") or aiohttp.ClientTimeout(**PATIENCE)
    data = bytearray()
    # Without its size and blocks it is a stream, for which nothing is asked before.
    with files.open(url, size=1, block_size=0, timeout=patience) as stream:
        while part := stream.read(MAX_BYTES):
            data += part
            check_bytes(len(data))
    return bytes(data)


def _unreadable(uri: str, error: Exception) -> Unfetched:
    status = getattr(error, "status", None)
    if status is not None:  # 0 where a server sends one from address to address
        said = f"{status or type(error).__name__} {getattr(error, 'message', '')}".rstrip()
    elif (cause := getattr(error, "os_error", None)) is not None:
        said = f"Cannot connect to {error.host}: {cause.strerror or cause}"  # type: ignore[attr-defined]
    elif isinstance(error, TimeoutError):
        said = "the server did not answer in time"
    else:
        said = str(error) or type(error).__name__
    found = Unfetched(f"{uri} cannot be read: {said}")
    found.said = said
    found.is_refusal = status is not None and status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in PASSING
    return found


def decode(data: bytes) -> Image.Image:
    """An upright RGB image, from the first frame.

    What is transparent is put on white, as the models' own processors do, 16-bit samples are scaled to 8, EXIF
    orientation is applied. Raises BadImage.
    """
    if not data:
        raise BadImage("empty file")
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            check_size(*image.size)
            image.load()
            return to_rgb(upright(image))
    except BadImage:
        raise
    except UnidentifiedImageError as error:
        raise BadImage("not an image") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pixels = re.search(r"\d+", str(error))
        raise BadImage(f"too large: {int(pixels.group()):,} pixels" if pixels else "too large") from error
    except EOFError as error:
        raise BadImage("truncated") from error
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error, zlib.error, MemoryError) as error:
        # Pillow's decoders raise any of these on broken bytes.
        text = str(error).lower()
        if "truncated" in text or "not enough" in text or "unexpected end" in text:
            raise BadImage("truncated") from error
        raise BadImage(f"cannot be decoded: {text.splitlines()[0][:80] if text else type(error).__name__}") from error


def check_bytes(size: int) -> None:
    """Raises BadImage if a file is too large to be read into memory."""
    if size > MAX_BYTES:
        raise BadImage(f"too large: {size:,} bytes")


def check_size(width: int, height: int) -> None:
    """Raises BadImage if an image is too large or too elongated."""
    if width * height > MAX_PIXELS:
        raise BadImage(f"too large: {width * height:,} pixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadImage(f"too elongated: {width:,} x {height:,} pixels")


def upright(image: Image.Image) -> Image.Image:
    """The image as its EXIF orientation means it; as stored if its EXIF data are broken."""
    try:
        return ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error):
        return image.copy()


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB of an image in any of Pillow's modes. Raises BadImage where the range of values is unknown."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return Image.fromarray(to_8_bits(image)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def to_8_bits(image: Image.Image) -> np.ndarray:
    """(height, width) uint8 of a deep grayscale image: 16 bits are scaled (Pillow would clip), floats run 0 to 1."""
    values = np.asarray(image)
    top = 1.0 if image.mode == "F" else 65535.0
    scaled = np.empty(values.shape, np.uint8)
    rows = max(1, BAND // max(1, image.width))
    for start in range(0, image.height, rows):  # of the whole in 64 bits several copies would be in memory
        band = values[start : start + rows].astype(np.float64)
        if not np.isfinite(band).all() or band.min(initial=0) < 0 or band.max(initial=0) > top:
            raise BadImage("pixel values out of range")
        scaled[start : start + rows] = np.round(band * (255.0 / top))
    return scaled


def as_cached(uri: str, sha256: str) -> bytes | None:
    """The bytes of a corpus' image; None unless its file is there and the same as when it was cached."""
    try:
        data = fetch(uri)
    except Exception:  # whatever keeps it away: the network, a missing protocol
        return None
    return data if hashlib.sha256(data).hexdigest() == sha256 else None


def pixels(uri: str, sha256: str, size: tuple[int, int]) -> np.ndarray | None:
    """(height, width, 3) uint8 of a corpus' image; None unless it is there and the same as when it was cached."""
    if (data := as_cached(uri, sha256)) is None:
        return None
    try:
        image = decode(data)
    except Exception:  # whatever a decoder raises: there is still the rest to draw
        return None
    return np.asarray(image) if image.size == size else None
