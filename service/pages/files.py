"""Pages as files that need no service.

A browser that opens a file runs no module from beside it and fetches nothing. So one plain script (`modules.js`) makes
an import map in which each module is a `data:` URL, and a page has the answers that its modules ask for in itself.
"""

from __future__ import annotations

import base64
import gzip
import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from html import escape, unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from vlq.service.pages.rendering import static_files

IMPORT = re.compile(r"""((?:from|import)\s*)(["'])(\.{1,2}/[^"']+)\2""")
"""Where a module names another one by its path."""

INDEX = "index.html"
"""The page that a link to the service's beginning leads to."""


def answer_path(name: str, **values: Any) -> str:
    """As `path` of static/api.js writes it, of a page that is of no corpus."""
    return f"/v1/{name}?{urlencode({**values, 'corpus': ''})}"


def as_file(
    text: str,
    where: Mapping[str, str],
    answers: Mapping[str, bytes] | None = None,
    modules: Sequence[str] = ("frame.js",),
    cache: str = "",
) -> str:
    """A page's HTML as a file: what it needs is beside it or in it, and what only a service has is no link."""

    def link(match: re.Match[str]) -> str:
        before, target, behind, inside = match.groups()
        found = where.get(unescape(target).lstrip("/")) or (INDEX if target == "/" else None)
        if found is None:
            return f"<span {before}{behind}>{inside}</span>"
        return f'<a {before}href="{escape(found)}"{behind}>{inside}</a>'

    text = re.sub(r'<link rel="modulepreload"[^>]*>\n?', "", text)
    text = re.sub(r'<script type="module" src="[^"]*"></script>\n?', "", text)
    text = re.sub(r'<img ([^>]*)src="/v1/[^"]*/pixels[^"]*"', rf'<img \1src="{where.get("pixels", "")}"', text)
    text = re.sub(r'<a ([^>]*?)href="(/[^"]*)"([^>]*)>(.*?)</a>', link, text, flags=re.DOTALL)
    held: dict[str, str] = {}
    for path, data in (answers or {}).items():
        held[path] = base64.b64encode(gzip.compress(data, 6, mtime=0)).decode()
    imports = "".join(f'import "vlq/{name}";' for name in modules)
    scripts = (
        f'<script type="application/json" id="embedded">{json.dumps(held)}</script>\n'
        f'<script src="static/modules.js"></script>\n<script type="module">{imports}</script>\n'
    )
    text = text.replace("<html ", f'<html data-cache="{escape(cache)}" ', 1)
    return text.replace("</body>", f"{scripts}</body>")


def write_static(folder: Path) -> None:
    """What all pages of a folder share, below `static`: styles, and one script with all modules."""
    for path, data in static_files().items():
        if not path.endswith(".js"):
            (folder / "static" / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / "static" / path).write_bytes(data)
    script = (
        "// Modules as an import map: a browser that opens a file runs none from beside it.\n"
        "{\n"
        '  const map = document.createElement("script");\n'
        '  map.type = "importmap";\n'
        f"  map.textContent = {json.dumps(import_map())};\n"
        "  document.head.append(map);\n"
        "}\n"
    )
    (folder / "static" / "modules.js").write_text(script, "utf-8")


def import_map() -> str:
    """Every module as a `data:` URL by the name `vlq/PATH`: what an import map's element holds."""
    imports = {}
    for path, data in static_files().items():
        if path.endswith(".js"):
            source = base64.b64encode(_by_name(path, data.decode()).encode()).decode()
            imports[f"vlq/{path}"] = f"data:text/javascript;base64,{source}"
    return json.dumps({"imports": imports})


def _by_name(path: str, source: str) -> str:
    """A module's source with others by the names that they have in the import map."""
    folder = posixpath.dirname(path)

    def named(match: re.Match[str]) -> str:
        before, quote, target = match.groups()
        return f"{before}{quote}vlq/{posixpath.normpath(posixpath.join(folder, target))}{quote}"

    return IMPORT.sub(named, source)
