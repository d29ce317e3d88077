"""The HTTP API over one cache: the same questions, the same answers as `vlq "..." --format json`."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from vlq.query.client import Corpus
from vlq.query.errors import CacheError, NoCache, StoreError, VlqError
from vlq.query.render import to_json


class Question(BaseModel):
    """A question to the corpus."""

    query: str = Field(description="A query of the language.", examples=["first_layer(token='dog')"])


def create_app(corpus: Corpus) -> FastAPI:
    """The application that answers for a corpus, and opens no other cache for those who ask."""
    corpus = corpus.alone()
    app = FastAPI(title="VLQ", description="What a vision-language model reads in every image patch at every layer.")

    @app.exception_handler(VlqError)
    def answer_mistake(request: Request, error: VlqError) -> JSONResponse:
        """Every error has one shape; a mistake in a query is the caller's (400), trouble with the cache is ours."""
        status = 503 if isinstance(error, CacheError | StoreError) and not isinstance(error, NoCache) else 400
        body = {"kind": error.kind, "message": error.message, "hint": error.hint, "span": error.span}
        return JSONResponse(body, status_code=status)

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        """Whether the service answers."""
        return {"status": "ok"}

    @app.get("/v1/info")
    def info() -> dict[str, Any]:
        """What is cached, as `vlq info --format json` shows it."""
        return corpus.info()

    @app.post("/v1/query")
    def query(question: Question) -> Response:
        """The answer to a query, as `vlq "..." --format json` prints it."""
        return Response(to_json(corpus.query(question.query)), media_type="application/json")

    return app
