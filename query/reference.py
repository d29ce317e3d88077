"""The functions of the language as Markdown, from their registry: what docs/language.md shows."""

from __future__ import annotations

from vlq.query.registry import REQUIRED, Function, functions


def reference() -> str:
    """A section for each function."""
    return "\n\n".join(section(function) for function in functions().values())


def section(function: Function) -> str:
    """The function's signature, its line, its example, and a row for each parameter."""
    rows = []
    for parameter in function.parameters:
        default = "required" if parameter.default is REQUIRED else f"`{parameter.default!r}`"
        rows.append(f"| `{parameter.name}` | {default} | {parameter.type.expected} | {parameter.documentation} |")
    return "\n".join(
        [
            f"### `{function.name}`",
            "",
            f"    {function.signature}",
            "",
            function.documentation,
            "",
            f'    vlq "{function.example}"',
            "",
            "| argument | default | takes | meaning |",
            "| --- | --- | --- | --- |",
            *rows,
        ]
    )
