"""An image's page: its picture with the grid of patches, beside what each patch reads at every layer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlq.query.answers.render import plain
from vlq.query.client.local import LocalCorpus
from vlq.query.client.one import one_image
from vlq.query.schema import STORED_SITES, layers_phrase
from vlq.service.effects import Found, found_in
from vlq.service.images import described, found_image
from vlq.service.lens import readings_of
from vlq.service.numbers import whole
from vlq.service.pages.chips import Chip
from vlq.service.pages.rendering import static_files
from vlq.service.pictures import picture

SIDE = 1600
"""Pixels of the picture's longer side at most."""

SHOWN_K = 5
"""Tokens of each reading in the table of one patch."""


@dataclass(frozen=True)
class OnePatch:
    """What one patch reads, for browsers without script: a table of layers."""

    patch: int
    row: int
    column: int
    # Those that were read, with the best tokens and their probabilities; () if it was not.
    layers: tuple[tuple[int, tuple[tuple[Chip, str], ...]], ...]


@dataclass(frozen=True)
class ImagePage:
    """What the page says before its script has asked for the readings."""

    number: int
    name: str
    error: str | None  # why there are no readings; then there is no size, grid or picture
    size: tuple[int, int] | None  # width, height, upright pixels
    grid: tuple[int, int] | None  # rows, columns
    model: str
    lens: str  # unless it is the usual one  # which a file says, for nothing else of it does
    layers: int
    read: str  # which of them were read; "" if all
    some: int | None  # how many of its patches were read; None if all
    k: int  # tokens stored of each reading
    sites: tuple[str, ...]  # where it was read: of patch, prompt, answer
    repeated: bool  # whether other images of the corpus may have its name
    picture: bool  # whether the file is where it was
    side: int  # what is asked of the picture
    prompt: tuple[Chip, ...]
    answer: tuple[Chip, ...]
    columns: dict[str, str]  # the image's own; what is no text as JSON
    previous: int | None  # the image before it that has readings
    following: int | None
    one: OnePatch | None  # the patch that was asked for
    target: str | None  # the word that the loss of patches is measured by; None where no model is loaded for that
    effects: tuple[Found, ...]  # what studies of the cache found in it, the newest first
    older: int  # studies of it that are left out
    modules: tuple[str, ...]  # scripts that the page will need, so that a browser fetches them at once


def image_page(corpus: LocalCorpus, id: int, patch: str = "", intervene: bool = False) -> ImagePage:
    """What the page of an image says; `intervene`: patches can be taken from it. Raises NotFound if there is none of
    that number."""
    about = described(corpus, id)
    run = corpus.cache.run
    failed = about["error"] is not None
    counts = {"patch": 1, "prompt": len(about["prompt"]), "answer": len(about["answer_tokens"])}
    sites = tuple(site for site in STORED_SITES if site in run.at and counts[site] and not failed)
    chips = {site: tuple(_chip(corpus, piece["id"]) for piece in about[site]) for site in ("prompt", "answer_tokens")}
    effects, older = ((), 0) if failed else found_in(corpus, id)
    return ImagePage(
        number=id,
        name=about["image"],
        error=about["error"],
        size=None if failed else (about["width"], about["height"]),
        grid=about["grid"],
        model=run.model,
        lens=run.lens.named,
        layers=run.layers,
        read="" if len(run.read_layers) == run.layers else layers_phrase(run.read_layers),
        some=None if about["patches_read"] is None else len(about["patches_read"]),
        k=run.k,
        sites=sites,
        repeated=run.prompt_column is not None,
        picture=not failed and _is_there(corpus, id),
        side=SIDE,
        prompt=chips["prompt"],
        answer=chips["answer_tokens"],
        columns={name: _said(value) for name, value in about["columns"].items()},
        previous=about["previous"],
        following=about["next"],
        one=_one_patch(corpus, id, patch, about["patches_read"]) if "patch" in sites else None,
        target=_first_word(corpus, about) if intervene and "patch" in sites else None,
        effects=effects,
        older=older,
        modules=tuple(sorted(path for path in static_files() if path.startswith("image/") and path.endswith(".js"))),
    )


def _first_word(corpus: LocalCorpus, about: Mapping[str, Any]) -> str:
    """What the answer begins with: a word that means its first token, or that token's id; "" where there is none."""
    if not about["answer_tokens"]:
        return ""
    first = corpus.vocabulary.token(about["answer_tokens"][0]["id"])
    word = (first.text or "").strip()
    return word if word and first.id in corpus.vocabulary.by_word(word, pieces=False) else str(first.id)


def _said(value: Any) -> str:
    if value is None:
        return "–"
    said = plain(value)
    return said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)


def _is_there(corpus: LocalCorpus, id: int) -> bool:
    """Whether the picture can be shown. Of one that is elsewhere the browser finds out: asking takes time."""
    found = one_image(corpus, id)
    return not found.uri.startswith("file://") or picture(found, SIDE) is not None


def _chip(corpus: LocalCorpus, id: int) -> Chip:
    return Chip.of(corpus.vocabulary.token(id))


def _one_patch(corpus: LocalCorpus, id: int, patch: str, some: list[int] | None) -> OnePatch | None:
    found = found_image(corpus, id)
    if (number := whole(patch, found.patches)) is None:
        return None
    if some is not None and number not in some:
        return OnePatch(number, *found.place(number), ())
    readings = readings_of(corpus, found, "patch", SHOWN_K)
    probability = np.exp(readings.logprob[:, number])
    tokens = readings.token[:, number]
    rows = tuple(
        (
            layer,
            tuple(
                (_chip(corpus, int(token)), f"{p:.3f}")
                for token, p in zip(tokens[layer], probability[layer], strict=True)
            ),
        )
        for layer in corpus.cache.run.read_layers
    )
    return OnePatch(number, *found.place(number), rows)
