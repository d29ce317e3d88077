"""The commands of this room: what `vlq NAME` runs, as functions whose parameters are the command line's."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated

import typer

from vlq.query.errors import QueryError

CacheOption = Annotated[str, typer.Option(help="URL of the cache; default $VLQ_CACHE, else the demo's.")]


def info(cache: CacheOption = "", format: Annotated[str, typer.Option(help="table or json.")] = "table") -> None:
    """Model, prompt, layers, grid, k, images, errors, size and index state of a cache."""
    from vlq.query.cache import Cache, default_url
    from vlq.query.info import as_text

    if format not in ("table", "json"):
        raise QueryError(f"--format is table or json, not '{format}'.")
    values = Cache.open(cache or default_url()).info()
    print(json.dumps(values, indent=2, ensure_ascii=False) if format == "json" else as_text(values))


def help_of(
    name: Annotated[str, typer.Argument(help="A function, such as first_layer, or a method, such as where.")] = "",
) -> None:
    """The functions of the query language, or all about one of them."""
    from vlq.query.reference import help_text

    print(help_text(name))


def annotate(
    table: Annotated[
        str, typer.Argument(help="A .parquet, .csv or .jsonl file with a row per image; a path or a URL.")
    ],
    cache: CacheOption = "",
    on: Annotated[
        str | None,
        typer.Option(help="The column that says which image a row is of; default: image_id, image, uri, ..."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put columns in the place of those of the same name.")
    ] = False,
) -> None:
    """Join a table's columns to a cache's images, without reading the images again."""
    from vlq.query.annotate import annotate
    from vlq.query.cache import Cache, default_url

    print(annotate(Cache.open(cache or default_url()), table, on=on, replace=replace))


COMMANDS: dict[str, Callable[..., None]] = {"info": info, "help": help_of, "annotate": annotate}
