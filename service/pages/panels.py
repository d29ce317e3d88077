"""Panels: parts of a page that are made, fetched and shown each by itself, so that a slow one holds up none.

A panel has an address of its own, which gives a page with nothing but the panel; with `part=1` the panel alone, which
panels.js puts into its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from markupsafe import Markup
from starlette.datastructures import QueryParams

from vlq.query.client.local import LocalCorpus
from vlq.service.api.shared import answered
from vlq.service.numbers import whole
from vlq.service.pages.chips import Chip
from vlq.service.pages.rendering import Frame, rendered, static_digest
from vlq.service.served import Served


@dataclass(frozen=True)
class Panel:
    """What a page says of one of its panels before it is there."""

    name: str
    title: str
    uses: tuple[str, ...]  # the fields of the page's state that it depends on
    about: str  # one sentence: what it shows


@dataclass(frozen=True)
class Charts:
    """Charts, the figures in them, and the queries that give them."""

    headline: str
    charts: tuple[Markup, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    queries: tuple[str, ...]
    said: str = ""  # what it means


@dataclass(frozen=True)
class Table:
    """A table of tokens or other things, each with its figures."""

    headline: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Chip | str, tuple[Any, ...]], ...]  # what it is, and its figures
    total: int  # rows that there are
    queries: tuple[str, ...]
    notes: tuple[str, ...] = ()
    corpora: tuple[str, ...] = ()  # of which the queries are, if not all of the page's


@dataclass(frozen=True)
class OnePanel:
    """What the page of a panel alone is given."""

    content: str  # the panel's name, which its template goes by
    shown: Any  # what the panel shows
    part: str  # panels' templates
    about: Panel
    back: str  # the address of the page that it belongs to


def rendered_panel(page_frame: Frame, panel: Panel, template: str, shown: Any, back: str = "") -> str:
    """A panel's HTML alone; as a page by itself where there is one to go back to."""
    return rendered(page_frame, "panel.html" if back else template, OnePanel(panel.name, shown, template, panel, back))


async def panel_response(
    request: Request,
    served: Served,
    corpus: LocalCorpus,
    page_frame: Frame,
    panel: Panel,
    template: str,
    back: str,
    make: Callable[[], Any],
    others: tuple[str, ...] = (),
) -> Response:
    """A panel: what `make` gives, as its template draws it. `others` are digests of other caches that it rests on."""

    def work() -> bytes:
        part = request.query_params.get("part") == "1"
        return rendered_panel(page_frame, panel, template, make(), "" if part else back).encode()

    decided_by = (*others, static_digest(), page_frame)
    return await answered(request, served, corpus, work, "text/html; charset=utf-8", decided_by)


def number(given: QueryParams | Mapping[str, str], name: str, usual: int, least: int, most: int) -> int:
    """A whole number of an address, as state.js reads it: what is none is the usual one."""
    try:
        return min(most, max(least, int(given.get(name, ""))))
    except ValueError:
        return usual


def share(given: QueryParams | Mapping[str, str], name: str, usual: float) -> float:
    """A number from 0 to 1."""
    try:
        found = float(given.get(name, ""))
    except ValueError:
        return usual
    return min(1.0, max(0.0, found)) if found == found else usual


def choice(given: QueryParams | Mapping[str, str], name: str, options: tuple[str, ...]) -> str:
    """One of some words, by default the first."""
    found = given.get(name, options[0])
    return found if found in options else options[0]


def layer_of(given: QueryParams | Mapping[str, str], corpus: LocalCorpus, name: str = "layer") -> int | None:
    """A layer that was read; None for all."""
    found = given.get(name, "")
    run = corpus.cache.run
    return layer if (layer := whole(found, run.layers)) in run.read_layers else None


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
