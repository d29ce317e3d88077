"""The registry: one entry for each function of the language."""

from vlq.query.functions.answer import ANSWER
from vlq.query.functions.compare import COMPARE
from vlq.query.functions.defaults import DEFAULTS
from vlq.query.functions.divergence import DIVERGENCE
from vlq.query.functions.divergence_layer import DIVERGENCE_LAYER
from vlq.query.functions.effect import EFFECT
from vlq.query.functions.emergence import EMERGENCE
from vlq.query.functions.images import IMAGES
from vlq.query.functions.known import PROB, RANK
from vlq.query.functions.layers import FIRST_LAYER, LAST_LAYER, PEAK_LAYER
from vlq.query.functions.locate import LOCATE
from vlq.query.functions.neighbours import NEIGHBOURS
from vlq.query.functions.overlap import OVERLAP
from vlq.query.functions.precursors import PRECURSORS
from vlq.query.functions.prominence import PROMINENCE
from vlq.query.functions.readings import READINGS
from vlq.query.functions.token_sets import MATCHING, PREFIX
from vlq.query.functions.tokens import TOKENS
from vlq.query.functions.top import TOP

FUNCTIONS = {
    function.name: function
    for function in (
        FIRST_LAYER,
        LAST_LAYER,
        PEAK_LAYER,
        READINGS,
        RANK,
        PROB,
        TOP,
        EMERGENCE,
        DEFAULTS,
        DIVERGENCE,
        DIVERGENCE_LAYER,
        OVERLAP,
        PRECURSORS,
        NEIGHBOURS,
        LOCATE,
        ANSWER,
        EFFECT,
        PROMINENCE,
        COMPARE,
        IMAGES,
        TOKENS,
        MATCHING,
        PREFIX,
    )
}
