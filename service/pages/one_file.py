"""A page as one file: its styles, its modules, its picture and the answers that it asks for are in it."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256

from vlq.service.pages.files import embedded, entry, import_map, without_modules
from vlq.service.pages.links import rewritten
from vlq.service.pages.rendering import static_files

STATIC = "static"
"""What the addresses of static files begin with in the page that is made a file."""


def as_one_file(
    text: str, picture: tuple[bytes, str] | None, answers: Mapping[str, bytes], modules: Sequence[str]
) -> str:
    """A page's HTML as one file, which needs nothing beside it and asks nobody for anything.

    Nothing in it runs, or styles it, but what is written here: its policy goes by a name that follows from the whole of
    it, so that no text in it can know the name. `picture` is a picture and its media type.
    """
    pixels = None if picture is None else _data(*picture)
    text = rewritten(without_modules(text), lambda target: None, lambda target: pixels)
    text = re.sub(rf'<link rel="icon" href="{STATIC}/([^"]*)">', _icon, text)

    def named(name: str) -> str:
        style = re.sub(rf'<link rel="stylesheet" href="{STATIC}/([^"]*)">', lambda match: _style(match[1], name), text)
        policy = (
            "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
            f"style-src 'nonce-{name}'; script-src 'nonce-{name}'"
        )
        head = f'<head>\n<meta http-equiv="Content-Security-Policy" content="{policy}">'
        scripts = (
            f'<script type="importmap" nonce="{name}">{import_map(modules)}</script>\n'
            f'<script type="module" nonce="{name}">{entry(modules)}</script>\n'
        )
        return style.replace("<head>", head, 1).replace("</body>", f"{embedded(answers)}\n{scripts}</body>")

    return named(sha256(named("").encode()).hexdigest())


def _data(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _icon(match: re.Match[str]) -> str:
    return f'<link rel="icon" href="{_data(static_files()[match[1]], "image/svg+xml")}">'


def _style(path: str, name: str) -> str:
    return f'<style nonce="{name}">\n{static_files()[path].decode()}</style>'
