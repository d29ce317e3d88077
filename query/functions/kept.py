"""Tokens of which all is known at every reading: those that are tracked, and any where all logits are kept, or the
residual stream, of which they follow."""

from __future__ import annotations

from vlq.query.language.bind import Bound
from vlq.query.language.compile import Compiler, Derived, Statement
from vlq.query.language.patches import Numbered

KEPT = {"all": "all kept", "residual": "residuals kept"}
"""What tells of any token, by what a run keeps."""


def source_of(bound: Bound) -> str | None:
    """What tells all of each of the tokens, in a word; None if nothing does."""
    if {*bound.token.ids} <= {*bound.run.tracked}:
        return "tracked"
    return KEPT.get(bound.run.keep)


def known_readings(bound: Bound, compiler: Compiler, *, ranks: bool, among: int | None = None) -> str:
    """Every reading of such tokens, as something to select from: token, image, layer, position, rank, logprob.

    It holds the images, layers and numbered patches that are asked for, at least. Without `ranks` those beyond k may be
    null: of the residual stream they take the whole head. With `among` only those layers of images need be there in
    which one of the tokens is stored with such a rank.
    """
    source = source_of(bound)
    if source == "tracked":
        return compiler.table(f"{bound['at']}_tracked", bound.token.ids)
    from vlq.query.cache.any_token import Kept, Projected  # which need NumPy

    site, ids = bound["at"], bound.token.ids
    asked = _of_images(bound) if among is None else _of_layers(bound, among)
    if source == "all kept":
        return compiler.load("kept", Derived(asked, Kept(site, ids)))
    patches = bound.patches.numbers if isinstance(bound.patches, Numbered) else None
    return compiler.load("projected", Derived(asked, Projected(site, ids, patches, ranks)))


def _of_images(bound: Bound) -> Statement:
    """The layers that are asked for, of each image that is: image_id, layers."""
    own = Compiler()
    images = bound.values.get("images")
    where = "" if images is None else f" AND ({images.sql(own)})"
    layers = own.value("layers", list(bound.layers.layers))
    return own.ask(f"""\
SELECT image_id, {layers} AS layers
FROM {own.table("images")} AS images
WHERE error IS NULL{where} ORDER BY image_id""")


def _of_layers(bound: Bound, rank: int) -> Statement:
    """The same of those that have one of the tokens among so many best."""
    own = Compiler()
    conditions = [own.tokens(bound.token.ids), f"rank <= {own.value('rank', rank)}", *own.layers(bound.layers)]
    if (images := bound.values.get("images")) is not None:
        conditions.append(images.restriction(own))
    return own.ask(f"""\
SELECT image AS image_id, list(DISTINCT layer ORDER BY layer) AS layers
FROM {own.table(f"{bound['at']}_topk", bound.token.ids)}
WHERE {" AND ".join(conditions)}
GROUP BY image ORDER BY image_id""")
