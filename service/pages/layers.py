"""The layers' page: which layers to trust, what they default to, how they differ, and what changes between two."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from vlq.query.client.local import LocalCorpus
from vlq.query.errors import NotFound
from vlq.query.statistics.depth import SITES, Agreement, Changes, changes
from vlq.query.summary import Rows, as_seen, count
from vlq.service.api.layers import AGREEMENTS
from vlq.service.api.shared import ServedHere
from vlq.service.pages import charts
from vlq.service.pages.chips import Chip
from vlq.service.pages.panels import Charts, Panel, Table, layer_of, panel_response, percent
from vlq.service.pages.site import frame, page

router = APIRouter(include_in_schema=False)

PLACES = {"last": "the last prompt token", "patch": "image patches"}

MANY = {"last": "the images' last prompt tokens", "patch": "all patches"}

CAUTION = (
    "That a layer agrees does not make it right: {last}, and a word that is read on the way and gone again may have "
    "been meant. divergence_layer tells at which layer each image leaves the defaults."
)

PREDICTION = "the last layer is the model's own prediction of the next token"

EARLY = (
    "Early layers are read with the last one's head, for which they were not made: what they decode to is mostly junk."
)

LENSES = {
    "logit": (EARLY, PREDICTION),
    "head": (EARLY, "without its norm the last layer is not what the model predicts"),
    "nearest": (
        "Layers decode to the tokens whose input embeddings have the nearest directions, the last layer, too.",
        "the last layer's nearest token is not what the model predicts",
    ),
    "tuned": (
        "Each layer is read through a map that was trained to give what the last one reads: that can be more than the "
        "model makes of it there.",
        PREDICTION,
    ),
}
"""By the lens: what readings of early layers are, and what the last layer's are."""

SHOWN = 12
"""Rows of a table of what changed."""

SHOWN_DEFAULTS = 4
"""Tokens of each layer."""

PANELS = (
    Panel(
        "agreement",
        "Which layers to trust",
        ("at",),
        "How many positions decode to what they decode to at the last layer.",
    ),
    Panel(
        "defaults",
        "Default tokens",
        ("at", "unit"),
        "What each layer decodes to most. A token that nearly every image has at a layer says nothing of the image.",
    ),
    Panel(
        "divergence",
        "Divergence",
        ("at", "unit"),
        "How far the distributions of positions are from their mean: 0 where all read the same, large where each reads "
        "its own.",
    ),
    Panel(
        "changes",
        "What changed between two layers",
        ("at", "from", "to"),
        "Tokens that more, or fewer, positions decode to at the second layer than at the first.",
    ),
    Panel(
        "flows",
        "What became of what",
        ("at", "from", "to"),
        "The same positions at both layers: which token became which.",
    ),
)


@dataclass(frozen=True)
class LayersPage:
    """What the page shows before its panels are there, and its state."""

    model: str
    lens: str  # unless it is the usual one
    layers: tuple[int, ...]  # that were read
    sites: tuple[str, ...]
    places: dict[str, str]
    at: str
    unit: str
    since: int  # the first of the two layers that are compared
    until: int
    panels: tuple[Panel, ...]
    given: str  # the state as it stands in the address, for links that work without script


@dataclass(frozen=True)
class Looked:
    """The page's state."""

    at: str
    unit: str
    since: int
    until: int


def state_of(given: Mapping[str, str], corpus: LocalCorpus) -> Looked:
    """What is shown of the layers; usually of patches, where there are some, and the last layer against the middle."""
    run = corpus.cache.run
    sites = sites_of(corpus)
    layers = run.read_layers
    at = given.get("at", "")
    since, until = layer_of(given, corpus, "from"), layer_of(given, corpus, "to")
    return Looked(
        at if at in sites else sites[0],
        "position" if given.get("unit") == "position" else "image",
        layers[(len(layers) - 1) // 2] if since is None else since,
        layers[-1] if until is None else until,
    )


def sites_of(corpus: LocalCorpus) -> tuple[str, ...]:
    """Raises NotFound if layers were read at neither patches nor the last prompt token."""
    found = tuple(site for site in SITES if site in corpus.cache.run.positions)
    if not found:
        raise NotFound(
            "This corpus has no readings at patches or the last prompt token.", "The corpus page has others."
        )
    return found


@router.get("/{name}/layers")
async def layers(request: Request, served: ServedHere, name: str) -> Response:
    """The page of the layers."""
    context = layers_of(served.corpus(name), request.query_params, request.url.query)
    return page(frame(request, served, f"Layers of {name}", "layers", name), "layers.html", context)


def layers_of(corpus: LocalCorpus, given: Mapping[str, str], asked: str = "") -> LayersPage:
    """What the page says; its state is what the address has (`given`, as it stands there: `asked`)."""
    run, shown = corpus.cache.run, state_of(given, corpus)
    return LayersPage(
        run.model,
        run.lens.named,
        tuple(run.read_layers),
        sites_of(corpus),
        PLACES,
        shown.at,
        shown.unit,
        shown.since,
        shown.until,
        panels_of(corpus),
        asked,
    )


def panels_of(corpus: LocalCorpus) -> tuple[Panel, ...]:
    """The panels, of which the first says what this corpus' lens makes of early layers."""
    first, *others = PANELS
    return replace(first, about=f"{first.about} {LENSES[corpus.cache.run.lens.kind][0]}"), *others


@router.get("/{name}/layers/{panel}")
async def layers_panel(request: Request, served: ServedHere, name: str, panel: str) -> Response:
    """A panel of the layers' page."""
    corpus = served.corpus(name)
    about = next((one for one in panels_of(corpus) if one.name == panel), None)
    if about is None:
        raise NotFound(f"The layers' page has no panel {panel}.", f"It has {', '.join(one.name for one in PANELS)}.")
    shown = state_of(request.query_params, corpus)

    def make() -> Any:
        return shown_in(panel, corpus, shown, lambda at: served.kept(corpus, AGREEMENTS[at]))

    site = frame(request, served, about.title, "layers", name)
    back = f"{site.root}/{name}/layers"
    return await panel_response(request, served, corpus, site, about, "layers_panel.html", back, make)


def shown_in(
    panel: str,
    corpus: LocalCorpus,
    shown: Looked,
    agreement: Callable[[str], Agreement],
    between: Callable[[LocalCorpus, str, int, int], Changes] = changes,
) -> Any:
    """What a panel of PANELS shows. `agreement` gives that of a site, `between` what is between two of its layers."""
    match panel:
        case "agreement":
            return agreeing(agreement(shown.at), shown, corpus.cache.run.lens.kind)
        case "defaults":
            return defaults(corpus, shown)
        case "divergence":
            return divergence(corpus, shown)
    found = between(corpus, shown.at, shown.since, shown.until)
    return (changed if panel == "changes" else flows)(corpus, found, shown)


# --- panels: what each shows -----------------------------------------------------------------------------------


def trusted(found: Agreement, place: str, lens: str) -> str:
    """From where on most positions decode to what they decode to at the last layer."""
    half, first, last = found.first(0.5), found.layers[0], found.layers[-1]
    early = "Early layers read junk" if LENSES[lens][0] == EARLY else "Early layers do not read what the last one does"
    fewer = f"fewer than half of {place} decode to what they decode to"
    if not found.positions:
        return "Nothing was read here that layers could be told by"
    if first == last:
        return f"Only layer {last} was read: there is no other to hold against it"
    if half == first:
        return f"Half of {place} or more decode to their last layer's token from the first layer that was read on"
    if half is None or half == last:
        return f"{early}: below the last layer, {last}, {fewer} there"
    return f"{early}: below layer {half} {fewer} at the last one, {last}"


def agreeing(found: Agreement, shown: Looked, lens: str) -> Charts:
    place, queries = MANY[shown.at], (f"divergence_layer(at={shown.at!r})",)
    if not found.positions:
        return Charts(trusted(found, place, lens), (), (), (), queries)
    agree, settled = ([n / found.positions for n in counts] for counts in (found.agree, found.settled))
    marks = [str(layer) for layer in found.layers]
    drawn = charts.lines(
        (("agree", agree), ("and stay so", settled)),
        marks,
        f"Share of {place} that decode to their last layer's token",
        "layer",
        "share",
        top=1.0,
    )
    rows = tuple(
        (layer, percent(agree[at]), percent(settled[at]), found.agree[at], found.settled[at])
        for at, layer in enumerate(found.layers)
    )
    return Charts(
        trusted(found, place, lens),
        (drawn,),
        ("layer", "agree", "and stay so", "positions that agree", "and stay so"),
        rows,
        queries,
        f"Of {count(found.positions, 'position')}. At layer {found.layers[0]} {percent(agree[0])} agree. "
        + CAUTION.format(last=LENSES[lens][1]),
    )


@dataclass(frozen=True)
class Defaults:
    """Of each layer the tokens that it decodes to most."""

    headline: str
    chart: Any
    rows: tuple[tuple[int, int, tuple[tuple[Chip, str], ...]], ...]  # layer, tokens that cover 90%, the first of them
    queries: tuple[str, ...]
    notes: tuple[str, ...]


def call(function: str, shown: Looked, **more: Any) -> str:
    """A call of the language about this site, in its units."""
    named = {"at": shown.at, "unit": shown.unit if shown.unit != "image" else None, **more}
    return f"{function}({', '.join(f'{name}={value!r}' for name, value in named.items() if value is not None)})"


def defaults(corpus: LocalCorpus, shown: Looked) -> Defaults:
    query = call("defaults", shown)
    result = corpus.query(query)
    by_layer: dict[int, Rows] = {layer: [] for layer in corpus.cache.run.read_layers}
    for row in result.rows:
        by_layer[row["layer"]].append(row)
    first = [rows[0]["share"] if rows else None for rows in by_layer.values()]
    marks = [str(layer) for layer in by_layer]
    what = "images" if shown.unit == "image" else "positions"
    chart = charts.bars(
        first, marks, f"Share of the {what} that decode to each layer's first token", "layer", "share", top=1
    )
    rows = tuple(
        (
            layer,
            len(found),
            tuple(
                (Chip.of(corpus.vocabulary.token(row["token"])), percent(row["share"]))
                for row in found[:SHOWN_DEFAULTS]
            ),
        )
        for layer, found in by_layer.items()
    )
    return Defaults(result.headline, chart, rows, (query,), tuple(result.notes))


def divergence(corpus: LocalCorpus, shown: Looked) -> Charts:
    query = call("divergence", shown)
    result = corpus.query(query)
    marks = [str(row["layer"]) for row in result.rows]
    series = [
        (name, [as_seen(column, row[column]) for row in result.rows])
        for name, column in (
            ("divergence", "divergence"),
            ("mean entropy", "mean_entropy"),
            ("top-1 entropy", "top1_entropy"),
        )
    ]
    drawn = (
        charts.lines(series, marks, "Divergence from the mean, and entropies, by layer", "layer", "nats"),
        charts.bars([row["tokens"] for row in result.rows], marks, "Different tokens by layer", "layer", "tokens"),
    )
    rows = tuple(
        (row["layer"], row["tokens"], percent(row["share"]), *(number(as_seen(name, row[name])) for name in NATS))
        for row in result.rows
    )
    columns = ("layer", "different tokens", "the most common one's share", *(name.replace("_", " ") for name in NATS))
    return Charts(result.headline, drawn, columns, rows, (query,), " ".join(result.notes))


NATS = ("top1_entropy", "mean_entropy", "divergence", "rise")


def number(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


def changed(corpus: LocalCorpus, found: Changes, shown: Looked) -> Table:
    gained = [one for one in found.tokens if one.gained > 0][:SHOWN]
    lost = [one for one in found.tokens if one.gained < 0][:SHOWN]
    rows = tuple(
        (
            Chip.of(corpus.vocabulary.token(one.token)),
            (f"{one.gained:+,}", one.before, one.after, one.images_before, one.images_after),
        )
        for one in (*gained, *lost)
    )
    columns = ("token", "change", f"at layer {shown.since}", f"at layer {shown.until}", "images", "images then")
    layers = sorted({shown.since, shown.until})
    query = f"defaults(at={shown.at!r}, unit='position', layers={layers}, share=1)"
    return Table(kept(found.kept, found.positions, shown), columns, rows, len(found.tokens), (query,))


def flows(corpus: LocalCorpus, found: Changes, shown: Looked) -> Table:
    rows = tuple(
        (
            Chip.of(corpus.vocabulary.token(one.source)),
            (
                Chip.of(corpus.vocabulary.token(one.target)),
                one.positions,
                percent(one.positions / found.positions),
                one.images,
            ),
        )
        for one in found.flows[: 2 * SHOWN]
    )
    columns = (f"at layer {shown.since}", f"at layer {shown.until}", "positions", "of all", "images")
    queries: list[str] = []
    if found.flows and shown.at == "patch":
        first = found.flows[0]
        sources = f"readings({first.source}, layers={shown.since})"
        queries.append(f"readings({first.target}, layers={shown.until}, patches={sources})")
    return Table(kept(found.kept, found.positions, shown), columns, rows, len(found.flows), tuple(queries))


def kept(same: int, positions: int, shown: Looked) -> str:
    share = percent(same / positions) if positions else "none"
    return (
        f"{share} of {count(positions, 'position')} decode to the same token at layers {shown.since} and {shown.until}"
    )
