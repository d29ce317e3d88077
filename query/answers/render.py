"""A result as text: a table for a person, JSON and CSV for programs, HTML for a notebook."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
from collections.abc import Iterable, Sequence
from decimal import Decimal
from html import escape
from typing import Any

from vlq.query.answers.answer import FORMATS, SHOWN_ROWS, Answer
from vlq.query.answers.asked import Asked
from vlq.query.answers.files import STDOUT, write_whole
from vlq.query.errors import printable
from vlq.query.language.against import both_sides
from vlq.query.language.bounds import HIGH, LOW
from vlq.query.mistakes.elsewhere import ENDING, FORMAT, NO_TEXT
from vlq.query.pointed import places
from vlq.query.summary import LEAST_SEEN, Rows, as_seen

BAR = 40
"""Characters of the longest bar."""

SHOWN_TEXT = 100
"""Characters of a text in a cell of a table."""

SHOWN_ITEMS = 8
"""Items of a list in a cell of a table."""

BINARY = ("parquet", "arrow")
"""Formats that are no text, and nothing for a terminal."""

TEXT_ENDINGS = ("", "txt", "md")
"""Endings of files into which a table goes; what another one promises, such as .xlsx, a table would not be."""

EIGHTHS = " ▏▎▍▌▋▊▉"


def form_of(form: str | None, output: str | None) -> str:
    """The format that was asked for, else what the output's name says, else a table. Raises QueryError."""
    ending = os.path.splitext(output or "")[1].lstrip(".").lower()
    chosen = form or (ending if ending in FORMATS else "table")
    if not form and chosen != ending and ending not in TEXT_ENDINGS:
        raise ENDING.error(got=output, ending=ending)
    if chosen not in FORMATS:
        raise FORMAT.error(known=f"one of {', '.join(FORMATS)}", got=chosen)
    if chosen in BINARY and (not output or (output == STDOUT and sys.stdout.isatty())):
        raise NO_TEXT.error(got=chosen)
    return chosen


def deliver(result: Answer, form: str, output: str | None, drawn: Sequence[str] = ()) -> None:
    """Print the result, or write it to a file and say so. What was `drawn` of it stands for the result, too, unless it
    is to go to stdout."""
    if output == STDOUT and form in BINARY:
        sys.stdout.buffer.write(encoded(result, form))
        return
    done = [] if output == STDOUT else [*drawn]
    if output and output != STDOUT:
        save(result, form, output)
        done.append(f"Written to {output}")
    text = "\n".join([result.headline, *done]) if done else render(result, form)
    print(text, end="\n" if text else "")  # no rows are no lines of JSON


def render(result: Answer, form: str) -> str:
    """The result as text in one of the command line's formats: table, json, jsonl or csv."""
    return {"table": table, "json": to_json, "jsonl": to_jsonl, "csv": to_csv}[form](result)


def save(result: Answer, form: str, path: str) -> None:
    """Write the result to a file in one of the command line's formats, whole or not at all. Raises StoreError."""
    write_whole(path, encoded(result, form), "--output")


def encoded(result: Answer, form: str) -> bytes:
    """The result as a file in one of the command line's formats."""
    sink = io.BytesIO()
    if form == "parquet":
        import pyarrow.parquet as pq

        pq.write_table(result.arrow(), sink)
    elif form == "arrow":
        import pyarrow as pa

        found = result.arrow()
        with pa.ipc.new_file(sink, found.schema) as writer:
            writer.write_table(found)
    elif text := render(result, form):
        sink.write(f"{text}\n".encode())
    return sink.getvalue()


def to_json(result: Answer) -> str:
    return json.dumps(plain(result.to_dict()), ensure_ascii=False, indent=2, allow_nan=False)


def to_jsonl(result: Answer) -> str:
    """The rows alone, an object a line."""
    return jsonl_rows(result.rows).rstrip("\n")


def jsonl_rows(rows: Rows) -> str:
    """An object a line."""
    return "".join(json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


AS_IT_IS = {type(None), str, bool, int}
"""Types of values that JSON has, too."""


def plain(value: Any) -> Any:
    """The value as JSON has it: what is no number is null; dates and the like are texts."""
    kind = type(value)
    if kind in AS_IT_IS:
        return value
    if kind is float:
        return value if math.isfinite(value) else None
    # Most of what an answer holds is in lists, and needs no call of its own.
    if isinstance(value, dict):
        return {str(key): item if type(item) in AS_IT_IS else plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [item if type(item) in AS_IT_IS else plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if isinstance(value, str | int) else str(value)


def as_json(values: Any) -> bytes:
    """Values as JSON; of what is no number null."""
    return json.dumps(plain(values), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def to_csv(result: Answer) -> str:
    """The rows alone, under a line of column names; lists of numbers are parted by spaces, other ones are JSON."""
    return csv_rows([result.columns, *(row.values() for row in result.rows)]).rstrip("\n")


def csv_rows(rows: Iterable[Iterable[Any]]) -> str:
    """A line for each row's values."""
    lines: list[str] = []
    # The module quotes what holds a character of the line's end: a lone carriage return would end a row for readers.
    writer = csv.writer(_Lines(lines), lineterminator="\r\n")
    for row in rows:
        writer.writerow([_flat(value) for value in row])
    return "".join(line.removesuffix("\r\n") + "\n" for line in lines)


class _Lines:
    """What a CSV writer writes to: a row at a time."""

    def __init__(self, lines: list[str]) -> None:
        self.write = lines.append


def _flat(value: Any) -> Any:
    """A cell's text: of layers' counts `layer:count`, of numbers these, of whatever else holds values JSON."""
    if isinstance(value, dict) and all(isinstance(key, int) for key in value):
        return " ".join(f"{key}:{count}" for key, count in value.items())
    if isinstance(value, list) and all(isinstance(item, int | float) for item in value):
        return " ".join(map(str, value))
    return as_json(value).decode() if isinstance(value, list | dict) else value


# --- for a person ----------------------------------------------------------------------------------------------


def table(result: Answer) -> str:
    """The sentence, the tokens, the first rows, what to know of them, and the layers' histogram."""
    parts = [result.headline, *_tokens(result)]
    if result.head:
        parts += ["", *_rows(result)]
    parts += _notes(result)
    if sides := both_sides(result.summary):
        parts += ["", *aligned(sides, [False] + [True] * (len(sides[0]) - 1))]
    for title, histogram in _histograms(result):
        parts += ["", title, *bars(histogram)]
    return "\n".join(parts)


def _histograms(result: Answer) -> list[tuple[str, dict[int, int]]]:
    """What counts by layer, by its title: of the answer, and of what it is held against."""
    found = {"layer": result.summary, "layer, without": result.summary.get("against", {})}
    counted = [(title, summary.get("histogram", {})) for title, summary in found.items()]
    return [(title, histogram) for title, histogram in counted if any(histogram.values())]


def _tokens(result: Answer) -> list[str]:
    """A line with the tokens that were asked for; none if none were."""
    shown = [f"{token['piece']} ({token['id']})" if token["piece"] else str(token["id"]) for token in result.tokens]
    more = f" and {len(shown) - SHOWN_ITEMS:,} more" if len(shown) > SHOWN_ITEMS else ""
    return [f"token{'s' if len(shown) > 1 else ''}: {', '.join(shown[:SHOWN_ITEMS])}{more}"] if shown else []


def shown_columns(result: Answer) -> list[str]:
    """The columns that tell a person something of the rows that are shown: not numbers of images, nor what all lack.

    Who names the columns, in SQL, means all of them.
    """
    if not isinstance(result, Asked):
        return result.columns
    hidden: set[str] = set()
    for end in ("", "_a", "_b"):  # those of a comparison of two caches end so
        hidden |= {name + end for name in ("image_id", "histogram", "corpus_layer", "corpus_rise")}
        without = (name + end for name in ("censored", "patches", "missing"))
        hidden |= {name for name in without if not any(row.get(name) for row in result.head)}
        # Without ground truth, or for a part of the corpus, there is nothing in these.
        optional = (name + end for name in ("iou", "pointing", "mean_entropy", "divergence", "rise"))
        hidden |= {name for name in optional if all(row.get(name) is None for row in result.head)}
        # What is known exactly needs no bounds.
        value = next((name + end for name in ("rank", "prob", "value") if name + end in result.columns), "")
        bounds = (LOW + end, HIGH + end)
        hidden |= {name for name in bounds if all(row.get(name) == row.get(value) for row in result.head)}
        if "patch" in result.columns:
            hidden.add(f"patches{end}")
    return [name for name in result.columns if name not in hidden]


def _notes(result: Answer) -> list[str]:
    notes = list(result.notes)
    if result.is_censored:
        notes.append("Censored: at the edge of the layers that were looked at; what is beyond might change it.")
    hidden = len(result) - SHOWN_ROWS
    if hidden > 0:
        notes.insert(0, f"{hidden:,} more rows: --format json or csv has all.")
    return notes


def _rows(result: Answer) -> list[str]:
    columns = shown_columns(result)
    cells = [[_cell(as_seen(name, row[name])) for name in columns] for row in result.head]
    first = {name: next((row[name] for row in result.head if row[name] is not None), None) for name in columns}
    right = [isinstance(first[name], int | float | Decimal) and not isinstance(first[name], bool) for name in columns]
    return aligned([[*map(printable, columns)], *cells], right)


def aligned(table: list[list[str]], right: list[bool]) -> list[str]:
    """The lines of a table, each column as wide as its widest cell and set to one side."""
    widths = [max(map(places, column)) for column in zip(*table, strict=True)]
    lines = []
    for line in table:
        padded = []
        for text, width, to_right in zip(line, widths, right, strict=True):
            room = " " * (width - places(text))
            padded.append(room + text if to_right else text + room)
        lines.append("  ".join(padded).rstrip())
    return lines


def decimal(value: float) -> str:
    """A figure of a table: three decimals, or a power of ten where these say nothing or would be many digits."""
    return f"{value:.1e}" if 0 < abs(value) < LEAST_SEEN or 1e12 <= abs(value) < math.inf else f"{value:.3f}"


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "–"
    if isinstance(value, float):
        return decimal(value)
    if isinstance(value, list):
        more = f" … ({len(value):,})" if len(value) > SHOWN_ITEMS else ""
        return _shortened(" ".join(_item(item) for item in value[:SHOWN_ITEMS])) + more
    return _shortened(str(value))


def _shortened(text: str) -> str:
    """The beginning of a text, in characters that can be shown."""
    more = "…" if len(text) > SHOWN_TEXT else ""
    return printable(text[:SHOWN_TEXT]) + more


def _item(item: Any) -> str:
    if isinstance(item, dict) and "label" in item:  # an annotated object
        return str(item["label"])
    if item is None:
        return "–"
    return f"{item:.1f}" if isinstance(item, float) else str(item)


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


def html(result: Answer) -> str:
    """The same for a notebook."""
    columns = shown_columns(result) if result.head else []
    rows = _html_table([columns, *([_cell(as_seen(name, row[name])) for name in columns] for row in result.head)])
    notes = "".join(f"<p>{escape(note)}</p>" for note in _notes(result))
    sides = _html_table(both_sides(result.summary))
    histograms = "".join(
        f"<pre>{title}\n{chr(10).join(bars(histogram))}</pre>" for title, histogram in _histograms(result)
    )
    tokens = "".join(f"<p>{escape(line)}</p>" for line in _tokens(result))
    return f"<p><b>{escape(result.headline)}</b></p>{tokens}{rows}{notes}{sides}{histograms}"


def _html_table(lines: list[list[str]]) -> str:
    """A table whose first line is its head; nothing without others."""
    if len(lines) < 2:
        return ""
    head, *body = (
        "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in line)
        for tag, line in zip(["th"] + ["td"] * len(lines), lines, strict=False)
    )
    rows = "".join(f"<tr>{line}</tr>" for line in body)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
