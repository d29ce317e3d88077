"""An image with its prompt as a model takes them, and what the model answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vlq.query.image.geometry import patch_edges
from vlq.query.schema import Transform


@dataclass(frozen=True)
class View:
    """The whole image once more, smaller: image positions that are no patches, and show what patches do."""

    grid: tuple[int, int]  # rows, columns
    transform: Transform
    places: Tensor  # (row * column,) which of the image positions they are


@dataclass(frozen=True)
class Layout:
    """How one image becomes patches.

    `patches` (row * column,) says for each patch, row by row, which of the sequence's image positions holds it. None:
    all of them do, in this order. Image positions that are no patch, as those that end a row, are left out of it;
    `count` is how many there are in all.
    """

    grid: tuple[int, int]  # rows, columns
    transform: Transform
    patches: Tensor | None = None
    count: int | None = None
    view: View | None = None


@dataclass(frozen=True)
class Encoded:
    """An image with the prompt, as the model takes them, on the CPU."""

    tokens: Mapping[str, Tensor]  # PER_TOKEN, each (sequence,)
    values: Mapping[str, Tensor]  # the model's other arguments; joined along the first axis they make a batch
    sites: Mapping[str, Tensor]  # patch, row by row, and prompt -> their positions in the sequence
    grid: tuple[int, int]
    transform: Transform
    size: tuple[int, int]  # of the upright image: width, height
    view: View | None = None  # its places are positions in the sequence

    @property
    def length(self) -> int:
        """Of the sequence."""
        return len(self.tokens["input_ids"])

    def shown_again(self, patches: Sequence[int]) -> Tensor:
        """Positions of the smaller view that these patches cover by half or more."""
        if self.view is None:
            return torch.zeros(0, dtype=torch.long)
        mask = np.zeros(self.grid)
        mask.flat[list(patches)] = 1
        x, y = patch_edges(self.transform, self.size, self.grid)
        view_x, view_y = patch_edges(self.view.transform, self.size, self.view.grid)
        covered = _overlaps(view_y, y) @ mask @ _overlaps(view_x, x).T  # pixels
        return self.view.places[torch.from_numpy((covered * 2 >= np.outer(np.diff(view_y), np.diff(view_x))).ravel())]

    def behind(self, first: int) -> Encoded:
        """The same without what its sites have in front of a position."""
        return replace(self, sites={site: places[places >= first] for site, places in self.sites.items()})

    def at_patches(self, patches: Sequence[int]) -> Encoded:
        """The same with these of its patches alone."""
        chosen = torch.tensor(patches, dtype=torch.long)
        return replace(self, sites={**self.sites, "patch": self.sites["patch"][chosen]})


@dataclass(frozen=True)
class Answer:
    """What the model answered to an image and the prompt: the most probable token each time."""

    ids: tuple[int, ...]  # without the token that ends it
    logprobs: tuple[float, ...]  # of each id when it was chosen, in nats
    text: str  # without special tokens
    states: Tensor  # (layer that is read, token, d), un-normed, at the answer's own tokens

    def told(self) -> Answer:
        """The same without its states, which take room on the model's device."""
        return replace(self, states=self.states[:, :0].clone())


def prompt_ids(image: Encoded) -> tuple[int, ...]:
    """The prompt's text tokens in an image's sequence."""
    return tuple(image.tokens["input_ids"][image.sites["prompt"]].tolist())


def _overlaps(edges: Sequence[float], others: Sequence[float]) -> np.ndarray:
    """(cell, other cell) by how much two divisions of an axis overlap."""
    low = np.maximum.outer(edges[:-1], others[:-1])
    high = np.minimum.outer(edges[1:], others[1:])
    found: np.ndarray = np.maximum(high - low, 0)
    return found
