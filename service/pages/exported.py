"""The pages of an exported folder, each with the answers to what can be asked of it there."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from vlq.query.answers.render import as_json
from vlq.query.answers.result import Result
from vlq.query.client.local import LocalCorpus
from vlq.query.client.one import one_image
from vlq.query.errors import VlqError
from vlq.query.statistics.depth import changes
from vlq.service.api.layers import AGREEMENTS
from vlq.service.api.query import drawn
from vlq.service.counts import Counts
from vlq.service.facets import Facet, facets
from vlq.service.pages import compare, layers, token
from vlq.service.pages.answers import Shown, answer, clean
from vlq.service.pages.chips import Chip
from vlq.service.pages.corpus import VIEWS, AnswerPart, CorpusPage, unread_of
from vlq.service.pages.files import INDEX
from vlq.service.pages.folder import Folder, asked_at
from vlq.service.pages.image_file import held
from vlq.service.pages.panels import Panel, rendered_panel
from vlq.service.pages.rendering import rendered

PARTS = 48
"""Parts of an answer that are written: pages of its table and of its images, and the table in other orders."""

PAIRS = 128
"""Pairs of layers of each site whose changes are written: neighbours, then those with the last layer, then others."""


# --- the answer ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExportPage(CorpusPage):
    """The answer's page."""

    about: str  # what there is beside it


@dataclass(frozen=True)
class Part:
    """What of an answer is shown: the address says it."""

    query: str
    view: str = VIEWS[0]
    cursor: str = ""


def answer_page(folder: Folder, corpus: LocalCorpus, result: Result, about: str) -> None:
    """The page of an answer that a corpus gives: as a table, images and a chart, so much of these as there is room for.

    `about` says what there is beside it.
    """
    query, frame = result.query, folder.frame(folder.name, "corpus")
    found = parts(corpus, query, lambda of: folder.name if of.cache is folder.corpus.cache else of.url)

    def here(given: Mapping[str, str]) -> str | None:
        part = Part(given.get("q", ""), given.get("view", VIEWS[0]), given.get("cursor", ""))
        if part not in found:
            return None
        usual = {"q": query, "view": VIEWS[0], "cursor": ""}
        values = {"q": part.query, "view": part.view, "cursor": part.cursor}
        return "#" + urlencode({name: value for name, value in values.items() if value != usual[name]})

    answers, chart = {}, "pictures/chart.svg"
    undrawn = _draw(result, folder.path / chart)
    for part, shown in found.items():
        html = rendered(frame, "corpus_answer.html", AnswerPart(part.query, part.view, shown, None, "", chart, undrawn))
        asked = {"q": part.query, "view": part.view, "cursor": part.cursor}
        answers[asked_at(f"/{folder.name}/answer", asked)] = folder.led(html, here).encode()
    for text in {part.query: None for part in found}:
        answers[asked_at("/v1/explain", {"query": text})] = as_json({"text": corpus.query(text).explain()})
    run, snapshot = folder.corpus.cache.run, folder.corpus.cache.snapshot()
    bars: tuple[Facet, ...] = ()
    try:
        bars, trouble = tuple(facets(corpus, query)), ""
    except VlqError as error:
        trouble = error.message
    unread, reasons = unread_of(folder.corpus)
    context = ExportPage(
        view=VIEWS[0],
        facets=bars,
        trouble=trouble,
        q=query,
        answer=found[Part(query)],
        mistake=None,
        downloads="",
        chart=chart,
        undrawn=undrawn,
        model=run.model,
        lens=run.lens.named,
        prompt=run.prompt,
        images=snapshot.images,
        layers=run.layers,
        complete=snapshot.sealed,
        unread=unread,
        reasons=reasons,
        examples=(),
        shows_facets=True,
        about=about,
    )
    folder.write_page(INDEX, frame, "export.html", context, ("corpus/page.js",), answers, here)


def parts(corpus: LocalCorpus, query: str, name_of: Callable[[LocalCorpus], str]) -> dict[Part, Shown]:
    """What of an answer is written: what its own links lead to, what is nearest first."""
    found: dict[Part, Shown] = {}
    waiting = deque(Part(query, view) for view in VIEWS)
    while waiting and len(found) < PARTS:
        part = waiting.popleft()
        if part in found:
            continue
        shown = found[part] = answer(corpus, part.query, part.view, part.cursor or None, name_of)
        if shown.next is not None:
            waiting.append(replace(part, cursor=shown.next))
        waiting.extend(Part(head.sort) for head in shown.heads if head.sort is not None and not part.cursor)
    return found


def _draw(result: Result, path: Path) -> str:
    """Write an answer's chart; why there is none, if so."""
    try:
        picture = drawn(result, "svg")
    except VlqError as error:
        return error.message
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(picture)
    return ""


# --- images, and two of them -----------------------------------------------------------------------------------


def image_pages(folder: Folder, images: Sequence[int]) -> None:
    """The pages of images. What each reads stands in a script, for its own page and for the one that compares."""
    for before, id, behind in zip([None, *images], images, [*images[1:], None], strict=False):
        context, answers = held(folder.corpus, id)
        context = replace(context, previous=before, following=behind)
        folder.write_answers(f"data/image-{id}.js", f"/v1/images/{id}", answers)
        frame = folder.frame(context.name, "image")
        folder.write_page(f"image-{id}.html", frame, "image.html", context, ("image/main.js",))


def compare_page(folder: Folder, images: Sequence[int]) -> None:
    """The page that holds two of the images against each other."""
    corpus, run = folder.corpus, folder.corpus.cache.run
    names = tuple((id, clean(one_image(corpus, id).name)) for id in images)
    usual = images[0], images[min(1, len(images) - 1)]
    first, second = (compare.Side(folder.name, id, run.read_layers[-1]) for id in usual)
    context = compare.ComparePage(
        sides=(first, second),
        runs=({"name": folder.name, "layers": tuple(run.read_layers), "images": len(images)},),
        usual=usual,
        a="",
        b="",
        at=None,
        layers=tuple(run.read_layers),
        pair=compare.PAIR,
        sets=(),
        images=names,
        example=("", ""),
    )
    frame = folder.frame("Compare", "compare")
    folder.write_page("compare.html", frame, "compare.html", context, ("compare/compare.js",))


# --- tokens ----------------------------------------------------------------------------------------------------


def token_pages(folder: Folder, counts: Counts, tokens: Sequence[int], whole: Sequence[int]) -> None:
    """A list of tokens, and the page of each; of the `whole` ones for each layer, rank and band of probability."""
    corpus = folder.corpus
    ordered = sorted(tokens, key=lambda id: counts.place[id])
    for more, id, less in zip([None, *ordered], ordered, [*ordered[1:], None], strict=False):
        beside = (None if one is None else Chip.of(corpus.vocabulary.token(one)) for one in (more, less))
        context = replace(token.token_page(counts, corpus, id, {}), more=next(beside), less=next(beside))
        answers = {}
        for given in token_states(context, id in whole):
            for panel in context.panels:
                if panel.name == "truth" and given:
                    continue  # it takes a second
                used = {name: value for name, value in given.items() if name in panel.uses}
                path = asked_at(f"/{folder.name}/tokens/{id}/{panel.name}", used)
                if path not in answers:
                    shown = token.shown_in(panel.name, corpus, id, used, f"/{folder.name}")
                    answers[path] = _panel(folder, panel, "token_panel.html", shown)
        frame = folder.frame(f"Token {context.token.chip.text}", "token")
        module = "token/token.js" if context.panels else "panels.js"
        folder.write_page(f"token-{id}.html", frame, "token.html", context, (module,), answers)
    found = tuple(token.of(counts[id]) for id in ordered)
    listed = token.TokensPage("", found, len(found), counts.site, corpus.cache.snapshot().images)
    folder.write_page("tokens.html", folder.frame("Tokens", "token"), "tokens.html", listed, ("panels.js",))


def token_states(page: token.TokenPage, whole: bool) -> Iterator[dict[str, str]]:
    """What of a token's page is written, as static/token/token.js writes its state: all layers together, with examples
    of each band; of a whole one each layer too, and other ranks, and all choices of examples in each band."""
    bands = [{}, *(_band(low, high) for low, high in page.bands)]
    for show in token.ORDERS[: None if whole else 1]:
        for band in bands:
            yield band if show == token.ORDERS[0] else {**band, "show": show}
    if whole:
        yield from ({"layer": str(layer)} for layer in page.layers)
        yield from ({"rank": str(rank)} for rank in sorted({5, page.k}) if 1 < rank <= page.k)


def _band(low: float, high: float) -> dict[str, str]:
    return {name: f"{value:g}" for name, value, usual in (("low", low, 0.0), ("high", high, 1.0)) if value != usual}


# --- layers ----------------------------------------------------------------------------------------------------


def layers_page(folder: Folder) -> None:
    """The layers' page, with what changed between the pairs of layers that there is room for."""
    corpus = folder.corpus
    context = layers.layers_of(corpus, {})
    between = lru_cache(maxsize=4)(changes)
    agreement = cache(lambda at: AGREEMENTS[at](corpus))
    answers = {}
    for given in layers_states(context):
        for panel in context.panels:
            used = {name: value for name, value in given.items() if name in panel.uses}
            path = asked_at(f"/{folder.name}/layers/{panel.name}", used)
            if path not in answers:
                shown = layers.shown_in(panel.name, corpus, layers.state_of(used, corpus), agreement, between)
                answers[path] = _panel(folder, panel, "layers_panel.html", shown)
    frame = folder.frame(f"Layers of {folder.name}", "layers")
    folder.write_page("layers.html", frame, "layers.html", context, ("layers/layers.js",), answers)


def layers_states(page: layers.LayersPage) -> Iterator[dict[str, str]]:
    """What of the layers' page is written, as static/layers/layers.js writes its state."""
    usual = {"at": page.sites[0], "from": str(page.since), "to": str(page.until)}
    for site in page.sites:
        for unit in ({}, {"unit": "position"}):
            yield {name: value for name, value in {"at": site, **unit}.items() if value != usual.get(name)}
        for since, until in pairs(page.layers):
            given = {"at": site, "from": str(since), "to": str(until)}
            yield {name: value for name, value in given.items() if value != usual[name]}


def pairs(read: Sequence[int]) -> list[tuple[int, int]]:
    """Two layers each, either way: the middle and the last one, neighbours, those with the last, then others."""
    beside = {pair for one, other in pairwise(read) for pair in ((one, other), (other, one))}
    last = {pair for one in read for pair in ((one, read[-1]), (read[-1], one))}
    every = [(one, other) for one in read for other in read]
    usual = (read[len(read) // 2], read[-1])
    return sorted(every, key=lambda pair: (pair != usual, pair not in beside, pair not in last))[:PAIRS]


def _panel(folder: Folder, panel: Panel, template: str, shown: Any) -> bytes:
    return folder.led(rendered_panel(folder.frame(panel.title, ""), panel, template, shown)).encode()
