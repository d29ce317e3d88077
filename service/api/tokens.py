"""The vocabulary: search it, and what is known of one token."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from vlq.query.client.local import LocalCorpus
from vlq.query.errors import BadRequest, NotFound
from vlq.query.statistics.portrait import BINS, Beside, Wanted, by_probability, examples, labels, position_map, together
from vlq.service.api.shared import CorpusHere, ServedHere, answered, check_layer
from vlq.service.counts import Counted, counted
from vlq.service.errors import RESPONSES
from vlq.service.numbers import whole

router = APIRouter(prefix="/v1/tokens", tags=["tokens"], responses=RESPONSES)


class Found(BaseModel):
    """A token of the vocabulary, and how often it is read at rank 1, at any layer."""

    id: int = Field(examples=[62])
    piece: str | None = Field(description="As the tokenizer has it; null for ids without text.", examples=["▁dog"])
    text: str | None = Field(examples=[" dog"])
    starts_word: bool
    readings: int = Field(description="Positions that read it, counted at each layer.", examples=[5184])
    images: int = Field(description="Images that have such a position.", examples=[61])


class Tokens(BaseModel):
    site: str = Field(description="Where readings are counted.", examples=["patch"])
    tokens: list[Found]


class Token(Found):
    variants: list[Found] = Field(description="Other tokens that spell the same word.")
    previous: int | None = Field(description="The token that is read in the next fewer images.")
    next: int | None = Field(description="The token that is read in the next more images.")


Id = Annotated[int, Path(ge=0, description="The token's id.", examples=[62])]


LONGEST = 50
"""Characters of what is no token that are told."""


def token_of(corpus: LocalCorpus, id: str) -> int:
    """The number of a token. Raises NotFound."""
    size = corpus.cache.run.vocabulary_size
    if (number := whole(id, size)) is None:
        raise NotFound(f"There is no token {id[:LONGEST]}.", f"Ids run from 0 to {size - 1}.")
    return number


@router.get("", response_model=Tokens)
async def search(
    request: Request,
    served: ServedHere,
    corpus: CorpusHere,
    q: Annotated[str, Query(description="An id, or a part of a token's text; '' for all.", max_length=200)] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> Response:
    """Tokens by a part of their text: whole words first, and those first that most images read."""

    def work() -> dict[str, Any]:
        counts = served.kept(corpus, counted)
        return {"site": counts.site, "tokens": [found(corpus, one) for one in counts.search(q, limit)]}

    return await answered(request, served, corpus, work, turn="look-up")


@router.get("/{id}", response_model=Token)
async def token(
    request: Request,
    served: ServedHere,
    corpus: CorpusHere,
    id: Id,
) -> Response:
    """One token: its text, how often it is read, its spelling variants, and its neighbours by frequency."""
    token_of(corpus, str(id))

    def work() -> dict[str, Any]:
        counts = served.kept(corpus, counted)
        place = counts.place[id]
        return {
            **found(corpus, counts[id]),
            "variants": [found(corpus, one) for one in counts.variants(id)],
            "previous": counts.ordered[place + 1] if place + 1 < len(counts.ordered) else None,
            "next": counts.ordered[place - 1] if place else None,
        }

    return await answered(request, served, corpus, work, turn="look-up")


# --- where a token is read -------------------------------------------------------------------------------------


Rank = Annotated[int, Query(ge=1, description="Count readings among the so many best.")]
Layer = Annotated[int | None, Query(ge=0, description="At this layer; by default at all.")]


async def wanted_of(corpus: CorpusHere, id: Id, rank: Rank = 1, layer: Layer = None) -> Wanted:
    """Raises NotFound if there is no such token, BadRequest if nothing was read there."""
    run = corpus.cache.run
    token_of(corpus, str(id))
    if "patch" not in run.at:
        raise BadRequest("There are no readings at patches.", f"There are at {', '.join(run.positions)}.")
    if layer is not None:
        check_layer(corpus, layer)
    return Wanted(id, min(rank, run.k), layer)


WantedHere = Annotated[Wanted, Depends(wanted_of)]


class Probabilities(BaseModel):
    bins: list[int] = Field(description=f"Readings by probability; each of {BINS} bins is as wide.")


@router.get("/{id}/probabilities", response_model=Probabilities)
async def token_probabilities(request: Request, served: ServedHere, corpus: CorpusHere, wanted: WantedHere) -> Response:
    """How many patches read the token with which probability, counted at each layer."""
    return await answered(request, served, corpus, lambda: {"bins": by_probability(corpus, wanted)})


class OneExample(BaseModel):
    image: int
    name: str = Field(examples=["0007.png"])
    layer: int = Field(description="Where its most probable reading of the band is.")
    patches: list[int] = Field(description="Those with such a reading at the layer, the most probable first.")
    probabilities: list[float]


class SomeExamples(BaseModel):
    images: int = Field(description="How many images have such a reading.")
    examples: list[OneExample]


@router.get("/{id}/examples", response_model=SomeExamples)
async def token_examples(
    request: Request,
    served: ServedHere,
    corpus: CorpusHere,
    wanted: WantedHere,
    low: Annotated[float, Query(ge=0, le=1, description="The least probability.")] = 0.0,
    high: Annotated[float, Query(ge=0, le=1, description="The probability below which it is; 1 is included.")] = 1.0,
    count: Annotated[int, Query(ge=1, le=1000)] = 12,
    seed: Annotated[int | None, Query(description="Images at random; without one the most probable.")] = None,
) -> Response:
    """Images in which patches read the token with a probability of a band."""

    def work() -> dict[str, Any]:
        some = examples(corpus, wanted, low, high, count, seed)
        names = OneExample.model_fields
        return {
            "images": some.images,
            "examples": [{name: getattr(one, name) for name in names} for one in some.chosen],
        }

    return await answered(request, served, corpus, work)


class PositionMap(BaseModel):
    rows: int
    columns: int
    raster: bool = Field(description="Whether a cell is a part of the picture: grids differ, or are large.")
    found: list[int] = Field(description="Row by row, how many of the cell's patches read the token.")
    of: list[int] = Field(description="How many patches the cell has, over all images and the layers looked at.")


@router.get("/{id}/map", response_model=PositionMap)
async def token_map(request: Request, served: ServedHere, corpus: CorpusHere, wanted: WantedHere) -> Response:
    """How often each cell of the grid reads the token."""

    def work() -> dict[str, Any]:
        made = position_map(corpus, wanted)
        return {
            "rows": made.rows,
            "columns": made.columns,
            "raster": made.is_raster,
            "found": made.found,
            "of": made.of,
        }

    return await answered(request, served, corpus, work)


class OneBeside(BaseModel):
    id: int | None = Field(description="The other token.")
    label: str | None = Field(description="The label.")
    images: int = Field(description="Images that have it.")
    both: int = Field(description="Images that have it and read the token.")
    reading: int = Field(description="Images that read the token.")
    all: int = Field(description="Images with readings.")


class Company(BaseModel):
    tokens: list[OneBeside]
    labels: list[OneBeside] | None = Field(description="Of the images' objects; null if there are none.")


@router.get("/{id}/together", response_model=Company)
async def token_together(
    request: Request,
    served: ServedHere,
    corpus: CorpusHere,
    wanted: WantedHere,
    count: Annotated[int, Query(ge=1, le=1000)] = 16,
) -> Response:
    """Which tokens are decoded to, and which labelled objects are, in the images that read the token.

    First come those whose share of these images is most above their share of all others.
    """

    def told(one: Beside) -> dict[str, Any]:
        return {name: getattr(one, name) for name in OneBeside.model_fields}

    def work() -> dict[str, Any]:
        of_labels = labels(corpus, wanted)
        return {
            "tokens": [told(one) for one in together(corpus, wanted, count)],
            "labels": None if of_labels is None else [told(one) for one in of_labels[:count]],
        }

    return await answered(request, served, corpus, work)


def found(corpus: Any, one: Counted) -> dict[str, Any]:
    token = one.token
    return {
        "id": token.id,
        "piece": token.piece,
        "text": token.text,
        "starts_word": corpus.vocabulary.starts_word(token.id),
        "readings": one.readings,
        "images": one.images,
    }
