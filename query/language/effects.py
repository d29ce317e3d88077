"""Which of a cache's studies a question about effects is answered from, and the command that makes the one it needs."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from vlq.query.errors import VlqError
from vlq.query.language.nodes import Call, Literal, Node, Sequence
from vlq.query.language.parse import parse
from vlq.query.language.registry import call
from vlq.query.schema import LAST, RANDOM, REPEATS, Run, Study, Window
from vlq.query.shell import shell

if TYPE_CHECKING:
    from vlq.query.cache.reader import Cache

KINDS = ("all", "region", "regions", "patch", "random", "register", "gradient")
"""Kinds of sets: the chosen patches together; one region of them, several; one patch; and the baselines'."""

PARTS = {"all": (), "regions": ("region", "regions"), "singles": ("patch",)}
"""The kinds of the parts that are taken by themselves, by how the chosen patches are combined."""

USUAL: dict[str, dict[str, str | int]] = {
    "ablate": {"mode": "mean", "buffer": 0, "combinations": "all"},
    "knockout": {"to": "last", "others": False, "buffer": 0, "combinations": "all"},
    "steer": {"place": LAST},
    "patch": {"place": LAST},
}
"""What is done where nothing else is said, by what intervention it is."""

ANSWER = 16
"""Tokens of an answer where neither the command nor the run says how many, or where the prompt is another one."""

CHOSEN = "all"
"""The kind of the set that holds all chosen patches."""


def kinds_of(study: Study) -> tuple[str, ...]:
    """The kinds of sets that it may have effects of."""
    return ("all", *PARTS[study.combinations], *study.baselines)


def same_patches(one: Node, written: str) -> bool:
    """Whether what chooses patches says the same as what a study has: numbers in any order, labels in any case."""
    return _plain(one) == _plain_of(written)


@lru_cache(maxsize=4096)
def _plain_of(written: str) -> str | None:
    """Of what a study has the same; None in another VLQ's language. A question looks through all studies, several
    times, and to parse is what takes longest of that."""
    try:
        return _plain(parse(written))
    except VlqError:
        return None


def _plain(node: Node) -> str:
    match node:
        case Literal(value=str(label)):
            return repr(label.lower())
        case Literal():
            return f"[{node}]"
        case Sequence(items=items):
            return f"[{', '.join(sorted({str(item) for item in items}))}]"
    return str(node)


def window_phrase(window: Window) -> str:
    """(5, 6) -> '5-6', (5, 5) -> '5'."""
    return str(window[0]) if window[0] == window[1] else f"{window[0]}-{window[1]}"


def layers_said(window: Window) -> str:
    """(5, 6) -> 'layers 5-6', (5, 5) -> 'layer 5'."""
    return f"layer{'s' if window[0] < window[1] else ''} {window_phrase(window)}"


def span_of(study: Study) -> Window:
    """The first and the last of the layers that its windows are in."""
    return min(first for first, _ in study.windows), max(last for _, last in study.windows)


def in_layers(study: Study) -> str:
    """' in layers 1-8', ' in 7 windows of layers 1-8', ' in each of layers 1-8'; of an ablation nothing."""
    if not study.windows:
        return ""
    layers = layers_said(span_of(study))
    if len(study.windows) == 1:
        return f" in {layers}"
    if all(first == last for first, last in study.windows):
        return f" in each of {layers}"
    return f" in {len(study.windows)} windows of {layers}"


# --- the question ----------------------------------------------------------------------------------------------


def unusual(study: Study) -> dict[str, Node | str | int]:
    """What is done in it otherwise than usual."""
    own: dict[str, Node | str | int] = {
        "mode": study.mode,
        "buffer": study.buffer,
        "combinations": study.combinations,
        "to": study.to,
        "others": study.others,
    }
    if study.intervention in ("steer", "patch"):
        place = parse(study.patches)
        own["place"] = str(place.value) if isinstance(place, Literal) and isinstance(place.value, str) else place
    usual = USUAL[study.intervention]
    return {name: own[name] for name in usual if isinstance(own[name], Node) or own[name] != usual[name]}


def asked_of(study: Study) -> Call:
    """The question that asks for its effects. Raises QueryError if it is written in another VLQ's language."""
    named: list[tuple[str, object, None]] = [(name, value, None) for name, value in unusual(study).items()]
    named += [] if study.prompt is None else [("prompt", study.prompt, None)]
    if study.intervention == "ablate":
        return call("effect", (parse(study.patches), parse(study.target)), named)
    given = {"knockout": study.patches, "steer": study.token, "patch": repr(study.source)}[study.intervention]
    named.append((study.intervention, parse(given), None))
    if study.target != study.token and study.target != "None":
        named.append(("on", parse(study.target), None))
    if len(study.windows) > 1:
        named.append(("by", "layer", None))
        if len(study.strengths) > 1:
            named.append(("strength", study.strengths[-1], None))
    elif len(study.strengths) > 1:
        named.append(("by", "strength", None))
    return call("effect", (), named)


def question(study: Study) -> str | None:
    """The same as text; None if the study is written in another VLQ's language."""
    try:
        return str(asked_of(study))
    except VlqError:
        return None


def question_of(study: Study) -> str:
    """The same in words."""
    word = measured(study.target)
    match study.intervention:
        case "ablate":
            return f"What does {word} lose without {study.patches}?"
        case "knockout":
            return f"What does {word} lose where {study.patches} cannot be seen?"
        case "steer":
            return f"What becomes of {word} with {study.token} added?"
    return f"From which layer on do states of {study.source} bring {word}?"


def measured(target: str) -> str:
    """What a study measures, as it writes it, in words."""
    return "the source's answer" if target == "None" else target


def done_in(study: Study) -> str:
    """What was done, in a line: "readings('rock') taken, mean in their place"."""
    return _done_in(study) + ("" if study.prompt is None else f", asked {study.prompt!r}")


def _done_in(study: Study) -> str:
    place = "the last token" if study.patches == repr(LAST) else study.patches
    match study.intervention:
        case "ablate":
            return f"{study.patches} taken, {study.mode} in their place"
        case "knockout":
            but = "all but " if study.others else ""
            return f"{but}{study.patches} cut off from {SEEING[study.to]}{in_layers(study)}"
        case "steer":
            strengths = ", ".join(f"{strength:g}" for strength in study.strengths)
            return f"{study.token} added at {place}{in_layers(study)}, strength {strengths}"
    return f"states of {study.source} put in at {place}{in_layers(study)}"


SEEING = {"last": "the last token", "last-row": "the last row of patches", "prompt": "the prompt"}
"""Who no longer sees patches, in words."""


# --- the command -----------------------------------------------------------------------------------------------


def made_by(study: Study, cache: Cache) -> str:
    """The command that makes it of all images in which it can be made. Raises as `asked_of` does."""
    more = {name: str(value) for name, value in unusual(study).items()}
    if study.baselines != (RANDOM,) and study.intervention in ("ablate", "knockout"):
        more["baseline"] = ",".join(study.baselines) or "none"
    if study.images is not None:
        more["images"] = study.images
    if study.prompt is not None:
        more["prompt"] = study.prompt
    more |= {name: str(value) for name, (value, usual) in _numbers(study, cache.run).items() if value != usual}
    if study.intervention == "ablate":
        return typed("ablate", parse(study.patches), parse(study.target), cache.called, **more)
    if len(study.windows) > 1 and study.intervention != "patch":
        more["window"] = str(study.windows[0][1] - study.windows[0][0] + 1)
    first, last = span_of(study)
    more["layers"] = f"{first}:{last}"
    if study.strengths:
        more["strength"] = ",".join(f"{strength:g}" for strength in study.strengths)
    target = None if study.target in ("None", study.token) else parse(study.target)
    what = {"knockout": study.patches, "steer": study.token, "patch": repr(study.source)}[study.intervention]
    return typed(study.intervention, parse(what), target, cache.called, **more)


def usual_answer(run: Run, prompt: str | None) -> int:
    """Tokens of an answer at most where nothing is said: as many as the run asked for; to another prompt ANSWER."""
    return (run.answer if prompt is None else 0) or ANSWER


def _numbers(study: Study, run: Run) -> dict[str, tuple[str | int, str | int]]:
    """Further options of its command, each with what it has where nothing is said."""
    repeats = study.repeats if RANDOM in study.baselines else REPEATS
    return {
        "repeats": (repeats, REPEATS),
        "answer": (study.answer, usual_answer(run, study.prompt)),
        "seed": (study.seed, 0),
        "device": (study.device, run.device),
        "batch-size": (study.batch, Study.batch),
    }


def typed(intervention: str, what: Node, target: Node | None, cache: str, **options: str | int) -> str:
    """The command of an intervention, as one types it: of these patches, this token, or this source.

    `options` are those that are not as usual.
    """
    measured = "" if target is None else f" --target {shell(_word(target))}"
    named = {("at" if name == "place" else name): str(value) for name, value in options.items()}
    more = "".join(f" --{name}" if value == "True" else f" --{name} {shell(value)}" for name, value in named.items())
    return f"vlq {intervention} {_what(intervention, what)}{measured}{more} --cache {shell(cache)}"


def _what(intervention: str, what: Node) -> str:
    """What an intervention is of, as its command has it."""
    match intervention, what:
        case "ablate", Literal(value=str(label)):
            return f"--objects {shell(label)}"
        case "ablate", Literal():
            return f"--patches {what}"
        case "ablate", Sequence(items=items):
            return f"--patches {','.join(map(str, items))}"
        case "steer", _:
            return shell(_word(what))
        case "patch", Literal(value=source):
            return f"--source {shell(str(source))}"
    return shell(str(what))


def _word(target: Node) -> str:
    """A token as one types it: a word as it is, all else as in a query."""
    if isinstance(target, Literal) and isinstance(target.value, str) and re.fullmatch(r"[^\W\d_]+", target.value):
        return target.value
    return str(target)
