"""A cache that is there: indexed anew, verified, repaired, cleared of leftovers."""
