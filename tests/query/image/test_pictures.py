"""Every odd image that must work, and every bad one with its reason. All are made here."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillWaiting
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import aiohttp
import fsspec
import numpy as np
import pytest
from PIL import Image

from vlq.query.image.pictures import BAND, BadImage, decode, fetch, pixels
from vlq.query.schema import Transform
from vlq.workers.extract import prepare
from vlq.workers.images import LARGE, turn_of
from vlq.workers.models.encoded import Encoded

# Pillow warns of what it then copes with, or of what is judged here.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning"),
    pytest.mark.here("how images are decoded"),
]


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def gradient() -> Image.Image:
    """40 wide, 30 high: red grows to the right, green downwards."""
    y, x = np.mgrid[0:30, 0:40]
    return Image.fromarray(np.stack([x * 6, y * 8, np.full_like(x, 90)], -1).astype(np.uint8))


def close(image: Image.Image, expected: Image.Image, tolerance: int = 8) -> bool:
    assert (image.mode, image.size) == ("RGB", expected.size)
    return bool((np.abs(np.asarray(image).astype(int) - np.asarray(expected).astype(int)) <= tolerance).all())


def first_ten_white(palette: Image.Image) -> Image.Image:
    """A palette's image without its first ten colours."""
    found = np.array(palette.convert("RGB"))
    found[np.asarray(palette) < 10] = 255
    assert (found == 255).all(-1).mean() > 0.05
    return Image.fromarray(found)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM"])
def test_common_formats(format: str) -> None:
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format, {})
    assert close(decode(encoded(gradient(), format, **options)), gradient())


def test_grayscale_and_bilevel() -> None:
    gray = gradient().convert("L")
    assert close(decode(encoded(gray, "PNG")), gray.convert("RGB"), 0)
    assert decode(encoded(gray.convert("1"), "PNG")).mode == "RGB"


def test_cmyk() -> None:
    cmyk = gradient().convert("CMYK")
    assert close(decode(encoded(cmyk, "TIFF")), gradient(), 2)
    assert decode(encoded(cmyk, "JPEG")).mode == "RGB"


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bits_are_scaled_not_clipped(format: str) -> None:
    deep = np.linspace(0, 65535, 1200).reshape(30, 40).astype(np.uint16)
    pixels = np.asarray(decode(encoded(Image.fromarray(deep), format)))
    assert np.array_equal(pixels[..., 0], np.round(deep / 257).astype(np.uint8))
    assert len(np.unique(pixels)) == 256


def test_a_deep_image_is_scaled_alike_in_all_of_its_bands() -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (1200, 2000), np.uint16)
    assert deep.size > 2 * BAND
    assert np.array_equal(np.asarray(decode(encoded(Image.fromarray(deep), "PNG")))[..., 1], np.round(deep / 257))


def test_palettes() -> None:
    palette = gradient().quantize(64)
    assert close(decode(encoded(palette, "PNG")), palette.convert("RGB"), 0)
    assert close(decode(encoded(palette, "PNG", transparency=b"\x00" * 10)), first_ten_white(palette), 0)
    assert close(decode(encoded(palette, "GIF")), palette.convert("RGB"), 0)


def test_what_is_transparent_is_on_white() -> None:
    image = gradient().convert("RGBA")
    alpha = np.random.default_rng(0).choice([0, 1, 100, 254, 255], (30, 40)).astype(np.uint8)
    image.putalpha(Image.fromarray(alpha))
    share = alpha[..., None] / 255
    mixed = np.round(share * np.asarray(gradient()) + (1 - share) * 255).astype(np.uint8)
    assert close(decode(encoded(image, "PNG")), Image.fromarray(mixed), 1)
    assert (np.asarray(decode(encoded(image, "PNG")))[alpha == 0] == 255).all()
    opaque = gradient().convert("RGBA")
    assert close(decode(encoded(opaque, "PNG")), gradient(), 0)


def test_one_colour_that_is_transparent() -> None:
    """Nothing is left of it that a processor would take for transparency a second time."""
    image = gradient()
    colour = image.getpixel((7, 9))
    found = decode(encoded(image, "PNG", transparency=colour))
    assert found.getpixel((7, 9)) == (255, 255, 255)
    assert found.getpixel((8, 9)) == image.getpixel((8, 9))
    assert not found.has_transparency_data


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [(3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_270), (8, Image.Transpose.ROTATE_90)],
)
def test_exif_orientation_is_applied(orientation: int, turn: Image.Transpose) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = decode(encoded(gradient(), "PNG", exif=exif))
    assert close(upright, gradient().transpose(turn), 0)


def test_broken_exif_is_ignored() -> None:
    assert close(decode(encoded(gradient(), "PNG", exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff")), gradient(), 0)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_animations_give_their_first_frame(format: str) -> None:
    frames = [Image.new("RGB", (20, 10), color) for color in ("red", "blue", "green")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert close(decode(data), frames[0], 2)


class Model:
    """One that keeps the pixels that it was given."""

    def encode(self, image: Image.Image, prompt: str | None) -> Encoded:
        self.given = np.asarray(image)
        return Encoded({}, {}, {}, (1, 1), Transform(1, 1, 0, 0, 1, 1), image.size)


def deep() -> np.ndarray:
    return np.linspace(0, 65535, 1200).reshape(30, 40).astype(np.uint16)


def whitened() -> np.ndarray:
    found = np.array(gradient())
    found[9, 7] = 255
    return found


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize(
    ("image", "format", "options", "expected", "tolerance"),
    [
        (Image.fromarray(deep()), "PNG", {}, np.repeat(np.round(deep() / 257)[..., None], 3, -1), 0),
        (gradient().convert("CMYK"), "TIFF", {}, np.asarray(gradient()), 2),
        (gradient().quantize(64), "PNG", {"transparency": b"\x00" * 10}, first_ten_white(gradient().quantize(64)), 0),
        (gradient(), "PNG", {"transparency": (42, 72, 90)}, whitened(), 0),
        (gradient().convert("LA"), "PNG", {}, np.asarray(gradient().convert("L").convert("RGB")), 0),
        (gradient(), "PNG", {"exif": turned(6)}, np.rot90(np.asarray(gradient()), -1), 0),
        (gradient(), "PNG", {"exif": turned(2)}, np.asarray(gradient())[:, ::-1], 0),
        (gradient(), "PNG", {"exif": b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff"}, np.asarray(gradient()), 0),
    ],
    ids=["16 bits", "CMYK", "palette", "one colour", "gray with alpha", "turned", "mirrored", "broken EXIF"],
)
def test_what_is_drawn_is_what_the_model_was_given(
    tmp_path: Path, image: Image.Image, format: str, options: dict[str, Any], expected: Any, tolerance: int
) -> None:
    path = tmp_path / "image"
    path.write_bytes(encoded(image, format, **options))
    model = Model()
    prepare(model, f"file://{path}")  # type: ignore[arg-type]
    height, width = np.asarray(expected).shape[:2]
    drawn = pixels(f"file://{path}", sha256(path.read_bytes()).hexdigest(), (width, height))
    assert drawn is not None
    for found in (model.given, drawn):
        assert np.abs(found.astype(int) - np.asarray(expected).astype(int)).max() <= tolerance
    assert np.array_equal(drawn, model.given)


def reason(data: bytes) -> str:
    with pytest.raises(BadImage) as caught:
        decode(data)
    return str(caught.value)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"])
def test_truncated(format: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, format)
    assert reason(data[: len(data) // 2]) in ("truncated", "not an image") or format == "WEBP"
    assert len(reason(data[: len(data) // 2])) < 110


def test_empty_and_foreign_files() -> None:
    assert reason(b"") == "empty file"
    assert reason(b"hello, this is text\n" * 20) == "not an image"
    assert reason(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n") == "not an image"
    assert reason(b"\x89PNG\r\n\x1a\n") in ("not an image", "truncated")


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds almost nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\x00" * 100))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("width", "height"), [(20_000, 10_000), (10_000, 9_000)])
def test_decompression_bombs(width: int, height: int) -> None:
    assert reason(png_of_size(width, height)) == f"too large: {width * height:,} pixels"


PEAK = """
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from vlq.query.image.pictures import decode
from vlq.workers.images import turn_of

def peak():
    with open("/proc/self/status") as status:
        return int(status.read().partition("VmHWM:")[2].split()[0]) / 2**20

def each(_):
    together.wait()  # so that every thread has its share
    with turn_of(data):
        decode(data)

data = sys.stdin.buffer.read()
with turn_of(data):
    decode(data)
one, together = peak(), Barrier(4)
with ThreadPoolExecutor(4) as threads:
    for _ in range(2):
        list(threads.map(each, range(4)))
print(one, peak())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell a process's memory")
def test_no_thread_keeps_the_memory_of_a_large_image() -> None:
    image = encoded(Image.new("RGBA", (5000, 4000)), "PNG", compress_level=1)  # 80 MB, and as much in RGB
    told = subprocess.run([sys.executable, "-c", PEAK], input=image, stdout=subprocess.PIPE, check=True)
    one, four = map(float, told.stdout.split())
    assert four < one + 0.12  # GiB: there may be another copy


def test_large_images_take_turns() -> None:
    large, small = png_of_size(LARGE // 1000 + 1, 1000), png_of_size(LARGE // 1000, 1000)

    def in_turn(data: bytes) -> bool:
        with turn_of(data):
            return True

    with ThreadPoolExecutor(4) as threads:
        with turn_of(large):
            waiting = threads.submit(in_turn, large)
            assert threads.submit(in_turn, small).result(10)
            assert threads.submit(in_turn, b"no image").result(10)
            with pytest.raises(StillWaiting):
                waiting.result(0.2)
        assert waiting.result(10)
        with pytest.raises(BadImage), turn_of(large):
            decode(large)
        assert threads.submit(in_turn, large).result(10)  # one that fails keeps nobody waiting


def test_hairlines() -> None:
    assert reason(png_of_size(1, 5000)) == "too elongated: 1 x 5,000 pixels"


def test_values_without_a_known_range() -> None:
    assert reason(encoded(Image.fromarray(np.full((9, 9), 1e6, np.float32)), "TIFF")) == "pixel values out of range"
    unit = decode(encoded(Image.fromarray(np.full((9, 9), 0.5, np.float32)), "TIFF"))
    assert np.asarray(unit).max() == 128


def test_fetching(tmp_path: Path) -> None:
    path = tmp_path / "a b#c%20.png"
    path.write_bytes(b"123")
    assert fetch(f"file://{path}") == b"123"
    with pytest.raises(BadImage, match="file not found"):
        fetch(f"file://{tmp_path}/none.png")
    gone = re.escape(f"No such folder: '{tmp_path}/mount-that-went-away'")
    with pytest.raises(FileNotFoundError, match=gone):  # not the image's fault
        fetch(f"file://{tmp_path}/mount-that-went-away/none.png")


def test_names_as_urls_have_them(tmp_path: Path) -> None:
    (tmp_path / "a b.png").write_bytes(b"1")
    assert fetch((tmp_path / "a b.png").as_uri()) == b"1"
    assert fetch(f"file://localhost{tmp_path}/a b.png") == b"1"
    (tmp_path / "a%20b.png").write_bytes(b"2")
    assert fetch(f"file://{tmp_path}/a%20b.png") == b"2"  # a name as it is written comes first
    for folder in ("my images", "100%25"):
        (tmp_path / folder).mkdir()
        for url in ((tmp_path / folder / "gone.png").as_uri(), f"file://{tmp_path}/{folder}/gone.png"):
            with pytest.raises(BadImage, match="file not found"):  # whose folder is there
                fetch(url)


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "loop.png").symlink_to("loop.png")
    os.mkfifo(tmp_path / "pipe.png")  # nobody writes into it: reading would wait for ever
    for name, why in {
        "loop.png": "file not found: too many levels of symbolic links",
        "pipe.png": "not a regular file",
        "": "a folder, not a file",
        "x" * 300: "file not found: file name too long",
        "a\0.png": "file not found: that is no name of a file",
    }.items():
        with pytest.raises(BadImage, match=f"^{why}$"):
            fetch(f"file://{tmp_path}/{name}")
    with pytest.raises(BadImage, match="not a regular file"):
        fetch("file:///dev/zero")


@pytest.fixture
def server() -> Iterator[str]:
    """A web server that answers /404 with that status, /short with less than it says, /around with its own address,
    /late in two seconds, and all else with b"123"."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.strip("/")
            time.sleep(2 if name == "late" else 0)
            self.send_response(302 if name == "around" else int(name) if name.isdigit() else 200)
            if name == "around":
                self.send_header("Location", "/around")
            self.send_header("Content-Length", "9" if name == "short" else "3")
            self.end_headers()
            self.wfile.write(b"123")

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_web_servers(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what says that there is no such file is about the image; all else may be another time's answer."""
    assert fetch(f"{server}/a%20b.png?sig=x#y") == b"123"
    for status in (404, 410):
        with pytest.raises(BadImage, match=r"^file not found$"):
            fetch(f"{server}/{status}")
    for name, why in {
        "500": "500 Internal Server Error",
        "503": "503",
        "429": "429",
        "403": "403",
        "short": "3 of 9",
        "around": "TooManyRedirects$",
    }.items():
        with pytest.raises(OSError, match=f"{server}/{name} cannot be read: .*{why}"):
            fetch(f"{server}/{name}")
    impatient = {"client_kwargs": {"timeout": aiohttp.ClientTimeout(total=0.2)}}
    monkeypatch.setitem(fsspec.config.conf, "http", impatient)
    with pytest.raises(OSError, match=r"/late cannot be read: the server did not answer in time$"):
        fetch(f"{server}/late")
    with pytest.raises(OSError, match="Cannot connect"):
        fetch("http://127.0.0.1:1/a.png")


def test_archives(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("in/a.png", b"123")
    assert fetch(f"zip://in/a.png::file://{tmp_path}/a.zip") == b"123"
    with pytest.raises(BadImage, match=r"^file not found$"):
        fetch(f"zip://none.png::file://{tmp_path}/a.zip")
    with pytest.raises(OSError, match="none"):  # an archive that is gone says nothing about its images
        fetch(f"zip://in/a.png::file://{tmp_path}/none.zip")
    with pytest.raises(OSError, match="Protocol not known: foo"):
        fetch("foo://a.png")
