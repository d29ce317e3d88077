"""VLQ asks a corpus of images what a vision-language model reads, patch by patch and layer by layer.

import vlq

corpus = vlq.open("cache")
corpus.first_layer("dog").summary
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlq.query.answers.asked import Asked
    from vlq.query.answers.result import Result
    from vlq.query.client.corpus import Corpus
    from vlq.query.client.local import open
    from vlq.query.errors import VlqError
    from vlq.query.language.builders import (
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
    from vlq.query.language.nodes import col
    from vlq.query.language.parse import parse
    from vlq.service.pages.image_file import image_file as image_file
    from vlq.workers.intervene.lab import Lab
    from vlq.workers.look.corpus import look

__version__ = "0.1.0"

_HOMES = {
    "Asked": "query.answers.asked",
    "Corpus": "query.client.corpus",
    "Lab": "workers.intervene.lab",
    "Result": "query.answers.result",
    "VlqError": "query.errors",
    "col": "query.language.nodes",
    "answer": "query.language.builders",
    "compare": "query.language.builders",
    "defaults": "query.language.builders",
    "divergence": "query.language.builders",
    "divergence_layer": "query.language.builders",
    "effect": "query.language.builders",
    "emergence": "query.language.builders",
    "first_layer": "query.language.builders",
    "image_file": "service.pages.image_file",  # which a corpus here asks for: its room may import no other
    "images": "query.language.builders",
    "last_layer": "query.language.builders",
    "locate": "query.language.builders",
    "look": "workers.look.corpus",
    "matching": "query.language.builders",
    "neighbours": "query.language.builders",
    "open": "query.client.local",
    "overlap": "query.language.builders",
    "parse": "query.language.parse",
    "peak_layer": "query.language.builders",
    "precursors": "query.language.builders",
    "prefix": "query.language.builders",
    "prob": "query.language.builders",
    "prominence": "query.language.builders",
    "rank": "query.language.builders",
    "readings": "query.language.builders",
    "tokens": "query.language.builders",
    "top": "query.language.builders",
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
