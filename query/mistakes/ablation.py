"""Mistakes in what is to be done to which images (`vlq ablate`, `knockout`, `steer` and `patch`)."""

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
NO_IMAGES = Mistake(
    BadArgument,
    "There is no image{which}.",
    'See which there are: vlq "images()"',
    (
        Example(
            "$ vlq steer dog --images \"label == 'nowhere'\"",
            "There is no image for which label == 'nowhere' holds.",
            'See which there are: vlq "images()"',
        ),
    ),
)
NO_SOURCE = Mistake(
    BadArgument,
    "--source {source}: images have no {what}.",
    'Expected an image\'s name or number; other: any other image; "other label": one of another label; '
    '"column partner": the image that this column names',
    (
        Example(
            "$ vlq patch --source nowhere.png --target dog",
            "--source nowhere.png: images have no such name.",
            'Expected an image\'s name or number; other: any other image; "other label": one of another label; '
            '"column partner": the image that this column names',
        ),
        Example(
            '$ vlq patch --source "other colour" --target dog',
            "--source other colour: images have no column colour.",
            'Expected an image\'s name or number; other: any other image; "other label": one of another label; '
            '"column partner": the image that this column names',
        ),
    ),
)
NO_PARTNERS = Mistake(
    BadArgument,
    "--source {source}: none of these images has a partner.",
    "Such a column names images with readings, or has more than one value; at patches, in images of one grid.",
    (
        Example(
            '$ vlq patch --source "column label" --target dog',
            "--source column label: none of these images has a partner.",
            "Such a column names images with readings, or has more than one value; at patches, in images of one grid.",
        ),
    ),
)
