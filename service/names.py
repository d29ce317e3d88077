"""What corpora are called: their names stand in the addresses of a service."""

from __future__ import annotations

import re

from vlq.query.errors import InputError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

NAMED = re.compile(rf"({NAME.pattern})=(.+)")

TAKEN = ("v1", "static", "login", "docs", "healthz", "metrics", "openapi.json")
"""Names that stand for something else in the addresses of a service."""


def check_name(name: str) -> None:
    """Raises InputError if nothing can be called that."""
    if not NAME.fullmatch(name):
        raise InputError(f"A corpus cannot be called {name!r}.", "Letters, digits, and . _ - behind the first.")
    if name in TAKEN:
        raise InputError(f"A corpus cannot be called {name} here.", "Give it another name.")


def named(caches: list[str]) -> dict[str, str]:
    """URLs, or NAME=URL, by name: the one that is given, else what `name_of` calls it. Raises InputError."""
    found: dict[str, str] = {}
    for given in caches:
        match = NAMED.fullmatch(given)
        name, url = match.groups() if match else (name_of(given), given)
        check_name(name)
        if name in found:
            raise InputError(f"Two caches are called {name}.", f"Give one another name: --cache NAME={url}")
        found[name] = url
    return found


def name_of(url: str) -> str:
    """What a cache is called that nobody gave a name: as its folder, or the one above where that says more."""
    path = url.partition("?")[0].partition("://")[2] or url
    parts = [part for part in re.split(r"[/\\]+", path) if part not in ("", ".", "..")]
    while len(parts) > 1 and parts[-1] in ("cache", "vlq"):
        parts.pop()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", parts[-1] if parts else "").strip("-._")[:100] or "corpus"
