"""An image's page, as the service serves it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from vlq.service.api.ablation import may_intervene
from vlq.service.api.shared import ServedHere
from vlq.service.numbers import DIGITS, whole
from vlq.service.pages.image_page import image_page
from vlq.service.pages.site import frame, page, to_page

router = APIRouter(include_in_schema=False)


@router.get("/{name}/images/{id:path}")
async def image(
    request: Request,
    served: ServedHere,
    name: Annotated[str, Path()],
    id: Annotated[str, Path()],
    patch: Annotated[str, Query()] = "",
) -> Response:
    """The page of an image; its name leads there. `patch` is one whose readings stand in a table, for browsers without
    script."""
    corpus = served.corpus(name)
    if (number := whole(id, 10**DIGITS)) is None:
        found, _ = await served.ask(request, lambda: corpus.image(id).number)
        return to_page(request, f"{name}/images/{found}", request.url.query)
    intervene = may_intervene(request, served)
    context, _ = await served.ask(request, lambda: image_page(corpus, number, patch, intervene))
    return page(frame(request, served, context.name, "image", name), "image.html", context)
