"""`vlq serve`: a site and an API over caches."""

from __future__ import annotations

import errno
import gc
import os
import re
import socket
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from vlq.query.errors import BadArgument, InputError
from vlq.query.extras import missing_extra
from vlq.query.options import CACHE

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Addresses that only this machine reaches."""

READERS, OPERATORS = "VLQ_READERS_TOKEN", "VLQ_OPERATORS_TOKEN"


def serve(
    caches: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=]URL",
            help="Caches, each by its folder's name unless it is given one. Default $VLQ_CACHE, else the demo's.",
        ),
    ] = None,
    cache: Annotated[
        list[str] | None, typer.Option(metavar="[NAME=]URL", help="The same as an option; more than one may be given.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; this machine only unless told.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for a free one.", min=0, max=65535)] = 8765,
    readers_token_file: Annotated[
        Path | None, typer.Option(help=f"File with the token that lets readers in; default ${READERS}.")
    ] = None,
    operators_token_file: Annotated[
        Path | None, typer.Option(help=f"File with the token that lets one start runs; default ${OPERATORS}.")
    ] = None,
    allowed_host: Annotated[
        list[str] | None, typer.Option(help="A name that the service is reached by; default any, or this machine's.")
    ] = None,
    allowed_origin: Annotated[
        list[str] | None, typer.Option(help="A site whose pages may ask this service, such as https://host.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds that one question may take.", min=0.1)] = 30.0,
    memory: Annotated[str, typer.Option(help="Memory that all questions together may take.")] = "4GB",
    temp: Annotated[
        str, typer.Option(help="Disk that a statement of SQL may take for what does not fit into memory; 0 for none.")
    ] = "0",
    max_rows: Annotated[int, typer.Option(help="Rows of one answer.", min=1)] = 1_000_000,
    at_once: Annotated[int, typer.Option(help="Questions that are answered at the same time.", min=1)] = 3,
    ray_jobs: Annotated[
        str, typer.Option(help="Address of a Ray cluster's jobs, where runs are started; default this machine.")
    ] = "",
    waiting: Annotated[int, typer.Option(help="Questions that may wait for their turn.", min=0)] = 64,
    intervene: Annotated[
        bool,
        typer.Option(
            "--intervene", help="Load a corpus' model when somebody takes patches from an image; needs vlq[workers]."
        ),
    ] = False,
    model: Annotated[
        list[str] | None,
        typer.Option(help="With --intervene, where a corpus' model is now, if it moved; more than one may be given."),
    ] = None,
) -> None:
    """Serve caches over HTTP: pages, and an API for programs.

    The pages are to browse, click and ask; the API is described at /docs.
    """
    check_address(host, port)
    if intervene:
        check_workers()
    check_models(model or [], intervene)
    from vlq.query.cache.reader import default_url
    from vlq.query.limits import size_of
    from vlq.service.app import create_app
    from vlq.service.names import named
    from vlq.service.server import server
    from vlq.service.settings import Settings

    here = (*LOOPBACK, "[::1]")
    hosts = tuple(allowed_host or ())
    settings = Settings(
        caches=named([*(caches or ()), *(cache or ())] or [default_url()]),
        readers_token=token(readers_token_file, READERS),
        operators_token=token(operators_token_file, OPERATORS),
        # A page of another site can have its own name point at this machine: by that name it is not answered.
        hosts=(*hosts, *here) if hosts or host in LOOPBACK else (),
        origins=tuple(allowed_origin or ()),
        timeout=timeout,
        memory=size_of("memory", memory),
        temp=size_of("temp", temp),
        most_rows=max_rows,
        at_once=at_once,
        waiting=waiting,
        ray_jobs=ray_jobs or None,
        intervene=intervene,
        models=tuple(model or ()),
    )
    app = create_app(settings)
    if settings.readers_token is None and host not in LOOPBACK:
        typer.echo(f"Whoever reaches {host} can read: set ${READERS} to let in those alone who know it.", err=True)
    # What is loaded stays to the end: to look for cycles among it again stops all requests for some 60 ms each time.
    gc.collect()
    gc.freeze()
    server(app, host, port, log_level="info").run()


def export(
    asked: Annotated[str, typer.Argument(metavar="QUERY|IMAGES", help="A query, or images by their numbers: 7,12.")],
    out: Annotated[Path, typer.Option(help="A new folder for the pages.")],
    cache: Annotated[str, typer.Option(help=CACHE)] = "",
    limit: Annotated[int, typer.Option(help="Pages of so many images at most.", min=0)] = 100,
    tokens: Annotated[
        int,
        typer.Option(help="Pages of so many tokens at most: of the query, its rows, then its images.", min=0),
    ] = 20,
) -> None:
    """Write an answer's pages as files that need no service.

    Its page, those of its images and tokens, the layers, and two images side by side.

    An image takes as much as its readings, packed, and its picture: some 2 MB of LLaVA-1.5's size. A token takes up to
    0.2 MB and pictures of its examples, 384 pixels wide. The last line says how large the folder is.
    """
    from vlq.query.cache.reader import Cache, default_url
    from vlq.query.client.local import LocalCorpus
    from vlq.query.info import as_bytes
    from vlq.service.export import export
    from vlq.service.pages.files import INDEX

    corpus = LocalCorpus(Cache.open(cache or default_url()))
    numbers = re.fullmatch(r"\s*\d+(\s*,\s*\d+)*\s*", asked)
    wanted = [int(number) for number in asked.split(",")] if numbers else asked
    written = export(corpus, wanted, out, limit, tokens, tell=_tell)
    print(f"{written.said}, {as_bytes(written.size)}: {out / INDEX}")


def _tell(what: str) -> None:
    """On a terminal, what is done now: it may take minutes."""
    if sys.stderr.isatty():
        print(f"Writing: {what}", file=sys.stderr)


def check_address(host: str, port: int) -> None:
    """Raises InputError if nothing can listen there."""
    try:
        for family, kind, _, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            with socket.socket(family, kind) as tried:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    tried.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # as asyncio's servers are
                tried.bind(address)
    except OSError as error:
        why = error.strerror or str(error)
        hint = "Is another service running? --port 0 takes a free port." if error.errno == errno.EADDRINUSE else None
        raise InputError(f"{host}, port {port}, cannot be listened on: {why}.", hint) from error


def check_workers() -> None:
    """Raises MissingExtra if no model can be loaded here. Nothing is loaded."""
    for package in ("torch", "transformers", "safetensors"):
        if find_spec(package) is None:
            error = missing_extra(ModuleNotFoundError(name=package))
            assert error is not None
            raise error


def check_models(models: Sequence[str], intervene: bool) -> None:
    """Raises BadArgument if no model is wanted, ModelError if there is none at one of these places."""
    if models and not intervene:
        raise BadArgument("--model says where a model is that --intervene loads.", "Add --intervene.")
    if models:
        from vlq.workers.models.files import resolve

        for model in models:
            resolve(model)


def token(file: Path | None, variable: str) -> str | None:
    """The token in a file, or in the environment. Raises InputError if there is none in the file."""
    if file is None:
        return os.environ.get(variable) or None
    try:
        found = file.read_text().strip()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}.", "It should hold a token.") from error
    if not found:
        raise InputError(f"{file} holds no token.", "Make one: openssl rand -hex 32")
    return found
