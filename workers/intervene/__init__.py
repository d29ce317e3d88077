"""Interventions: a model's run on an image with something changed, and what that does to its answer."""
