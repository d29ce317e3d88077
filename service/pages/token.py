"""A token's page: how often a corpus reads it, where, how probably, in which images, and beside what."""

from __future__ import annotations

import random as chance
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import Response

from vlq.query.client.local import LocalCorpus
from vlq.query.errors import NotFound
from vlq.query.statistics.portrait import (
    BINS,
    Beside,
    Example,
    Map,
    Wanted,
    by_probability,
    examples_of_bands,
    has_objects,
    is_special,
    labels,
    position_map,
    together,
)
from vlq.query.summary import Rows, count
from vlq.service.api.shared import ServedHere
from vlq.service.api.tokens import token_of
from vlq.service.counts import Counted, Counts, counted
from vlq.service.pages import charts
from vlq.service.pages.chips import Chip
from vlq.service.pages.outline import outline
from vlq.service.pages.panels import (
    Charts,
    Panel,
    Table,
    choice,
    layer_of,
    number,
    panel_response,
    percent,
    share,
)
from vlq.service.pages.site import frame, page, to_page

router = APIRouter(include_in_schema=False)

FOUND = 200
"""Tokens that a search shows."""

LOOKED_AT = 4
"""Labels at whose objects the token is looked for: each takes two questions."""

SHOWN = 16
"""Rows of a table beside a token."""

BANDS = (0.0, 0.1, 0.3, 0.5, 0.8, 1.0)
"""Bands of probability of which examples are shown."""

OF_BAND, OF_CHOSEN = 4, 12
"""Examples of each band, and of one that was chosen."""

MOST_PINS = 12
"""Patches that a link to an image's page pins: the most probable."""

ORDERS = ("bands", "random", "top")

PANELS = (
    Panel("layers", "Layer by layer", ("rank",), "In how many images, and by how many patches, it is read at each."),
    Panel(
        "probabilities",
        "Probabilities",
        ("rank", "layer"),
        "How many of its readings have which probability. Drag over a part, or click a bar: the examples are of it.",
    ),
    Panel(
        "examples",
        "Examples",
        ("rank", "layer", "low", "high", "show", "seed"),
        "Each image at the layer where it reads the token most probably (within the band), with the patches that do.",
    ),
    Panel(
        "map",
        "Where on the grid",
        ("rank", "layer"),
        "How often each cell of the grid reads it. What is in the picture moves from image to image; what is at the "
        "same cells in all of them comes from the position, not from what is seen.",
    ),
    Panel(
        "truth",
        "Beside what is there",
        ("rank", "layer"),
        "Which labelled objects are in the images that read it, and whether it is read at them.",
    ),
    Panel("precursors", "What comes before", ("rank",), "What its patches read at layers before they come to read it."),
    Panel("neighbours", "What is around", ("rank", "layer"), "What the patches around its own read at the same layer."),
    Panel(
        "together",
        "What is read in the same images",
        ("rank", "layer"),
        "Other tokens that patches decode to in the images that read this one, against all other images.",
    ),
)  # fmt: skip


# --- search ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """A token of the vocabulary as the pages show it."""

    chip: Chip
    readings: int
    images: int


@dataclass(frozen=True)
class TokensPage:
    """What a search found."""

    q: str
    found: tuple[Found, ...]  # whole words first, then those that most images read
    most: int  # how many are shown at most
    site: str  # where readings are counted
    images: int


@router.get("/{name}/tokens")
async def tokens(request: Request, served: ServedHere, name: str, q: str = "") -> Response:
    """Tokens by a part of their text, or an id."""
    corpus = served.corpus(name)

    def work() -> TokensPage:
        counts = served.kept(corpus, counted)
        found = tuple(of(one) for one in counts.search(q[:200], FOUND))
        return TokensPage(q, found, FOUND, counts.site, corpus.cache.snapshot().images)

    context, _ = await served.ask(request, work)
    title = f"Tokens: {q}" if q else "Tokens"
    return page(frame(request, served, title, "token", name), "tokens.html", context)


@router.get("/{name}/random")
async def random(request: Request, served: ServedHere, name: str) -> Response:
    """To a token that is read, whichever."""
    corpus = served.corpus(name)

    def work() -> int:
        read = sorted(served.kept(corpus, counted).found)
        return chance.choice(read) if read else 0

    id, _ = await served.ask(request, work)
    return to_page(request, f"{name}/tokens/{id}")


def of(one: Counted) -> Found:
    return Found(Chip.of(one.token), one.readings, one.images)


# --- a token ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TokenPage:
    """What the page shows before its panels are there."""

    token: Found
    word: str | None  # its text with its spaces; None without one
    starts_word: bool
    special: bool
    images: int  # with readings, of the corpus
    site: str
    layers: tuple[int, ...]  # that were read
    k: int
    rank: int  # these are the page's state
    layer: int | None
    low: float
    high: float
    show: str
    seed: int
    bands: tuple[tuple[float, float], ...]  # of probability, of which examples are shown
    panels: tuple[Panel, ...]
    variants: tuple[Found, ...]
    more: Chip | None  # the token that is read in the next more images
    less: Chip | None
    place: int  # among all tokens by how many images read them, from 1
    given: str  # the state as it stands in the address, for links that work without script


def is_id(text: str) -> bool:
    return text.isascii() and text.isdecimal()


@router.get("/{name}/tokens/{id}/{panel}")
async def token_panel(request: Request, served: ServedHere, name: str, id: str, panel: str) -> Response:
    """A panel of a token's page; of a word with a stroke in it its token's page."""
    if not is_id(id):
        return await token(request, served, name, f"{id}/{panel}")
    corpus, given = served.corpus(name), request.query_params
    about = next((one for one in PANELS if one.name == panel), None)
    if about is None or "patch" not in corpus.cache.run.at:
        raise NotFound(f"A token's page has no panel {panel}.", f"It has {', '.join(one.name for one in PANELS)}.")
    number_of = token_of(corpus, id)
    site = frame(request, served, f"{about.title}: {number_of}", "token", name)
    pages = f"{site.root}/{name}"

    def make() -> Any:
        return shown_in(panel, corpus, number_of, given, pages)

    back = f"{pages}/tokens/{number_of}"
    return await panel_response(request, served, corpus, site, about, "token_panel.html", back, make)


@router.get("/{name}/tokens/{id:path}")
async def token(request: Request, served: ServedHere, name: str, id: str) -> Response:
    """The page of a token. A word leads to the page of its token, a part of one to the tokens that have it."""
    corpus = served.corpus(name)
    if not is_id(id):
        found, _ = await served.ask(request, lambda: served.kept(corpus, counted).spelled(id))
        if found is None:
            return to_page(request, f"{name}/tokens", urlencode({"q": id}))
        return to_page(request, f"{name}/tokens/{found}", request.url.query)
    number_of = token_of(corpus, id)

    def work() -> TokenPage:
        return token_page(served.kept(corpus, counted), corpus, number_of, request.query_params, request.url.query)

    context, _ = await served.ask(request, work)
    return page(frame(request, served, f"Token {context.token.chip.text}", "token", name), "token.html", context)


def token_page(counts: Counts, corpus: LocalCorpus, id: int, given: Mapping[str, str], asked: str = "") -> TokenPage:
    """What the page says of a token; its state is what the address has (`given`, as it stands there: `asked`)."""
    run = corpus.cache.run
    place = counts.place[id]
    beside = [
        Chip.of(corpus.vocabulary.token(counts.ordered[at])) if 0 <= at < len(counts.ordered) else None
        for at in (place - 1, place + 1)
    ]
    there = "patch" in run.at
    labelled = there and has_objects(corpus)
    return TokenPage(
        of(counts[id]),
        corpus.vocabulary.token(id).text,
        corpus.vocabulary.starts_word(id),
        is_special(corpus, id),
        corpus.cache.snapshot().images,
        counts.site,
        tuple(run.read_layers),
        run.k,
        number(given, "rank", 1, 1, run.k),
        layer_of(given, corpus),
        share(given, "low", 0.0),
        share(given, "high", 1.0),
        choice(given, "show", ORDERS),
        number(given, "seed", 0, 0, 10**9),
        tuple(pairwise(BANDS)),
        tuple(panel for panel in PANELS if panel.name != "truth" or labelled) if there else (),
        tuple(of(one) for one in counts.variants(id)),
        beside[0],
        beside[1],
        place + 1,
        asked,
    )


def shown_in(panel: str, corpus: LocalCorpus, id: int, given: Mapping[str, str], pages: str) -> Any:
    """What a panel of PANELS shows of a token; `pages` is what the addresses of the corpus' pages begin with."""
    wanted = Wanted(id, number(given, "rank", 1, 1, corpus.cache.run.k), layer_of(given, corpus))
    match panel:
        case "layers":
            return by_layer(corpus, wanted)
        case "probabilities":
            return probabilities(corpus, wanted)
        case "examples":
            band = share(given, "low", 0.0), share(given, "high", 1.0)
            order, seed = choice(given, "show", ORDERS), number(given, "seed", 0, 0, 10**9)
            return chosen(corpus, wanted, band, order, seed, pages)
        case "map":
            return where(corpus, wanted)
        case "truth":
            return truth(corpus, wanted)
        case "precursors":
            return before(corpus, wanted)
        case "neighbours":
            return around(corpus, wanted)
    return company(corpus, wanted)


def asked(function: str, wanted: Wanted, *, layers: bool = True, **more: Any) -> str:
    """A call of the language about these readings."""
    given = {"rank": None if wanted.rank == 1 else wanted.rank, "layers": wanted.layer if layers else None, **more}
    named = [f"{name}={value!r}" for name, value in given.items() if value is not None]
    return f"{function}({', '.join([str(wanted.token), *named])})"


# --- panels: what each shows -----------------------------------------------------------------------------------


def by_layer(corpus: LocalCorpus, wanted: Wanted) -> Charts:
    query = asked("emergence", wanted, layers=False)
    result = corpus.query(query)
    marks = [str(row["layer"]) for row in result.rows]
    drawn = tuple(
        charts.bars(
            [row[name] for row in result.rows], marks, f"{name.capitalize()} that read it, by layer", "layer", name
        )
        for name in ("images", "patches")
    )
    rows = tuple((row["layer"], row["images"], row["new"], row["so_far"], row["patches"]) for row in result.rows)
    columns = ("layer", "images", "for the first time", "so far", "patches")
    return Charts(result.headline, drawn, columns, rows, (query,))


def probabilities(corpus: LocalCorpus, wanted: Wanted) -> Charts:
    found = by_probability(corpus, wanted)
    lows = [f"{bin / BINS:.2f}" for bin in range(BINS)]
    drawn = charts.bars(found, lows, "Readings by probability", "probability from", "readings")
    rows = tuple((f"{low} to {(bin + 1) / BINS:.2f}", found[bin]) for bin, low in enumerate(lows))
    total = sum(found)
    headline = f"{count(total, 'reading')}"
    if total:
        headline += f", {sum(found[BINS // 2 :]) / total:.0%} of them with a probability of 0.5 or more"
    return Charts(
        headline,
        (drawn,),
        ("probability", "readings"),
        rows,
        (f"{asked('readings', wanted)}.histogram(logprob)",),
        "The language's histogram is of log-probabilities (natural logarithms); this one is of probabilities.",
    )


@dataclass(frozen=True)
class Thumbnail:
    """An example with what is drawn over it."""

    name: str
    image: int
    page: str
    width: int
    height: int
    outline: str  # an SVG path around the patches, in the image's pixels
    layer: int
    patches: int
    probability: float  # the largest


@dataclass(frozen=True)
class Band:
    low: float
    high: float
    images: int  # that have such a reading at all
    examples: tuple[Thumbnail, ...]


@dataclass(frozen=True)
class Chosen:
    bands: tuple[Band, ...]
    order: str
    seed: int
    queries: tuple[str, ...]


def chosen(corpus: LocalCorpus, wanted: Wanted, band: tuple[float, float], order: str, seed: int, pages: str) -> Chosen:
    low, high = min(band), max(band)
    edges = [low, *(edge for edge in BANDS if low < edge < high and order == "bands"), high]
    most = OF_BAND if len(edges) > 2 else OF_CHOSEN
    found = examples_of_bands(corpus, wanted, edges, most, None if order == "top" else seed)
    bands = [
        Band(start, end, some.images, tuple(thumbnail(one, pages) for one in some.chosen))
        for (start, end), some in zip(pairwise(edges), found, strict=True)
    ]
    bands.reverse()  # the most probable first
    query = asked("readings", wanted, min_prob=low or None)
    if order == "top":
        query += ".sort(logprob, descending=True)"
    else:
        query += f".sample({OF_CHOSEN}, seed={seed})"
    return Chosen(tuple(bands), order, seed, (query,))


def thumbnail(one: Example, pages: str) -> Thumbnail:
    pins = ",".join(map(str, one.patches[:MOST_PINS]))
    return Thumbnail(
        one.name,
        one.image,
        f"{pages}/images/{one.image}?{urlencode({'layer': one.layer, 'pins': pins}, safe=',')}",
        *one.size,
        outline(one.edges, one.grid, one.patches),
        one.layer,
        len(one.patches),
        one.probabilities[0],
    )


def where(corpus: LocalCorpus, wanted: Wanted) -> Charts:
    found: Map = position_map(corpus, wanted)
    shares, total, grid = found.shares, sum(found.found), sum(found.of)
    places = [divmod(at, found.columns) for at in range(len(shares))]
    unit = "patches" if wanted.layer is not None else "patches and layers"

    def said(at: int) -> str:
        row, column = places[at]
        share = shares[at]
        if share is None:
            return f"row {row}, column {column}: no image has a patch here"
        return f"row {row}, column {column}: {share:.2%} ({found.found[at]:,} of {found.of[at]:,} {unit})"

    headline, meaning = "It is read nowhere.", []
    if total:
        most = max(range(len(shares)), key=lambda at: (shares[at] or 0, -at))
        headline = f"Most in {said(most)}; {total / grid:.2%} on average"
        edge = [at for at, place in enumerate(places) if is_edge(*place, found)]
        read, there = (sum(counts[at] for at in edge) for counts in (found.found, found.of))
        meaning.append(f"The outermost cells: {read / total:.0%} of its readings, {there / grid:.0%} of the grid.")
    if found.is_raster:
        meaning.append("Grids differ or are large: a cell is a part of the picture, with the patches centred in it.")
    texts = [said(at) for at in range(len(shares))]
    drawn = charts.cells(found.rows, found.columns, shares, texts, "How often each cell reads it", headline)
    rows = tuple((f"{row}, {column}", found.found[at], found.of[at]) for at, (row, column) in enumerate(places))
    columns = ("row, column", "read", unit)
    query = f"{asked('readings', wanted)}.group(patch).count()"
    return Charts(headline, (drawn,), columns, rows, (query,), " ".join(meaning))


def is_edge(row: int, column: int, found: Map) -> bool:
    return row in (0, found.rows - 1) or column in (0, found.columns - 1)


def chip_of(row: dict[str, Any], corpus: LocalCorpus) -> Chip:
    return Chip.of(corpus.vocabulary.token(row["token"]))


def before(corpus: LocalCorpus, wanted: Wanted) -> Table:
    query = asked("precursors", wanted, layers=False)
    result = corpus.query(query)
    ordered: Rows = sorted(result.rows, key=lambda row: (-row["difference"], row["layer"], row["token"]))
    rows = tuple(
        (
            chip_of(row, corpus),
            (
                row["layer"],
                f"{percent(row['difference'])} ({percent(row['low'])} to {percent(row['high'])})",
                percent(row["share"]),
                percent(row["others"]),
                row["images"],
            ),
        )
        for row in ordered[:SHOWN]
    )
    columns = ("token", "at layer", "difference (95%)", "share", "of others", "images")
    return Table(result.headline, columns, rows, len(ordered), (query,), tuple(result.notes))


def around(corpus: LocalCorpus, wanted: Wanted) -> Table:
    query = asked("neighbours", wanted)
    result = corpus.query(query)
    rows = tuple(
        (chip_of(row, corpus), (row["layer"], percent(row["share"]), row["patches"], row["images"]))
        for row in result.rows[:SHOWN]
    )
    columns = ("token", "at layer", "of adjacent patches", "patches", "images")
    return Table(result.headline, columns, rows, len(result.rows), (query,), tuple(result.notes))


def company(corpus: LocalCorpus, wanted: Wanted) -> Table:
    found = together(corpus, wanted, SHOWN)
    at = "at any layer" if wanted.layer is None else f"at layer {wanted.layer}"
    rows = tuple((Chip.of(corpus.vocabulary.token(one.id or 0)), beside(one)) for one in found)
    headline = "No other token is read in these images."
    if found:
        first = found[0]
        headline = (
            f"{count(first.reading, 'image')} read it {at}; {percent(first.share)} of these decode somewhere to "
            f"{Chip.of(corpus.vocabulary.token(first.id or 0)).text}, of the others {percent(first.others)}"
        )
    queries = tuple(f"overlap({wanted.token}, {one.id})" for one in found[:1])
    return Table(headline, ("token", *BESIDE), rows, len(found), queries)


BESIDE = ("images with both", "share of its images", "of other images", "difference")


def beside(one: Beside) -> tuple[Any, ...]:
    return one.both, percent(one.share), percent(one.others), percent(one.difference)


def truth(corpus: LocalCorpus, wanted: Wanted) -> Table:
    """Which labels go with the token, and how much of it is read at these objects."""
    found = (labels(corpus, wanted) or [])[:SHOWN]
    located = f"locate({wanted.token}{'' if wanted.layer is None else f', layer={wanted.layer}'}"
    located += f"{'' if wanted.rank == 1 else f', rank={wanted.rank}'})"
    result = corpus.query(located)
    rows = []
    for place, one in enumerate(found):
        at: float | None = None
        if one.both and place < LOOKED_AT:
            label = repr(one.label)
            inside = corpus.query(asked("readings", wanted, patches=one.label)).summary["readings"]
            whole = corpus.query(f"{asked('readings', wanted)[:-1]}, images={label} in objects)").summary["readings"]
            at = inside / whole if whole else None
        rows.append((one.label or "", (*beside(one), percent(at))))
    columns = ("label", *BESIDE, "its patches on such objects")
    return Table(result.headline, columns, tuple(rows), len(rows), (located,), tuple(result.notes))
