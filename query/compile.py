"""What a bound query compiles to, and the pieces of SQL that functions share.

Every value is a bound parameter. A table of the index is read as `read_parquet($name)`, whose files the engine fills
in from the snapshot that the query is asked of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vlq.query.bind import Bound
from vlq.query.parameters import LayerSet

LISTED_TOKENS = 32
"""So many tokens are listed one by one, which lets whole row groups be skipped; more are joined with."""


@dataclass(frozen=True)
class Statement:
    """One SELECT. `tables` are the index tables that it reads, each through the parameter of its name."""

    sql: str
    parameters: Mapping[str, Any]
    tables: tuple[str, ...]


def compile(bound: Bound) -> Statement:
    """The statement of a bound query."""
    assert bound.function.compile is not None
    return bound.function.compile(bound)


@dataclass
class Where:
    """Conditions joined by AND, and the parameters that they use."""

    conditions: list[str] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)

    def add(self, condition: str, **parameters: Any) -> None:
        self.conditions.append(condition)
        self.parameters |= parameters

    def add_tokens(self, ids: tuple[int, ...]) -> None:
        """Rows of any of these tokens."""
        if len(ids) == 1:
            self.add("token = $token", token=ids[0])
        elif len(ids) <= LISTED_TOKENS:
            names = [f"token_{i}" for i in range(len(ids))]
            listed = ", ".join(f"${name}" for name in names)
            self.add(f"token IN ({listed})", **dict(zip(names, ids, strict=True)))
        else:
            self.add("token IN (SELECT unnest($tokens::UINTEGER[]))", tokens=list(ids))

    def add_layers(self, layers: LayerSet) -> None:
        """Rows of these layers."""
        if layers.is_all:
            return
        if layers.is_window:
            self.add("layer BETWEEN $from_layer AND $to_layer", from_layer=layers.layers[0], to_layer=layers.layers[-1])
        else:
            self.add("layer IN (SELECT unnest($layers))", layers=list(layers.layers))

    def __str__(self) -> str:
        return " AND ".join(self.conditions)
