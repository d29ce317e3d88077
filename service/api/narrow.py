"""A question made narrower: what its rows can be parted by, and the query with one more condition."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from vlq.query.language.parse import parse
from vlq.service.api.shared import ServedHere, json_response
from vlq.service.errors import RESPONSES
from vlq.service.facets import facets
from vlq.service.narrow import chosen, narrowed, of_set

router = APIRouter(prefix="/v1", tags=["query"], responses=RESPONSES)

EXAMPLE = "first_layer('dog')"


class Narrower(BaseModel):
    """A query, and what its answer is to be narrowed to."""

    model_config = ConfigDict(extra="forbid")

    query: str = Field(examples=[EXAMPLE], max_length=100_000)
    corpus: str | None = Field(None, examples=[None])
    condition: str | None = Field(None, description="A condition on its columns.", examples=["layer <= 4"])
    images: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, description="Numbers of the images that are asked, instead of those of such a set before.", examples=[[3]]
    )


class Narrowed(BaseModel):
    query: str = Field(examples=["first_layer('dog', images=image_id in [3]).where(layer <= 4)"])


@router.post("/narrow", response_model=Narrowed)
async def narrow(request: Request, given: Narrower, served: ServedHere) -> Response:
    """A query with one more condition, or asked of a set of images."""
    corpus = served.corpus(given.corpus)

    def work() -> str:
        node = parse(given.query)
        if given.condition is not None:
            node = narrowed(node, parse(given.condition))
        if given.images is not None:
            node = of_set(node, given.images)
        return corpus.query(str(node)).query

    return json_response({"query": (await served.ask(request, work))[0]})


class Asked(BaseModel):
    """A query."""

    model_config = ConfigDict(extra="forbid")

    query: str = Field(examples=[EXAMPLE], max_length=100_000)
    corpus: str | None = Field(None, examples=[None])


class ABar(BaseModel):
    label: str = Field(examples=["beach"])
    count: int = Field(examples=[61])
    chosen: bool = Field(description="Whether the query asks for it already.")
    query: str | None = Field(
        description="The query with this chosen, or without if it is; null if no condition says it.",
        examples=["first_layer('dog').where(label == 'beach')"],
    )
    low: float | None = Field(description="Of numbers: where the bar begins.")
    high: float | None = Field(description="Where it ends; not included, unless it is where it begins.")


class AFacet(BaseModel):
    column: str = Field(examples=["label"])
    counts: str = Field(
        description="What is counted: rows of the answer, images that are asked, or rows of each token by itself.",
        examples=["rows"],
    )
    said: str = Field(description="What the values are, where the name does not say it.", examples=[""])
    numbers: bool = Field(description="Whether the bars are those of a histogram.")
    bars: list[ABar]
    more: bool = Field(description="Whether there are further values.")


class APart(BaseModel):
    text: str = Field(examples=["layer <= 4"])
    query: str = Field(description="The query without it.", examples=[EXAMPLE])


class Facets(BaseModel):
    facets: list[AFacet]
    chosen: list[APart] = Field(description="What narrows, groups, orders or cuts the answer.")


@router.post("/facets", response_model=Facets)
async def facets_of(request: Request, asked: Asked, served: ServedHere) -> Response:
    """How many rows of an answer have which value of each column, and the queries of those."""
    corpus = served.corpus(asked.corpus)

    def work() -> dict[str, Any]:
        found = [asdict(facet) for facet in facets(corpus, asked.query)]
        parts = [{"text": part.text, "query": str(part.query)} for part in chosen(parse(asked.query))]
        return {"facets": found, "chosen": parts}

    return json_response((await served.ask(request, work))[0])
