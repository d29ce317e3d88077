"""The language's functions in Python: each builds the node that its text would be parsed to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from vlq.query.nodes import Call, Node
from vlq.query.registry import call

Tokens = str | int | Node | Sequence[str | int | Node]
Layers = int | tuple[int, int] | list[int] | None


def first_layer(
    token: Tokens,
    *,
    rank: int = 1,
    min_prob: float | None = None,
    layers: Layers = None,
    at: Literal["patch", "last", "prompt"] = "patch",
    min_patches: int = 1,
    min_run: int = 1,
    by: Literal["image", "patch", "corpus"] = "image",
    images: Node | None = None,
    pieces: bool = False,
) -> Call:
    """In each image, the first layer where the token is read, and the patches that read it there."""
    return _call("first_layer", locals())


def last_layer(
    token: Tokens,
    *,
    rank: int = 1,
    min_prob: float | None = None,
    layers: Layers = None,
    at: Literal["patch", "last", "prompt"] = "patch",
    min_patches: int = 1,
    min_run: int = 1,
    by: Literal["image", "patch", "corpus"] = "image",
    images: Node | None = None,
    pieces: bool = False,
) -> Call:
    """In each image, the last layer where the token is read, and the patches that read it there."""
    return _call("last_layer", locals())


def peak_layer(
    token: Tokens,
    *,
    rank: int = 1,
    min_prob: float | None = None,
    layers: Layers = None,
    at: Literal["patch", "last", "prompt"] = "patch",
    min_patches: int = 1,
    by: Literal["image", "patch", "corpus"] = "image",
    images: Node | None = None,
    pieces: bool = False,
) -> Call:
    """In each image, the layer where the token's probability is highest, and the patches that read it there."""
    return _call("peak_layer", locals())


def matching(pattern: str) -> Call:
    """Every word of the vocabulary that a regular expression matches."""
    return _call("matching", locals())


def prefix(word: str) -> Call:
    """The first piece of a word that is spelled in several, with how many words share it."""
    return _call("prefix", locals())


def _call(function: str, arguments: Mapping[str, object]) -> Call:
    return call(function, (), [(name, value, None) for name, value in arguments.items()])
