"""Where a page's links and pictures lead, once it is a file."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape, unescape

TAG = re.compile(r'<(/?)(a|img|svg)\b((?:[^>"]|"[^"]*")*)>')

OF_LINKS = re.compile(r'\s(?:href|rel|download|tabindex|aria-label|aria-current)(?:="[^"]*")?')
"""Attributes that what is no link has not."""

TARGET = re.compile(r'\b(?:href|src)="([^"]*)"')

Leads = Callable[[str], str | None]


def rewritten(html: str, link: Leads, picture: Leads) -> str:
    """A page's HTML, as its templates write it, with what `link` gives for each link's target and `picture` for each
    picture's. Where that is None the link is text, and the picture has no source."""
    inside_svg = 0
    ends: list[str] = []

    def tag(match: re.Match[str]) -> str:
        nonlocal inside_svg
        closes, name, attributes = match.groups()
        if name == "svg":
            inside_svg += -1 if closes else 1
            return match[0]
        if closes:
            return ends.pop()
        target = TARGET.search(attributes)
        leads = target and (link if name == "a" else picture)(unescape(target[1]))
        if target is not None and leads is not None:
            attributes = f"{attributes[: target.start(1)]}{escape(leads)}{attributes[target.end(1) :]}"
        elif name == "img":
            attributes = TARGET.sub("", attributes)
        else:
            name, attributes = "g" if inside_svg else "span", OF_LINKS.sub("", attributes)
        if name != "img":
            ends.append(f"</{name}>")
        return f"<{name}{attributes}>"

    return TAG.sub(tag, html)
