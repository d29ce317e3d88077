"""The functions of the language and the table of mistakes as Markdown: docs/language.md and docs/mistakes.md."""

from __future__ import annotations

from vlq.query.language.registry import REQUIRED, Signature, functions, methods, nearest
from vlq.query.mistakes import CHAPTERS, mistakes_of
from vlq.query.mistakes.calls import NO_FUNCTION, NO_FUNCTION_BUT_ARGUMENT
from vlq.query.mistakes.table import DEMO, Example, Mistake
from vlq.query.pointed import pointed


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
        wide = max(map(len, entries)) + 2
        lines = [f"{entry.name:<{wide}}{entry.documentation}" for entry in functions().values()]
        lines += ["", "of any answer:"]
        lines += [f"{'.' + entry.name:<{wide}}{entry.documentation}" for entry in methods().values()]
        return "\n".join([*lines, "", "vlq help NAME says more of one."])
    bare = name.lstrip(".").partition("(")[0]
    having = [entry.name for entry in entries.values() if any(bare == part.name for part in entry.parameters)]
    if bare not in entries and having:
        raise NO_FUNCTION_BUT_ARGUMENT.error(name=bare, functions=", ".join(having))
    if bare not in entries:
        raise NO_FUNCTION.error(name=bare, near=nearest(bare, entries), known=", ".join(entries))
    entry = entries[bare]
    width = max((len(parameter.name) for parameter in entry.parameters), default=0)
    lines = [str(entry), "", entry.documentation]
    lines += [""] if entry.parameters else []
    for parameter in entry.parameters:
        lines.append(f"  {parameter.name:<{width}}  {parameter.documentation}")
        default = "" if parameter.default is REQUIRED else f"; {parameter.default!r} if left out"
        lines.append(f"  {'':<{width}}  {parameter.type.expected}{default}")
    return "\n".join([*lines, "", f'vlq "{entry.example}"'])


INTRODUCTION = """\
# Mistakes

What is said of a query that cannot be answered, always with the place and with what to do next; `vlq` exits with 2. The
examples are asked of the demo's cache or, where another is named, of one that lacks something or has lower limits.
"""

LONGEST_SHOWN = 120
"""Examples of more characters are about their length alone."""


def mistakes_page() -> str:
    """A section for each chapter of the table of mistakes, with what is printed for each example."""
    parts = [INTRODUCTION]
    for title, chapter in CHAPTERS.items():
        parts.append(f"## {title}\n")
        for mistake in mistakes_of(chapter):
            parts += [f"{printed(mistake, example)}\n" for example in mistake.examples if is_shown(example)]
    return "\n".join(parts).rstrip() + "\n"


def is_shown(example: Example) -> bool:
    return len(example.text) <= LONGEST_SHOWN and all(c.isprintable() for c in example.text)


def printed(mistake: Mistake, example: Example) -> str:
    """An example as a terminal shows it."""
    message, hint = mistake.said(example)
    if example.text.startswith(">>> "):
        lines = [example.text, message]
    elif example.text.startswith("$ "):
        lines = [example.text, f"vlq: {message}"]
    else:
        cache = "" if example.cache == DEMO else f" --cache {example.cache}"
        lines = [f'$ vlq "{example.text}"{cache}', f"vlq: {message}"]
    lines += pointed(example.text, example.span) if example.span else []
    lines += hint.split("\n")
    return "\n".join(f"    {line}" for line in lines if line)
