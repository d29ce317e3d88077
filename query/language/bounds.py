"""Values that are known or only bounded, as SQL: how they compare and add up.

A value lies between two numbers, both included; a known one is both. What the bounds do not decide is NULL.
"""

from __future__ import annotations

from dataclasses import dataclass

SQL_OPERATORS = {"==": "=", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}

LOW, HIGH = "at_least", "at_most"
"""The columns that bound a value."""


@dataclass(frozen=True)
class Bounds:
    """The SQL of both ends of a value; the same for one that is known."""

    low: str
    high: str

    @property
    def known(self) -> bool:
        return self.low == self.high


def compared(operator: str, a: Bounds, b: Bounds) -> str:
    """Whether the comparison holds, for one of Python's operators."""
    if a.known and b.known:
        return f"{a.low} {SQL_OPERATORS[operator]} {b.low}"
    match operator:
        case "<":
            return _decided(f"{a.high} < {b.low}", f"{a.low} >= {b.high}")
        case "<=":
            return _decided(f"{a.high} <= {b.low}", f"{a.low} > {b.high}")
        case ">" | ">=":
            return compared("<" if operator == ">" else "<=", b, a)
    same, apart = f"{a.low} = {b.high} AND {a.high} = {b.low}", f"{a.high} < {b.low} OR {b.high} < {a.low}"
    return _decided(same, apart) if operator == "==" else _decided(apart, same)


def _decided(yes: str, no: str) -> str:
    return f"CASE WHEN {yes} THEN true WHEN {no} THEN false END"


def known_number(operator: str, a: str, b: str) -> str:
    """The SQL of a calculation with two known numbers. By 0 nothing is divided: DuckDB would go on with inf and NaN."""
    return f"{a} / nullif({b}, 0)" if operator == "/" else f"{a} {operator} {b}"


def calculated(operator: str, a: Bounds, b: Bounds) -> Bounds:
    """The value of +, -, * or / between two others. What is divided by something that can be 0 is unknown."""
    if a.known and b.known:
        value = known_number(operator, a.low, b.low)
        return Bounds(value, value)
    match operator:
        case "+":
            return Bounds(f"{a.low} + {b.low}", f"{a.high} + {b.high}")
        case "-":
            return Bounds(f"{a.low} - {b.high}", f"{a.high} - {b.low}")
    ends = ", ".join(f"{left} {operator} {right}" for left in (a.low, a.high) for right in (b.low, b.high))
    low, high = f"least({ends})", f"greatest({ends})"
    if operator == "/":
        low, high = (f"CASE WHEN {b.low} > 0 OR {b.high} < 0 THEN {end} END" for end in (low, high))
    return Bounds(low, high)
