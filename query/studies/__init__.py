"""Studies of interventions: what they are of, and finished ones as tables."""
