"""VLQ asks a corpus of images what a vision-language model reads, patch by patch and layer by layer.

import vlq

corpus = vlq.open("cache")
corpus.first_layer("dog").summary
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlq.query.asked import Asked
    from vlq.query.builders import (
        answer,
        compare,
        defaults,
        divergence,
        divergence_layer,
        effect,
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
        prominence,
        rank,
        readings,
        tokens,
        top,
    )
    from vlq.query.client import open
    from vlq.query.corpus import Corpus
    from vlq.query.errors import VlqError
    from vlq.query.nodes import col
    from vlq.query.parse import parse
    from vlq.query.result import Result
    from vlq.service.pages.image_file import image_file as image_file
    from vlq.workers.intervene.lab import Lab
    from vlq.workers.look.corpus import look

__version__ = "0.1.0"

_HOMES = {
    "Asked": "query.asked",
    "Corpus": "query.corpus",
    "Lab": "workers.intervene.lab",
    "Result": "query.result",
    "VlqError": "query.errors",
    "col": "query.nodes",
    "answer": "query.builders",
    "compare": "query.builders",
    "defaults": "query.builders",
    "divergence": "query.builders",
    "divergence_layer": "query.builders",
    "effect": "query.builders",
    "emergence": "query.builders",
    "first_layer": "query.builders",
    "image_file": "service.pages.image_file",  # which a corpus here asks for: its room may import no other
    "images": "query.builders",
    "last_layer": "query.builders",
    "locate": "query.builders",
    "look": "workers.look.corpus",
    "matching": "query.builders",
    "neighbours": "query.builders",
    "open": "query.client",
    "overlap": "query.builders",
    "parse": "query.parse",
    "peak_layer": "query.builders",
    "precursors": "query.builders",
    "prefix": "query.builders",
    "prob": "query.builders",
    "prominence": "query.builders",
    "rank": "query.builders",
    "readings": "query.builders",
    "tokens": "query.builders",
    "top": "query.builders",
}

__all__ = [
    "Asked",
    "Corpus",
    "Lab",
    "Result",
    "VlqError",
    "answer",
    "col",
    "compare",
    "defaults",
    "divergence",
    "divergence_layer",
    "effect",
    "emergence",
    "first_layer",
    "images",
    "last_layer",
    "locate",
    "look",
    "matching",
    "neighbours",
    "open",
    "overlap",
    "parse",
    "peak_layer",
    "precursors",
    "prefix",
    "prob",
    "prominence",
    "rank",
    "readings",
    "tokens",
    "top",
]


def __getattr__(name: str) -> Any:
    # The rooms need packages that take a while to import; a name is fetched when it is used.
    if name not in _HOMES:
        raise AttributeError(f"module 'vlq' has no attribute {name!r}")
    try:
        return getattr(import_module(f"vlq.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        from vlq.query.extras import missing_extra

        if (missing := missing_extra(error)) is None:
            raise
        raise missing from error


def __dir__() -> list[str]:
    """What completion and `help(vlq)` show: what can be had here, where the extra `workers` may not be installed."""
    whole = find_spec("torch") is not None
    return [*(name for name in __all__ if whole or not _HOMES[name].startswith("workers.")), "__version__"]
