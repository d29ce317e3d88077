"""One shape for every error: kind, message, hint, and the span of the query that it is about."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlq.query.errors import (
    BadRequest,
    Busy,
    CacheError,
    Forbidden,
    ModelError,
    NotAllowed,
    NotFound,
    StoreError,
    VlqError,
)

LOG = logging.getLogger("uvicorn.error")

RETRY_AFTER = "1"
"""Seconds after which it is worth to ask a busy service again."""


class Told(BaseModel):
    """An error. The kinds of the language's mistakes are those of docs/mistakes.md."""

    kind: str = Field(description="Stable, for programs.", examples=["unknown-token"])
    message: str = Field(description="What is wrong.", examples=["'dgo' is no word of this vocabulary."])
    hint: str | None = Field(description="What to do next.", examples=["Did you mean 'dog'?"])
    span: tuple[int, int] | None = Field(
        description="Where in the query it is: start and end, in characters.", examples=[[18, 23]]
    )


STATUS: Mapping[type[VlqError], int] = {
    NotFound: 404,
    Forbidden: 403,
    NotAllowed: 401,
    Busy: 429,
    CacheError: 503,
    ModelError: 503,
    StoreError: 503,
}
"""What is none of these is a mistake of who asks: 400."""

RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"model": Told, "description": "A mistake in the request or its query."},
    401: {"model": Told, "description": "A token is missing, or it is a wrong one."},
    404: {"model": Told, "description": "There is nothing of that name."},
    429: {"model": Told, "description": "Too many questions are waiting. Ask again."},
    503: {"model": Told, "description": "The cache, its storage or its model is in trouble."},
}
"""Errors as the API's description shows them."""


def status_of(error: VlqError) -> int:
    """The HTTP status that an error is told with."""
    return next((code for kind, code in STATUS.items() if isinstance(error, kind)), 400)


def told(error: VlqError, status: int | None = None) -> JSONResponse:
    """The response that tells of an error."""
    status = status_of(error) if status is None else status
    body = {"kind": error.kind, "message": error.message, "hint": error.hint, "span": error.span}
    headers = {}
    if status == 429:
        headers["Retry-After"] = RETRY_AFTER
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body, status_code=status, headers=headers)


Page = Callable[[Request, VlqError, int], Response]
"""Makes the page that tells of an error, with its status."""


def answer_to(request: Request, error: VlqError, status: int, page: Page) -> Response:
    """An error in the one shape; for people who follow a link to a page, a page."""
    is_link = "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/v1/")
    return page(request, error, status) if is_link else told(error, status)


def tell_errors(app: FastAPI, page: Page) -> None:
    """Have an application tell of errors."""

    @app.exception_handler(VlqError)
    async def of_vlq(request: Request, error: VlqError) -> Response:
        try:
            with request.app.state.served.discreet():
                raise error
        except VlqError as discreet:
            return answer_to(request, discreet, status_of(discreet), page)

    @app.exception_handler(RequestValidationError)
    async def of_values(request: Request, error: RequestValidationError) -> Response:
        return answer_to(request, mistake_of(request, error.errors()[0]), 400, page)

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> Response:
        phrase = HTTPStatus(error.status_code).phrase
        kind = NotFound if error.status_code == 404 else BadRequest
        message = f"{request.url.path}: {phrase}."
        response = answer_to(request, kind(message, "The API is described at /docs."), error.status_code, page)
        response.headers.update(error.headers or {})
        return response


class Accidents:
    """ASGI middleware: what went wrong here is logged, and who asks learns no more than that.

    It stands behind the guard, whose headers this answer is to have; and the connection goes on, which it does not
    where the server hears of it.
    """

    def __init__(self, app: ASGIApp, page: Page) -> None:
        self._app = app
        self._page = page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def sent(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, sent)
        except Exception:
            if begun or scope["type"] != "http":
                raise  # the server ends the connection: the rest of an answer is missing
            LOG.exception("%s %s", scope["method"], scope["path"])
            error = VlqError("Something went wrong here.", "The service's log says what.")
            response = answer_to(Request(scope, receive), error, 500, self._page)
            await response(scope, receive, send)


def mistake_of(request: Request, found: Mapping[str, Any]) -> BadRequest:
    """The first of pydantic's findings about a request."""
    if found["loc"][0] == "body" and found["type"] in ("json_invalid", "missing", "model_attributes_type"):
        if "json" not in (kind := request.headers.get("content-type", "")) and len(found["loc"]) == 1:
            sent = f"It came as {kind}" if kind else "It came without a Content-Type"
            return BadRequest("A body is expected that is JSON.", f"{sent}; send it as Content-Type: application/json.")
        if len(found["loc"]) == 1 or found["type"] == "json_invalid":
            return BadRequest("The body is no JSON object.", "The API is described at /docs.")
    where = ".".join(str(part) for part in found["loc"][1:]) or "the body"
    return BadRequest(f"{where}: {found['msg']}.", "The API is described at /docs.")
