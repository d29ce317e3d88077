"""Which compression whoever asks can read: what comes behind looks for the word gzip alone."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send


class Encodings:
    """Has a request say gzip, or nothing, as its Accept-Encoding means it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = MutableHeaders(scope=scope)
            asked = headers.get("accept-encoding", "")
            if (wanted := takes_gzip(asked)) != ("gzip" in asked):
                headers["accept-encoding"] = "gzip" if wanted else "identity"
        await self._app(scope, receive, send)


def takes_gzip(accepted: str) -> bool:
    """Whether an Accept-Encoding takes gzip: it names it, or else `*`, with a weight above 0 (RFC 9110, 12.5.3)."""
    weights = {}
    for part in accepted.lower().split(","):
        coding, _, parameters = part.partition(";")
        name, _, weight = parameters.partition("=")
        try:
            weights[coding.strip()] = float(weight) if name.strip() == "q" else 1.0
        except ValueError:
            weights[coding.strip()] = 0.0
    return weights.get("gzip", weights.get("*", 0.0)) > 0
