"""The corpus' page: ask it, and see the answer as a table, as pictures, and by layer.

The whole page is made here, so that it works without script; a script asks for its parts, `answer` and `facets`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, Response

from vlq.query.client.local import LocalCorpus
from vlq.query.errors import CacheError, QueryError, VlqError
from vlq.service.api.shared import ServedHere
from vlq.service.counts import counted
from vlq.service.facets import Facet, facets
from vlq.service.pages.answers import Mistake, Shown, answer, clean, mistake
from vlq.service.pages.examples import Example, examples
from vlq.service.pages.rendering import rendered
from vlq.service.pages.site import frame, page
from vlq.service.served import Served

router = APIRouter(include_in_schema=False)

VIEWS = ("table", "images", "chart")

MOST_TEXT = 20_000
"""Characters of a query in an address."""

REASONS = 100
"""Images that could not be read of which it is said why."""

Text = Annotated[str, Query(max_length=MOST_TEXT)]


@dataclass(frozen=True)
class AnswerPart:
    """An answer, or what is wrong with its query."""

    q: str
    view: str  # table, images, chart
    answer: Shown | None  # none if nothing is asked, or there is a mistake
    mistake: Mistake | None
    downloads: str  # what the addresses of the answer in other formats begin with
    chart: str  # the address of its picture
    undrawn: str  # why it has none, where that is known


@dataclass(frozen=True)
class FacetsPart:
    """An answer's facets."""

    view: str
    facets: tuple[Facet, ...]
    trouble: str  # why there are none, if something went wrong


@dataclass(frozen=True)
class Unread:
    """An image that has no readings."""

    image: int
    name: str
    reason: str


def unread_of(corpus: LocalCorpus) -> tuple[int, tuple[Unread, ...]]:
    """How many images could not be read, and of the first ones why."""
    errors = corpus.cache.snapshot().errors
    return len(errors), tuple(Unread(image, clean(name), clean(reason)) for image, name, reason in errors[:REASONS])


@dataclass(frozen=True)
class CorpusPage(AnswerPart, FacetsPart):
    """The whole page."""

    model: str
    lens: str  # unless it is the usual one
    prompt: str
    images: int  # with readings
    layers: int
    complete: bool  # whether the run is done
    unread: int  # images that could not be read
    reasons: tuple[Unread, ...]  # of the first of them why
    examples: tuple[Example, ...]
    shows_facets: bool


@router.get("/{name}/")
async def corpus(
    request: Request,
    served: ServedHere,
    name: str,
    q: Text = "",
    view: str = "table",
    cursor: str | None = None,
    facets: str = "",
) -> Response:
    """The page of a corpus, with the answer to `q`. `facets=1` has its facets at once, `facets=0` hides them."""
    about = served.about(name)
    found = served.corpus(name)

    try:
        given, _ = await served.ask(request, lambda: examples(found, served.kept(found, counted)))
    except CacheError:  # nothing is cached yet
        given = []
    part = await answer_part(request, served, name, q, view, cursor)
    bars = await facets_part(request, served, name, q, part.view) if facets == "1" and part.answer else None
    unread, reasons = unread_of(found)
    context = CorpusPage(
        view=part.view,
        facets=bars.facets if bars else (),
        trouble=bars.trouble if bars else "",
        q=q,
        answer=part.answer,
        mistake=part.mistake,
        downloads=part.downloads,
        chart=part.chart,
        undrawn=part.undrawn,
        model=about["model"],
        lens=found.cache.run.lens.named,
        prompt=about["prompt"],
        images=about["images"],
        layers=about["layers"],
        complete=about["complete"],
        unread=unread,
        reasons=reasons,
        examples=tuple(given),
        shows_facets=facets != "0",
    )
    return page(frame(request, served, name, "corpus", name), "corpus.html", context)


@router.get("/{name}/answer")
async def answer_alone(
    request: Request, served: ServedHere, name: str, q: Text, view: str = "table", cursor: str | None = None
) -> Response:
    """The part of the page with the answer."""
    part = await answer_part(request, served, name, q, view, cursor)
    return HTMLResponse(
        rendered(frame(request, served, name, "corpus", name), "corpus_answer.html", part),
        headers={"Cache-Control": "private, no-cache"},
    )


@router.get("/{name}/facets")
async def facets_alone(request: Request, served: ServedHere, name: str, q: Text, view: str = "table") -> Response:
    """The part of the page with the answer's facets."""
    part = await facets_part(request, served, name, q, view)
    return HTMLResponse(
        rendered(frame(request, served, name, "corpus", name), "corpus_facets.html", part),
        headers={"Cache-Control": "private, no-cache"},
    )


async def answer_part(request: Request, served: Served, name: str, q: str, view: str, cursor: str | None) -> AnswerPart:
    corpus = served.corpus(name)
    view = view if view in VIEWS else "table"
    downloads = f"/v1/query?{urlencode({'query': q, 'corpus': name})}"
    chart = f"{downloads}&format=svg"
    if not q.strip():
        return AnswerPart(q, view, None, None, downloads, chart, "")
    try:
        found, _ = await served.ask(request, lambda: answer(corpus, q, view, cursor or None, served.name_of))
    except VlqError as error:
        return AnswerPart(q, view, None, mistake(error, q), downloads, chart, "")
    return AnswerPart(q, view, found, None, downloads, chart, "")


async def facets_part(request: Request, served: Served, name: str, q: str, view: str) -> FacetsPart:
    corpus = served.corpus(name)
    try:
        found, _ = await served.ask(request, lambda: facets(corpus, q))
    except QueryError:
        return FacetsPart(view, (), "")  # the answer's part tells of it
    except VlqError as error:
        return FacetsPart(view, (), error.message)
    return FacetsPart(view, tuple(found), "" if found else "no column tells these rows apart.")
