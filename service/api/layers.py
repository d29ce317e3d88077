"""From layer to layer: how many positions read what the last layer reads, and what changes between two layers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from vlq.query.statistics.depth import agreement_of_last, agreement_of_patches, changes
from vlq.service.api.shared import CorpusHere, ServedHere, answered, check_layer, check_site
from vlq.service.errors import RESPONSES

router = APIRouter(prefix="/v1/layers", tags=["layers"], responses=RESPONSES)

AGREEMENTS = {"last": agreement_of_last, "patch": agreement_of_patches}

At = Annotated[Literal["last", "patch"], Query(description="The last prompt token, or image patches.")]
OneLayer = Annotated[int, Query(ge=0, description="A layer that was read.", examples=[0])]


class Agreeing(BaseModel):
    positions: int = Field(description="How many there are.")
    layers: list[int] = Field(description="Those that were read.", examples=[[0, 1, 2]])
    agree: list[int] = Field(description="At each, the positions that decode to what they decode to at the last one.")
    settled: list[int] = Field(description="Those that do so from this layer on.")


@router.get("/agreement", response_model=Agreeing)
async def agreement(request: Request, served: ServedHere, corpus: CorpusHere, at: At = "last") -> Response:
    """How many positions decode to their last layer's token, layer by layer."""
    check_site(corpus, at)

    def work() -> dict[str, Any]:
        found = served.kept(corpus, AGREEMENTS[at])
        return {name: getattr(found, name) for name in Agreeing.model_fields}

    return await answered(request, served, corpus, work)


class Changed(BaseModel):
    token: int
    before: int = Field(description="Positions that decode to it at the one layer.")
    after: int = Field(description="At the other.")
    images_before: int
    images_after: int


class Went(BaseModel):
    source: int = Field(description="The token at the one layer.")
    target: int = Field(description="The token at the other.")
    positions: int
    images: int


class Between(BaseModel):
    positions: int
    kept: int = Field(description="Positions that decode to the same token at both.")
    tokens: list[Changed] = Field(description="Those whose positions are more or fewer, the largest change first.")
    flows: list[Went] = Field(description="What became of what, the most frequent first.")


@router.get("/changes", response_model=Between)
async def between(
    request: Request,
    served: ServedHere,
    corpus: CorpusHere,
    before: OneLayer,
    after: OneLayer,
    at: At = "last",
    limit: Annotated[int, Query(ge=1, le=100_000, description="So many of each at most.")] = 100,
) -> Response:
    """What the same positions decode to at one layer and at another."""
    check_site(corpus, at)
    for layer in (before, after):
        check_layer(corpus, layer)

    def work() -> dict[str, Any]:
        found = changes(corpus, at, before, after)
        return {
            "positions": found.positions,
            "kept": found.kept,
            "tokens": [{name: getattr(one, name) for name in Changed.model_fields} for one in found.tokens[:limit]],
            "flows": [{name: getattr(one, name) for name in Went.model_fields} for one in found.flows[:limit]],
        }

    return await answered(request, served, corpus, work)
