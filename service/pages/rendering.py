"""How every page is made, of the service and in files: its frame, its template, and what is static."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from vlq.query.cache.reader import model_name


@dataclass(frozen=True)
class Frame:
    """What the frame of every page shows. A page's own context is a dataclass beside it."""

    title: str
    page: str  # corpus, image, token, layers, compare: which one it is; others have no place in the navigation
    corpus: str | None  # the corpus' name; none where a page is of no corpus
    corpora: tuple[str, ...]  # all of them
    root: str  # what the paths of this service begin with, behind a proxy
    static: str  # what the addresses of static files begin with
    cache: str | None = None  # of a page that is a file: the URL of the cache that it is of


@cache
def environment() -> Environment:
    """Templates. Every value is escaped, and a name that a page is not given is an error."""
    made = Environment(
        loader=PackageLoader("vlq.service.pages", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["model"] = model_name
    made.filters["shell"] = shlex.quote
    return made


def rendered(frame: Frame, template: str, context: Any = None) -> str:
    values: dict[str, Any] = {}
    for part in (frame, context):
        if is_dataclass(part):
            values |= {field.name: getattr(part, field.name) for field in fields(part)}
    return environment().get_template(template).render(values)


@cache
def static_files() -> Mapping[str, bytes]:
    """Every static file by its path. What is not in here does not exist."""
    found: dict[str, bytes] = {}

    def gather(folder: Traversable, prefix: str) -> None:
        for entry in folder.iterdir():
            if entry.is_dir():
                gather(entry, f"{prefix}{entry.name}/")
            elif entry.name.endswith((".js", ".css", ".svg", ".LICENSE")):
                found[prefix + entry.name] = entry.read_bytes()

    gather(files(__package__) / "static", "")
    return found


@cache
def static_digest() -> str:
    """Names all static files as they are: under another name browsers fetch them anew."""
    digest = sha256()
    for path, data in sorted(static_files().items()):
        digest.update(f"{path} {len(data)} ".encode() + data)
    return digest.hexdigest()[:16]
