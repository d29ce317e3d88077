"""The corpus' page: ask it, and see the answer as a table, as pictures, and by layer."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import Response

from vlq.service.api.shared import ServedHere
from vlq.service.pages.site import frame, page

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class CorpusPage:
    """What the page shows before anything is asked."""

    model: str
    prompt: str
    images: int  # with readings
    layers: int


@router.get("/{name}/")
def corpus(request: Request, served: ServedHere, name: str) -> Response:
    """The page of a corpus."""
    about = served.about(name)
    context = CorpusPage(about["model"], about["prompt"], about["images"], about["layers"])
    return page(frame(request, served, name, "corpus", name), "corpus.html", context)
