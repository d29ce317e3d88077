"""Pages as files that need no service.

A browser that opens a file runs no module from beside it and fetches nothing. So one plain script (`modules.js`) makes
an import map in which each module is a `data:` URL, and a page has the answers that its modules ask for in itself, or
in plain scripts beside it.
"""

from __future__ import annotations

import base64
import gzip
import json
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
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


def gzipped(data: bytes) -> str:
    """An answer as pages hold it."""
    return base64.b64encode(gzip.compress(data, 6, mtime=0)).decode()


def embedded(answers: Mapping[str, bytes]) -> str:
    """The element that has the answers to what a page's modules ask, by their paths: see static/api.js."""
    held = {path: gzipped(data) for path, data in answers.items()}
    return f'<script type="application/json" id="embedded">{inside_html(held)}</script>'


def inside_html(values: Any) -> str:
    """JSON that ends no element and opens none, whatever texts it holds."""
    text = json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def entry(modules: Sequence[str]) -> str:
    """The script that runs modules."""
    return "".join(f'import "vlq/{name}";' for name in modules)


def without_modules(text: str) -> str:
    """A page's HTML without the modules that a service has."""
    text = re.sub(r'<link rel="modulepreload"[^>]*>\n?', "", text)
    return re.sub(r'<script type="module" src="[^"]*"></script>\n?', "", text)


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


def import_map(entries: Iterable[str] | None = None) -> str:
    """Modules as `data:` URLs by their names, `vlq/PATH`: what an import map's element holds. All of them, or those
    that some need."""
    sources: dict[str, str] = {}
    wanted = list(entries if entries is not None else (path for path in static_files() if path.endswith(".js")))
    while wanted:
        if (path := wanted.pop()) not in sources:
            sources[path], others = _by_name(path, static_files()[path].decode())
            wanted += others
    encoded = {path: base64.b64encode(source.encode()).decode() for path, source in sorted(sources.items())}
    imports = {f"vlq/{path}": f"data:text/javascript;base64,{source}" for path, source in encoded.items()}
    return json.dumps({"imports": imports})


def _by_name(path: str, source: str) -> tuple[str, list[str]]:
    """A module's source with others by the names that they have in the import map, and the paths of these."""
    folder, others = posixpath.dirname(path), []

    def named(match: re.Match[str]) -> str:
        before, quote, target = match.groups()
        others.append(posixpath.normpath(posixpath.join(folder, target)))
        return f"{before}{quote}vlq/{others[-1]}{quote}"

    return IMPORT.sub(named, source), others
