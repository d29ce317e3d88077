"""Functions that give tokens: they stand where a function asks for them."""

from __future__ import annotations

from vlq.query.language.parameters import Parameter, Text
from vlq.query.language.registry import Function
from vlq.query.language.tokens import matching, prefix

MATCHING = Function(
    name="matching",
    parameters=(Parameter("pattern", Text("a regular expression"), "a regular expression (RE2), case folded"),),
    positional=1,
    documentation="Every word of the vocabulary that a regular expression matches.",
    example="first_layer(token=matching('^dogs?$'))",
    tokens=matching,
)

PREFIX = Function(
    name="prefix",
    parameters=(Parameter("word", Text("a word"), "a word that is spelled in several pieces"),),
    positional=1,
    documentation="The first piece of a word that is spelled in several, with how many words share it.",
    example="first_layer(token=prefix('dachshund'))",
    tokens=prefix,
)
