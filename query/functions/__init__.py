"""The registry: one entry for each function of the language."""

from vlq.query.functions.layers import FIRST_LAYER, LAST_LAYER, PEAK_LAYER
from vlq.query.functions.token_sets import MATCHING, PREFIX

FUNCTIONS = {function.name: function for function in (FIRST_LAYER, LAST_LAYER, PEAK_LAYER, MATCHING, PREFIX)}
