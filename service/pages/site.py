"""What every page of the service needs: static files, the way in, and the API's description."""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.datastructures import Headers

from vlq.query.errors import NotAllowed, NotFound, VlqError
from vlq.service.api.shared import ServedHere
from vlq.service.guard import COOKIE, rights_of, ticket_of
from vlq.service.pages.rendering import Frame, rendered, static_digest, static_files
from vlq.service.served import Served

router = APIRouter(include_in_schema=False)

MONTH = 30 * 24 * 3600
"""Seconds for which a browser that knows the token is let in."""

FOR_EVER = "public, max-age=31536000, immutable"


def frame(request: Request, served: Served, title: str, page: str = "", corpus: str | None = None) -> Frame:
    root = request.scope.get("root_path", "").rstrip("/")
    return Frame(title, page, corpus, tuple(served.corpora), root, f"{root}/static/{static_digest()}")


def to_page(request: Request, path: str, state: str = "") -> RedirectResponse:
    """To another page of this service, in a state as its address has it."""
    root = request.scope.get("root_path", "").rstrip("/")
    return RedirectResponse(f"{root}/{path}{state and '?' + state}", 303, {"Cache-Control": "no-store"})


def page(frame: Frame, template: str, context: Any = None, status: int = 200) -> HTMLResponse:
    """A page: its template is given the frame's fields and its context's, and nothing else."""
    return HTMLResponse(rendered(frame, template, context), status, {"Cache-Control": "private, no-cache"})


@dataclass(frozen=True)
class Trouble:
    """Why there is no page."""

    message: str
    hint: str | None


def trouble(request: Request, error: VlqError, status: int) -> Response:
    """The page that stands where another one cannot be."""
    served: Served = request.app.state.served
    first = request.url.path.removeprefix(request.scope.get("root_path", "")).split("/")[1:2]
    corpus = next((name for name in served.corpora if [name] == first), None)
    about = frame(request, served, HTTPStatus(status).phrase, corpus=corpus)
    return page(about, "trouble.html", Trouble(error.message, error.hint), status)


# --- static files ----------------------------------------------------------------------------------------------


@router.get("/static/{digest}/{path:path}")
def static(digest: str, path: str) -> Response:
    """A file of the pages: a module, a style sheet."""
    data = static_files().get(path)
    if data is None or digest != static_digest():
        raise NotFound(f"There is no file {path}.")
    kind = "text/javascript" if path.endswith(".js") else mimetypes.guess_type(path)[0] or "text/plain"
    return Response(data, media_type=kind, headers={"Cache-Control": FOR_EVER})


# --- the way in ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Login:
    """The form that asks for a token."""

    next: str  # the path to go on to
    wrong: bool  # whether a token was given that is none


@router.get("/login")
def login(request: Request, served: ServedHere, next: str = "/") -> Response:
    """The form that asks for the token."""
    return page(frame(request, served, "Token"), "login.html", Login(local(next), False))


@router.post("/login")
async def enter(request: Request, served: ServedHere) -> Response:
    """Let a browser in that was given the token. It keeps a ticket, which is not the token."""
    form = parse_qs((await request.body()).decode(errors="replace"))
    token, onwards = (form.get(name, [""])[0] for name in ("token", "next"))
    settings = served.settings
    if not token or not rights_of(Headers({"Authorization": f"Bearer {token}"}), settings):
        return page(frame(request, served, "Token"), "login.html", Login(local(onwards), True), 401)
    if settings.readers_token is None and settings.operators_token is None:
        raise NotAllowed("This service has no token.", "It lets everybody in.")
    response = RedirectResponse(frame(request, served, "").root + local(onwards), 303)
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, ticket_of(token), max_age=MONTH, httponly=True, samesite="lax", secure=secure)
    return response


def local(path: str) -> str:
    """The path if it is one of this service's, else its beginning: a link to elsewhere may stand in a `next=`."""
    is_here = path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
    return path if is_here else "/"


# --- pages of no corpus ----------------------------------------------------------------------------------------


@router.get("/")
def home(request: Request, served: ServedHere) -> Response:
    """The corpus, where there is one; else all of them."""
    if len(served.corpora) == 1:
        return RedirectResponse(f"{frame(request, served, '').root}/{next(iter(served.corpora))}/", 307)
    corpora = [served.about(name) for name in served.corpora]
    return page(frame(request, served, "Corpora"), "home.html", Home(tuple(corpora)))


@dataclass(frozen=True)
class Home:
    """The corpora that are served."""

    about: tuple[dict[str, Any], ...]  # of each, as /v1/corpora has it


@dataclass(frozen=True)
class Description:
    """The API's description."""

    operations: tuple[dict[str, Any], ...]  # method, path, summary, description, parameters, body, answers
    version: str


@router.get("/docs")
def docs(request: Request, served: ServedHere) -> Response:
    """The API, as /openapi.json describes it."""
    description = request.app.openapi()
    found = []
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            found.append({"method": method.upper(), "path": path, **_described(operation, description)})
    return page(frame(request, served, "API"), "docs.html", Description(tuple(found), description["info"]["version"]))


def _described(operation: Mapping[str, Any], description: Mapping[str, Any]) -> dict[str, Any]:
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    answer = operation["responses"].get("200", {}).get("content", {})
    schema = answer.get("application/json", {}).get("schema")
    return {
        "description": operation.get("description", ""),
        "parameters": operation.get("parameters", []),
        "body": _fields(body, description),
        "answer": _fields(schema, description),
        "types": list(answer),
    }


def _written(example: Any) -> str | None:
    return None if example is None else json.dumps(example, ensure_ascii=False)


def _fields(schema: Mapping[str, Any] | None, description: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The fields of an object, each with its name, what it is, and an example."""
    if schema is None or "$ref" not in schema:
        return []
    found = description["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    required = found.get("required", [])
    return [
        {
            "name": name,
            "required": name in required,
            "description": field.get("description", ""),
            "example": _written(next(iter(field.get("examples", [])), None)),
        }
        for name, field in found.get("properties", {}).items()
    ]
