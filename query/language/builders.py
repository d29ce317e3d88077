"""The language's functions in Python: each builds the node that its text would be parsed to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, SupportsIndex, TypeAlias

from vlq.query.language.nodes import Call, Node, Values
from vlq.query.language.registry import call

if TYPE_CHECKING:
    from vlq.query.answers.asked import Asked

Tokens = str | int | Node | Sequence[str | int | Node] | Values
Layers = int | tuple[int, int] | list[int] | range | Values | None
Patches: TypeAlias = "Node | Asked | str | int | list[int] | range | Values | None"
Image = str | SupportsIndex
Condition: TypeAlias = "Node | Asked | None"


def first_layer(
    token: Tokens,
    *,
    rank: int = 1,
    min_prob: float | None = None,
    layers: Layers = None,
    at: Literal["patch", "last", "prompt", "answer"] = "patch",
    patches: Patches = None,
    min_patches: int = 1,
    min_run: int = 1,
    by: Literal["image", "patch", "corpus"] = "image",
    missing: Literal["never"] | None = None,
    images: Condition = None,
    against: Condition = None,
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
    at: Literal["patch", "last", "prompt", "answer"] = "patch",
    patches: Patches = None,
    min_patches: int = 1,
    min_run: int = 1,
    by: Literal["image", "patch", "corpus"] = "image",
    missing: Literal["never"] | None = None,
    images: Condition = None,
    against: Condition = None,
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
    at: Literal["patch", "last", "prompt", "answer"] = "patch",
    patches: Patches = None,
    min_patches: int = 1,
    by: Literal["image", "patch", "corpus"] = "image",
    missing: Literal["never"] | None = None,
    images: Condition = None,
    against: Condition = None,
    pieces: bool = False,
) -> Call:
    """In each image, the layer where the token's probability is highest, and the patches that read it there."""
    return _call("peak_layer", locals())


def readings(
    token: Tokens,
    *,
    rank: int = 1,
    min_prob: float | None = None,
    layers: Layers = None,
    at: Literal["patch", "last", "prompt", "answer"] = "patch",
    patches: Patches = None,
    images: Condition = None,
    against: Condition = None,
    pieces: bool = False,
) -> Call:
    """Every place where the token is read: layer, patch, rank, log-probability, and the box in pixels."""
    return _call("readings", locals())


def rank(
    token: Tokens,
    *,
    layers: Layers = None,
    at: Literal["patch", "last", "prompt", "answer"] = "patch",
    patches: Patches = None,
    missing: Literal["bound"] | None = None,
    images: Condition = None,
    against: Condition = None,
    pieces: bool = False,
) -> Call:
    """At every position the token's rank: exact if tracked, kept or of the k best, elsewhere above k."""
    return _call("rank", locals())


def prob(
    token: Tokens,
    *,
    layers: Layers = None,
    at: Literal["patch", "last", "prompt", "answer"] = "patch",
    patches: Patches = None,
    missing: Literal["bound"] | None = None,
    images: Condition = None,
    against: Condition = None,
    pieces: bool = False,
) -> Call:
    """At every position the token's probability: exact if tracked, kept or of the k best, else bounded."""
    return _call("prob", locals())


def top(
    image: Image,
    *,
    layers: Layers = None,
    patch: int | None = None,
    rank: int = 1,
    at: Literal["patch", "last", "prompt", "answer"] = "patch",
    patches: Patches = None,
    layer: int | None = None,
) -> Call:
    """What one image reads: one cell, one layer, one patch, or all of them."""
    return _call("top", locals())


def emergence(
    token: Tokens | Sequence[Tokens],
    *,
    rank: int = 1,
    min_prob: float | None = None,
    layers: Layers = None,
    at: Literal["patch", "last", "prompt", "answer"] = "patch",
    patches: Patches = None,
    min_patches: int = 1,
    images: Condition = None,
    against: Condition = None,
    pieces: bool = False,
) -> Call:
    """Layer by layer, how many images and patches read each token: all, for the first time, and so far."""
    return _call("emergence", locals())


def defaults(
    at: Literal["patch", "last", "prompt", "answer"] = "last",
    *,
    share: float = 0.9,
    unit: Literal["image", "position"] = "image",
    layers: Layers = None,
    patches: Patches = None,
    images: Condition = None,
) -> Call:
    """For each layer the fewest tokens that cover a share of what images decode to, with their counts."""
    return _call("defaults", locals())


def divergence(
    at: Literal["patch", "last", "prompt", "answer"] = "last",
    *,
    unit: Literal["image", "position"] = "image",
    layers: Layers = None,
    images: Condition = None,
) -> Call:
    """For each layer how much readings differ: top-1 tokens, and the divergence from the corpus' mean."""
    return _call("divergence", locals())


def divergence_layer(
    at: Literal["patch", "last", "prompt", "answer"] = "last",
    *,
    min_share: float = 0.1,
    layers: Layers = None,
    by: Literal["image", "corpus"] = "image",
    missing: Literal["never"] | None = None,
    images: Condition = None,
) -> Call:
    """In each image, the layer from which on it decodes to no token that many images decode to."""
    return _call("divergence_layer", locals())


def overlap(
    a: Tokens,
    b: Tokens,
    *,
    rank: int | None = None,
    min_prob: float | None = None,
    layers: Layers = None,
    patches: Patches = None,
    min_patches: int = 1,
    images: Condition = None,
    against: Condition = None,
    pieces: bool = False,
) -> Call:
    """Where two tokens are read at the same layer: patches that read both, and the distance between them."""
    return _call("overlap", locals())


def precursors(
    token: Tokens,
    *,
    rank: int = 1,
    min_prob: float | None = None,
    layers: Layers = None,
    min_images: int = 5,
    per_layer: int = 10,
    images: Condition = None,
    pieces: bool = False,
) -> Call:
    """What patches read in the layers before they come to read the token, against patches that never do."""
    return _call("precursors", locals())


def neighbours(
    token: Tokens,
    *,
    rank: int = 1,
    min_prob: float | None = None,
    layers: Layers = None,
    patches: Patches = None,
    min_patches: int = 1,
    before: int = 0,
    min_images: int = 1,
    images: Condition = None,
    pieces: bool = False,
) -> Call:
    """What the patches around the token's read, at the same layer or some layers before."""
    return _call("neighbours", locals())


def locate(
    token: Tokens,
    *,
    layer: int | None = None,
    rank: int = 1,
    min_prob: float | None = None,
    patches: Patches = None,
    min_patches: int = 1,
    images: Condition = None,
    pieces: bool = False,
) -> Call:
    """In each image, where the token is read at one layer: box, centroid, regions, and how true that is."""
    return _call("locate", locals())


def answer(token: Tokens | None = None, *, images: Condition = None, pieces: bool = False) -> Call:
    """What the model answered to each image; with a token, where the answer holds it and how probably."""
    return _call("answer", locals())


def effect(
    ablate: Patches = None,
    on: Tokens | None = None,
    *,
    knockout: Patches = None,
    steer: Tokens | None = None,
    patch: str | int | None = None,
    mode: Literal["mean", "zero", "noise"] = "mean",
    buffer: int = 0,
    combinations: Literal["all", "regions", "singles"] | None = None,
    to: Literal["last", "last-row", "prompt"] = "last",
    others: bool = False,
    place: Patches = "last",
    layers: int | tuple[int, int] | None = None,
    window: int | None = None,
    strength: float | None = None,
    prompt: str | None = None,
    by: Literal["image", "set", "layer", "strength"] = "image",
    kind: Literal["all", "region", "regions", "patch", "random", "register", "gradient"] | None = None,
    images: Condition = None,
    against: Condition = None,
    pieces: bool = False,
) -> Call:
    """What taking patches away, or another intervention, does to a word in the answer, in nats."""
    return _call("effect", locals())


def prominence(
    words: Tokens | None = None, *, layers: Layers = None, images: Condition = None, pieces: bool = False
) -> Call:
    """Of each image's objects: area, patches that read it, place in the answer, effect of removing it."""
    return _call("prominence", locals())


def compare(a: str, b: str, query: Node) -> Call:
    """The same question asked of two caches, their answers side by side."""
    return _call("compare", locals())


def images(condition: Condition = None) -> Call:
    """The images that have readings, with their sizes, answers, and the columns that came with them."""
    return _call("images", locals())


def tokens(text: str, *, at: Literal["patch", "last", "prompt", "answer"] = "patch") -> Call:
    """Tokens of the vocabulary by a part of their text, and how often the corpus decodes to them."""
    return _call("tokens", locals())


def matching(pattern: str) -> Call:
    """Every word of the vocabulary that a regular expression matches."""
    return _call("matching", locals())


def prefix(word: str) -> Call:
    """The first piece of a word that is spelled in several, with how many words share it."""
    return _call("prefix", locals())


def _call(function: str, arguments: Mapping[str, object]) -> Call:
    return call(function, (), [(name, value, None) for name, value in arguments.items()])
