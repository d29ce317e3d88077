"""Who may ask, and how a request may come: tokens, host names, sizes, times, and what browsers are told."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Mapping
from hashlib import sha256
from http.cookies import CookieError, SimpleCookie
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlq.query.errors import BadRequest, NotAllowed
from vlq.service.errors import told
from vlq.service.settings import Settings

COOKIE = "vlq"

OPEN = ("/healthz", "/login", "/static/")
"""Paths that need no token: a load balancer's, and what a browser needs to ask for one."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
)
"""What a browser may load and run for a page: this service's own files."""

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

SEND_TIME = 60.0
"""Seconds until who asked has taken the next part of an answer."""


class Guard:
    """ASGI middleware around everything else."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, settings = Headers(scope=scope), self._settings
        refused = self._refused(scope, headers)
        begun = False

        async def answer(message: Message) -> None:
            nonlocal begun
            begun = True
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            # Who reads slowly holds an answer in memory: for a while, not for ever.
            async with asyncio.timeout(SEND_TIME):
                await send(message)

        if refused is None:
            try:
                receive = await whole(receive, headers, settings)
            except _Refused as error:
                refused = error.response
        if refused is not None:
            await refused(scope, receive, answer)
            return
        try:
            await self._app(scope, receive, answer)
        except TimeoutError:
            if not begun:
                raise
            # What was begun cannot be answered otherwise: the server closes the connection.

    def _refused(self, scope: Scope, headers: Headers) -> Response | None:
        """The answer to who may not ask."""
        settings = self._settings
        if settings.hosts and _host(headers) not in settings.hosts:
            hint = "vlq serve --allowed-host NAME lets it be."
            return told(BadRequest(f"This service is not called {_host(headers)}.", hint), 400)
        path = scope["path"]
        rights = rights_of(headers, settings)
        scope.setdefault("state", {})["operator"] = "operate" in rights
        if any(path == name or (name.endswith("/") and path.startswith(name)) for name in OPEN):
            return None
        if "read" not in rights:
            if scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
                query = scope["query_string"].decode("latin-1")
                return RedirectResponse(f"/login?next={quote(path + ('?' if query else '') + query, safe='')}", 303)
            given = "authorization" in headers
            message = "That is not the token of this service." if given else "This service wants a token."
            return told(NotAllowed(message, "Send it as Authorization: Bearer TOKEN; in Python, set $VLQ_TOKEN."))
        return None


def rights_of(headers: Headers, settings: Settings) -> set[str]:
    """What the bearer of a request may do: read, operate."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    bearer = given.strip() if scheme.lower() == "bearer" else ""
    ticket = _ticket(headers)

    def knows(token: str | None) -> bool:
        return token is not None and _same(bearer, token) | _same(ticket, ticket_of(token))

    if knows(settings.operators_token):
        return {"read", "operate"}
    return {"read"} if settings.readers_token is None or knows(settings.readers_token) else set()


def ticket_of(token: str) -> str:
    """What a browser keeps instead of a token: it opens this service and tells nothing of the token."""
    return hmac.new(token.encode(), b"vlq: a browser that knows the token", sha256).hexdigest()


def _ticket(headers: Headers) -> str:
    if not (sent := headers.get("cookie", "")):
        return ""
    cookie = SimpleCookie()
    try:
        cookie.load(sent)
    except CookieError:
        return ""
    return cookie[COOKIE].value if COOKIE in cookie else ""


def _same(given: str, expected: str) -> bool:
    """In a time that does not tell how much of it is right."""
    return hmac.compare_digest(given.encode(), expected.encode())


def _host(headers: Headers) -> str:
    """The name in the Host header, without the port."""
    host = headers.get("host", "")
    return host[: host.rfind("]") + 1] if host.startswith("[") else host.partition(":")[0].lower()


# --- HEAD ------------------------------------------------------------------------------------------------------


class Heads:
    """ASGI middleware that answers HEAD as GET is answered, without the body (RFC 9110, 9.3.2)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def head(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self._app({**scope, "method": "GET"}, receive, head)


# --- bodies ----------------------------------------------------------------------------------------------------


class _Refused(Exception):
    """A request's body is not read."""

    def __init__(self, status: int, message: str, hint: str) -> None:
        super().__init__(message)
        self.response = told(BadRequest(message, hint), status)
        self.response.headers["Connection"] = "close"  # nobody waits for the rest of it


def too_large(settings: Settings) -> _Refused:
    return _Refused(413, f"The request is larger than {settings.most_body:,} bytes.", "Ask for less.")


async def whole(receive: Receive, headers: Headers, settings: Settings) -> Receive:
    """What gives a request's body as one message, which has come before anything is done about it.

    Raises _Refused if it is too large, or not here in time.
    """
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > settings.most_body:
        raise too_large(settings)
    body, more = bytearray(), True
    try:
        async with asyncio.timeout(settings.body_time):
            while more:
                message = await receive()
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > settings.most_body:
                    raise too_large(settings)
    except TimeoutError:
        late = f"The request was not here after {settings.body_time:g} seconds."
        raise _Refused(408, late, "Send it at once.") from None
    given: Message | None = {"type": "http.request", "body": bytes(body), "more_body": False}

    async def replay() -> Message:
        nonlocal given
        message, given = given, None
        return message or await receive()

    return replay
