"""Figures over a whole corpus, and how sure they are."""
