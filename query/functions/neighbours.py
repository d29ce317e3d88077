"""neighbours: what is read around a token's patches."""

from __future__ import annotations

from vlq.query.bind import Bound
from vlq.query.compile import VOCABULARY, Compiler, Relation, indented
from vlq.query.functions.phrases import named, qualified, unstored
from vlq.query.functions.shared import IMAGES, LAYERS, MIN_PATCHES, MIN_PROB, PATCHES, PIECES, RANK, TOKEN
from vlq.query.functions.sources import check_patches, token_layers
from vlq.query.parameters import Count, Parameter
from vlq.query.registry import Function
from vlq.query.summary import Rows, Summary, count, placed


def compile_neighbours(bound: Bound, compiler: Compiler) -> Relation:
    """`adjacent` are the patches around the token's, each once however many of the token's it touches."""
    layers = token_layers(bound.given(at="patch"), compiler)
    rows, columns = (compiler.value(name, n) for name, n in zip(("rows", "columns"), bound.run.grid, strict=True))
    where = f"\n  WHERE {' AND '.join(counted)}" if (counted := compiler.layers(bound.layers)) else ""
    steps = compiler.value("steps", [-1, 0, 1])
    sql = f"""\
WITH patches AS (
  SELECT image, layer, unnest(positions)::INTEGER AS position FROM (
    {indented(indented(layers))}
  )
), around AS (
  SELECT DISTINCT image, layer, (position // {columns} + down) * {columns} + position % {columns} + across AS position
  FROM patches, (SELECT unnest({steps}) AS down), (SELECT unnest({steps}) AS across)
  WHERE position // {columns} + down BETWEEN 0 AND {rows} - 1
    AND position % {columns} + across BETWEEN 0 AND {columns} - 1
), adjacent AS (
  SELECT * FROM around ANTI JOIN patches USING (image, layer, position)
), read AS (
  SELECT token, image, layer, unnest(positions) AS position
  FROM {compiler.table("patch_top1")} SEMI JOIN adjacent USING (image, layer){where}
), counts AS (
  SELECT token, layer, count(DISTINCT image) AS images, count(*) AS patches,
    sum(count(*)) OVER (PARTITION BY layer)::BIGINT AS adjacent
  FROM adjacent JOIN read USING (image, layer, position) GROUP BY token, layer
)
SELECT token, layer::INTEGER AS layer, piece, text, images, patches, patches / adjacent AS share, adjacent
FROM counts LEFT JOIN {compiler.table(VOCABULARY)} ON id = token
WHERE images >= {compiler.value("min_images", bound["min_images"])}"""
    shown = ("piece", "text", "images", "patches", "share", "adjacent")
    return Relation(sql, ("token", "layer"), shown, "share", ("answer.images DESC", "answer.patches DESC"))


def summarise(bound: Bound, rows: Rows, images: int) -> Summary:
    """The token that most adjacent patches read, all layers taken together; of equal ones the lower id."""
    patches: dict[int, int] = {}
    adjacent: dict[int, int] = {}
    for row in rows:
        patches[row["token"]] = patches.get(row["token"], 0) + row["patches"]
        adjacent[row["layer"]] = row["adjacent"]
    summary: Summary = {"images": images, "matched": len(patches), "adjacent": sum(adjacent.values()), "token": None}
    if not rows:
        return summary
    token = min(patches, key=lambda token: (-patches[token], token))
    found = [row for row in rows if row["token"] == token]
    most = max(found, key=lambda row: (row["images"], -row["layer"]))
    return summary | {
        "token": token,
        "piece": most["piece"],
        "patches": patches[token],
        "most_images": most["images"],
        "most_images_layer": most["layer"],
    }


def headline(bound: Bound, summary: Summary) -> str:
    """What is read most around the token, all layers taken together, and where it is in most images."""
    around = f"Around {bound.token.label}{qualified(bound.given(at='patch'))}"
    if summary["token"] is None:
        enough = f" in {count(bound['min_images'], 'image')} or more" if bound["min_images"] > 1 else ""
        return f"{around}: nothing is read{enough}, of {count(summary['images'], 'image')}{placed(summary)}"
    most = named(summary["token"], summary["piece"])
    return (
        f"{around}: {most} is read most, by {summary['patches'] / summary['adjacent']:.0%} of "
        f"{count(summary['adjacent'], 'adjacent patch')}, all layers together; "
        f"most at layer {summary['most_images_layer']}, "
        f"in {summary['most_images']:,} of {count(summary['images'], 'image')}{placed(summary)}"
    )


NEIGHBOURS = Function(
    name="neighbours",
    parameters=(
        TOKEN,
        RANK,
        MIN_PROB,
        LAYERS,
        PATCHES,
        MIN_PATCHES,
        Parameter("min_images", Count(), "only tokens read around it in at least so many images at the layer", 1),
        IMAGES,
        PIECES,
    ),
    positional=1,
    documentation="What the patches beside, above, below and across from the token's read at the same layer.",
    example="neighbours('dog', min_prob=0.5, min_images=5)",
    check=check_patches,
    compile=compile_neighbours,
    summarise=summarise,
    headline=headline,
    notes=unstored,
)
