"""The application: the API and the pages over the caches that are served, behind one guard."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from threading import Thread

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware

from vlq import __version__
from vlq.service.answers import LEAST_COMPRESSED, LEVEL
from vlq.service.api import ablation, corpora, images, layers, narrow, query, runs, tokens
from vlq.service.encodings import Encodings
from vlq.service.errors import Accidents, tell_errors
from vlq.service.guard import Guard, Heads
from vlq.service.metrics import Metrics
from vlq.service.pages import compare, corpus, site, token
from vlq.service.pages import images as images_page
from vlq.service.pages import layers as layers_page
from vlq.service.served import Served
from vlq.service.settings import Settings

ABOUT = """What a vision-language model reads in every image patch at every layer, over a corpus of images.

Questions are asked in VLQ's language (`first_layer(token='dog')`); answers never change as long as the cache does not,
so they have ETags. Errors have one shape: `kind`, `message`, `hint` and the `span` of the query that they are about."""


def create_app(settings: Settings) -> FastAPI:
    """The application. Raises NoCache and the like if a cache cannot be opened."""
    served = Served(settings)
    metrics = Metrics(served)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        Thread(target=served.warm_up, daemon=True, name="warm-up").start()
        yield
        served.close()

    middleware = [
        Middleware(Heads),
        Middleware(metrics.middleware),
        # Answers to other sites' pages; without it browsers keep them to this one's.
        Middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["ETag", "X-VLQ-Cursor"],
        ),
        Middleware(Guard, settings=settings),
        Middleware(Encodings),
        Middleware(GZipMiddleware, minimum_size=LEAST_COMPRESSED, compresslevel=LEVEL),
        Middleware(Accidents, page=site.trouble),
    ]
    app = FastAPI(
        title="VLQ",
        version=__version__,
        description=ABOUT,
        docs_url=None,  # these pages fetch their scripts elsewhere
        redoc_url=None,
        openapi_url="/openapi.json",
        middleware=middleware,
        lifespan=lifespan,
    )
    app.state.served = served
    app.state.settings = settings
    tell_errors(app, site.trouble)
    for room in (query, corpora, images, ablation, tokens, layers, runs, narrow):
        app.include_router(room.router)
    app.include_router(metrics.router)
    for pages in (site, corpus, images_page, token, layers_page, compare):
        app.include_router(pages.router)
    return app
