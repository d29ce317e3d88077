"""`vlq export`: an answer, the pages of its images and tokens, and those of the layers and for comparing, as files that
need no service."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vlq.query.answers.result import Result
from vlq.query.client.local import LocalCorpus
from vlq.query.errors import NotFound, StoreError
from vlq.query.folders import free_folder
from vlq.query.language.nodes import Name
from vlq.query.statistics.depth import SITES
from vlq.query.summary import count
from vlq.service.counts import counted
from vlq.service.names import name_of
from vlq.service.narrow import unselected
from vlq.service.pages.exported import answer_page, compare_page, image_pages, layers_page, token_pages
from vlq.service.pages.files import INDEX
from vlq.service.pages.folder import Folder

MOST_ROWS = 100_000
"""Rows of an answer in which images and tokens are looked for."""

NAMED = 4
"""Tokens that a query names whose pages are written for each layer, rank and band; those of others for all together."""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    images: int
    tokens: int
    left_out: tuple[int, int]  # images and tokens of the answer without a page
    size: int  # bytes

    @property
    def said(self) -> str:
        parts = [
            f"{count(there, what)}" + (f" ({more:,} more left out)" if more else "")
            for there, what, more in zip((self.images, self.tokens), ("image", "token"), self.left_out, strict=True)
        ]
        return " and ".join(parts)


def export(
    corpus: LocalCorpus,
    asked: str | Sequence[int],
    out: Path,
    most: int = 100,
    most_tokens: int = 20,
    tell: Callable[[str], object] = lambda text: None,
) -> Exported:
    """Write the page of an answer, or of some images, and the pages of its images and tokens, so many at most.

    `tell` is told what is being written. The folder must be new or empty: it is written whole, or not at all. Raises
    QueryError, NotFound if there is no such image, and StoreError if the folder holds something or cannot be written.
    """
    if os.path.exists(out) and os.path.samefile(out, "."):
        raise StoreError(f"{out} is the folder that you are in, and is replaced.", "Choose another --out.")
    out = free_folder(os.fspath(out), "--out")
    if isinstance(asked, str):
        result = corpus.query(asked)
    else:
        result = corpus.query(f"images(image_id in [{', '.join(map(str, asked))}])")
        there = {row["image_id"] for row in result.rows}
        if missing := [str(id) for id in asked if id not in there]:
            hint = "The images and their numbers: images()"
            raise NotFound(f"There is no image {', '.join(missing)} with readings.", hint)
    partly = out.with_name(f"{out.name}.partial")
    try:
        shutil.rmtree(partly, ignore_errors=True)
        partly.mkdir(parents=True)
        try:
            written = _write(partly, corpus, result, most, most_tokens, tell)
            if out.exists():
                out.rmdir()
            os.replace(partly, out)
        finally:
            shutil.rmtree(partly, ignore_errors=True)
    except OSError as error:
        raise StoreError(f"Cannot write {out}: {error.strerror or error}.", "Choose another --out.") from error
    return written


def _write(
    path: Path, corpus: LocalCorpus, result: Result, most: int, most_tokens: int, tell: Callable[[str], object]
) -> Exported:
    """The pages are of the corpus that the rows are of, which a query may name."""
    of, run = result.corpus, result.corpus.cache.run
    images, all_images = _images(result)
    images = images[:most]
    tokens = _tokens(result)
    left_out = max(0, all_images - most), max(0, len(tokens) - most_tokens)
    whole = tokens[: min(NAMED, len(result.tokens))]
    tokens = list(dict.fromkeys([*tokens, *_common(of, images, most_tokens - len(tokens))]))[:most_tokens]
    pages = {"": INDEX, **{f"images/{id}": f"image-{id}.html" for id in images}}
    pages |= {f"tokens/{id}": f"token-{id}.html" for id in tokens}
    pages |= {"tokens": "tokens.html"} if tokens else {}
    pages |= {"layers": "layers.html"} if any(site in run.positions for site in SITES) else {}
    pages |= {"compare": "compare.html"} if images and "patch" in run.at else {}
    folder = Folder(path, of, name_of(of.url), pages)
    tell(count(len(images), "image"))
    image_pages(folder, images)
    if "compare" in pages:
        compare_page(folder, images)
    if "layers" in pages:
        tell("layers")
        layers_page(folder)
    if tokens:
        tell(count(len(tokens), "token"))
        token_pages(folder, counted(of), tokens, whole)
    tell("the answer")
    written = Exported(len(images), len(tokens), left_out, 0)
    answer_page(folder, corpus, result, f"Beside this page are those of {written.said}.")
    return replace(written, size=folder.finish())


def _images(result: Result) -> tuple[list[int], int]:
    """The images that rows are of, as they come, and how many there are."""
    if "image" not in result.table.keys:
        return [], 0
    whole = result.corpus.query(unselected(result.node))
    rows, follow = whole.part(0, MOST_ROWS)
    found = list(dict.fromkeys(row["image_id"] for row in rows))
    return found, len(whole.group(Name("image_id")).count()) if follow else len(found)


def _tokens(result: Result) -> list[int]:
    """The tokens that a query names, then those in its rows, those in most of them first."""
    in_rows = Counter(
        value
        for row in result.part(0, MOST_ROWS)[0]
        for column, value in row.items()
        if column.partition("_")[0] == "token" and isinstance(value, int)
    )
    named = [token["id"] for token in result.tokens]
    return list(dict.fromkeys([*named, *(id for id, _ in in_rows.most_common())]))


def _common(corpus: LocalCorpus, images: Sequence[int], most: int) -> list[int]:
    """The tokens that these images decode to most often at the last layer."""
    run = corpus.cache.run
    site = next((site for site in ("patch", "last") if site in run.positions), None)
    if not images or most < 1 or site is None:
        return []
    chosen = f"images=image_id in [{', '.join(map(str, images))}]"
    layer = run.read_layers[-1]
    rows = corpus.query(f"defaults(at={site!r}, unit='position', layers={layer}, share=1, {chosen})").rows
    return [row["token"] for row in rows]
