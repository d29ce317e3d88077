"""One image of a corpus: what the image table knows of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlq.query.compile import Statement
from vlq.query.geometry import READ, Box, Edges, patch_box, patch_edges
from vlq.query.schema import Transform

if TYPE_CHECKING:
    from vlq.query.client import LocalCorpus


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
    answer = "answer, answer_ids" if run.answer else "NULL AS answer, [] AS answer_ids"
    prompt = "NULL AS prompt_ids" if run.prompt_column is None else "prompt_ids"
    read = f"NULL AS {READ}" if run.patches_column is None else READ
    statement = Statement(
        f"SELECT image, uri, sha256, width, height, transform, grid, {answer}, {prompt}, {read}\n"
        "FROM read_parquet($images) WHERE image_id = $number AND error IS NULL",
        {"number": number},
        {"images": None},
    )
    rows = corpus.engine.rows(statement, snapshot)[1]
    if not rows:
        raise KeyError(number)
    name, uri, sha256, width, height, transform, grid, answered, ids, prompt_ids, read = rows[0]
    of_patches = grid["rows"], grid["columns"]
    return OneImage(
        number,
        name,
        uri,
        sha256,
        (width, height),
        Transform(**transform),
        of_patches,
        answered,
        tuple(ids),
        run.prompt_ids if prompt_ids is None else tuple(prompt_ids),
        tuple(range(of_patches[0] * of_patches[1]) if read is None else read),
    )
