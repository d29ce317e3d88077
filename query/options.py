"""Options that queries and commands have, each said once."""

from __future__ import annotations

from typing import NamedTuple

CACHE = "URL of the cache; default $VLQ_CACHE, else the demo's."
FORMAT = "table (the default), json, jsonl, csv, parquet or arrow."
OUTPUT = "Write to this file, or with - to stdout; parquet and arrow go to no terminal."


class Option(NamedTuple):
    """What it does, and what stands behind it: a URL, a FORMAT, a FILE, or nothing."""

    help: str
    value: str | None = None


OPTIONS = {
    "--cache": Option(CACHE, "URL"),
    "--format": Option(FORMAT, "FORMAT"),
    "--output": Option(OUTPUT, "FILE"),
    "--plot": Option("Draw what suits the answer to a .png or .svg file.", "FILE"),
    "--explain": Option("Show tokens, SQL, plan and files instead of rows."),
}
"""A query's options."""
