"""Parameters that functions share."""

from vlq.query.language.parameters import (
    Choice,
    Count,
    Flag,
    Images,
    Layers,
    Optional,
    Parameter,
    Probability,
    Rank,
    Tokens,
)
from vlq.query.language.patches import Patches
from vlq.query.schema import SITES

TOKEN = Parameter("token", Tokens(), "what is looked for; of a set the best rank counts and the probabilities add up")
RANK = Parameter("rank", Rank(), "count readings among the so many best; 1 is what a position decodes to", 1)
MIN_PROB = Parameter("min_prob", Probability(), "count readings of at least this probability", None)
LAYERS = Parameter("layers", Layers(), "a layer, an inclusive window (5, 20), or a list of layers", None)
AT = Parameter(
    "at",
    Choice(SITES),
    "image patches, the last prompt token, the prompt's tokens, or those of the model's answer",
    "patch",
)
PLACE = {"patch": ("patch",), "last": (), "prompt": ("position",), "answer": ("position",)}
"""The key of a position within a layer, by `at`: there is one last prompt token."""
PATCHES = Parameter("patches", Patches(), "only readings at these patches, such as those of locate('dog')", None)
MIN_PATCHES = Parameter("min_patches", Count(), "count layers in which at least so many positions read the token", 1)
MIN_RUN = Parameter("min_run", Count(), "so many consecutive layers must each do so", 1)
BY = Parameter("by", Choice(("image", "patch", "corpus")), "a row for each image, for each patch, or one row", "image")
PIECES = Parameter("pieces", Flag(), "let words be pieces inside of words too", False)
IMAGES = Parameter(
    "images", Images(), "only images for which a condition on their columns, or on answers by image, holds", None
)
AGAINST = Parameter(
    "against", Images(), "images for which a condition holds, held against those for which it does not", None
)
MISSING = Parameter(
    "missing",
    Optional(Choice(("never",))),
    "'never' gives images without such a reading a row too, which counts as after any layer",
    None,
)
