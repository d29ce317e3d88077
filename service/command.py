"""`vlq serve`: answer questions over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer


def serve(
    cache: Annotated[str, typer.Option(help="URL of the cache; default $VLQ_CACHE, else the demo's.")] = "",
    host: Annotated[str, typer.Option(help="Address to listen on; this machine only unless told.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = 8765,
) -> None:
    """Answer questions about a cache over HTTP: POST /v1/query, GET /v1/info; the API is described at /docs."""
    import uvicorn

    import vlq
    from vlq.service.app import create_app

    corpus = vlq.open(cache or None)
    uvicorn.run(create_app(corpus), host=host, port=port, log_level="info")
