"""A place in a text, shown under the line that holds it."""

from __future__ import annotations

INDENT = "  "

CUT = "…"
"""Stands for what a line has beyond what is shown of it."""


LEAST = 10
"""Places that are taken even where a terminal says that it has fewer, or none."""


def places(text: str) -> int:
    """How many a text takes on a terminal: Chinese, Japanese and Korean characters two each, combining marks none."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # most texts do without these milliseconds

    return cell_len(text)


def pointed(text: str, span: tuple[int, int], width: int | None = None) -> list[str]:
    """The line of the text that holds the span's start, and under it a line of carets.

    Of a line that is wider than `width` what fits around the span: a terminal would break it, and part it from its
    carets.
    """
    start, end = span
    line_start = text.rfind("\n", 0, start) + 1
    line = text[line_start:].partition("\n")[0]
    # Other control characters would move the cursor, and the caret with it.
    line = "".join(character if character.isprintable() else " " for character in line)
    first, last = start - line_start, max(start + 1, min(end, line_start + len(line))) - line_start
    before, marked, behind = line[:first], line[first:last], line[last:]
    if width is not None and places(line) > (room := max(width - len(INDENT), LEAST)):
        before, marked, behind = _window(before, marked, behind, room)
    return [INDENT + before + marked + behind, INDENT + " " * places(before) + "^" * max(1, places(marked))]


def _window(before: str, marked: str, behind: str, room: int) -> tuple[str, str, str]:
    """What fits into so many places: of what is marked the beginning, and on both sides what there is room for."""
    carets = max(1, places(marked))
    if carets > room - 2 * len(CUT):
        return CUT * bool(before), _begun(marked, room - len(CUT)), ""
    left = max((room - carets) // 2, room - carets - places(behind))  # what one side does not take is the other's
    shown = _ended(before, left)
    return shown, marked, _begun(behind, room - carets - places(shown))


def _begun(text: str, room: int) -> str:
    """A text, or its beginning with a mark behind."""
    if places(text) <= room:
        return text
    while text and places(text) > room - len(CUT):
        text = text[:-1]
    return text + CUT


def _ended(text: str, room: int) -> str:
    """A text, or its end with a mark before."""
    if places(text) <= room:
        return text
    while text and places(text) > room - len(CUT):
        text = text[1:]
    return CUT + text
