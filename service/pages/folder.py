"""Pages as files in one folder: what is in each, where its links lead, and what stands beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from vlq.query.client.local import LocalCorpus
from vlq.query.client.one import OneImage, one_image
from vlq.service.pages.files import INDEX, embedded, entry, gzipped, inside_html, without_modules, write_static
from vlq.service.pages.image_page import SIDE
from vlq.service.pages.links import rewritten
from vlq.service.pages.rendering import Frame, rendered
from vlq.service.pictures import picture

THUMBNAIL = 384
"""Pixels of the longer side of a picture among others."""

CONTENTS = "contents.js"

Here = Callable[[Mapping[str, str]], str | None]
"""Where a link leads that says what else the same page could show."""


@dataclass
class Folder:
    """A folder with pages of a corpus.

    A page is written with what its scripts ask a service for: in itself, or in a script beside it that several pages
    share. `contents.js` tells the pages what there is.
    """

    path: Path
    corpus: LocalCorpus
    name: str  # what the corpus is called
    pages: Mapping[str, str]  # the file of each page, by its path behind the corpus' name
    scripts: dict[str, str] = field(default_factory=dict)  # those with answers, by what the answers' paths begin with
    _images: dict[int, OneImage] = field(default_factory=dict)
    _pictures: dict[tuple[int, int], str | None] = field(default_factory=dict)

    def write_page(
        self,
        file: str,
        frame: Frame,
        template: str,
        context: Any,
        modules: Sequence[str],
        answers: Mapping[str, bytes] | None = None,
        here: Here | None = None,
    ) -> None:
        """A page, with answers by the paths that they are asked for at."""
        text = self.led(without_modules(rendered(frame, template, context)), here)
        plain = "".join(f'<script src="{path}"></script>\n' for path in (CONTENTS, "static/modules.js"))
        module = f'<script type="module">{entry(("frame.js", *modules))}</script>\n'
        text = text.replace("</body>", f"{embedded(answers or {})}\n{plain}{module}</body>")
        (self.path / file).write_text(text, "utf-8")

    def frame(self, title: str, page: str) -> Frame:
        return Frame(title, page, self.name, (self.name,), "", "static", self.corpus.url)

    def write_answers(self, file: str, of: str, answers: Mapping[str, bytes]) -> None:
        """A script that gives answers, whose paths all begin with `of`, to the page that runs it."""
        (self.path / file).parent.mkdir(exist_ok=True)
        held = json.dumps({path: gzipped(data) for path, data in answers.items()})
        (self.path / file).write_text(f"vlqAnswers({held});\n", "utf-8")
        self.scripts[of] = file

    def finish(self) -> int:
        """What all pages share; how many bytes there are in the folder."""
        pictures = {
            str(id): file for (id, _), file in sorted(self._pictures.items(), key=lambda one: one[0]) if file
        }  # the larger one last
        contents = {"pages": self.pages, "pictures": pictures, "scripts": self.scripts}
        (self.path / CONTENTS).write_text(f"globalThis.vlqContents = {inside_html(contents)};\n", "utf-8")
        write_static(self.path)
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

    # --- links -----------------------------------------------------------------------------------------------------

    def led(self, html: str, here: Here | None = None) -> str:
        """A page's HTML, or a part's, whose links lead to files, and whose pictures are written beside them."""
        return rewritten(html, lambda target: self._link(target, here), self._source)

    def _link(self, target: str, here: Here | None) -> str | None:
        parts = urlsplit(target)
        if target.startswith("#"):
            return target
        if target.startswith("?"):
            return here(dict(parse_qsl(parts.query, keep_blank_values=True))) if here else None
        if parts.path == "/":
            return INDEX
        corpus, _, path = parts.path.removeprefix("/").partition("/")
        file = self.pages.get(path) if corpus == self.name else None
        return file and (f"{file}#{parts.query}" if parts.query else file)

    def _source(self, target: str) -> str | None:
        """A picture of an image, or what is a file already."""
        parts = urlsplit(target)
        if not parts.path.startswith("/v1/images/"):
            return None if parts.path.startswith("/") else target
        given = dict(parse_qsl(parts.query))
        if given.get("corpus") != self.name:
            return None
        return self.picture(int(parts.path.split("/")[3]), int(given["side"]))

    def picture(self, id: int, side: int) -> str | None:
        """The file of an image's picture, of one of two sizes. None if the image is not where it was."""
        if id not in self._images:
            self._images[id] = one_image(self.corpus, id)
        image = self._images[id]
        side = THUMBNAIL if side <= THUMBNAIL or max(image.size) <= THUMBNAIL else SIDE
        if (id, side) not in self._pictures:
            self._pictures[id, side] = None
            if (drawn := picture(image, side)) is not None:
                file = f"pictures/{id}-{side}.{drawn[1].removeprefix('image/')}"
                (self.path / file).parent.mkdir(exist_ok=True)
                (self.path / file).write_bytes(drawn[0])
                self._pictures[id, side] = file
        return self._pictures[id, side]


def asked_at(path: str, given: Mapping[str, str]) -> str:
    """The path at which a page asks for something."""
    return f"{path}?{urlencode(given)}"
