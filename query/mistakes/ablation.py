"""Mistakes in what is to be taken from images (`vlq ablate`)."""

from __future__ import annotations

from vlq.query.errors import BadArgument
from vlq.query.mistakes.table import Example, Mistake

NO_PATCHES = Mistake(
    BadArgument,
    "No patches are named that are to be taken: {got}.",
    "Name some: readings('dog'), locate('dog'), --objects dog, or --patches 12,13",
    (
        Example(
            "$ vlq ablate None --target dog",
            "No patches are named that are to be taken: None.",
            "Name some: readings('dog'), locate('dog'), --objects dog, or --patches 12,13",
        ),
    ),
)
NONE_CHOSEN = Mistake(
    BadArgument,
    "No image{which} has patches of {got}: nothing is to be taken.",
    "See what it finds: its own words, layers and images decide.",
    (
        Example(
            "$ vlq ablate \"readings('dog', layers=0, images=label == 'nowhere')\" --target dog",
            "No image has patches of readings('dog', layers=0, images=label == 'nowhere'): nothing is to be taken.",
            "See what it finds: its own words, layers and images decide.",
        ),
        Example(
            '$ vlq ablate "[0, 1]" --target dog --images "label == \'nowhere\'"',
            "No image for which label == 'nowhere' holds has patches of [0, 1]: nothing is to be taken.",
            "See what it finds: its own words, layers and images decide.",
        ),
    ),
)
