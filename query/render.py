"""A result as text: a table for a person, JSON and CSV for programs, HTML for a notebook."""

from __future__ import annotations

import csv
import io
import json
from html import escape
from typing import Any

from vlq.query.result import SHOWN_ROWS, Result

BAR = 40
"""Characters of the longest bar."""

SHOWN_ITEMS = 8
"""Items of a list in a cell of a table."""

EIGHTHS = " ▏▎▍▌▋▊▉"


def render(result: Result, format: str) -> str:
    """The result in one of the command line's formats: table, json or csv."""
    return {"table": table, "json": to_json, "csv": to_csv}[format](result)


def to_json(result: Result) -> str:
    return json.dumps(result.to_dict(), ensure_ascii=False, indent=2, allow_nan=False)


def to_csv(result: Result) -> str:
    """The rows alone, under a line of column names; lists are parted by spaces."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(result.columns)
    for row in result.rows:
        writer.writerow([_flat(value) for value in row.values()])
    return sink.getvalue().rstrip("\n")


def _flat(value: Any) -> Any:
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, dict):
        return " ".join(f"{key}:{count}" for key, count in value.items())
    return value


# --- for a person ----------------------------------------------------------------------------------------------


def table(result: Result) -> str:
    """The sentence, the tokens, the first rows, what to know of them, and the layers' histogram."""
    parts = [result.headline, _tokens(result)]
    if result.rows:
        parts += ["", *_rows(result)]
    parts += _notes(result)
    if any(result.summary.get("histogram", {}).values()):
        parts += ["", "layer", *bars(result.summary["histogram"])]
    return "\n".join(parts)


def _tokens(result: Result) -> str:
    shown = [f"{token['piece']} ({token['id']})" if token["piece"] else str(token["id"]) for token in result.tokens]
    more = f" and {len(shown) - SHOWN_ITEMS:,} more" if len(shown) > SHOWN_ITEMS else ""
    return f"token{'s' if len(shown) > 1 else ''}: {', '.join(shown[:SHOWN_ITEMS])}{more}"


def shown_columns(result: Result) -> list[str]:
    """The columns that tell a person something: not numbers of images, nor what is the same in every row."""
    hidden = {"image_id", "histogram"}
    hidden |= {name for name in ("censored", "patches") if not any(row.get(name) for row in result.rows)}
    if "patch" in result.columns:
        hidden.add("patches")
    return [name for name in result.columns if name not in hidden]


def _notes(result: Result) -> list[str]:
    notes = list(result.notes)
    if any(row.get("censored") for row in result.rows):
        notes.append("Censored: the first layer that was looked at. It may have been read before.")
    hidden = len(result.rows) - SHOWN_ROWS
    if hidden > 0:
        notes.insert(0, f"{hidden:,} more rows: --format json or csv has all.")
    return notes


def _rows(result: Result) -> list[str]:
    columns = shown_columns(result)
    cells = [[_cell(name, row[name]) for name in columns] for row in result.rows[:SHOWN_ROWS]]
    widths = [max(len(name), *(len(line[i]) for line in cells)) for i, name in enumerate(columns)]
    right = [isinstance(result.rows[0][name], int | float) for name in columns]
    lines = []
    for line in [columns, *cells]:
        padded = [
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return lines


def _cell(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return name if value else ""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, list):
        more = f" … ({len(value):,})" if len(value) > SHOWN_ITEMS else ""
        return " ".join(map(str, value[:SHOWN_ITEMS])) + more
    # Names come from files: control characters would disturb the terminal.
    return "".join(character if character.isprintable() else "�" for character in str(value))


def bars(histogram: dict[int, int]) -> list[str]:
    """A line for each layer from the first to the last that counts anything."""
    counted = [layer for layer, count in histogram.items() if count]
    most = max(histogram.values())
    width = len(str(counted[-1]))
    lines = []
    for layer, count in histogram.items():
        if counted[0] <= layer <= counted[-1]:
            bar = _bar(count / most)
            lines.append(f"{layer:>{max(5, width)}}  {bar}{' ' if bar else ''}{count:,}")
    return lines


def _bar(share: float) -> str:
    eighths = round(share * BAR * 8)
    if share > 0:
        eighths = max(1, eighths)
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()


# --- for a notebook --------------------------------------------------------------------------------------------


def html(result: Result) -> str:
    """The same for a notebook."""
    columns = shown_columns(result) if result.rows else []
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(_cell(name, row[name]))}</td>" for name in columns) + "</tr>"
        for row in result.rows[:SHOWN_ROWS]
    )
    rows = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if result.rows else ""
    notes = "".join(f"<p>{escape(note)}</p>" for note in _notes(result))
    histogram = ""
    if any(result.summary.get("histogram", {}).values()):
        histogram = f"<pre>layer\n{chr(10).join(bars(result.summary['histogram']))}</pre>"
    return f"<p><b>{escape(result.headline)}</b></p><p>{escape(_tokens(result))}</p>{rows}{notes}{histogram}"
