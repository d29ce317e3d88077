"""The registry: one entry for each function of the language."""

from vlq.query.functions.first_layer import FIRST_LAYER
from vlq.query.functions.token_sets import MATCHING, PREFIX

FUNCTIONS = {function.name: function for function in (FIRST_LAYER, MATCHING, PREFIX)}
