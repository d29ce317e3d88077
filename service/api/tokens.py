"""The vocabulary: search it, and what is known of one token."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from vlq.query.errors import NotFound
from vlq.service.api.shared import CorpusHere, ServedHere, json_response, tag_of, unchanged
from vlq.service.counts import Counted, counted
from vlq.service.errors import RESPONSES

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


@router.get("", response_model=Tokens)
async def search(
    request: Request,
    served: ServedHere,
    corpus: CorpusHere,
    q: Annotated[str, Query(description="An id, or a part of a token's text; '' for all.", max_length=200)] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> Response:
    """Tokens by a part of their text: whole words first, and those first that most images read."""
    tag = tag_of(corpus.cache.snapshot().digest, q, limit)
    if (known := unchanged(request, tag)) is not None:
        return known

    def work() -> dict[str, Any]:
        counts = served.kept(corpus, counted)
        return {"site": counts.site, "tokens": [found(corpus, one) for one in counts.search(q, limit)]}

    return json_response((await served.ask(request, work))[0], tag)


@router.get("/{id}", response_model=Token)
async def token(
    request: Request,
    served: ServedHere,
    corpus: CorpusHere,
    id: Annotated[int, Path(ge=0, description="The token's id.", examples=[62])],
) -> Response:
    """One token: its text, how often it is read, its spelling variants, and its neighbours by frequency."""
    if id >= corpus.cache.run.vocabulary_size:
        raise NotFound(f"There is no token {id}.", f"Ids run from 0 to {corpus.cache.run.vocabulary_size - 1}.")
    tag = tag_of(corpus.cache.snapshot().digest, id)
    if (known := unchanged(request, tag)) is not None:
        return known

    def work() -> dict[str, Any]:
        counts = served.kept(corpus, counted)
        place = counts.place[id]
        return {
            **found(corpus, counts[id]),
            "variants": [found(corpus, one) for one in counts.variants(id)],
            "previous": counts.ordered[place + 1] if place + 1 < len(counts.ordered) else None,
            "next": counts.ordered[place - 1] if place else None,
        }

    return json_response((await served.ask(request, work))[0], tag)


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
