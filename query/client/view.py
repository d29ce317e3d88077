"""The page of one image: in a notebook, and as a file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from vlq.query.answers.files import write_whole

if TYPE_CHECKING:
    from vlq.query.client.corpus import Corpus

HEIGHT = 780
"""Pixels of the frame in a notebook: the picture with its layers, beside the table, without scrolling."""

SMALL = {"most": 500_000, "side": 1024}
"""Tokens of readings and pixels of the picture's longer side in a notebook, which holds each page that it shows."""


@dataclass(frozen=True, repr=False)
class ImageView:
    """An image of a corpus, with its page: the picture and its patches beside the table of patches and layers, tied by
    hovering, pins and search. Notebooks show the page in a frame."""

    corpus: Corpus
    number: int
    name: str

    def page(self) -> str:
        """The page as one HTML file, which needs nothing beside it and asks nobody for anything."""
        return self.corpus._image_file(self.number)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page to an .html file, whole or not at all. Raises StoreError."""
        write_whole(os.fspath(path), self.page().encode(), "path")

    def _repr_html_(self) -> str:
        # The frame may run its scripts, and neither reach the notebook nor be reached by it or another frame.
        page = self.corpus._image_file(self.number, **SMALL)
        return (
            f'<iframe title="{escape(self.name)}" srcdoc="{escape(page)}" sandbox="allow-scripts" '
            f'allow="clipboard-write" width="100%" height="{HEIGHT}" style="border: 1px solid #8888"></iframe>'
        )

    def __repr__(self) -> str:
        return f"<image {self.number} of {self.corpus.url}: {self.name}>"
