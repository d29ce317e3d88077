"""A query with more asked of it, or less: conditions, an order, groups, put in and taken out as nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from vlq.query.language.nodes import Call, Comparison, Literal, Logic, Method, Name, Node, logic, node_of, walk
from vlq.query.language.registry import call, functions, method

CUTS = ("sort", "limit", "select", "sample")
"""Methods that show an answer otherwise: conditions are put before those that a query ends with."""

GROUPS = ("group", "count", "mean", "median", "min", "max", "histogram")
"""Methods that give other rows than those of the answer."""


@dataclass(frozen=True)
class Part:
    """Something that was chosen of an answer's rows, in words, and the query without it."""

    text: str
    query: Node


def steps(node: Node) -> tuple[Node, list[Method]]:
    """What a query asks first, and what is done with its rows, in order."""
    done: list[Method] = []
    while isinstance(node, Method):
        done.insert(0, node)
        node = node.table
    return node, done


def joined(first: Node, done: Sequence[Method]) -> Node:
    """The query whose steps these are."""
    for step in done:
        first = replace(step, table=first)
    return first


def conjuncts(condition: Node | None) -> tuple[Node, ...]:
    """The conditions that all have to hold for one to hold."""
    if condition is None or (isinstance(condition, Literal) and condition.value is None):
        return ()
    if isinstance(condition, Logic) and condition.operator == "and":
        return condition.operands
    return (condition,)


def all_of(conditions: Sequence[Node]) -> Node | None:
    """One condition for several that have to hold; None for none."""
    if not conditions:
        return None
    return conditions[0] if len(conditions) == 1 else logic("and", *conditions)


def is_about(condition: Node, column: str) -> bool:
    """Whether a condition names this column, and no other."""
    return {part.name for part in walk(condition) if isinstance(part, Name)} == {column}


# --- rows ------------------------------------------------------------------------------------------------------


def uncut(node: Node) -> Node:
    """A query without what it ends with that orders, limits or selects: all its rows."""
    first, done = steps(node)
    return joined(first, done[: _before_cuts(done)])


def unselected(node: Node) -> Node:
    """A query with all columns of its rows."""
    first, done = steps(node)
    return joined(first, [step for step in done if step.method != "select"])


def narrowed(node: Node, condition: Node) -> Node:
    """The rows for which a condition holds, too. Of `.limit(10)` these are the first ten for which it does."""
    first, done = steps(node)
    return _with_condition(first, done, _before_cuts(done), condition)


def without(node: Node, taken: Callable[[Node], bool]) -> Node:
    """A query without some of the conditions of its `.where(...)`s."""
    first, done = steps(node)
    kept: list[Method] = []
    for step in done:
        if step.method != "where":
            kept.append(step)
            continue
        left = all_of([part for part in conjuncts(step.get("condition")) if not taken(part)])
        if left is not None:
            kept.append(_where(step.table, left))
    return joined(first, kept)


def conditions(node: Node) -> list[Node]:
    """The conditions of a query's `.where(...)`s."""
    return [part for step in steps(node)[1] if step.method == "where" for part in conjuncts(step.get("condition"))]


def _before_cuts(done: Sequence[Method]) -> int:
    place = len(done)
    while place and done[place - 1].method in CUTS:
        place -= 1
    return place


def _with_condition(first: Node, done: list[Method], place: int, condition: Node) -> Node:
    before, behind = done[:place], done[place:]
    if before and before[-1].method == "where":
        condition = logic("and", *conjuncts(before[-1].get("condition")), condition)
        before = before[:-1]
    return joined(first, [*before, _where(first, condition), *behind])


def _where(table: Node, condition: Node) -> Method:
    return method(table, "where", [condition], [])


# --- images ----------------------------------------------------------------------------------------------------


def images_argument(node: Node) -> str | None:
    """The argument by which a query's function takes a condition on images; None if it takes none."""
    first, _ = steps(node)
    if not isinstance(first, Call):
        return None
    return next((name for name in ("images", "condition") if functions()[first.function].parameter(name)), None)


def images_conditions(node: Node) -> tuple[Node, ...]:
    """The conditions on images that its function is asked with."""
    name, (first, _) = images_argument(node), steps(node)
    return conjuncts(first.get(name)) if name is not None and isinstance(first, Call) else ()


def of_images(node: Node, given: Sequence[Node]) -> Node:
    """The query with its function asked of other images: those for which all of these conditions hold."""
    name, (first, done) = images_argument(node), steps(node)
    assert name is not None
    assert isinstance(first, Call)
    arguments = {key: value for key, value in first.arguments if key != name}
    if (condition := all_of(given)) is not None:
        arguments[name] = condition
    return joined(call(first.function, [], [(key, value, None) for key, value in arguments.items()]), done)


def of_set(node: Node, numbers: Sequence[int]) -> Node:
    """The query asked of the images of these numbers alone, instead of those of another such set."""
    listed = listed_in(numbers)
    if images_argument(node) is not None:
        return of_images(node, [*(part for part in images_conditions(node) if not is_set(part)), listed])
    first, done = steps(without(node, is_set))
    place = 1 if done and done[0].method == "where" else 0
    return _with_condition(first, done, place, listed)


def listed_in(numbers: Sequence[int]) -> Comparison:
    """That an image is one of these numbers."""
    return Comparison((Name("image_id"), node_of([int(number) for number in numbers])), ("in",))


def is_set(condition: Node) -> bool:
    """Whether a condition is that an image is one of some numbers."""
    return isinstance(condition, Comparison) and condition.operators == ("in",) and is_about(condition, "image_id")


# --- order and groups ------------------------------------------------------------------------------------------


def order(node: Node) -> tuple[str, bool] | None:
    """The column that a query ends with sorting by, and whether descending; None if it does not, or by several."""
    if not isinstance(node, Method) or node.method != "sort":
        return None
    by, descending = node.get("by"), node.get("descending")
    name = by.name if isinstance(by, Name) else by.value if isinstance(by, Literal) else None
    return (name, isinstance(descending, Literal) and descending.value is True) if isinstance(name, str) else None


def ordered(node: Node, column: str, descending: bool | None) -> Node:
    """The rows by a column; by none if `descending` is None."""
    rows = node.table if isinstance(node, Method) and node.method == "sort" else node
    return rows if descending is None else rows.sort(Name(column), descending)


def ungrouped(node: Node) -> Node:
    """A query without its groups, and without what is done with these."""
    first, done = steps(node)
    place = next((i for i, step in enumerate(done) if step.method in GROUPS), len(done))
    return joined(first, done[:place])


def grouped(node: Node, column: str, number: str) -> Node:
    """All rows grouped by a column, and a number of each group: count, median, ..."""
    return method(uncut(ungrouped(node)).group(Name(column)), number, [], [])


# --- what was chosen -------------------------------------------------------------------------------------------


def chosen(node: Node) -> Iterator[Part]:
    """Everything that narrows, groups, orders or cuts an answer, from left to right."""
    first, done = steps(node)
    about_images = images_conditions(node)
    for i, part in enumerate(about_images):
        yield Part(_said(part, "images: "), of_images(node, about_images[:i] + about_images[i + 1 :]))
    for i, step in enumerate(done):
        if step.method == "where":
            parts = conjuncts(step.get("condition"))
            for j, part in enumerate(parts):
                left = all_of(parts[:j] + parts[j + 1 :])
                kept = [] if left is None else [_where(step.table, left)]
                yield Part(_said(part), joined(first, [*done[:i], *kept, *done[i + 1 :]]))
        elif step.method in GROUPS:
            text = ".".join(str(replace(one, table=Name("_"))).removeprefix("_.") for one in done[i : i + 2])
            yield Part(text if step.method == "group" else text.partition(".")[0], joined(first, done[:i]))
            return
        else:
            text = str(replace(step, table=Name("_"))).removeprefix("_.")
            yield Part(text, joined(first, [*done[:i], *done[i + 1 :]]))


MOST_SAID = 60
"""Characters of a condition in words."""


def _said(condition: Node, before: str = "") -> str:
    if is_set(condition) and isinstance(condition, Comparison):
        items = getattr(condition.operands[1], "items", ())
        return f"{before or 'images: '}a set of {len(items):,}"
    text = str(condition)
    return before + (text if len(text) <= MOST_SAID else f"{text[:MOST_SAID]}…")
