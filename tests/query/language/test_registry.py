"""One entry per function: the Python side and the help say what the registry says."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from vlq.query.answers.result import Result
from vlq.query.client.corpus import Corpus
from vlq.query.errors import BadArgument
from vlq.query.language import builders
from vlq.query.language.nodes import Node
from vlq.query.language.parse import parse
from vlq.query.language.reference import help_text
from vlq.query.language.registry import REQUIRED, Function, TableMethod, functions, methods

pytestmark = pytest.mark.here("the registry and the builders")

TABLES = [function for function in functions().values() if function.is_table]
TOKEN_SETS = [function for function in functions().values() if function.tokens is not None]

SINGULAR: dict[str, dict[str, object]] = {"top": {"layer": None}}
"""What Python's functions take beside their parameters: beside `patch`, one layer is `layer`, too."""


def parameters(function: Any) -> dict[str, object]:
    found = inspect.signature(function).parameters.values()
    return {p.name: REQUIRED if p.default is p.empty else p.default for p in found if p.name != "self"}


@pytest.mark.parametrize("function", [*TABLES, *TOKEN_SETS], ids=lambda function: function.name)
def test_builders_have_the_registrys_signature(function: Function) -> None:
    builder = getattr(builders, function.name)
    assert parameters(builder) == {p.name: p.default for p in function.parameters} | SINGULAR.get(function.name, {})
    assert inspect.getdoc(builder) == function.documentation


@pytest.mark.parametrize("function", TABLES, ids=lambda function: function.name)
def test_the_corpus_has_the_registrys_signature(function: Function) -> None:
    method = getattr(Corpus, function.name)
    expected = {p.name: p.default for p in function.parameters} | SINGULAR.get(function.name, {})
    if function.name == "compare":
        del expected["a"]  # which is the corpus
    assert parameters(method) == expected
    assert str(inspect.getdoc(method)).startswith(function.documentation)


def test_one_layer_is_written_in_the_singular_too() -> None:
    plural = parse("top(0, layers=8, patch=3)")
    assert parse("top(0, layer=8, patch=3)").equals(plural)
    assert str(plural) == "top(0, layers=8, patch=3)"
    assert builders.top(0, layer=8, patch=3).equals(plural)
    assert builders.top(0, layers=8, patch=3).equals(plural)
    assert parse("first_layer('dog', layer=(5, 20))").equals(builders.first_layer("dog", layers=(5, 20)))
    assert str(parse("locate('dog', layer=7)")) == "locate('dog', layer=7)"  # where there is one alone
    with pytest.raises(BadArgument, match="layers is given twice"):
        parse("top(0, layer=8, layers=9)")


def test_help_keeps_names_apart_from_what_is_said_of_them() -> None:
    lines = help_text().splitlines()
    said = {entry.name: entry.documentation for entry in functions().values()}
    said |= {f".{entry.name}": entry.documentation for entry in methods().values()}
    assert {tuple(line.split(maxsplit=1)) for line in lines if line.split("  ")[0] in said} == set(said.items())
    assert (
        len({line.index(documentation) for documentation in said.values() for line in lines if documentation in line})
        == 1
    )


@pytest.mark.parametrize("home", [Node, Result])
@pytest.mark.parametrize("method", methods().values(), ids=lambda method: method.name)
def test_nodes_and_results_have_the_registrys_methods(method: TableMethod, home: type) -> None:
    assert parameters(getattr(home, method.name)) == {p.name: p.default for p in method.parameters}
    assert parse(str(parse(method.example))).equals(parse(method.example))
    assert f".{method.name}(" in method.example
    assert method.documentation.endswith(".")


@pytest.mark.parametrize("function", functions().values(), ids=lambda function: function.name)
def test_an_entry_is_whole(function: Function) -> None:
    assert parse(str(parse(function.example))).equals(parse(function.example))
    assert function.name in function.example
    assert function.documentation.endswith(".")
    assert "\n" not in function.documentation
    assert all(parameter.documentation and parameter.type.expected for parameter in function.parameters)
    assert sum(part is not None for part in (function.compile, function.bind, function.tokens)) == 1
    assert function.is_table == (function.tokens is None)
    if function.compile is not None:
        assert function.summarise is not None
        assert function.headline is not None
