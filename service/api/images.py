"""One image: what is known of it, what is read in it, and its pixels."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from vlq.query.errors import NotFound
from vlq.service.answers import Parts
from vlq.service.api.shared import CorpusHere, ServedHere, answered, check_site, headers_of, tag_of, unchanged
from vlq.service.errors import RESPONSES
from vlq.service.images import SHOWN_K, described, found_image
from vlq.service.lens import lens_parts, readings_of
from vlq.service.pages.image_file import MOST_READINGS, image_file
from vlq.service.pages.image_page import SIDE
from vlq.service.pictures import LARGEST, picture

router = APIRouter(prefix="/v1/images", tags=["images"], responses=RESPONSES)

Number = Annotated[int, Path(ge=0, le=2**32 - 1, description="The image's number in its corpus.", examples=[7])]

SAFETENSORS = "application/octet-stream"


class Piece(BaseModel):
    """A token of a text."""

    id: int = Field(examples=[62])
    piece: str | None = Field(examples=["▁dog"])
    text: str | None = Field(examples=[" dog"])
    probability: float | None = Field(None, description="How probable it was when it was chosen; of answers.")


class Described(BaseModel):
    """An image of a corpus. Of one that has no readings `error` says why, and its geometry may be unknown."""

    id: int
    image: str = Field(description="Its name: the path below the corpus' folder.", examples=["0007.png"])
    uri: str = Field(description="Where it was read from; of a file on the service's machine its name alone.")
    sha256: str | None
    width: int | None = Field(description="Upright pixels.", examples=[640])
    height: int | None = Field(examples=[480])
    grid: tuple[int, int] | None = Field(description="Rows and columns of patches.", examples=[[24, 24]])
    transform: dict[str, Any] | None = Field(description="Upright pixels to the model's input: x * scale + offset.")
    x: list[float] | None = Field(description="The edges of the columns of patches, in upright pixels.")
    y: list[float] | None = Field(description="The edges of the rows.")
    patches_read: list[int] | None = Field(description="Which of its patches were read, if some were; null: all.")
    error: str | None
    prompt: list[Piece]
    answer: str | None
    answer_tokens: list[Piece]
    columns: dict[str, Any] = Field(description="The image's own columns.", examples=[{"label": "beach"}])
    previous: int | None = Field(description="The image before it that has readings.")
    next: int | None


@router.get("/{id}", response_model=Described)
async def image(request: Request, served: ServedHere, corpus: CorpusHere, id: Number) -> Response:
    """What is known of an image: name, size, geometry, texts, and its own columns."""
    return await answered(request, served, corpus, lambda: described(corpus, id), turn="look-up")


@router.get(
    "/{id}/lens",
    response_description="A safetensors file, or JSON.",
    responses={200: {"content": {SAFETENSORS: {}, "application/json": {}}}},
)
async def lens(
    request: Request,
    served: ServedHere,
    corpus: CorpusHere,
    id: Number,
    site: Literal["patch", "last", "prompt", "answer"] = "patch",
    k: Annotated[int, Query(ge=1, le=1000, description="Tokens of each reading.")] = SHOWN_K,
    format: Literal["binary", "json"] = "binary",
) -> Response:
    """What the image's positions decode to at every layer.

    Binary is a safetensors file with `token`, `prob` (k, layer, position), `entropy` (layer, position) and `ids`;
    `token` counts among `ids`. JSON has (layer, position, k) lists of ids and log-probabilities.
    """
    run = corpus.cache.run
    check_site(corpus, site)

    def work() -> Parts | dict[str, Any]:
        found = found_image(corpus, id)
        if format == "binary":
            return lens_parts(corpus, found, site, min(k, run.k))
        readings = readings_of(corpus, found, site, min(k, run.k))
        absent = readings.token == run.no_id
        return {
            "image": id,
            "site": site,
            "layers": run.layers,
            "token": np.where(absent, -1, readings.token.astype(np.int64)).tolist(),
            "logprob": readings.logprob.tolist(),
            "entropy": readings.entropy.tolist(),
        }

    kind = SAFETENSORS if format == "binary" else "application/json"
    return await answered(request, served, corpus, work, kind, turn="image")


@router.get("/{id}/pixels", response_description="The picture.", responses={200: {"content": {"image/*": {}}}})
async def pixels(
    request: Request,
    served: ServedHere,
    corpus: CorpusHere,
    id: Number,
    side: Annotated[int, Query(ge=16, le=LARGEST, description="Pixels of the longer side at most.")] = LARGEST,
) -> Response:
    """The image's pixels, upright, as a PNG or JPEG picture. Only the very file that was cached is shown."""

    def work() -> Response:
        found = found_image(corpus, id)
        tag = tag_of(found.sha256, side)
        if (known := unchanged(request, tag)) is not None:
            return known
        drawn = picture(found, side)
        if drawn is None:
            raise NotFound(f"{found.name} is not where it was, or no longer the same.", "Its readings are here.")
        return Response(drawn[0], 200, headers_of(tag), drawn[1])

    return (await served.ask(request, work, "image"))[0]


@router.get("/{id}/page", response_description="An HTML file.", responses={200: {"content": {"text/html": {}}}})
async def page(
    request: Request,
    served: ServedHere,
    corpus: CorpusHere,
    id: Number,
    most: Annotated[
        int, Query(ge=1, le=MOST_READINGS, description="Tokens of readings in it at most, but the best one of each.")
    ] = MOST_READINGS,
    side: Annotated[int, Query(ge=16, le=LARGEST, description="Pixels of the picture's longer side at most.")] = SIDE,
) -> Response:
    """The image's page as one file, which needs nothing beside it and asks nobody for anything: for notebooks, and to
    be kept."""
    address = f"{str(request.base_url).rstrip('/')}/{served.name_of(corpus)}"

    def work() -> bytes:
        return image_file(corpus, id, most=most, side=side, cache=address).encode()

    response = await answered(request, served, corpus, work, "text/html; charset=utf-8", (address,))
    response.headers["Content-Disposition"] = f'attachment; filename="image-{id}.html"'
    return response
