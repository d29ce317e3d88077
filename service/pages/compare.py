"""The page that compares: two images, two layers or two runs, side by side; and two sets of images."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.datastructures import QueryParams

from vlq.query.client.local import LocalCorpus
from vlq.query.client.one import OneImage
from vlq.query.errors import BadRequest, NotFound
from vlq.query.language.compile import Statement
from vlq.query.language.tokens import Token
from vlq.query.statistics import sets
from vlq.query.statistics.bootstrap import Interval
from vlq.query.statistics.sets import Counted, ImageSet, image_set
from vlq.query.summary import count
from vlq.service.api.shared import ServedHere
from vlq.service.counts import counted
from vlq.service.images import found_image
from vlq.service.lens import readings_of, shown
from vlq.service.numbers import whole
from vlq.service.pages import charts
from vlq.service.pages.chips import Chip
from vlq.service.pages.examples import two_sets
from vlq.service.pages.panels import Charts, Panel, Table, layer_of, panel_response, percent
from vlq.service.pages.site import frame, page
from vlq.service.served import Served

router = APIRouter(include_in_schema=False)

MOST_IMAGES = 2**32
"""No image has a larger number."""

SHOWN = 24
"""Rows of a table of differences."""

PAIR = (
    Panel(
        "patches",
        "Patches that differ most",
        ("images", "layers", "runs"),
        "The difference is half the sum of how much the probabilities of the stored tokens differ (total variation): "
        "0 is the same, 1 is nothing in common. What is beyond the stored ones counts as 0.",
    ),
    Panel(
        "tokens",
        "Tokens that differ most",
        ("images", "layers", "runs"),
        "How many patches of each side decode to a token, the largest difference first.",
    ),
)

SETS = (
    Panel(
        "counts",
        "How many",
        ("a", "b", "a_name", "b_name"),
        "Images of each set, with 95% intervals by the bootstrap over images.",
    ),
    Panel(
        "by-layer",
        "At which layers",
        ("a", "b"),
        "Images of each set by the layers of their rows, where both queries give rows with a layer.",
    ),
    Panel(
        "readings",
        "What their patches decode to",
        ("a", "b", "at"),
        "Tokens that more, or fewer, of the second set's images decode to somewhere, the largest difference first.",
    ),
)


def sets_of(corpus: LocalCorpus) -> tuple[Panel, ...]:
    """The panels of two sets that a corpus can have: of one whose patches were not read, not what they decode to."""
    return tuple(panel for panel in SETS if panel.name != "readings" or "patch" in corpus.cache.run.at)


# --- state -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Side:
    """One of two readings that are compared."""

    run: str  # a corpus' name
    image: int
    layer: int


@dataclass(frozen=True)
class ComparePage:
    """What the page shows before its panels are there, and its state."""

    sides: tuple[Side, Side]
    runs: tuple[dict[str, Any], ...]  # of each corpus with readings at patches: name, layers, images
    usual: tuple[int, int]  # the images that are compared if the address names none
    a: str
    b: str
    at: int | None
    layers: tuple[int, ...]  # of this corpus
    pair: tuple[Panel, ...]
    sets: tuple[Panel, ...]  # none where no sets can be asked
    images: tuple[tuple[int, str], ...]  # those that there are to choose, with their names; none: all
    example: tuple[str, str]  # queries of two sets


def pair(given: QueryParams, name: str) -> tuple[str, str]:
    """The first two of `name=1,2`, one for both; what a form without script sends as name-a and name-b."""
    both = given.get(name) or ",".join(given.get(f"{name}-{side}", "") for side in "ab")
    first, second, *_ = (*(part.strip() for part in both.split(",")), "", "")
    return first, second or first


def comparable(served: Served) -> dict[str, LocalCorpus]:
    """The corpora with readings at patches, of any image."""
    return {
        name: corpus
        for name, corpus in served.corpora.items()
        if "patch" in corpus.cache.run.at and corpus.cache.snapshot().images
    }


def run_of(given: str, served: Served, name: str) -> str:
    """The corpus that an address names, else the page's own, else the first one whose patches were read."""
    runs = comparable(served)
    return next((run for run in (given, name, *runs) if run in runs), name)


def sides_of(given: QueryParams, served: Served, name: str, usual: tuple[int, int]) -> tuple[Side, Side]:
    """What an address compares; what it leaves open, or has wrong, is as usual."""
    found = []
    for at, (run, image, layer) in enumerate(
        zip(*(pair(given, of) for of in ("runs", "images", "layers")), strict=True)
    ):
        run = run_of(run, served, name)
        here = served.corpus(run).cache.run
        number, depth = whole(image, MOST_IMAGES), whole(layer, here.layers)
        found.append(
            Side(
                run,
                usual[at] if number is None else number,
                here.read_layers[-1] if depth not in here.read_layers else depth,
            )
        )
    return found[0], found[1]


def usual_images(corpus: LocalCorpus) -> tuple[int, int]:
    """The first two images with readings, or the only one twice."""
    statement = Statement(
        "SELECT image_id FROM read_parquet($images) WHERE error IS NULL ORDER BY image_id LIMIT 2", {}, {"images": None}
    )
    rows = [image for (image,) in corpus.engine.rows(statement, corpus.cache.snapshot())[1]] or [0]
    return rows[0], rows[-1]


@router.get("/{name}/compare")
async def compare(request: Request, served: ServedHere, name: str) -> Response:
    """The page that compares."""
    corpus, given = served.corpus(name), request.query_params

    def work() -> ComparePage:
        usual = usual_images(served.corpus(run_of(name, served, name)))
        runs = tuple(
            {"name": of, "layers": tuple(one.cache.run.read_layers), "images": one.cache.snapshot().images}
            for of, one in comparable(served).items()
        )
        return ComparePage(
            sides_of(given, served, name, usual),
            runs,
            usual,
            given.get("a", ""),
            given.get("b", ""),
            layer_of(given, corpus, "at"),
            tuple(corpus.cache.run.read_layers),
            PAIR,
            sets_of(corpus),
            (),
            two_sets(corpus, served.kept(corpus, counted)),
        )

    context, _ = await served.ask(request, work)
    return page(frame(request, served, "Compare", "compare", name), "compare.html", context)


@router.get("/{name}/compare/{panel}")
async def compare_panel(request: Request, served: ServedHere, name: str, panel: str) -> Response:
    """A panel of it."""
    corpus, given = served.corpus(name), request.query_params
    about = next((one for one in (*PAIR, *SETS) if one.name == panel), None)
    if about is None or (about in SETS and about not in sets_of(corpus)):
        raise NotFound(f"This page has no panel {panel}.", "See /compare for those that it has.")
    site = frame(request, served, about.title, "compare", name)
    others: list[str] = []
    if about in PAIR:
        others = await asyncio.to_thread(
            lambda: [served.corpus(run_of(run, served, name)).cache.snapshot().digest for run in pair(given, "runs")]
        )
    at = layer_of(given, corpus, "at")

    def make() -> Any:
        if about in PAIR:
            usual = usual_images(served.corpus(run_of(name, served, name)))
            return PAIRS[about.name](Compared.of(served, *sides_of(given, served, name, usual)))
        found = [one_set(corpus, given.get(which, "")) for which in "ab"]
        names = given.get("a_name", ""), given.get("b_name", "")
        return of_sets(about.name, corpus, found[0], found[1], names, at)

    back = f"{site.root}/{name}/compare"
    return await panel_response(request, served, corpus, site, about, "compare_panel.html", back, make, tuple(others))


# --- two images, layers or runs --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Read:
    """What the patches of an image decode to at a layer."""

    side: Side
    image: OneImage
    tokens: tuple[tuple[Token, ...], ...]  # (patch, k); none of a patch that was not read
    probability: np.ndarray  # (patch, k)


@dataclass(frozen=True)
class Compared:
    a: Read
    b: Read
    by_text: bool  # whether the vocabularies differ, so that tokens are told apart by what is shown of them

    @classmethod
    def of(cls, served: Served, a: Side, b: Side) -> Compared:
        """Raises NotFound if an image has no readings."""
        hashes = {served.corpus(side.run).cache.run.vocabulary_hash for side in (a, b)}
        return cls(read(served, a), read(served, b), len(hashes) > 1)

    @property
    def same_grid(self) -> bool:
        return self.a.image.grid == self.b.image.grid

    def key(self, token: Token) -> str | int:
        return shown(token) if self.by_text else token.id


def read(served: Served, side: Side) -> Read:
    corpus = served.corpus(side.run)
    if "patch" not in corpus.cache.run.at:
        raise BadRequest(f"{side.run} has no readings at patches.", "Choose another run.")
    image = found_image(corpus, side.image)
    found = readings_of(corpus, image, "patch", corpus.cache.run.k)
    none, ids = corpus.cache.run.no_id, found.token[side.layer].tolist()
    tokens = tuple(tuple(corpus.vocabulary.token(id) for id in row if id != none) for row in ids)
    return Read(side, image, tokens, np.exp(found.logprob[side.layer].astype(np.float64)))


def title_of(one: Read) -> str:
    return f"{one.image.name}, layer {one.side.layer}" + (f" ({one.side.run})")


def of_patches(pair: Compared) -> Table:
    a, b = pair.a, pair.b
    if not pair.same_grid:
        grids = " and ".join(f"{rows} x {columns}" for rows, columns in (a.image.grid, b.image.grid))
        return Table(f"The grids differ ({grids}): patches are not held against each other.", (), (), 0, ())
    changes: dict[int, float] = {}
    for patch, (first, second) in enumerate(zip(a.tokens, b.tokens, strict=True)):
        if not (first and second):
            continue  # a patch that was not read
        shares: dict[str | int, float] = {}
        for sign, tokens, probabilities in ((1, first, a.probability[patch]), (-1, second, b.probability[patch])):
            for token, probability in zip(tokens, probabilities.tolist(), strict=True):
                shares[pair.key(token)] = shares.get(pair.key(token), 0.0) + sign * probability
        changes[patch] = sum(map(abs, shares.values())) / 2
    differ = sum(pair.key(a.tokens[patch][0]) != pair.key(b.tokens[patch][0]) for patch in changes)
    order = sorted(changes, key=lambda patch: (-round(changes[patch], 9), patch))[:SHOWN]
    rows = tuple(
        (
            f"{patch} (row {patch // a.image.grid[1]}, column {patch % a.image.grid[1]})",
            (
                Chip.of(a.tokens[patch][0], a.side.run),
                f"{a.probability[patch, 0]:.3f}",
                Chip.of(b.tokens[patch][0], b.side.run),
                f"{b.probability[patch, 0]:.3f}",
                f"{changes[patch]:.3f}",
            ),
        )
        for patch in order
    )
    headline = f"{differ:,} of {count(len(changes), 'patch')} decode to different tokens"
    columns = ("patch", "first", "probability", "second", "probability", "difference")
    queries, corpora = asked(pair)
    return Table(headline, columns, rows, len(changes), queries, (), corpora)


def of_tokens(pair: Compared) -> Table:
    found: dict[str | int, tuple[Chip, list[int]]] = {}
    for at, one in enumerate((pair.a, pair.b)):
        for tokens in filter(None, one.tokens):
            _, counts = found.setdefault(pair.key(tokens[0]), (Chip.of(tokens[0], one.side.run), [0, 0]))
            counts[at] += 1
    ordered = sorted(found.values(), key=lambda one: (-abs(one[1][1] - one[1][0]), -sum(one[1]), one[0].id))
    rows = tuple(
        (chip, (first, second, f"{second - first:+,}" if second != first else "0"))
        for chip, (first, second) in ordered[:SHOWN]
    )
    both = sum(first > 0 and second > 0 for _, (first, second) in found.values())
    headline = f"{both:,} of {count(len(found), 'token')} are decoded to on both sides"
    columns = ("token", "patches of the first", "of the second", "difference")
    notes = ("The vocabularies differ: tokens with the same text are taken as the same.",) if pair.by_text else ()
    queries, corpora = asked(pair)
    return Table(headline, columns, rows, len(found), queries, notes, corpora)


def asked(pair: Compared) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Queries of what both sides show, and the corpora that they are asked of; one where the sides are the same."""
    found = dict.fromkeys((f"top({side.image}, layers={side.layer})", side.run) for side in (pair.a.side, pair.b.side))
    queries, corpora = zip(*found, strict=True)
    return queries, corpora


PAIRS = {"patches": of_patches, "tokens": of_tokens}


# --- two sets of images ----------------------------------------------------------------------------------------


def one_set(corpus: LocalCorpus, query: str) -> ImageSet:
    """Raises as a query does, and BadRequest if it is of another corpus or has no rows by image."""
    if not query.strip():
        raise BadRequest("A query is missing.", "Write one for each set, such as images(label == 'beach').")
    result = corpus.query(query)
    if result.corpus is not corpus:
        raise BadRequest(f"{result.query} asks another corpus.", "Both sets are of this one.")
    return image_set(result)


@dataclass(frozen=True)
class Sizes:
    """How many images there are in two sets."""

    headline: str
    # What it is called, its query and its headline, images, share with its interval.
    sets: tuple[tuple[str, str, str, int, str], ...]
    difference: str
    parts: tuple[tuple[str, int, tuple[int, ...]], ...]  # name, images, some of them
    queries: tuple[str, ...]


SOME = 12
"""Images of each part that are listed."""


def of_sets(
    panel: str, corpus: LocalCorpus, a: ImageSet, b: ImageSet, names: tuple[str, str], at: int | None
) -> Sizes | Charts | Table:
    images = corpus.cache.snapshot().images
    queries = (a.query, b.query)
    match panel:
        case "counts":
            return sizes(a, b, names, images)
        case "by-layer":
            return by_layer(corpus, a, b, images)
    layer = corpus.cache.run.read_layers[-1] if at is None else at
    found = sets.tokens(corpus, a.images, b.images, layer, SHOWN)
    rows = tuple(
        (
            Chip.of(corpus.vocabulary.token(id)),
            (
                difference(one.difference, one.interval),
                *(f"{n:,} ({percent(share)})" for n, share in ((one.a, one.share_a), (one.b, one.share_b))),
            ),
        )
        for id, one in found
    )
    headline = f"Layer {layer}: no token, since a set is empty"
    if found:
        id, one = found[0]
        headline = (
            f"Layer {layer}: {Chip.of(corpus.vocabulary.token(id)).text} differs most, "
            f"{percent(one.share_a)} of the first set's images and {percent(one.share_b)} of the second's"
        )
    notes = ("Of many tokens the largest differences are in part large by chance: an interval is of its row alone.",)
    columns = ("token", "points of difference (95%)", "images of the first", "of the second")
    return Table(headline, columns, rows, len(rows), queries, notes if found else ())


def sizes(a: ImageSet, b: ImageSet, names: tuple[str, str], images: int) -> Sizes:
    found = sets.sizes(a.images, b.images, images)
    parts = (
        ("in the first only", a.images - b.images),
        ("in the second only", b.images - a.images),
        ("in both", a.images & b.images),
    )
    return Sizes(
        f"{len(a.images):,} and {len(b.images):,} of {count(images, 'image')}",
        tuple(
            (name, one.query, one.headline, len(one.images), f"{percent(share)}{between(interval)}")
            for name, one, share, interval in (
                (names[0], a, found.share_a, found.interval_a),
                (names[1], b, found.share_b, found.interval_b),
            )
        ),
        difference(found.difference, found.interval),
        tuple((name, len(members), tuple(sorted(members)[:SOME])) for name, members in parts),
        (a.query, b.query),
    )


def by_layer(corpus: LocalCorpus, a: ImageSet, b: ImageSet, images: int) -> Charts:
    queries = (a.query, b.query)
    if a.by_layer is None or b.by_layer is None:
        return Charts("The rows of these queries have no layer on both sides.", (), (), (), queries)
    layers = corpus.cache.run.read_layers
    counted: list[Counted] = [
        sets.sizes(a.by_layer.get(layer, frozenset()), b.by_layer.get(layer, frozenset()), images) for layer in layers
    ]
    order = sorted(range(len(layers)), key=lambda at: (-abs(counted[at].difference or 0), layers[at]))
    drawn = charts.lines(
        (("first", [one.a for one in counted]), ("second", [one.b for one in counted])),
        [str(layer) for layer in layers],
        "Images of each set by layer",
        "layer",
        "images",
    )
    rows = tuple(
        (
            layers[at],
            f"{counted[at].a:,}{between(counted[at].interval_a)}",
            f"{counted[at].b:,}{between(counted[at].interval_b)}",
            difference(counted[at].difference, counted[at].interval),
        )
        for at in order
    )
    most = order[0]
    headline = f"The largest difference is at layer {layers[most]}: {counted[most].a:,} and {counted[most].b:,} images"
    columns = ("layer", "images of the first", "of the second", "points of difference (95%)")
    return Charts(headline, (drawn,), columns, rows, queries)


def between(interval: Interval) -> str:
    return "" if interval is None else f" ({percent(interval[0])} to {percent(interval[1])})"


def difference(value: float | None, interval: Interval) -> str:
    return "–" if value is None else f"{100 * value:+.1f}{points(interval)}"


def points(interval: Interval) -> str:
    return "" if interval is None else f" ({100 * interval[0]:+.1f} to {100 * interval[1]:+.1f})"
