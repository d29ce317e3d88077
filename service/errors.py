"""One shape for every error: kind, message, hint, and the span of the query that it is about."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from vlq.query.errors import (
    BadRequest,
    Busy,
    CacheError,
    Forbidden,
    NotAllowed,
    NotFound,
    StoreError,
    VlqError,
)

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
    StoreError: 503,
}
"""What is none of these is a mistake of who asks: 400."""

RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"model": Told, "description": "A mistake in the request or its query."},
    401: {"model": Told, "description": "A token is missing, or it is a wrong one."},
    404: {"model": Told, "description": "There is nothing of that name."},
    429: {"model": Told, "description": "Too many questions are waiting. Ask again."},
    503: {"model": Told, "description": "The cache or its storage is in trouble."},
}
"""Errors as the API's description shows them."""


def told(error: VlqError, status: int | None = None) -> JSONResponse:
    """The response that tells of an error."""
    if status is None:
        status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 400)
    body = {"kind": error.kind, "message": error.message, "hint": error.hint, "span": error.span}
    headers = {}
    if status == 429:
        headers["Retry-After"] = RETRY_AFTER
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body, status_code=status, headers=headers)


def tell_errors(app: FastAPI) -> None:
    """Have an application answer with errors of the one shape."""

    @app.exception_handler(VlqError)
    async def of_vlq(request: Request, error: VlqError) -> Response:
        with suppress(VlqError), request.app.state.served.discreet():
            raise error
        return told(error)

    @app.exception_handler(RequestValidationError)
    async def of_values(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "the body"
        return told(BadRequest(f"{where}: {first['msg']}.", "The API is described at /docs."), 400)

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> Response:
        phrase = HTTPStatus(error.status_code).phrase
        kind = NotFound if error.status_code == 404 else BadRequest
        response = told(
            kind(f"{request.url.path}: {phrase}.", "The API is described at /docs."),
            error.status_code,
        )
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def of_ours(request: Request, error: Exception) -> Response:
        # Starlette logs the traceback; who asks learns nothing of it.
        return told(VlqError("Something went wrong here.", "The service's log says what."), 500)
