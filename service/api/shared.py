"""What the parts of the API share: which corpus, and ETags."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Annotated, Any

from fastapi import Depends, Query, Request
from fastapi.responses import Response

from vlq import __version__
from vlq.query.answers.render import as_json
from vlq.query.client.local import LocalCorpus
from vlq.query.errors import BadRequest
from vlq.service.answers import Kept, Parts
from vlq.service.served import Kind, Served

# Dependencies are coroutines: FastAPI has others run in threads, which takes longer than they do.


async def served(request: Request) -> Served:
    found: Served = request.app.state.served
    return found


CorpusName = Annotated[str | None, Query(alias="corpus", description="A corpus' name; by default the first one's.")]


ServedHere = Annotated[Served, Depends(served)]


async def corpus_of(served: ServedHere, corpus: CorpusName = None) -> LocalCorpus:
    return served.corpus(corpus)


CorpusHere = Annotated[LocalCorpus, Depends(corpus_of)]


def tag_of(*parts: object) -> str:
    """The ETag of what follows from these, and from this version's code."""
    return f'W/"{sha256(repr((__version__, *parts)).encode()).hexdigest()[:32]}"'


def unchanged(request: Request, tag: str) -> Response | None:
    """The answer to who has it already."""
    known = request.headers.get("if-none-match", "")
    # Weak comparison (RFC 9110, 13.1.2): whoever stored it may have left out the W/.
    if tag.removeprefix("W/") in (part.strip().removeprefix("W/") for part in known.split(",")):
        return Response(status_code=304, headers=headers_of(tag))
    return None


def headers_of(tag: str) -> dict[str, str]:
    """What lets browsers keep an answer and ask whether it is still the same."""
    return {"ETag": tag, "Cache-Control": "private, no-cache"}


async def answered(
    request: Request,
    served: Served,
    corpus: LocalCorpus,
    make: Callable[[], Any],
    kind: str = "application/json",
    others: tuple[object, ...] = (),
    *,
    turn: Kind = "question",
) -> Response:
    """What follows from a corpus and a request's address, unless who asks has it; made anew unless it was asked for not
    long ago. `make` gives values to be told as JSON, or bytes of another kind, whole or in parts. `others` are what
    else decides it; whose turn it is, `Served.ask` tells."""
    # The path and the query as they came: `request.url` would put a URL together and take it apart again.
    tag = tag_of(await served.digest(corpus), *others, request.scope["path"], request.scope["query_string"])
    if (known := unchanged(request, tag)) is not None:
        return known

    def work() -> Kept:
        values = make()
        return Kept.of(values if isinstance(values, bytes | Parts) else as_json(values), tag)

    if (answer := served.answers.get(tag)) is None:
        made, _ = await served.ask(request, work, turn)
        served.answers.put(tag, made)
        answer = made
    return sent(request, answer, kind)


def sent(request: Request, answer: Kept, kind: str) -> Response:
    """An answer that was kept, compressed to who can read it so."""
    headers = headers_of(answer.tag)
    if not answer.is_compressed:
        return Response(answer.data, 200, headers, kind)
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return Response(answer.body, 200, headers, kind)
    return Response(answer.data, 200, {**headers, "Content-Encoding": "gzip", "Vary": "Accept-Encoding"}, kind)


def json_response(values: Any) -> Response:
    return Response(as_json(values), media_type="application/json")


def check_site(corpus: LocalCorpus, site: str) -> None:
    """Raises BadRequest if there are no such readings."""
    positions = corpus.cache.run.positions
    if site not in positions:
        raise BadRequest(f"There are no readings at {site}.", f"There are at {', '.join(positions)}.")


def check_layer(corpus: LocalCorpus, layer: int) -> None:
    """Raises BadRequest if it was not read."""
    read = corpus.cache.run.read_layers
    if layer not in read:
        raise BadRequest(f"Layer {layer} was not read.", f"Read were {', '.join(map(str, read))}.")
