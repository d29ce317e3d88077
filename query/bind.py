"""Nodes -> a bound query: names become functions, words become token ids, and every value fits the corpus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from vlq.query.errors import QueryError, SyntaxMistake
from vlq.query.nodes import Call, Node
from vlq.query.parameters import LayerSet
from vlq.query.registry import Function, functions
from vlq.query.schema import Run
from vlq.query.tokens import TokenSet, Vocabulary

Mistake = TypeVar("Mistake", bound=QueryError)


@dataclass(frozen=True)
class Scope:
    """What a query is held against, and its text, in which mistakes are pointed at."""

    run: Run
    vocabulary: Vocabulary
    text: str
    spans_are_places: bool  # whether the nodes' spans are places in this text
    pieces: bool = False  # whether words may be pieces inside of words

    def error(self, kind: type[Mistake], message: str, node: Node, hint: str | None = None) -> Mistake:
        """An error that points at a node."""
        return kind(message, hint, query=self.text, span=node.span if self.spans_are_places else None)


@dataclass(frozen=True)
class Bound:
    """A call whose every argument, given or by default, is a checked value."""

    call: Call
    function: Function
    run: Run
    values: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def argument(self, name: str) -> Node:
        """Where a mistake in an argument is pointed at: the argument, or the whole call if it was left out."""
        node = self.call.get(name)
        return self.call if node is None else node

    @property
    def token(self) -> TokenSet:
        value: TokenSet = self.values["token"]
        return value

    @property
    def layers(self) -> LayerSet:
        value: LayerSet = self.values["layers"]
        return value


def bind(node: Node, run: Run, vocabulary: Vocabulary, text: str | None = None) -> Bound:
    """The node with everything in it looked up. `text` is what it was parsed from. Raises QueryError."""
    scope = Scope(run, vocabulary, str(node) if text is None else text, text is not None)
    if not isinstance(node, Call) or functions()[node.function].compile is None:
        hint = "Ask something, such as first_layer(token='dog')"
        raise scope.error(SyntaxMistake, f"{node} asks nothing by itself.", node, hint)
    function = functions()[node.function]
    values: dict[str, Any] = {}
    # `pieces` says how words are read, so it is bound before them.
    for parameter in sorted(function.parameters, key=lambda parameter: parameter.name != "pieces"):
        argument = node.get(parameter.name)
        if argument is None:
            argument = parameter.default_node()
        values[parameter.name] = parameter.type.bind(argument, parameter.name, scope)
        if parameter.name == "pieces":
            scope = Scope(run, vocabulary, scope.text, scope.spans_are_places, values["pieces"])
    notes = tuple(note for value in values.values() if isinstance(value, TokenSet) for note in value.notes)
    bound = Bound(node, function, run, values, notes)
    if function.check is not None:
        function.check(bound, scope)
    return bound
