"""The functions of the language as Markdown, from their registry: what docs/language.md shows."""

from __future__ import annotations

from vlq.query.registry import REQUIRED, Signature, functions, methods


def reference() -> str:
    """A section for each function, then for each method of tables."""
    parts = [section(function) for function in functions().values()]
    parts.append("## Methods\n\nWhat is done with the rows of any table.")
    return "\n\n".join(parts + [section(method) for method in methods().values()])


def section(entry: Signature) -> str:
    """The entry's signature, its line, its example, and a row for each parameter."""
    rows = []
    for parameter in entry.parameters:
        default = "required" if parameter.default is REQUIRED else f"`{parameter.default!r}`"
        rows.append(f"| `{parameter.name}` | {default} | {parameter.type.expected} | {parameter.documentation} |")
    return "\n".join(
        [
            f"### `{entry.name}`",
            "",
            f"    {entry}",
            "",
            entry.documentation,
            "",
            f'    vlq "{entry.example}"',
            "",
            "| argument | default | takes | meaning |",
            "| --- | --- | --- | --- |",
            *rows,
        ]
    )
