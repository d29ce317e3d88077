"""Which corpora there are, what is in them, and what can be asked."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from vlq.query.language.completion import candidates, columns_in
from vlq.query.language.registry import REQUIRED, Function, Signature, functions, methods
from vlq.query.summary import count
from vlq.service.api.shared import CorpusHere, ServedHere, json_response
from vlq.service.counts import Counts, counted
from vlq.service.errors import RESPONSES

router = APIRouter(prefix="/v1", tags=["corpora"], responses=RESPONSES)


class About(BaseModel):
    """A corpus in a few words."""

    name: str = Field(examples=["demo"])
    model: str = Field(examples=["llava-hf/llava-1.5-7b-hf"])
    lens: str = Field(description="`logit`, `head`, `nearest` or `tuned`.", examples=["logit"])
    prompt: str = Field(examples=["USER: <image>\nWhat is this? ASSISTANT:"])
    layers: int = Field(description="Readings of each position: layer 0 is the embedding.", examples=[33])
    images: int = Field(description="Images with readings.", examples=[300])
    at: list[str] = Field(description="Where there are readings.", examples=[["patch", "prompt"]])
    k: int = Field(examples=[20])
    complete: bool = Field(description="Whether its run is done.")


class Corpora(BaseModel):
    corpora: list[About]


@router.get("/corpora", response_model=Corpora)
async def corpora(request: Request, served: ServedHere) -> Response:
    """The corpora that are served, the default one first."""
    found, _ = await served.ask(request, lambda: [served.about(name) for name in served.corpora])
    return json_response({"corpora": found})


@router.get("/info")
async def info(request: Request, served: ServedHere, corpus: CorpusHere) -> Response:
    """What is cached, as `vlq info --format json` shows it."""
    return json_response((await served.ask(request, corpus.info))[0])


# --- the language ----------------------------------------------------------------------------------------------


class Argument(BaseModel):
    name: str = Field(examples=["rank"])
    takes: str = Field(examples=["a whole number from 1"])
    default: Any = Field(None, description="Left out where there is none.", examples=[1])
    required: bool
    documentation: str


class Entry(BaseModel):
    """A function, or a method of any answer."""

    name: str = Field(examples=["first_layer"])
    signature: str
    documentation: str
    example: str = Field(examples=["first_layer('dog')"])
    gives: str = Field(description="rows, tokens (for another function), or nothing of its own", examples=["rows"])
    arguments: list[Argument]


class Language(BaseModel):
    functions: list[Entry]
    methods: list[Entry]


@router.get("/language", response_model=Language)
def language() -> Response:
    """The functions and methods of the query language."""
    found = {"functions": functions(), "methods": methods()}
    return json_response({kind: [entry(one) for one in entries.values()] for kind, entries in found.items()})


def entry(one: Signature) -> dict[str, Any]:
    return {
        "name": one.name,
        "signature": str(one),
        "documentation": one.documentation,
        "example": one.example,
        "gives": "tokens" if isinstance(one, Function) and not one.is_table else "rows",
        "arguments": [
            {
                "name": parameter.name,
                "takes": parameter.type.expected,
                "default": None if parameter.default is REQUIRED else parameter.default,
                "required": parameter.default is REQUIRED,
                "documentation": parameter.documentation,
            }
            for parameter in one.parameters
        ],
    }


class Begun(BaseModel):
    """A query that is being typed, up to where it is typed."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field(examples=["first_layer('do"], max_length=10_000)
    corpus: str | None = Field(None, examples=[None])


class Way(BaseModel):
    text: str = Field(description="The whole text as it may go on.", examples=["first_layer('dog'"])
    help: str = Field(description="What that is.")


class Ways(BaseModel):
    candidates: list[Way]


MOST_CANDIDATES = 50


@router.post("/complete", response_model=Ways)
async def complete(request: Request, begun: Begun, served: ServedHere) -> Response:
    """How a query that is being typed may go on."""
    corpus = served.corpus(begun.corpus)

    def work() -> list[dict[str, str]]:
        counts = served.kept(corpus, counted)
        found = candidates(
            begun.text, columns=lambda before: columns_in(corpus, before), tokens=lambda text: words(counts, text)
        )
        return [{"text": way.text, "help": way.help} for way in found[:MOST_CANDIDATES]]

    return json_response({"candidates": (await served.ask(request, work))[0]})


def words(counts: Counts, begun: str) -> dict[str, str]:
    """Words that begin so, those that most images read first."""
    found: dict[str, str] = {}
    for token, _, images in counts.words(begun, MOST_CANDIDATES):
        word = (token.text or "").strip().lower()
        found.setdefault(word, f"{token.piece}, read in {count(images, 'image')}")
    return found
