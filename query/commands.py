"""The commands of this room: what `vlq NAME` runs, as functions whose parameters are the command line's."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Annotated, Any, TextIO, cast

import typer
from typer.core import TyperCommand

from vlq.query.answers.answer import FORMATS
from vlq.query.limits import Limits
from vlq.query.mistakes.elsewhere import FORMAT as NO_FORMAT
from vlq.query.mistakes.elsewhere import TOO_MANY
from vlq.query.options import CACHE, FORMAT, OUTPUT
from vlq.query.streams import Unheard

CacheOption = Annotated[str, typer.Option(help=CACHE)]


class Command(TyperCommand):
    """A command that says what became of a glob which a shell put files in the place of, and that does its work, and
    ends as ever, when nobody reads on."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.allow_extra_args = True
        extra = super().parse_args(ctx, args)
        if extra and not ctx.resilient_parsing:  # as for completion
            takes_any = any(param.param_type_name == "argument" for param in self.params)
            raise TOO_MANY.error(command=ctx.info_name, first=extra[0], near=takes_any and _glob_of(extra))
        return extra

    def invoke(self, ctx: Any) -> Any:
        with redirect_stdout(cast("TextIO", Unheard(sys.stdout, BrokenPipeError))):
            try:
                return super().invoke(ctx)
            except BrokenPipeError:  # of bytes; the framework would end with 1, as if a check had found something
                raise SystemExit(0) from None


def _glob_of(paths: list[str]) -> str:
    """What a shell may have made these files of; "" if they are none."""
    if not all(map(os.path.lexists, paths)):
        return ""
    endings = {os.path.splitext(path)[1] for path in paths}
    return os.path.join(os.path.dirname(paths[0]), "*" + (endings.pop() if len(endings) == 1 else ""))


def version(shown: bool) -> None:
    """Print which version this is, if that is to be shown, and end."""
    if shown:
        from vlq import __version__

        print(f"vlq {__version__}")
        raise typer.Exit


def root(
    version: Annotated[
        bool, typer.Option("--version", help="Show which version this is.", callback=version, is_eager=True)
    ] = False,
) -> None:
    """What `vlq` has in front of its commands."""


def entries(begun: str) -> list[tuple[str, str]]:
    """The functions and methods whose names begin so, for completion."""
    from vlq.query.language.registry import functions, methods

    found = (*functions().values(), *methods().values())
    return [(entry.name, entry.documentation) for entry in found if entry.name.startswith(begun)]


def formats(begun: str) -> list[str]:
    """The formats whose names begin so, for completion."""
    return [form for form in FORMATS if form.startswith(begun)]


def info(
    cache: CacheOption = "",
    format: Annotated[str, typer.Option(help="table or json.")] = "table",
) -> None:
    """What a cache holds.

    Model, prompt, layers, grid, k, images, errors, size and state of its index.
    """
    from vlq.query.client.local import open as open_corpus
    from vlq.query.info import as_text

    _tell(format, lambda: open_corpus(cache or None).info(), as_text)


def status(
    cache: CacheOption = "",
    format: Annotated[str, typer.Option(help="table or json.")] = "table",
) -> None:
    """How far a run is.

    By the cache's own records: shards, images, errors, bytes, and what is missing.
    """
    from vlq.query.cache.reader import Cache, default_url
    from vlq.query.status import as_text, status_of

    _tell(format, lambda: status_of(Cache.open(cache or default_url())), as_text)


def _tell(format: str, values_of: Callable[[], dict[str, Any]], as_text: Callable[[dict[str, Any]], str]) -> None:
    if format not in ("table", "json"):
        raise NO_FORMAT.error(known="table or json", got=format)
    values = values_of()
    print(json.dumps(values, indent=2, ensure_ascii=False) if format == "json" else as_text(values))


def help_of(
    name: Annotated[
        str,
        typer.Argument(help="A function, such as first_layer, or a method, such as where.", autocompletion=entries),
    ] = "",
) -> None:
    """The functions of the query language, or all about one of them."""
    from vlq.query.language.reference import help_text

    print(help_text(name))


def annotate(
    table: Annotated[
        str,
        typer.Argument(help="A .parquet, .csv, .jsonl or .json file, or COCO's; a path or a URL."),
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
    """Join a table's columns to a cache's images.

    The images are not read again.
    """
    from vlq.query.cache.annotate import annotate
    from vlq.query.cache.reader import Cache, default_url

    print(annotate(Cache.open(cache or default_url()), table, on=on, replace=replace))


def sql(
    statement: Annotated[
        str,
        typer.Argument(help="One SELECT, as in docs/sql.md. Without it: which tables there are, and their columns."),
    ] = "",
    cache: CacheOption = "",
    format: Annotated[
        str | None,
        typer.Option(help=FORMAT, autocompletion=formats),
    ] = None,
    output: Annotated[str | None, typer.Option(help=OUTPUT)] = None,
    timeout: Annotated[float, typer.Option(help="Seconds until it is stopped.")] = Limits.timeout,
    memory: Annotated[str, typer.Option(help="Memory that it may take.")] = str(Limits.memory),
    temp: Annotated[
        str, typer.Option(help="Disk that it may take for what does not fit into memory; 0 for none.")
    ] = str(Limits.temp),
    max_rows: Annotated[int, typer.Option(help="Rows that its answer may have.")] = Limits.max_rows,
    threads: Annotated[int | None, typer.Option(help="Default: one for each core.")] = Limits.threads,
) -> None:
    """Ask in SQL, read only, what the query language cannot say."""
    from vlq.query.answers.render import deliver, form_of
    from vlq.query.client.local import open as open_corpus

    corpus = open_corpus(cache or None)
    if not statement:
        print(corpus.sql_tables())
        return
    form = form_of(format, output)
    answer = corpus.sql(statement, timeout=timeout, memory=memory, temp=temp, max_rows=max_rows, threads=threads)
    deliver(answer, form, output)


COMMANDS: dict[str, Callable[..., None]] = {
    "info": info,
    "status": status,
    "help": help_of,
    "sql": sql,
    "annotate": annotate,
}
