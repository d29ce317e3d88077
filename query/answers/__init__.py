"""Answers: rows, a sentence, a summary, and how they are shown and handed on."""
