"""What functions say of their arguments, in words."""

from __future__ import annotations

from vlq.query.functions.kept import source_of
from vlq.query.language.bind import Bound
from vlq.query.language.parameters import LayerSet
from vlq.query.schema import layers_phrase

PLACE = {
    "last": "the last prompt token",
    "patch": "the patches",
    "prompt": "the prompt's tokens",
    "answer": "the answer's tokens",
}
"""The place of a reading, by `at`."""

WHERE = {site: "" if site == "patch" else f" at {place}" for site, place in PLACE.items()}
"""The same behind what is read there; patches are what is meant if nothing is said."""


def asked(bound: Bound) -> str:
    """A token and what narrows its readings: 'dog (rank 1 to 5) at the last prompt token'."""
    return f"{bound.token.label}{qualified(bound)}{WHERE[bound['at']]}"


def qualified(bound: Bound) -> str:
    """What narrows a reading, in parentheses: ' (rank 1 to 5, probability at least 0.5)'."""
    parts = []
    if bound.values.get("rank", 1) > 1:
        parts.append(f"rank 1 to {bound['rank']}")
    if bound.values.get("min_prob") is not None:
        parts.append(f"probability at least {bound['min_prob']:g}")
    chosen: LayerSet | None = bound.values.get("layers")
    if chosen is not None and not chosen.is_all:
        parts.append(f"layer{'s' if len(chosen.layers) > 1 else ''} {layers_phrase(chosen.layers)}")
    if bound.patches is not None:
        parts.append(bound.patches.phrase)
    if bound.values.get("min_patches", 1) > 1:
        parts.append(f"at least {bound['min_patches']} {'patches' if bound['at'] == 'patch' else 'positions'} a layer")
    if bound.values.get("min_run", 1) > 1:
        parts.append(f"{bound['min_run']} layers in a row")
    split = bound.split
    if (images := bound.population if split is None else split.images) is not None:
        parts.append(f"images with {images.node}")
    if split is not None:
        parts.append(f"with {split.condition.node}")
    return f" ({', '.join(parts)})" if parts else ""


def named(token: int, piece: str | None) -> str:
    """A token as a sentence names it: '▁dog (286)'; an id without text is its number."""
    return str(token) if piece is None else f"{piece} ({token})"


def unstored(bound: Bound) -> list[str]:
    """The bound on what the stored tokens leave out of a set's probability."""
    ids, k = bound.token.ids, bound.run.k
    if len(ids) == 1 or bound["min_prob"] is None or bound.run.vocabulary_size == k or source_of(bound):
        return []
    # The k stored tokens each have at least the k-th's probability, so that is at most 1/k.
    most = min(len(ids) - 1, bound.run.vocabulary_size - k) / k
    return [
        f"Of the {len(ids)} tokens only those among a reading's stored {k} add up; the others could add at most "
        f"{min(1.0, most):.3g}: some readings just below {bound['min_prob']:g} may belong here."
    ]
