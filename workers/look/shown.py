"""What `vlq look` prints of an image: what places read at each layer, and where and how a token comes up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp
from typing import Any, Literal

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.text import Text

from vlq.query.answers.heat import heat_maps, layout, legend, most_maps, spread
from vlq.query.answers.render import aligned
from vlq.query.client.local import LocalCorpus
from vlq.query.client.one import OneImage
from vlq.query.errors import BadArgument, printable
from vlq.query.language.nodes import Call, Node
from vlq.query.language.parse import parse

LAST = "last"
"""The last prompt token, among places; the others are patches, by their numbers."""

SHORTEST = 6
"""Columns that a token is cut to at least, where a table is too wide for the terminal."""

FIGURE = 5
"""Columns that a probability takes beside its token."""

LISTED = 8
"""Patches that are named in a sentence."""

Lines = Iterator[str | Text]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Look:
    """An image that was read, and how it is shown."""

    corpus: LocalCorpus
    image: OneImage
    layers: tuple[int, ...]  # those that are shown, in order
    all_layers: bool  # whether nobody chose them
    k: int  # tokens of a reading that are shown
    width: int  # of the terminal

    # --- places ------------------------------------------------------------------------------------------------

    def readings(self, place: int | str) -> Lines:
        """What a place reads: a row a layer, the best tokens with their probabilities."""
        yield ""
        yield self._title(place)
        where = {"at": "last"} if place == LAST else {"patch": place}
        rows = self.corpus.top(self.image.number, layers=list(self.layers), rank=self.k, **where).rows
        by_layer: dict[int, list[tuple[str, str]]] = {layer: [] for layer in self.layers}
        for row in rows:
            by_layer[row["layer"]].append((_shown(row["piece"], row["token"]), _short(exp(row["logprob"]))))
        yield from self._table(by_layer)

    def _title(self, place: int | str) -> str:
        if place == LAST:
            last = self.corpus.cache.run.prompt_ids[-1]
            return f"The last prompt token, {_shown(self.corpus.vocabulary.token(last).piece, last)}"
        assert isinstance(place, int)
        row, column = self.image.place(place)
        x0, y0, x1, y1 = (f"{edge:.0f}" for edge in self.image.box(place))
        return f"Patch {place}: row {row}, column {column}; pixels {x0},{y0} to {x1},{y1}"

    def _table(self, by_layer: Mapping[int, Sequence[tuple[str, str]]]) -> Lines:
        """Tokens are cut so that it fits the terminal, and columns left out if it must be."""
        k = max(map(len, by_layer.values()))
        widest = max(cell_len(piece) for row in by_layer.values() for piece, _ in row)
        labels = max(len("layer"), *(len(str(layer)) for layer in by_layer))

        def room() -> int:
            return (self.width - labels) // k - FIGURE - 3  # two columns before a token, one behind it

        while k > 1 and room() < min(SHORTEST, widest):
            k -= 1
        wide = min(widest, max(SHORTEST, room()))
        yield "  ".join(["layer", *(str(rank).ljust(wide + 1 + FIGURE) for rank in range(1, k + 1))]).rstrip()
        for layer, row in by_layer.items():
            cells = (f"{set_cell_size(_cut(piece, wide), wide)} {figure:>{FIGURE}}" for piece, figure in row[:k])
            yield "  ".join([f"{layer:>{labels}}", *cells])

    # --- a token -----------------------------------------------------------------------------------------------

    def token(self, text: str) -> Lines:
        """Where a token is first read and where it is most probable, layer by layer, and maps of its ranks."""
        token, layers = _token(text), list(self.layers)
        patches = Found.of(self.corpus, token, layers, "patch")
        last = Found.of(self.corpus, token, layers, "last")
        yield ""
        yield self._sentence(text.strip() + self._named_layers, patches)
        yield self._last_sentence(last)
        names = [f"{_shown(one['piece'], one['id'])} ({one['id']})" for one in patches.tokens]
        more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
        yield f"token{'s' if len(names) > 1 else ''}: {', '.join(names[:LISTED])}{more}"
        if len(names) > 1:
            yield f"Of these the best rank counts; the probabilities of those among the {self._stored} best add up."
        if not patches.ranks and not last.ranks:
            return
        yield ""
        table = [
            ["layer", "patches", f"in {self._stored} best", "best rank", "prob", "at patch", "last: rank", "prob"],
            *self._development(patches, last),
        ]
        yield from aligned(table, [True] * len(table[0]))
        if patches.ranks:
            yield ""
            yield from self._maps(patches)

    @property
    def _stored(self) -> int:
        return self.corpus.cache.run.k

    def _sentence(self, label: str, found: Found) -> str:
        if (peak := found.peak) is None:
            return f"{label}: among the {self._stored} best tokens of no patch."
        row, column = self.image.place(peak["patch"])
        where = f"patch {peak['patch']} (row {row}, column {column})"
        most = f"most probable at layer {peak['layer']}, {_figure(peak['prob'])} at {where}."
        if (first := found.first) is None:
            return f"{label}: no patch decodes to it; {most}"
        patches = [str(row["patch"]) for row in found.ranks if row["rank"] == 1 and row["layer"] == first]
        more = f" … ({len(patches)})" if len(patches) > LISTED else ""
        named = f"patch{'es' if len(patches) > 1 else ''} {' '.join(patches[:LISTED])}{more}"
        return f"{label}: first read at layer {first}, by {named}; {most}"

    def _last_sentence(self, found: Found) -> str:
        if (peak := found.peak) is None:
            return f"At the last prompt token it is not among the {self._stored} best."
        read = "not read" if found.first is None else f"first read at layer {found.first}"
        most = f"most probable at layer {peak['layer']}, {_figure(peak['prob'])}"
        return f"At the last prompt token it is {read}; {most}."

    @property
    def _named_layers(self) -> str:
        """'(layers 5 to 8)'; nothing if nobody chose them."""
        low, high = self.layers[0], self.layers[-1]
        if self.all_layers:
            return ""
        if len(self.layers) == 1:
            return f" (layer {low})"
        together = len(self.layers) == high - low + 1
        return f" (layers {f'{low} to {high}' if together else ', '.join(map(str, self.layers))})"

    def _development(self, patches: Found, last: Found) -> Iterator[list[str]]:
        """A row for each layer at which the token is among the k best of a patch or of the last prompt token."""
        for layer in self.layers:
            here, there = patches.at(layer), last.at(layer)
            if not here.ranks and not there.ranks:
                continue
            ranks = [row["rank"] for row in here.ranks]
            yield [
                str(layer),
                str(ranks.count(1)),
                str(len(ranks)),
                *(["–"] * 3 if here.peak is None else [str(min(ranks)), _figure(here.peak["prob"])]),
                *([] if here.peak is None else [str(here.peak["patch"])]),
                *(["–"] * 2 if there.peak is None else [str(there.ranks[0]["rank"]), _figure(there.peak["prob"])]),
            ]

    def _maps(self, found: Found) -> Lines:
        chosen = layout(self.image.grid, self.width)
        layers = list(self.layers)
        if self.all_layers and found.peak is not None:
            first = found.ranks[0]["layer"] if found.first is None else found.first
            somewhere = sorted({row["layer"] for row in found.ranks})
            layers = spread(first, found.peak["layer"], somewhere, most_maps(chosen))
        grids = {layer: np.zeros(self.image.grid, int) for layer in layers}
        for row in found.ranks:
            if row["layer"] in grids:
                grids[row["layer"]][self.image.place(row["patch"])] = row["rank"]
        yield from heat_maps(grids, chosen)
        yield ""
        yield from legend(self._stored)
        if chosen.block > 1:
            rows, columns = self.image.grid
            side = chosen.block
            yield f"Of {rows} x {columns} patches each sign stands for {side} x {side}: the best rank among them."


@dataclass(frozen=True)
class Found:
    """What is stored of a token at the patches, or at the last prompt token: rows by layer, with its ranks and its
    probabilities."""

    ranks: Sequence[Row]
    probabilities: Sequence[Row]
    tokens: Sequence[Row]

    @classmethod
    def of(cls, corpus: LocalCorpus, token: str | Node, layers: list[int], at: Literal["patch", "last"]) -> Found:
        """Raises QueryError."""
        ranks = corpus.rank(token, layers=layers, at=at)
        return cls(ranks.rows, corpus.prob(token, layers=layers, at=at).rows, ranks.tokens)

    def at(self, layer: int) -> Found:
        """What there is of it at one layer."""
        ranks, probabilities = (
            [row for row in rows if row["layer"] == layer] for rows in (self.ranks, self.probabilities)
        )
        return Found(ranks, probabilities, self.tokens)

    @property
    def first(self) -> int | None:
        """The first layer at which something decodes to it."""
        return min((row["layer"] for row in self.ranks if row["rank"] == 1), default=None)

    @property
    def peak(self) -> Row | None:
        """Where it is most probable; of equal places the first."""
        return max(self.probabilities, key=lambda row: row["prob"], default=None)


def head(corpus: LocalCorpus, image: OneImage, model: str) -> Lines:
    """What was read, by which model, and what it was asked."""
    run = corpus.cache.run
    rows, columns = image.grid
    name = printable(image.name)
    yield (
        f"{name}: {image.size[0]} x {image.size[1]} pixels, {rows} x {columns} patches; "
        f"layers 0 (the embedding) to {run.layers - 1}"
    )
    yield f"model   {model}"
    yield f"prompt  {run.prompt!r}"
    yield f"lens    {run.lens}"
    if image.answer is not None:
        yield f"answer  {image.answer!r}"


# --- arguments -------------------------------------------------------------------------------------------------


def _token(text: str) -> str | Node:
    """A word; or what the language has for tokens: a list, matching(...), prefix(...)."""
    if not text.strip().startswith(("[", "matching(", "prefix(")):
        return text
    call = parse(f"rank({text})")
    assert isinstance(call, Call)
    token = call.get("token")
    assert token is not None
    return token


def places_of(texts: Sequence[str], image: OneImage) -> list[int | str]:
    """The places that --patch names; without any the last prompt token and the middle patch. Raises BadArgument."""
    rows, columns = image.grid
    if not texts:
        return [LAST, rows // 2 * columns + columns // 2]
    return [LAST if text.strip() == LAST else _patch(text, image) for text in texts]


def _patch(text: str, image: OneImage) -> int:
    rows, columns = image.grid
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    match numbers:
        case [patch] if 0 <= patch < image.patches:
            return patch
        case [row, column] if 0 <= row < rows and 0 <= column < columns:
            return row * columns + column
    raise BadArgument(
        f"--patch {text}: this image's grid of {rows} x {columns} has the patches 0 to {image.patches - 1}.",
        f"Give a number, a row and column up to {rows - 1},{columns - 1}, or last for the last prompt token.",
    )


def layers_of(texts: Sequence[str], count: int) -> tuple[int, ...]:
    """The layers that --layer names, in order; without any all of them. Raises BadArgument."""
    if not texts:
        return tuple(range(count))
    found: set[int] = set()
    for text in texts:
        first, dash, last = text.partition("-")
        try:
            low, high = int(first), int(last if dash else first)
        except ValueError:
            low, high = 1, 0
        if not 0 <= low <= high < count:
            raise BadArgument(
                f"--layer {text}: the model has the layers 0 to {count - 1}.", "Give a layer, or several such as 5-20."
            )
        found |= {*range(low, high + 1)}
    return tuple(sorted(found))


# --- text ------------------------------------------------------------------------------------------------------


def _shown(piece: str | None, id: int) -> str:
    return str(id) if piece is None else printable(piece)


def _figure(probability: float) -> str:
    """Three decimals; of less than half a thousandth its magnitude."""
    return f"{probability:.1e}" if 0 < probability < 0.0005 else f"{probability:.3f}"


def _short(probability: float) -> str:
    """The same in five characters."""
    return f"{probability:.0e}" if 0 < probability < 0.0005 else f"{probability:.3f}"


def _cut(text: str, width: int) -> str:
    return text if cell_len(text) <= width else f"{set_cell_size(text, width - 1).rstrip()}…"
