"""`vlq export`: an answer and the pages of its images as files that need no service."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vlq.query.asked import Asked
from vlq.query.client import LocalCorpus
from vlq.query.errors import BadArgument, InputError, StoreError
from vlq.query.one import OneImage, one_image
from vlq.query.render import html
from vlq.service.pages.files import INDEX, as_file, write_static
from vlq.service.pages.image_file import held
from vlq.service.pages.image_page import SIDE
from vlq.service.pages.rendering import Frame, rendered
from vlq.service.pictures import picture

THUMBNAIL = 256
"""Pixels of the longer side of a picture in the list of images."""


@dataclass(frozen=True)
class Listed:
    """An image in the list."""

    name: str
    page: str  # its file
    picture: str | None  # its thumbnail's


@dataclass(frozen=True)
class ExportPage:
    """The answer, and the images whose pages are beside it."""

    query: str
    about: str  # which cache was asked, in words
    answer: str  # HTML
    images: tuple[Listed, ...]
    left_out: int  # images of the answer that have no page


def export(corpus: LocalCorpus, asked: str | Sequence[int], out: Path, most: int = 100) -> int:
    """Write the page of an answer, or of some images, and the pages of its images, `most` at most. How many there are.

    The folder must be new or empty: it is written whole, or not at all. Raises QueryError, StoreError, and InputError
    if the folder holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is there already.", "Give a new or an empty folder: --out FOLDER")
    answer, ids = _answer(corpus, asked)
    partial = out.with_name(f"{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "pictures").mkdir(parents=True)
        shown = [None, *ids[:most], None]
        listed = [
            _write_image(corpus, one_image(corpus, id), before, behind, partial)
            for before, id, behind in zip(shown, ids[:most], shown[2:], strict=False)
        ]
        run = corpus.cache.run
        about = f"{corpus.url}: {run.model}, {run.layers} layers"
        left_out = max(0, len(ids) - most)
        context = ExportPage(answer.query, about, html(answer), tuple(listed), left_out)
        (partial / INDEX).write_text(
            as_file(rendered(_frame(answer.query), "export.html", context), {"": INDEX}), "utf-8"
        )
        write_static(partial)
        if out.exists():
            out.rmdir()
        os.replace(partial, out)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise StoreError(f"Cannot write {out}: {error.strerror or error}.", "Choose another --out.") from error
    return len(listed)


def _answer(corpus: LocalCorpus, asked: str | Sequence[int]) -> tuple[Asked, list[int]]:
    """The answer, and the numbers of its images in their order."""
    if not isinstance(asked, str):
        numbers = ", ".join(map(str, asked))
        asked = f"images(image_id in [{numbers}])"
    answer = corpus.query(asked)
    if "image_id" not in answer.columns:
        raise BadArgument("Rows of this answer are of no images.", "Ask something whose rows are, such as images(...).")
    return answer, list(dict.fromkeys(row["image_id"] for row in answer.rows))


def _frame(title: str) -> Frame:
    """Of a file: it is of no corpus that could be asked, and what is static is beside it."""
    return Frame(title, "", "", (), "", "static")


# --- pages -----------------------------------------------------------------------------------------------------


def _write_image(corpus: LocalCorpus, image: OneImage, before: int | None, behind: int | None, folder: Path) -> Listed:
    """An image's page, between those of two others, and its pictures."""
    context, answers = held(corpus, image.number)
    context = replace(context, previous=before, following=behind)
    where = {"": INDEX, **{f"images/{id}": _page_of(id) for id in (before, behind) if id is not None}}
    drawn = {side: picture(image, side) for side in (SIDE, THUMBNAIL)}
    names = {}
    for side, found in drawn.items():
        if found is not None:
            names[side] = f"pictures/{image.number}-{side}.{found[1].removeprefix('image/')}"
            (folder / names[side]).write_bytes(found[0])
    if SIDE in names:
        where["pixels"] = names[SIDE]
    text = rendered(_frame(context.name), "image.html", context)
    modules = ("frame.js", "image/main.js")
    page = _page_of(image.number)
    (folder / page).write_text(as_file(text, where, answers, modules, corpus.url), "utf-8")
    return Listed(image.name, page, names.get(THUMBNAIL))


def _page_of(id: int) -> str:
    return f"image-{id}.html"
