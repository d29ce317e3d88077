"""Which of a cache's studies a question about effects is answered from, and the command that makes the one it needs."""

from __future__ import annotations

import re
import shlex

from vlq.query.errors import VlqError
from vlq.query.nodes import Call, Literal, Node, Sequence
from vlq.query.parse import parse
from vlq.query.registry import call
from vlq.query.schema import Study

KINDS = ("all", "region", "regions", "patch", "random", "register", "gradient")
"""Kinds of sets: the chosen patches together; one region of them, several; one patch; and the baselines'."""

PARTS = {"all": (), "regions": ("region", "regions"), "singles": ("patch",)}
"""The kinds of the parts that are taken by themselves, by how the chosen patches are combined."""

USUAL = {"mode": "mean", "buffer": 0, "combinations": "all"}
"""What is done where nothing else is said."""


def kinds_of(study: Study) -> tuple[str, ...]:
    """The kinds of sets that it may have effects of."""
    return ("all", *PARTS[study.combinations], *study.baselines)


def same_patches(one: Node, written: str) -> bool:
    """Whether what chooses patches says the same as what a study has: numbers in any order, labels in any case."""
    try:
        return _plain(one) == _plain(parse(written))
    except VlqError:  # another VLQ's language
        return False


def _plain(node: Node) -> str:
    match node:
        case Literal(value=str(label)):
            return repr(label.lower())
        case Literal():
            return f"[{node}]"
        case Sequence(items=items):
            return f"[{', '.join(sorted({str(item) for item in items}))}]"
    return str(node)


def unusual(study: Study) -> dict[str, str | int]:
    """What is done in it otherwise than usual."""
    return {name: value for name, usual in USUAL.items() if (value := getattr(study, name)) != usual}


def asked_of(study: Study) -> Call:
    """The question that asks for its effects. Raises QueryError if it is written in another VLQ's language."""
    named = [(name, value, None) for name, value in unusual(study).items()]
    return call("effect", (parse(study.patches), parse(study.target)), named)


def made_by(study: Study, cache: str) -> str:
    """The command that makes it. Raises as `asked_of` does."""
    more = unusual(study)
    if study.baselines != ("random",):
        more["baseline"] = ",".join(study.baselines)
    if study.images is not None:
        more["images"] = study.images
    return command(parse(study.patches), parse(study.target), cache, **more)


def command(patches: Node, target: Node, cache: str, **options: str | int) -> str:
    """The `vlq ablate` of these patches and this target, as one types it. `options` are those that are not as usual."""
    match patches:
        case Literal(value=str(label)):
            chosen = f"--objects {shell(label)}"
        case Literal():
            chosen = f"--patches {patches}"
        case Sequence(items=items):
            chosen = f"--patches {','.join(map(str, items))}"
        case _:
            chosen = shell(str(patches))
    word = str(target)
    if isinstance(target, Literal) and isinstance(target.value, str) and re.fullmatch(r"[^\W\d_]+", target.value):
        word = target.value
    more = "".join(f" --{name} {shell(str(value))}" for name, value in options.items())
    return f"vlq ablate {chosen} --target {shell(word)}{more} --cache {shell(cache)}"


def shell(text: str) -> str:
    """A text as one writes it in a shell: in double quotes where single ones may stand in it."""
    if re.fullmatch(r"[\w.,:/@%+=-]+", text):
        return text
    return shlex.quote(text) if re.search(r"[$`\\\"!]", text) else f'"{text}"'
