"""VLQ asks a corpus of images what a vision-language model reads, patch by patch and layer by layer.

import vlq

corpus = vlq.open("cache")
corpus.first_layer("dog").summary
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlq.query.builders import (
        answer,
        compare,
        defaults,
        divergence,
        divergence_layer,
        emergence,
        first_layer,
        images,
        last_layer,
        locate,
        matching,
        neighbours,
        overlap,
        peak_layer,
        precursors,
        prefix,
        prob,
        rank,
        readings,
        tokens,
        top,
    )
    from vlq.query.client import Corpus, open
    from vlq.query.errors import VlqError
    from vlq.query.nodes import col
    from vlq.query.parse import parse
    from vlq.query.result import Result

__version__ = "0.1.0"

_HOMES = {
    "Corpus": "client",
    "Result": "result",
    "VlqError": "errors",
    "col": "nodes",
    "answer": "builders",
    "compare": "builders",
    "defaults": "builders",
    "divergence": "builders",
    "divergence_layer": "builders",
    "emergence": "builders",
    "first_layer": "builders",
    "images": "builders",
    "last_layer": "builders",
    "locate": "builders",
    "matching": "builders",
    "neighbours": "builders",
    "open": "client",
    "overlap": "builders",
    "parse": "parse",
    "peak_layer": "builders",
    "precursors": "builders",
    "prefix": "builders",
    "prob": "builders",
    "rank": "builders",
    "readings": "builders",
    "tokens": "builders",
    "top": "builders",
}

__all__ = [
    "Corpus",
    "Result",
    "VlqError",
    "answer",
    "col",
    "compare",
    "defaults",
    "divergence",
    "divergence_layer",
    "emergence",
    "first_layer",
    "images",
    "last_layer",
    "locate",
    "matching",
    "neighbours",
    "open",
    "overlap",
    "parse",
    "peak_layer",
    "precursors",
    "prefix",
    "prob",
    "rank",
    "readings",
    "tokens",
    "top",
]


def __getattr__(name: str) -> Any:
    # The rooms need packages that take a while to import; a name is fetched when it is used.
    if name in _HOMES:
        return getattr(import_module(f"vlq.query.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'vlq' has no attribute {name!r}")
