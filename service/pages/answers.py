"""An answer as the corpus' page shows it: a table's cells, images with their patches, what can be done with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from vlq.query.answers.render import decimal, shown_columns
from vlq.query.answers.result import Result
from vlq.query.client.local import LocalCorpus
from vlq.query.client.one import one_image
from vlq.query.errors import VlqError
from vlq.query.language.against import both_sides
from vlq.query.language.nodes import Call, Name, Node
from vlq.query.language.registry import call, functions
from vlq.query.language.tokens import Token
from vlq.query.schema import READ_COLUMNS
from vlq.query.summary import as_seen, count
from vlq.service.api.query import Cursor, identity
from vlq.service.facets import columns_of, is_grouped
from vlq.service.narrow import chosen, grouped, listed_in, of_set, order, ordered, steps, unselected
from vlq.service.pages.chips import Chip
from vlq.service.pages.outline import outline

ROWS = 100
"""Rows of a page of a table."""

CARDS = 24
"""Images of a page of images."""

ITEMS = 8
"""Items of a list in a cell."""

TEXT = 200
"""Characters of a text in a cell."""

LONG = 40
"""Characters from which on a text is given a wider column, so that it is not dozens of lines."""

KEPT = "\n\u200c\u200d"
"""What is not printable and stays: ends of lines, and what joins letters, or emoji, or keeps them apart."""

NOT_GROUPED = {*READ_COLUMNS} - {"width", "height", "answer"} | {"image"}
"""Columns that are another one in each image."""

UNITS = {
    "logprob": "nats",
    "entropy": "nats",
    "top1_entropy": "nats",
    "mean_entropy": "nats",
    "divergence": "nats",
    "rise": "nats",
    "corpus_rise": "nats",
    "effect": "nats",
    "before": "nats",
    "after": "nats",
    "random": "nats",
    "box": "px",
    "width": "px",
    "height": "px",
    "prob": "0 to 1",
    "share": "0 to 1",
    "cumulative": "0 to 1",
    "area": "0 to 1",
    "iou": "0 to 1",
    "random_gone": "0 to 1",
    "mention": "0 to 1",
}
"""What a column's numbers are in."""


@dataclass(frozen=True)
class Mistake:
    """What is wrong with a query. Its text is in three parts, the second of which is what is wrong."""

    kind: str
    message: str
    hint: str | None
    before: str
    marked: str
    behind: str
    span: tuple[int, int] | None


@dataclass(frozen=True)
class Head:
    """A column's head."""

    name: str
    unit: str
    is_number: bool
    sort: str | None  # the query that sorts by it: ascending, then descending, then not
    direction: str  # ascending, descending, or nothing


@dataclass(frozen=True)
class Cell:
    """A value. What is shown of it is `text`, or the token; an image's name leads to its page."""

    text: str
    kind: str = "text"  # text, long, number, when, token, image, nothing
    token: Chip | None = None
    link: str | None = None  # what follows images/ in the address
    title: str | None = None


@dataclass(frozen=True)
class Line:
    """A row of the table."""

    image: int | None  # the number of its image
    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Rung:
    """A layer of an image's strip."""

    layer: int
    count: int  # patches that match there, or rows
    level: int  # the same in quarters of the most, 0 to 4
    is_read: bool
    is_own: bool  # whether it is the answer's own layer


@dataclass(frozen=True)
class Card:
    """An image with the patches that match."""

    image: int
    name: str
    link: str
    width: int
    height: int
    outlines: tuple[str, ...]  # SVG paths in the image's pixels
    said: str
    strip: tuple[Rung, ...]
    strip_said: str


@dataclass(frozen=True)
class Choice:
    """Something that leads to another query."""

    text: str
    query: str


@dataclass(frozen=True)
class Shown:
    """An answer."""

    query: str
    of_corpus: str  # the name of the corpus whose images these are: of a comparison the first
    headline: str
    notes: tuple[str, ...]
    tokens: tuple[Chip, ...]
    more_tokens: int
    total: int
    start: int  # rows, or images, before the first that is shown
    end: int
    of: int  # how many there are to go through: rows, or images
    next: str | None  # the cursor of what follows
    chosen: tuple[Choice, ...]
    groups: tuple[Choice, ...]
    heads: tuple[Head, ...]
    lines: tuple[Line, ...]
    has_images: bool  # whether rows are of images
    can_choose: bool  # whether these are the page's corpus'
    cards: tuple[Card, ...]
    sides: tuple[tuple[str, ...], ...]  # figures with a condition and without: a table, its head first
    by_images: bool  # whether cards are in the order of rows; else those with most rows come first


def mistake(error: VlqError, text: str) -> Mistake:
    start, end = error.span or (0, 0)
    return Mistake(error.kind, error.message, error.hint, text[:start], text[start:end], text[end:], error.span)


def answer(
    corpus: LocalCorpus, text: str, view: str, cursor: str | None, name_of: Callable[[LocalCorpus], str]
) -> Shown:
    """What is shown of a query's answer. Raises QueryError, and BadRequest for a cursor that is of none."""
    result = corpus.query(text)
    is_own, corpus = result.corpus is corpus, result.corpus
    keys = result.table.keys
    has_images = "image" in keys
    place = Cursor.read(cursor, identity(result))
    heads: tuple[Head, ...] = ()
    lines: tuple[Line, ...] = ()
    cards: tuple[Card, ...] = ()
    total = of = len(result)
    size = 0
    if view == "table":
        rows = result.part(place.start, ROWS)[0]
        size = len(rows)
        names = shown_columns(result)
        heads = _heads(result, names, rows)
        names = [head.name for head in heads]
        others = result.table.columns_of_images
        lines = tuple(_line(corpus, row, names, others) for row in rows)
    elif view == "images" and has_images:
        found, of = _images(result, place.start)
        size = len(found)
        cards = tuple(_cards(result, found))
    tokens = [Token(token["id"], token["piece"], token["text"]) for token in result.tokens]
    notes = [*result.notes]
    if result.is_censored:
        notes.append("Censored: at the edge of the layers that were looked at; what is beyond might change it.")
    end = place.start + size
    return Shown(
        result.query,
        name_of(corpus),
        result.headline,
        tuple(notes),
        tuple(map(Chip.of, tokens[:ITEMS])),
        max(0, len(tokens) - ITEMS),
        total,
        place.start,
        end,
        of,
        str(Cursor(end, place.of)) if size and end < of else None,
        tuple(Choice(part.text, str(part.query)) for part in chosen(result.node)),
        tuple(_groups(result)),
        heads,
        lines,
        has_images,
        has_images and is_own,
        cards,
        tuple(map(tuple, both_sides(result.summary))),
        keys == ("image",),
    )


def _groups(result: Result) -> list[Choice]:
    """What rows can be grouped by, and what of each group can be asked."""
    node = result.node
    if is_grouped(node):
        return []
    value = result.table.shape.value
    numbers = ["count"] if value is None else ["count", "median", "mean"]
    found = []
    for name, column in columns_of(result).items():
        if name in ("image", "image_id", "uri", "sha256", "error", "answer_ids", "answer_logprobs", "prompt_ids"):
            continue
        if (
            column.kind in ("text", "truth")
            or column.is_whole
            or (column.kind == "list" and column.item_kind == "text")
        ):
            found += [
                Choice(f"{name}: {number}", str(grouped(node, name, number)))
                for number in numbers
                if number == "count" or name != value
            ]
    return found


# --- the table -------------------------------------------------------------------------------------------------


def _heads(result: Result, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> tuple[Head, ...]:
    others = result.table.columns_of_images
    if any(isinstance(row.get("token"), int) for row in rows[:1]) and "token" not in others:
        names = [name for name in names if name not in {"piece", "text"} - others]
    columns = columns_of(result)
    by = order(result.node)
    heads = []
    for name in names:
        values = [row[name] for row in rows if row[name] is not None]
        is_number = bool(values) and isinstance(values[0], int | float | Decimal) and not isinstance(values[0], bool)
        column = columns.get(name)
        direction, follows = "", None
        if by is not None and by[0] == name:
            direction = "descending" if by[1] else "ascending"
        if column is not None and (not column.is_nested):
            way = {"": False, "ascending": True, "descending": None}[direction]
            follows = str(ordered(result.node, name, way))
        unit = "" if name in others else UNITS.get(name.removesuffix("_a").removesuffix("_b"), "")
        is_token = name == "token" and name not in others
        heads.append(Head(name, unit, is_number and not is_token, follows, direction))
    return tuple(heads)


def _line(corpus: LocalCorpus, row: Mapping[str, Any], names: Sequence[str], others: Set[str]) -> Line:
    """`others` are columns that came with the images."""
    own = {name: value for name, value in row.items() if name not in others}
    image = row.get("image_id") if "image" in row else None
    name = str(row.get("image") or "")
    cells = []
    for column in names:
        value = row[column]
        if column == "image" and image is not None:
            cells.append(Cell(clean(name), "image", link=link(image, layer_of(own), patches_of(own)), title=name))
        elif column == "token" and isinstance(own.get(column), int):
            cells.append(Cell("", "token", Chip.of(corpus.vocabulary.token(value))))
        else:
            cells.append(cell(as_seen(column, value) if column in own else value))
    return Line(image, clean(name), tuple(cells))


def cell(value: Any) -> Cell:
    if value is None:
        return Cell("–", "nothing", title="nothing known")
    if isinstance(value, bool):
        return Cell("yes" if value else "no")
    if isinstance(value, float):
        return Cell(decimal(value), "number")
    if isinstance(value, int):
        return Cell(f"{value:,}" if abs(value) >= 10_000 else str(value), "number")
    if isinstance(value, Decimal):
        return Cell(str(value), "number")
    if isinstance(value, date):
        return Cell(str(value), "when")
    if isinstance(value, list | tuple):
        more = f" … ({len(value):,})" if len(value) > ITEMS else ""
        return _text(" ".join(_item(item) for item in value[:ITEMS]), more)
    if isinstance(value, dict):
        return _text(clean(", ".join(f"{key}: {item}" for key, item in value.items() if item)))
    return _text(clean(str(value)))


def _text(text: str, more: str = "") -> Cell:
    shown = (text if len(text) <= TEXT else f"{text[:TEXT]}…") + more
    return Cell(shown, "long" if len(shown) > LONG else "text")


def _item(item: Any) -> str:
    if isinstance(item, dict) and "label" in item:  # an annotated object
        return clean(str(item["label"]))
    return f"{item:.1f}" if isinstance(item, float) else clean(str(item))


def clean(text: str) -> str:
    """A text that comes from files, without what would hide or turn round what is beside it; lines stay lines."""
    return "".join(character if character.isprintable() or character in KEPT else "�" for character in text)


def layer_of(row: Mapping[str, Any]) -> int | None:
    found = row.get("layer", row.get("layer_a"))
    return found if isinstance(found, int) else None


def patches_of(row: Mapping[str, Any]) -> list[int]:
    """The patches that a row is of."""
    if isinstance(row.get("patch"), int):
        return [row["patch"]]
    found = row.get("patches", row.get("patches_a"))
    return found if isinstance(found, list) else []


MOST_PINS = 64
"""Patches that a link pins: more would only be a blur."""


def link(image: int, layer: int | None = None, patches: Sequence[int] = ()) -> str:
    """The part of an image's address behind images/."""
    values: dict[str, Any] = {}
    if layer is not None:
        values["layer"] = layer
    if patches:
        values["pins"] = ",".join(map(str, patches[:MOST_PINS]))
    return f"{image}?{urlencode(values, safe=',')}" if values else str(image)


# --- images ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What matches in an image."""

    rows: int
    layers: Mapping[str, int]  # the answer's own, by the names of their columns, where an image has one row
    outlined: tuple[frozenset[int], ...]  # sets of patches: of a comparison those of both caches
    at: Mapping[int, int]  # how many patches, or rows, by layer


def _images(result: Result, start: int) -> tuple[dict[int, Found], int]:
    """What matches in the images that are shown, by their numbers, and how many images there are."""
    whole = result.corpus.query(unselected(result.node))
    return _with_one_row(whole, start) if whole.table.keys == ("image",) else _with_rows(whole, start)


def _with_one_row(result: Result, start: int) -> tuple[dict[int, Found], int]:
    """Of an answer with a row for each image, in its order."""
    others = result.table.columns_of_images
    rows = [{name: row[name] for name in row if name not in others} for row in result.part(start, CARDS)[0]]
    at = _layers_of_readings(result, [row["image_id"] for row in rows])
    found = {}
    for row in rows:
        sets = [row[name] for name in ("patches", "patches_a", "patches_b") if isinstance(row.get(name), list)]
        own = {name: row[name] for name in row if name.startswith("layer") and isinstance(row[name], int)}
        by_layer = at.get(row["image_id"], dict.fromkeys(own.values(), 1))
        found[row["image_id"]] = Found(1, own, tuple(map(frozenset, sets)), by_layer)
    return found, len(result)


def _with_rows(result: Result, start: int) -> tuple[dict[int, Found], int]:
    """Of an answer with several rows for an image. They are counted where they are: there may be millions."""
    corpus = result.corpus
    listed = corpus.query(result.node.group(Name("image_id")).count().sort(Name("count"), True))
    rows = {row["image_id"]: row["count"] for row in listed.part(start, CARDS)[0]}
    here = result.node.where(listed_in([*rows]))
    places: dict[int, set[int]] = {}
    table = result.table
    own = {*table.keys, *table.shape.columns} - table.columns_of_images
    if "patch" in own & {*table.keys}:
        for row in corpus.query(here.group([Name("image_id"), Name("patch")]).count()).rows:
            places.setdefault(row["image_id"], set()).add(row["patch"])
    at = _by_layer(corpus, here) if "layer" in own else {}
    found = {}
    for image, of_image in rows.items():
        outlined = (frozenset(places[image]),) if image in places else ()
        found[image] = Found(of_image, {}, outlined, at.get(image, {}))
    return found, len(listed)


def _by_layer(corpus: LocalCorpus, node: Node) -> dict[int, dict[int, int]]:
    found: dict[int, dict[int, int]] = {}
    for row in corpus.query(node.group([Name("image_id"), Name("layer")]).count()).rows:
        if row["layer"] is not None:
            found.setdefault(row["image_id"], {})[row["layer"]] = row["count"]
    return found


def _layers_of_readings(result: Result, numbers: Sequence[int]) -> dict[int, dict[int, int]]:
    """At how many positions each layer of these images reads the token that the query is about; nothing of others."""
    first, _ = steps(result.node)
    if not isinstance(first, Call) or functions()[first.function].parameter("token") is None or not numbers:
        return {}
    readings = functions()["readings"]
    shared = [(name, node, None) for name, node in first.arguments if readings.parameter(name) and name != "against"]
    try:
        return _by_layer(result.corpus, of_set(call("readings", [], shared), numbers))
    except VlqError:
        return {}


def _cards(result: Result, found: Mapping[int, Found]) -> list[Card]:
    corpus = result.corpus
    run = corpus.cache.run
    cards = []
    for number, here in found.items():
        image = one_image(corpus, number)
        most = max(here.at.values(), default=1)
        strip = tuple(
            Rung(
                layer,
                here.at.get(layer, 0),
                -(-4 * here.at.get(layer, 0) // most),
                layer in run.read_layers,
                layer in here.layers.values(),
            )
            for layer in (range(run.layers) if here.at else ())
        )
        patches = sorted(here.outlined[0]) if here.outlined else []
        cards.append(
            Card(
                number,
                clean(image.name),
                link(number, next(iter(here.layers.values()), min(here.at, default=None)), patches),
                *image.size,
                tuple(outline(image.edges, image.grid, one) for one in here.outlined if one),
                _said(here),
                strip,
                _strip_said(here.at),
            )
        )
    return cards


def _said(here: Found) -> str:
    parts = []
    for name, layer in here.layers.items():
        of = name.partition("_")[2]  # the first or second of a comparison, a or b of two caches
        parts.append(f"{of}: layer {layer}" if of else f"layer {layer}")
    if here.rows > 1:
        parts.append(count(here.rows, "row"))
    if len(here.outlined) == 1:
        parts.append(count(len(here.outlined[0]), "patch"))
    return ", ".join(parts)


def _strip_said(at: Mapping[int, int]) -> str:
    if not at:
        return ""
    return f"{count(len(at), 'layer')} from {min(at)} to {max(at)}" if len(at) > 1 else f"layer {min(at)}"
