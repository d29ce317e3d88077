"""Which study a question about effects means: what was done, and at which of its layers and strengths."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vlq.query.language.bind import Bound, Scope
from vlq.query.language.effects import (
    PARTS,
    USUAL,
    kinds_of,
    question,
    same_patches,
    typed,
    window_phrase,
)
from vlq.query.language.nodes import Literal, Node
from vlq.query.mistakes.calls import MISSING
from vlq.query.mistakes.values import KIND_BY, NO_STUDY, NOT_THERE, ONE_DONE, SEVERAL_STEPS
from vlq.query.schema import COMBINATIONS, INTERVENTIONS, LAST, RANDOM
from vlq.query.summary import count

if TYPE_CHECKING:
    from vlq.query.language.tokens import TokenSet
    from vlq.query.schema import Study, Window

LISTED = 4
"""So many studies are named where none is what was asked for."""

GOES_WITH = {
    "mode": ("ablate",),
    "buffer": ("ablate", "knockout"),
    "combinations": ("ablate", "knockout"),
    "to": ("knockout",),
    "others": ("knockout",),
    "place": ("steer", "patch"),
    "layers": ("knockout", "steer", "patch"),
    "window": ("knockout", "steer"),
    "strength": ("steer",),
    "prompt": INTERVENTIONS,
}
"""Arguments that say how something is done, and what is done so."""

ROWS_OF = {"set": ("ablate", "knockout"), "layer": ("knockout", "steer", "patch"), "strength": ("steer",)}
"""What has rows `by` these."""


def done(bound: Bound) -> str:
    """What is asked about, of INTERVENTIONS."""
    return next(name for name in INTERVENTIONS if bound[name] is not None)


def check(bound: Bound, scope: Scope) -> None:
    """Raises BadArgument if the arguments do not go together, or if nobody has measured what is asked."""
    given = [name for name in INTERVENTIONS if bound[name] is not None]
    if len(given) != 1:
        raise scope.error(ONE_DONE, bound.call, said=" and ".join(f"{name}=" for name in given) or "none of these")
    (what,) = given
    if bound["on"] is None and what in ("ablate", "knockout"):
        raise scope.error(MISSING, bound.call, name="on", function="effect", signature=bound.function)
    for name, whose in GOES_WITH.items():
        if what not in whose and bound.call.get(name) is not None:
            raise scope.error(NOT_THERE, bound.argument(name), argument=name, whose=_either(whose), what=what)
    if what not in ROWS_OF.get(bound["by"], INTERVENTIONS):
        by, goes = f"by='{bound['by']}'", _either(ROWS_OF[bound["by"]])
        raise scope.error(NOT_THERE, bound.argument("by"), argument=by, whose=goes, what=what)
    if bound["kind"] is not None and bound["by"] != "set":
        raise scope.error(KIND_BY, bound.argument("kind"))
    study = study_of(bound)
    if bound["by"] != "layer" and len(found := windows_of(bound, study)) > 1:
        shown = ", ".join(map(window_phrase, found))
        one = found[-1][0] if found[-1][0] == found[-1][1] else found[-1]
        raise scope.error(SEVERAL_STEPS, bound.call, steps=f"layers {shown}", one=f"layers={one}", by="layer")
    if bound["by"] != "strength" and len(strengths := strengths_of(bound, study)) > 1:
        shown = ", ".join(f"{strength:g}" for strength in strengths)
        raise scope.error(
            SEVERAL_STEPS,
            bound.call,
            steps=f"strengths {shown}",
            one=f"strength={strengths[-1]:g}",
            by="strength",
        )


def _either(whose: tuple[str, ...]) -> str:
    return " or ".join(f"{name}=" for name in whose)


def windows_of(bound: Bound, study: Study) -> list[Window]:
    """The windows of layers that are asked for: those within `layers`, where there is a row for each, else that one."""
    layers, width = bound["layers"], bound["window"]
    found = [window for window in study.windows if width in (None, window[1] - window[0] + 1)]
    if layers is None:
        return found
    first, last = layers.lowest, layers.highest
    if bound["by"] == "layer":
        return [window for window in found if first <= window[0] and window[1] <= last]
    return [window for window in found if window == (first, last)]


def strengths_of(bound: Bound, study: Study) -> list[float]:
    """The strengths that are asked for."""
    return [strength for strength in study.strengths if bound["strength"] in (None, strength)]


def fitting(bound: Bound) -> list[Study]:
    """The finished studies that measure what is asked, the newest last. Behind the others are those of the very images
    that are asked for, or else of all images; and behind these the ones that need no more to be said."""
    found = [finished.study for finished in bound.scope.snapshot.studies if _fits(bound, finished.study)]
    images = bound.population if bound.split is None else bound.split.images
    asked = None if images is None else str(images.node)

    def place(study: Study) -> tuple[int, int]:
        several = [(len(windows_of(bound, study)) > 1, "layer"), (len(strengths_of(bound, study)) > 1, "strength")]
        is_clear = sum(there == (bound["by"] == by) for there, by in several)
        return is_clear, (study.images in (None, asked)) + (study.images == asked)

    return sorted(found, key=place)


def _measured(bound: Bound) -> frozenset[int]:
    """The ids of the word that is measured, wherever they are in an answer; none of the source's own."""
    on: TokenSet | None = bound["on"] or bound["steer"]
    return frozenset() if on is None else on.anywhere


def _fits(bound: Bound, study: Study) -> bool:
    what = done(bound)
    if study.intervention != what or study.prompt != bound["prompt"]:
        return False
    if study.anywhere != _measured(bound):
        return False
    if bound["combinations"] not in (None, study.combinations) or bound["kind"] not in (None, *kinds_of(study)):
        return False
    if what == "ablate":
        return ((study.mode, study.buffer) == (bound["mode"], bound["buffer"])) and same_patches(
            _written(bound, what), study.patches
        )
    if not windows_of(bound, study):
        return False
    match what:
        case "knockout":
            asked = (bound["to"], bound["others"], bound["buffer"])
            return asked == (study.to, study.others, study.buffer) and same_patches(
                _written(bound, what), study.patches
            )
        case "steer":
            if not strengths_of(bound, study) or {*study.token_ids} != {*bound["steer"].ids}:
                return False
        case "patch":
            if study.source != bound["patch"]:
                return False
    place = bound.call.get("place")
    return same_patches(Literal(LAST) if place is None else place, study.patches)


def _written(bound: Bound, name: str) -> Node:
    node = bound.call.get(name)
    assert node is not None
    return node


def study_of(bound: Bound) -> Study:
    """The one whose effects are asked for, the newest of several. Raises BadArgument if there is none."""
    if found := fitting(bound):
        return found[-1]
    scope, what = bound.scope, done(bound)
    target = bound.call.get("on")
    ids = _measured(bound)
    nearest = sorted(scope.snapshot.studies, key=lambda one: one.study.anywhere == ids)
    others = list(dict.fromkeys(filter(None, (question(one.study) for one in reversed(nearest)))))
    known = "".join(f"\nThere is {text}" for text in others[:LISTED])
    if len(others) > LISTED:
        known += f"\nand {count(len(others) - LISTED, 'other')}"
    options = {name: value for name, value in _options(bound).items() if value != USUAL[what].get(name)}
    run = typed(what, _written(bound, what), target, scope.snapshot.cache.called, **options)
    named = [*(("mode", "buffer") if what == "ablate" else ()), *(() if bound["prompt"] is None else ("prompt",))]
    how = ", ".join(f"{name}={bound[name]!r}" for name in named)
    does = {
        "ablate": "what taking {} away does to {}",
        "knockout": "what cutting {} off from attention does to {}",
        "steer": "what adding {} does to {}",
        "patch": "what states of {} do to {}",
    }[what]
    word = (_written(bound, what) if what == "steer" else "the source's answer") if target is None else target
    measured = does.format(_written(bound, what), word) + (f" ({how})" if how else "")
    raise scope.error(NO_STUDY, bound.call, measured=measured, command=run, known=known)


def _options(bound: Bound) -> dict[str, Any]:
    """What the command says that makes the study which is asked for."""
    what, kind = done(bound), bound["kind"]
    found: dict[str, Any] = {name: bound[name] for name, whose in GOES_WITH.items() if what in whose}
    if "combinations" in found and found["combinations"] is None:
        found["combinations"] = next((how for how in COMBINATIONS if kind in PARTS[how]), "all")
    if kind in ("register", "gradient"):
        found["baseline"] = f"{RANDOM},{kind}"
    if "place" in found:
        place = bound.call.get("place")
        found["place"] = LAST if place is None else place.value if isinstance(place, Literal) else str(place)
    if "layers" in found:
        layers = found.pop("layers")
        if layers is not None:
            found["layers"] = f"{layers.lowest}:{layers.highest}"
        if found.get("window") is None:
            found.pop("window", None)
            if bound["by"] == "layer" and what != "patch":
                found["window"] = 1
    if "strength" in found:
        strength = found.pop("strength")
        found |= {} if strength is None else {"strength": f"{strength:g}"}
    return found
