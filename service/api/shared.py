"""What the parts of the API share: which corpus, ETags, and JSON as the command line writes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from typing import Annotated, Any

from fastapi import Depends, Query, Request
from fastapi.responses import Response

from vlq import __version__
from vlq.query.client import LocalCorpus
from vlq.query.render import plain
from vlq.service.served import Served


def served(request: Request) -> Served:
    found: Served = request.app.state.served
    return found


CorpusName = Annotated[str | None, Query(alias="corpus", description="A corpus' name; by default the first one's.")]


def corpus_of(request: Request, corpus: CorpusName = None) -> LocalCorpus:
    return served(request).corpus(corpus)


ServedHere = Annotated[Served, Depends(served)]
CorpusHere = Annotated[LocalCorpus, Depends(corpus_of)]


def tag_of(*parts: object) -> str:
    """The ETag of what follows from these, and from this version's code."""
    return f'W/"{sha256(repr((__version__, *parts)).encode()).hexdigest()[:32]}"'


def unchanged(request: Request, tag: str) -> Response | None:
    """The answer to who has it already."""
    known = request.headers.get("if-none-match", "")
    if tag in (part.strip() for part in known.split(",")):
        return Response(status_code=304, headers=headers_of(tag))
    return None


def headers_of(tag: str) -> dict[str, str]:
    """What lets browsers keep an answer and ask whether it is still the same."""
    return {"ETag": tag, "Cache-Control": "private, no-cache"}


async def kept(request: Request, served: Served, tag: str, make: Callable[[], bytes]) -> bytes:
    """What is answered at this path with this tag, made anew unless it was asked for not long ago."""
    key = (request.url.path, tag)
    if (found := served.answers.get(key)) is not None:
        return found
    made, _ = await served.ask(request, make)
    served.answers.put(key, made)
    return made


def as_json(values: Any) -> bytes:
    """Values as JSON; of what is no number null."""
    return json.dumps(plain(values), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def json_response(values: Any, tag: str | None = None) -> Response:
    """Values, or bytes that are JSON already."""
    body = values if isinstance(values, bytes) else as_json(values)
    return Response(body, media_type="application/json", headers={} if tag is None else headers_of(tag))
