"""VLQ asks a corpus of images what a vision-language model reads, patch by patch and layer by layer.

import vlq

corpus = vlq.open("cache")
corpus.first_layer("dog").summary
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlq.query.builders import first_layer, last_layer, matching, peak_layer, prefix
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
    "first_layer": "builders",
    "last_layer": "builders",
    "matching": "builders",
    "open": "client",
    "parse": "parse",
    "peak_layer": "builders",
    "prefix": "builders",
}

__all__ = [
    "Corpus",
    "Result",
    "VlqError",
    "col",
    "first_layer",
    "last_layer",
    "matching",
    "open",
    "parse",
    "peak_layer",
    "prefix",
]


def __getattr__(name: str) -> Any:
    # The rooms need packages that take a while to import; a name is fetched when it is used.
    if name in _HOMES:
        return getattr(import_module(f"vlq.query.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'vlq' has no attribute {name!r}")
