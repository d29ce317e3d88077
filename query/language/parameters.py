"""The types of parameters: from a node to a checked value.

Each says what it expects in words, for messages and documentation. Whether a value fits the corpus (a stored rank, a
layer that there is) is decided here too.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Protocol

from vlq.query.language.nodes import Literal, Name, Node, Scalar, node_of
from vlq.query.language.nodes import Sequence as SequenceNode
from vlq.query.language.registry import REQUIRED
from vlq.query.mistakes.calls import UNQUOTED
from vlq.query.mistakes.values import (
    EXPECTED,
    NO_IMAGE,
    NO_LAYER,
    NOT_READ,
    PER_CENT,
    QUOTED_QUERY,
    RANK_ABOVE_K,
    SEVERAL_IMAGES,
    WINDOW,
)
from vlq.query.schema import layers_phrase

if TYPE_CHECKING:
    from vlq.query.language.bind import Scope
    from vlq.query.language.predicates import Predicate
    from vlq.query.language.tokens import TokenSet
    from vlq.query.schema import Run


class Type(Protocol):
    """The type of a parameter."""

    @property
    def expected(self) -> str:
        """What fits, in words: 'a whole number of at least 1'."""

    def bind(self, node: Node, name: str, scope: Scope) -> Any:
        """The checked value of an argument. Raises QueryError at the node's place."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a function of the language."""

    name: str
    type: Type
    documentation: str
    default: Scalar | object = REQUIRED

    def default_node(self) -> Node:
        return node_of(self.default)


def unquoted(node: Node) -> str | None:
    """The number that a text spells; None if it is something else."""
    value = node.value if isinstance(node, Literal) else None
    return value.strip() if isinstance(value, str) and re.fullmatch(r"\s*\d+(\.\d+)?\s*", value) else None


def _window(node: Node) -> str | None:
    """The window of layers that '5-8', '5:8' or 5 - 8 means; None if it is something else."""
    value = str(node.value) if isinstance(node, Literal) else str(node)
    found = re.fullmatch(r"\s*(\d{1,4})\s*(?:-|:|–|\.\.|to)\s*(\d{1,4})\s*", value)
    return f"({found[1]}, {found[2]})" if found and int(found[1]) <= int(found[2]) else None


def whole(node: Node) -> int | None:
    """The node's whole number; None if it is something else."""
    if isinstance(node, Literal) and isinstance(node.value, int) and not isinstance(node.value, bool):
        return node.value
    return None


@dataclass(frozen=True)
class Count:
    """A whole number of at least 1."""

    expected: str = "a whole number of at least 1"

    def bind(self, node: Node, name: str, scope: Scope) -> int:
        value = whole(node)
        if value is None or value < 1:
            raise scope.error(EXPECTED, node, name=name, expected=self.expected, near=unquoted(node))
        return value


@dataclass(frozen=True)
class Rank:
    """A rank among the stored tokens."""

    expected: str = "a rank from 1 to the stored k"

    def bind(self, node: Node, name: str, scope: Scope) -> int:
        k = scope.run.k
        value = whole(node)
        if value is None or value < 1:
            raise scope.error(EXPECTED, node, name=name, expected=f"a rank from 1 to {k}", near=unquoted(node))
        # Of tracked tokens every rank is known: `bind` sees whether all are.
        if value > k and not scope.run.tracked and not scope.run.keeps_all:
            raise scope.error(RANK_ABOVE_K, node, name=name, k=k)
        return value


@dataclass(frozen=True)
class Probability:
    """A number above 0, up to 1; None for no bound."""

    expected: str = "a probability above 0 and up to 1"

    def bind(self, node: Node, name: str, scope: Scope) -> float | None:
        value = node.value if isinstance(node, Literal) else node
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or not 0 < value <= 1:
            if isinstance(value, int | float) and 1 < value <= 100:
                raise scope.error(PER_CENT, node, name=name, expected=self.expected, share=value / 100)
            raise scope.error(EXPECTED, node, name=name, expected=self.expected, near=unquoted(node))
        return float(value)


@dataclass(frozen=True)
class StoredRank:
    """A rank among the stored tokens; None for the last of them."""

    expected: str = Rank.expected

    def bind(self, node: Node, name: str, scope: Scope) -> int:
        if isinstance(node, Literal) and node.value is None:
            return scope.run.k
        return Rank().bind(node, name, scope)


@dataclass(frozen=True)
class Share:
    """A number above 0, up to 1."""

    expected: str = "a share above 0 and up to 1"

    def bind(self, node: Node, name: str, scope: Scope) -> float:
        value = Probability(self.expected).bind(node, name, scope)
        if value is None:
            raise scope.error(EXPECTED, node, name=name, expected=self.expected)
        return value


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    options: Sequence[str]

    @property
    def expected(self) -> str:
        return " or ".join(repr(option) for option in self.options)

    def bind(self, node: Node, name: str, scope: Scope) -> str:
        value = node.value if isinstance(node, Literal) else node.name if isinstance(node, Name) else None
        if isinstance(node, Name) and value in self.options:
            raise scope.error(UNQUOTED, node, name=name)
        if value not in self.options:
            near = get_close_matches(value, self.options, 1) if isinstance(value, str) else []
            raise scope.error(EXPECTED, node, name=name, expected=self.expected, near=", ".join(map(repr, near)))
        return str(value)


@dataclass(frozen=True)
class Optional:
    """None, or what another type takes."""

    type: Type

    @property
    def expected(self) -> str:
        return f"None or {self.type.expected}"

    def bind(self, node: Node, name: str, scope: Scope) -> Any:
        if isinstance(node, Literal) and node.value is None:
            return None
        return self.type.bind(node, name, scope)


@dataclass(frozen=True)
class Flag:
    """True or False."""

    expected: str = "True or False"

    def bind(self, node: Node, name: str, scope: Scope) -> bool:
        if isinstance(node, Literal) and isinstance(node.value, bool):
            return node.value
        near = node.name.capitalize() if isinstance(node, Name) else None
        near = near if near in ("True", "False") else None
        raise scope.error(EXPECTED, node, name=name, expected=self.expected, near=near)


@dataclass(frozen=True)
class LayerSet:
    """Which layers count."""

    layers: tuple[int, ...]  # ascending
    is_window: bool  # all that were read from the first to the last
    is_all: bool  # all that were read

    @property
    def lowest(self) -> int:
        return self.layers[0]

    @property
    def highest(self) -> int:
        return self.layers[-1]


def every_layer(run: Run) -> LayerSet:
    """All layers that were read."""
    return LayerSet(run.read_layers, True, True)


@dataclass(frozen=True)
class Layers:
    """None for all that were read, one layer, a tuple for an inclusive window, or a list for a set."""

    expected: str = "a layer, a window such as (5, 20), or a list such as [8, 16, 24]"

    def bind(self, node: Node, name: str, scope: Scope) -> LayerSet:
        count, read = scope.run.layers, scope.run.read_layers
        if isinstance(node, Literal) and node.value is None:
            return every_layer(scope.run)
        items = node.items if isinstance(node, SequenceNode) else (node,)
        is_window = isinstance(node, SequenceNode) and not node.is_list
        if not items or (is_window and len(items) != 2):
            raise scope.error(WINDOW if items else EXPECTED, node, name=name, expected=self.expected)
        layers = []
        for item in items:
            layer = whole(item)
            if layer is None:
                near = _window(item) or unquoted(item)
                raise scope.error(EXPECTED, item, name=name, expected=self.expected, near=near)
            if not 0 <= layer < count:
                raise scope.error(NO_LAYER, item, name=name, last=count - 1)
            if not is_window and layer not in read:
                raise scope.error(NOT_READ, item, name=name, layers=f"layer {layer} was not", read=layers_phrase(read))
            layers.append(layer)
        if not is_window:
            chosen = tuple(sorted(set(layers)))
            return LayerSet(chosen, len(chosen) == chosen[-1] - chosen[0] + 1, chosen == read)
        low, high = layers
        if low > high:
            raise scope.error(EXPECTED, node, name=name, expected=self.expected, near=f"({high}, {low})")
        chosen = tuple(layer for layer in read if low <= layer <= high)
        if not chosen:
            none = f"none of the layers {low} to {high} was" if low < high else f"layer {low} was not"
            raise scope.error(NOT_READ, node, name=name, layers=none, read=layers_phrase(read))
        return LayerSet(chosen, True, chosen == read)


@dataclass(frozen=True)
class OneLayer:
    """One layer; None for the one that the function chooses."""

    expected: str = "a layer"

    def bind(self, node: Node, name: str, scope: Scope) -> LayerSet | None:
        if isinstance(node, Literal) and node.value is None:
            return None
        if whole(node) is None:
            raise scope.error(EXPECTED, node, name=name, expected=self.expected)
        return Layers().bind(node, name, scope)


@dataclass(frozen=True)
class ModelLayers:
    """One of the model's layers or a window of them, whether they were read or not; None for whatever there is."""

    expected: str = "a layer, or a window such as (5, 6)"

    def bind(self, node: Node, name: str, scope: Scope) -> LayerSet | None:
        if isinstance(node, Literal) and node.value is None:
            return None
        items = node.items if isinstance(node, SequenceNode) and not node.is_list else (node,)
        layers = [layer for item in items if (layer := whole(item)) is not None]
        if len(layers) != len(items) or len(layers) not in (1, 2) or layers[0] > layers[-1]:
            raise scope.error(EXPECTED, node, name=name, expected=self.expected)
        for item, layer in zip(items, layers, strict=True):
            if not 0 <= layer < scope.run.layers:
                raise scope.error(NO_LAYER, item, name=name, last=scope.run.layers - 1)
        return LayerSet(tuple(range(layers[0], layers[-1] + 1)), True, False)


@dataclass(frozen=True)
class Images:
    """A condition on the image table's columns, or on answers that have a row for each image; None for all images."""

    expected: str = "a condition on image columns, such as label == 'beach'"

    def bind(self, node: Node, name: str, scope: Scope) -> Predicate | None:
        from vlq.query.language.compile import Compiler
        from vlq.query.language.predicates import of_images

        if isinstance(node, Literal) and node.value is None:
            return None
        predicate = of_images(node, scope)
        predicate.sql(Compiler())  # its mistakes show now
        return predicate


@dataclass(frozen=True)
class ImageReference:
    """An image by its name or its number: the number."""

    expected: str = "an image's name, or its number"

    def bind(self, node: Node, name: str, scope: Scope) -> int:
        value = node.value if isinstance(node, Literal) else None
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise scope.error(UNQUOTED if isinstance(node, Name) else EXPECTED, node, name=name, expected=self.expected)
        found = scope.find_image(value)
        if not found:
            raise scope.error(NO_IMAGE, node, near=_image_like(value, scope))
        if len(found) > 1:
            raise scope.error(SEVERAL_IMAGES, node, count=len(found), numbers=", ".join(map(str, found[:5])))
        return found[0]


def _image_like(value: str | int, scope: Scope) -> str | None:
    """The first image's name that holds this; None if none does."""
    from vlq.query.language.compile import Compiler

    compiler = Compiler()
    images, part = compiler.table("images"), compiler.value("part", str(value))
    like = f"SELECT image FROM {images} WHERE error IS NULL AND contains(lower(image), lower({part}))"
    found = scope.ask(compiler.ask(f"{like} ORDER BY image LIMIT 1")) if isinstance(value, str) and value else []
    return next((name for (name,) in found), None)


@dataclass(frozen=True)
class Position:
    """A position's number, from 0; None for all."""

    expected: str = "a number from 0"

    def bind(self, node: Node, name: str, scope: Scope) -> int | None:
        if isinstance(node, Literal) and node.value is None:
            return None
        value = whole(node)
        if value is None or value < 0:
            raise scope.error(EXPECTED, node, name=name, expected=self.expected)
        return value


@dataclass(frozen=True)
class Number:
    """Any finite number."""

    expected: str = "a number"

    def bind(self, node: Node, name: str, scope: Scope) -> float:
        value = node.value if isinstance(node, Literal) else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
            raise scope.error(EXPECTED, node, name=name, expected=self.expected)
        return float(value)


@dataclass(frozen=True)
class FromZero:
    """A whole number of at least 0."""

    expected: str = "a whole number from 0"

    def bind(self, node: Node, name: str, scope: Scope) -> int:
        value = whole(node)
        if value is None or value < 0:
            raise scope.error(EXPECTED, node, name=name, expected=self.expected)
        return value


@dataclass(frozen=True)
class Text:
    """Any text."""

    expected: str = "a text in quotes"

    def bind(self, node: Node, name: str, scope: Scope) -> str:
        if not isinstance(node, Literal) or not isinstance(node.value, str):
            raise scope.error(UNQUOTED if isinstance(node, Name) else EXPECTED, node, name=name, expected=self.expected)
        return node.value


@dataclass(frozen=True)
class SourceText:
    """Whose states are put into an image's run (`vlq.query.studies.partners`): its text."""

    expected: str = "an image's name or number, 'other', 'other label' or 'column partner'"

    def bind(self, node: Node, name: str, scope: Scope) -> str:
        number = whole(node)
        if number is not None:
            return str(number)
        return Text(self.expected).bind(node, name, scope)


@dataclass(frozen=True)
class Query:
    """What can be asked of a cache: the node, which other caches bind."""

    expected: str = "a query, such as first_layer('dog')"

    def bind(self, node: Node, name: str, scope: Scope) -> Node:
        if isinstance(node, Literal | Name | SequenceNode):
            quoted = isinstance(node, Literal) and isinstance(node.value, str)
            raise scope.error(QUOTED_QUERY if quoted else EXPECTED, node, name=name, expected=self.expected)
        return node


@dataclass(frozen=True)
class Tokens:
    """Which tokens of the vocabulary."""

    expected: str = "a word, a piece such as '▁dog', a token id, a list of these, matching(...) or prefix(...)"

    def bind(self, node: Node, name: str, scope: Scope) -> Any:
        from vlq.query.language.tokens import resolve

        return resolve(node, name, scope)


@dataclass(frozen=True)
class AnswerTokens(Tokens):
    """Which tokens of the vocabulary, in answers."""

    def bind(self, node: Node, name: str, scope: Scope) -> Any:
        from vlq.query.language.tokens import resolve_in_answer

        return resolve_in_answer(node, name, scope)


@dataclass(frozen=True)
class TokenSets:
    """Several token sets side by side: each item of a list is one; what is no list is the only one.

    Of one label, as the word "ear" and the piece inside of words, they are told apart by their ids.
    """

    each: Tokens = Tokens()
    expected: str = "a word, a piece such as '▁dog', a token id, matching(...), prefix(...), or a list of these"

    def bind(self, node: Node, name: str, scope: Scope) -> tuple[TokenSet, ...]:
        is_list = isinstance(node, SequenceNode) and node.is_list and bool(node.items)
        items = node.items if isinstance(node, SequenceNode) and is_list else (node,)
        sets = dict.fromkeys(self.each.bind(item, name, scope) for item in items)
        labels = Counter(tokens.label for tokens in sets)
        return tuple(tokens if labels[tokens.label] == 1 else tokens.with_ids() for tokens in sets)
