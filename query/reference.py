"""The functions of the language as Markdown, from their registry: what docs/language.md shows."""

from __future__ import annotations

from difflib import get_close_matches

from vlq.query.errors import UnknownName
from vlq.query.registry import REQUIRED, Signature, functions, methods


def reference() -> str:
    """A section for each function, then for each method of tables."""
    parts = [section(function) for function in functions().values()]
    parts.append("## Methods\n\nWhat is done with the rows of any table.")
    return "\n\n".join(parts + [section(method) for method in methods().values()])


def section(entry: Signature) -> str:
    """The entry's signature, its line, its example, and a row for each parameter."""
    rows = ["| argument | default | takes | meaning |", "| --- | --- | --- | --- |"] if entry.parameters else []
    for parameter in entry.parameters:
        default = "required" if parameter.default is REQUIRED else f"`{parameter.default!r}`"
        rows.append(f"| `{parameter.name}` | {default} | {parameter.type.expected} | {parameter.documentation} |")
    lines = [f"### `{entry.name}`", "", f"    {entry}", "", entry.documentation, "", f'    vlq "{entry.example}"', ""]
    return "\n".join([*lines, *rows]).rstrip()


def help_text(name: str = "") -> str:
    """What `vlq help` prints: every function and method with its line, or one of them whole. Raises UnknownName."""
    entries: dict[str, Signature] = {**functions(), **methods()}
    if not name:
        lines = [f"{entry.name:<16}{entry.documentation}" for entry in functions().values()]
        lines += ["", "of any answer:", *(f".{entry.name:<15}{entry.documentation}" for entry in methods().values())]
        return "\n".join([*lines, "", "vlq help NAME says more of one."])
    bare = name.lstrip(".").partition("(")[0]
    if bare not in entries:
        near = get_close_matches(bare, entries, 1, cutoff=0.5)
        raise UnknownName(f"There is no function {bare}.", f"Did you mean {near[0]}?" if near else "See: vlq help")
    entry = entries[bare]
    width = max((len(parameter.name) for parameter in entry.parameters), default=0)
    lines = [str(entry), "", entry.documentation]
    lines += [""] if entry.parameters else []
    for parameter in entry.parameters:
        lines.append(f"  {parameter.name:<{width}}  {parameter.documentation}")
        default = "" if parameter.default is REQUIRED else f"; {parameter.default!r} if left out"
        lines.append(f"  {'':<{width}}  {parameter.type.expected}{default}")
    return "\n".join([*lines, "", f'vlq "{entry.example}"'])
