"""Text <-> nodes: round trips, mistakes, and texts that mean harm."""

from __future__ import annotations

import gc
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vlq
from vlq.query.errors import BadArgument, QueryError, SyntaxMistake, UnknownName
from vlq.query.language.nodes import (
    Arithmetic,
    Call,
    Comparison,
    Literal,
    Logic,
    Method,
    Name,
    Node,
    Not,
    Sequence,
    logic,
    node_of,
)
from vlq.query.language.parse import parse

pytestmark = pytest.mark.here("the parser")

scalars = (
    st.text(max_size=8).filter(lambda text: text == text.encode(errors="replace").decode())
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
    | st.none()
)
values = st.recursive(
    scalars | st.just(Name("beach")) | st.builds(vlq.matching, st.just("^a") | st.just("b'\"\\d")),
    lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple),
    max_leaves=6,
)
PARAMETERS = ("rank", "min_prob", "layers", "at", "patches", "min_patches", "min_run", "by", "against", "pieces")


@given(token=values, named=st.dictionaries(st.sampled_from(PARAMETERS), values, max_size=4))
def test_the_text_of_a_node_is_parsed_to_an_equal_node(token: Any, named: dict[str, Any]) -> None:
    node = vlq.first_layer(token, **named)
    parsed = parse(str(node))
    assert parsed.equals(node)
    assert str(parsed) == str(node)
    assert same(parsed, node)


conditions = st.recursive(
    st.builds(
        lambda a, op, b: Comparison((Name(a), node_of(b)), (op,)),
        st.sampled_from(["layer", "label", "my column", "class", "it's", "ﬁgure", ""]),
        st.sampled_from(["<", "<=", ">", ">=", "==", "!=", "in", "not in"]),
        scalars | st.lists(scalars, max_size=2),
    ),
    lambda inner: (
        st.builds(Not, inner)
        | st.builds(
            lambda word, parts: logic(word, *parts), st.sampled_from(["and", "or"]), st.lists(inner, min_size=2)
        )
    ),
    max_leaves=5,
)
columns = st.sampled_from(["label", vlq.col("label"), vlq.col("layer"), vlq.col("my column")])
tables = (
    st.sampled_from([vlq.first_layer("dog"), vlq.first_layer(3, rank=2), vlq.last_layer("cat", layers=(1, 2))])
    | st.builds(vlq.locate, st.just("dog"), patches=st.sampled_from(["dog", 3, [1, 2]]))
    | st.builds(vlq.readings, st.just("dog"), images=conditions, against=conditions)
)
expressions = st.recursive(
    tables,
    lambda inner: (
        st.builds(Arithmetic, st.sampled_from("+-*/"), inner, inner | st.builds(Literal, st.integers(-3, 3)))
        | st.builds(lambda a, b, c: Comparison((a, b, c), ("<", ">=")), inner, inner, inner)
        | st.builds(lambda a, b: (a < b) & ~(b == a) | (a > 1), inner, inner)
        | st.builds(lambda table, condition: table.where(condition), inner, conditions)
        | st.builds(lambda table, way: table.sort("layer", way).limit(3), inner, st.booleans())
        | st.builds(lambda table, by, column: table.group(by).median(column), inner, columns, st.none() | columns)
        | st.builds(lambda table, bins: table.histogram("layer", bins=bins).max(), inner, st.integers(2, 30))
        | st.builds(lambda table, column: table.group(["a", column]).count().mean(), inner, columns)
        | st.builds(lambda table, seed: table.sample(3, seed).select(["image", "layer"]), inner, st.integers(-2, 2))
        | st.builds(vlq.first_layer, st.just("ear"), patches=inner)
    ),
    max_leaves=6,
)


@given(expressions)
def test_the_text_of_an_expression_is_parsed_to_an_equal_one(node: Node) -> None:
    parsed = parse(str(node))
    assert same(parsed, node)
    assert parsed.equals(node)


def same(a: Node, b: Node) -> bool:
    """Structural equality without the text."""
    match a, b:
        case Literal(), Literal():
            return type(a.value) is type(b.value) and a.value == b.value
        case Name(), Name():
            return a.name == b.name
        case Sequence(), Sequence():
            items = zip(a.items, b.items, strict=True)
            return a.is_list == b.is_list and all(same(x, y) for x, y in items)
        case Call(), Call():
            if a.function != b.function or len(a.arguments) != len(b.arguments):
                return False
            return all(m == n and same(x, y) for (m, x), (n, y) in zip(a.arguments, b.arguments, strict=True))
        case Method(), Method():
            if a.method != b.method or not same(a.table, b.table) or len(a.arguments) != len(b.arguments):
                return False
            return all(m == n and same(x, y) for (m, x), (n, y) in zip(a.arguments, b.arguments, strict=True))
        case (Comparison(), Comparison()) | (Logic(), Logic()):
            signs = (a.operators, b.operators) if isinstance(a, Comparison) else (a.operator, b.operator)
            return signs[0] == signs[1] and all(same(x, y) for x, y in zip(a.operands, b.operands, strict=True))
        case Not(), Not():
            return same(a.operand, b.operand)
        case Arithmetic(), Arithmetic():
            return a.operator == b.operator and same(a.left, b.left) and same(a.right, b.right)
    return False


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("first_layer('dog')", vlq.first_layer("dog")),
        ("  first_layer(token='dog',)\n", vlq.first_layer("dog")),
        ("first_layer('dog', rank=1, by='image', layers=None)", vlq.first_layer("dog")),
        ("first_layer(['dog', 3465], rank=2)", vlq.first_layer(["dog", 3465], rank=2)),
        ("first_layer(\n  'dog',\n  layers=(3, 9))", vlq.first_layer("dog", layers=(3, 9))),
        ("first_layer('dog', layers=[3])", vlq.first_layer("dog", layers=[3])),
        ("first_layer(matching('^dog'), min_prob=.5)", vlq.first_layer(vlq.matching("^dog"), min_prob=0.5)),
        (r"first_layer(matching('\d'))", vlq.first_layer(vlq.matching(r"\d"))),
        ("first_layer(prefix('dachshund'))", vlq.first_layer(vlq.prefix("dachshund"))),
        ("first_layer(token='▁dog')", vlq.first_layer("▁dog")),
        ("first_layer(+3)", vlq.first_layer(3)),
    ],
)
def test_text_and_python_build_the_same(text: str, node: Node) -> None:
    assert parse(text).equals(node)


def test_what_differs_is_not_equal() -> None:
    assert not vlq.first_layer("dog").equals(vlq.first_layer("cat"))
    assert not vlq.first_layer(1).equals(vlq.first_layer(True))
    assert not vlq.first_layer("dog", layers=(1, 2)).equals(vlq.first_layer("dog", layers=[1, 2]))
    assert not Literal("a").equals("'a'")


def test_a_node_has_no_truth_value() -> None:
    with pytest.raises(BadArgument, match="has no truth value"):
        bool(vlq.first_layer("dog"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**63, {"a": 1}, object(), "\ud800"])
def test_values_that_a_query_cannot_hold(value: object) -> None:
    with pytest.raises(BadArgument):
        node_of(value)


def test_numpy_numbers_are_numbers() -> None:
    import numpy as np

    assert node_of(np.int64(3)).equals(Literal(3))
    assert node_of(np.float32(0.5)).equals(Literal(0.5))


# --- mistakes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "message", "marked"),
    [
        ("", SyntaxMistake, "The query is empty.", None),
        ("first_layer('dog') ** 2", SyntaxMistake, "VLQ does not have this operator.", None),
        ("first_layer('dog') is None", SyntaxMistake, "VLQ has no `is`.", None),
        ("(a < b) & (b < c)", SyntaxMistake, "VLQ has no & | ~ in text.", None),
        ("first_layer('dog').wher(layer < 2)", UnknownName, "There is no method wher.", None),
        ("first_layer('dog').limit()", BadArgument, "count is missing.", None),
        ("lambda: 1", SyntaxMistake, "VLQ has no lambda.", "lambda: 1"),
        ("first_layer([t for t in 'ab'])", SyntaxMistake, "VLQ has no comprehension.", "[t for t in 'ab']"),
        ("first_layer(f'{a}')", SyntaxMistake, "VLQ has no f-string.", "f'{a}'"),
        ("first_layer(*['dog'])", SyntaxMistake, "VLQ has no *.", "*['dog']"),
        ("first_layer(**a)", SyntaxMistake, "VLQ has no *.", "**a"),
        ("first_layer('dog').rows", SyntaxMistake, "There is no .rows here.", None),
        ("().__class__", SyntaxMistake, "There is no .__class__ here.", None),
        ("().__class__()", UnknownName, "There is no method __class__.", None),
        ("__import__('os')", UnknownName, "There is no function __import__.", "__import__"),
        ("first_layer('ä', b'dog')", SyntaxMistake, "VLQ has no bytes values.", "b'dog'"),
        ("first_layer('ä', 2j)", SyntaxMistake, "VLQ has no complex values.", "2j"),
        ("first_layer(1e999)", SyntaxMistake, "This number is too large.", "1e999"),
        ("first_layer(0x" + "f" * 40 + ")", SyntaxMistake, "This number is too large.", "0x" + "f" * 40),
        (r"first_layer('\ud800')", SyntaxMistake, "This is half of a character.", r"'\ud800'"),
        ("first_layr('dog')", UnknownName, "There is no function first_layr.", "first_layr"),
        ("first_layer('ü', ranc=2)", UnknownName, "ranc is no argument of first_layer; did you mean rank?", "ranc=2"),
        ("first_layer()", BadArgument, "token is missing.", "first_layer()"),
        ("first_layer('a', 2)", BadArgument, "2 has no name; is it rank=2?", "2"),
        ("first_layer('a', token='b')", BadArgument, "token is given twice.", "token='b'"),
        ("first_layer('a', 'b\u2028c', q=1)", BadArgument, None, None),
    ],
)
def test_other_mistakes(text: str, kind: type[QueryError], message: str | None, marked: str | None) -> None:
    with pytest.raises(kind) as caught:
        parse(text)
    if message is not None:
        assert caught.value.message == message
    if marked is not None:
        start, end = caught.value.span or (0, 0)
        assert text[start:end] == marked


def test_every_wrong_argument_is_named() -> None:
    with pytest.raises(BadArgument) as caught:
        parse("first_layer('dog', 3, ranc=2)")
    assert (
        caught.value.message == "3 has no name; is it rank=3?\nranc is no argument of first_layer; did you mean rank?"
    )
    assert (caught.value.hint or "").startswith("Expected: first_layer(token, rank=1, ")


def test_the_caret_stands_under_the_spot() -> None:
    with pytest.raises(UnknownName) as caught:
        parse("first_layer(\n  'dög',\tranc=2)")
    assert str(caught.value).splitlines()[1:3] == ["    'dög', ranc=2)", "           ^^^^^^"]


HOSTILE = {
    "parentheses": "(" * 5000,
    "signs": "-" * 9000 + "1",
    "nots": "not " * 2000 + "1",
    "attributes": "a" + ".a" * 4000,
    "indices": "a" + "[0]" * 3000,
    "sums": "1" + "+1" * 4000,
    "comparisons": "a" + "<a" * 4000,
    "lambdas": "lambda:" * 1000 + "1",
    "powers": "2**" * 3000 + "2",
    "calls": "matching(" * 150 + ")" * 150,
    "lists": "first_layer(" + "[" * 150 + "]" * 150 + ")",
    "arguments": "first_layer(" + "a," * 4000 + ")",
    "named": "first_layer('a'," + ",".join(f"a{i}=1" for i in range(1000)) + ")",
    "a long word": f"first_layer('{'a' * 9000}')",
    "digits": "first_layer(" + "9" * 9000 + ")",
    "long": "a" * 1_000_000,
    "deep": "(" * 500_000,
    "surrogate": "first_layer('\ud800')",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_are_refused_at_once(name: str) -> None:
    start = time.process_time()  # of this process alone, whatever else the machine does
    error = refusal(HOSTILE[name])
    assert time.process_time() - start < 1
    assert (error is None) == (name in ("a long word", "comparisons"))  # these are queries, if unknown ones
    assert str(error).encode()  # can be printed


def refusal(text: str) -> QueryError | None:
    """What parsing the text raises, of the one kind that it may raise; None for a query."""
    try:
        parse(text)
    except QueryError as error:
        return error
    return None


WORDS = [
    "first_layer",
    "(",
    ")",
    "'dog'",
    "token",
    "=",
    ",",
    "[",
    "]",
    "1",
    "0.5",
    "-",
    "layers",
    "matching",
    "__",
    ".",
]


@settings(max_examples=2000, deadline=1000)
@given(
    st.text(max_size=40)
    | st.lists(st.sampled_from([*WORDS, "\0", "\n", "\\", "é", "“", "#", ":", "lambda"])).map("".join)
)
def test_no_text_raises_anything_but_a_query_error(text: str) -> None:
    error = refusal(text)
    if error is None:
        assert parse(str(parse(text))).equals(parse(text))
    else:
        assert str(error).encode()
        start, end = error.span or (0, 0)
        assert 0 <= start <= end <= len(text) + 1


class Cycle:
    """Garbage of which collection gives way to other threads, also in the midst of a tree."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        time.sleep(0)


def test_threads_that_parse_at_once() -> None:
    """In Python 3.11 trees that are made at once disturb one another (cpython#106905)."""
    text = "first_layer('dog', layers=[1, 2, 3]).where(layer == 1 and logprob > (2 + 3 * (4 - layer)))"
    expected = parse(text)

    def equal(_: int) -> bool:
        Cycle()
        return parse(text).equals(expected)

    thresholds = gc.get_threshold()
    gc.set_threshold(5)
    try:
        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(equal, range(200)))
    finally:
        gc.set_threshold(*thresholds)
