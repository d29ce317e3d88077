"""One image of a corpus: what the image table knows of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlq.query.image.geometry import READ, Box, Edges, patch_box, patch_edges
from vlq.query.language.compile import Statement
from vlq.query.schema import Run, Transform

if TYPE_CHECKING:
    from vlq.query.client.local import LocalCorpus


@dataclass(frozen=True)
class OneImage:
    """An image that has readings."""

    number: int
    name: str
    uri: str
    sha256: str  # of the file
    size: tuple[int, int]  # width, height, in upright pixels
    transform: Transform
    grid: tuple[int, int]  # rows, columns
    answer: str | None  # what the model answered; None if it was not asked
    answer_ids: tuple[int, ...]  # its tokens
    prompt_ids: tuple[int, ...]  # the text tokens of the prompt that it was read with
    patches_read: tuple[int, ...]  # those of its patches that were read, ascending

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]

    def place(self, patch: int) -> tuple[int, int]:
        """A patch's row and column."""
        return divmod(patch, self.grid[1])

    def box(self, patch: int) -> Box:
        """What a patch shows, in pixels."""
        return patch_box(self.transform, self.size, self.grid, patch)

    @property
    def edges(self) -> Edges:
        """Where columns and rows of patches begin and end, in pixels."""
        return patch_edges(self.transform, self.size, self.grid)


def one_image(corpus: LocalCorpus, number: int = 0) -> OneImage:
    """The image of a number. Raises KeyError if it has no readings."""
    snapshot = corpus.cache.snapshot()
    run = corpus.cache.run
    own = ["answer", "answer_ids"] if run.answer else []
    own += [] if run.prompt_column is None else ["prompt_ids"]
    own += [] if run.patches_column is None else [READ]
    statement = Statement(
        f"SELECT {', '.join(['image', 'uri', 'sha256', 'width', 'height', 'transform', 'grid', *own])}\n"
        "FROM read_parquet($images) WHERE image_id = $number AND error IS NULL",
        {"number": number},
        {"images": None},
    )
    names, rows = corpus.engine.rows(statement, snapshot)
    if not rows:
        raise KeyError(number)
    return image_of(run, number, dict(zip(names, rows[0], strict=True)))


def image_of(run: Run, number: int, row: Mapping[str, Any]) -> OneImage:
    """The image of a row of the image table, which has readings."""
    of_patches = row["grid"]["rows"], row["grid"]["columns"]
    ids, read = row.get("prompt_ids"), row.get(READ)
    return OneImage(
        number,
        row["image"],
        row["uri"],
        row["sha256"],
        (row["width"], row["height"]),
        Transform(**row["transform"]),
        of_patches,
        row.get("answer"),
        tuple(row.get("answer_ids") or ()),
        run.prompt_ids if ids is None else tuple(ids),
        tuple(range(of_patches[0] * of_patches[1]) if read is None else read),
    )
