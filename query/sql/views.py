"""The tables of `vlq sql`: what they are called, what is in them, and how they come from a cache's files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vlq.query.cache.reader import EFFECTS
from vlq.query.language.compile import VOCABULARY
from vlq.query.schema import Run


@dataclass(frozen=True)
class View:
    """A table that SQL may read. In `sql`, the name of an index table in braces stands for its files."""

    name: str
    documentation: str  # what a row is
    columns: Mapping[str, str]  # what each column holds, in words
    sql: str
    table: str  # of the index, "images", VOCABULARY or EFFECTS: the one that it is read from
    site: str | None = None  # where tokens must have been read
    tracks: bool = False  # whether it is of tracked tokens, so that there must be such


# The files' numbers have no sign, and 0 - 1 would be an error. A wider type still lets whole row groups be skipped; one
# of the same width, which could overflow, does not.
KEYS = "token::BIGINT AS token, image::BIGINT AS image_id, layer::INTEGER AS layer"

TOKEN = "the token's id"
IMAGE = "the image's number: `images.image_id`"
LAYER = "0 is the embedding, l the residual stream after block l"
RANK = "1 is what the position decodes to, up to the stored k"
LOGPROB = "natural logarithm of its probability over the full vocabulary"
BEST = f"{LOGPROB}, the highest of them"

IMAGES = View(
    "images",
    "an image, those with errors too; behind these columns `patches_read`, if some patches of each were read, "
    "`prompt_ids`, if images have prompts of their own, "
    "`answer`, `answer_ids` and `answer_logprobs`, if the model was asked, and what came with the images or was "
    "joined to them",
    {
        "image_id": "its number",
        "image": "its name",
        "uri": "where it was read from",
        "sha256": "of its file",
        "width": "in upright pixels",
        "height": "in upright pixels",
        "transform": "to the model's pixels: original * scale + offset, on each axis",
        "grid": "rows and columns of patches",
        "error": "why it has no readings; null if it has",
    },
    """\
SELECT * REPLACE (image_id::BIGINT AS image_id, width::BIGINT AS width, height::BIGINT AS height)
FROM read_parquet({images})""",
    "images",
)

TOKENS = View(
    "tokens",
    "a token of the vocabulary",
    {
        "token": "its id",
        "piece": "as the tokenizer names it: ▁dog",
        "text": "as it is written; null if it has none",
        "word_start": "whether it begins a word",
        "special": "whether it is a sign to the model",
    },
    "SELECT id::BIGINT AS token, piece, text, word_start, special FROM read_parquet({vocabulary})",
    VOCABULARY,
)

SUMMARY = View(
    "summary",
    "a token and an image of which some patch at some layer has the token among its k best",
    {
        "token": TOKEN,
        "image_id": IMAGE,
        "first_layer": "the first layer at which a patch decodes to it; null if none does",
        "last_layer": "the last one",
        "layers": "how many layers have a patch that decodes to it",
        "n": "readings at rank 1, over all layers and patches",
        "first_stored": "the first layer at which a patch has it among its k best",
        "n_stored": "readings at any stored rank",
        "best_rank": "the best of their ranks",
        "logprob": BEST,
    },
    """\
SELECT token::BIGINT AS token, image::BIGINT AS image_id, min(layer::INTEGER) FILTER (rank = 1) AS first_layer,
  max(layer::INTEGER) FILTER (rank = 1) AS last_layer,
  count(DISTINCT layer) FILTER (rank = 1) AS layers,
  count(*) FILTER (rank = 1) AS n, min(layer::INTEGER) AS first_stored, count(*) AS n_stored,
  min(rank::INTEGER) AS best_rank, max(logprob) AS logprob
FROM read_parquet({patch_topk}) GROUP BY token, image""",
    "patch_topk",
    "patch",
)


EFFECTS_OF_STUDIES = View(
    "effects",
    "an image and what was done to it in a finished study (`vlq ablate`, `knockout`, `steer` or `patch`): to a set of "
    "patches, in a window of layers, in some strength; none without studies",
    {
        "study": "what names the study",
        "intervention": "ablate, knockout, steer or patch",
        "ablate": "the query that chose the patches which were taken away; null where none were",
        "knockout": "the query that chose the patches which attention was cut to",
        "steer": "the token whose direction was added",
        "patch": "whose states were put in, as `vlq patch --source` has it",
        "target": "the word that was measured; null where it was the first of the source's answer",
        "mode": "what stood in the patches' place: mean, zero or noise",
        "combinations": "how the chosen patches were taken: all, regions or singles",
        "buffer": "rings of neighbours that were taken with them",
        "cut_to": "who no longer saw the patches: last, last-row or prompt",
        "others": "whether all patches but these were cut off",
        "place": "where a direction was added or states put in: 'last', 'patches', or the query that chose patches",
        "prompt": "what the images were asked; null: the run's prompt",
        "first_layer": "the first layer in which it was done; null of an ablation",
        "last_layer": "the last one",
        "strength": "how long the added direction was, in lengths of the states",
        "source": "the image whose states were put in",
        "image_id": IMAGE,
        "set": "all, region 2, regions 1+3, patch 41, random 0, register or gradient: unique in a study's image",
        "kind": "its first word",
        "patches": "those that it was done to, rings included; none at the last token",
        "effect": "before - after, in nats: above 0 where the word becomes less probable",
        "before": "the target's log-probability at the answer's first token",
        "after": "the same of the changed run",
        "source_logprob": "the same of the source's run",
        "rank_before": "the target's rank there",
        "rank_after": "the same of the changed run",
        "answer_before": "the model's answer",
        "answer": "the same of the changed run",
        "gone": "whether the answer held the target, and does no more; null where it never did",
    },
    """\
SELECT study, intervention, ablate, knockout, steer, patch, target, mode, combinations, buffer, cut_to, others, place,
  prompt,
  first_layer::INTEGER AS first_layer, last_layer::INTEGER AS last_layer, strength, source,
  image_id::BIGINT AS image_id, "set", kind,
  patches::INTEGER[] AS patches, before::DOUBLE - after::DOUBLE AS effect, before, after, source_logprob,
  rank_before::BIGINT AS rank_before, rank_after::BIGINT AS rank_after, answer_before, answer, gone
FROM read_parquet({effects})""",
    EFFECTS,
    "patch",
)


def _readings(site: str, name: str, place: str, position: tuple[str, str] | None) -> tuple[View, View, View]:
    """The tables of a site: every stored reading, what is decoded to, and tracked tokens at every reading. `position`
    is a column and its plural."""
    key, own, several = "", {}, ""
    positions: dict[str, str] = {"logprob": LOGPROB}
    if position is not None:
        one, more = position
        key, own = f", position::INTEGER AS {one}", {one: POSITIONS[one]}
        several = f", n::BIGINT AS n, positions::INTEGER[] AS {more}"
        positions = {"n": f"how many {more} decode to it", more: "which ones", "logprob": BEST}
    every = View(
        name,
        f"a token among the k best of {place} at a layer",
        {"token": TOKEN, "image_id": IMAGE, "layer": LAYER, **own, "rank": RANK, "logprob": LOGPROB},
        f"SELECT {KEYS}{key}, rank::INTEGER AS rank, logprob\nFROM read_parquet({{{site}_topk}})",
        f"{site}_topk",
        site,
    )
    best = View(
        f"{name}_top1",
        f"a token that {place} decodes to, once for an image and a layer",
        {"token": TOKEN, "image_id": IMAGE, "layer": LAYER, **positions},
        f"SELECT {KEYS}{several}, logprob\nFROM read_parquet({{{site}_top1}})",
        f"{site}_top1",
        site,
    )
    tracked = View(
        f"{name.removesuffix('readings')}tracked",
        f"a token that `vlq run --track` named and {place} at a layer, whether or not it is among its k best",
        {
            "token": TOKEN,
            "image_id": IMAGE,
            "layer": LAYER,
            **own,
            "rank": "its rank in the whole vocabulary, from 1",
            "logprob": LOGPROB,
        },
        f"SELECT {KEYS}{key}, rank::BIGINT AS rank, logprob\nFROM read_parquet({{{site}_tracked}})",
        f"{site}_tracked",
        site,
        tracks=True,
    )
    return every, best, tracked


POSITIONS = {
    "patch": "its number, row by row from the upper left",
    "position": "its number in the prompt, or in the answer, from 0",
}

VIEWS = (
    IMAGES,
    TOKENS,
    *_readings("patch", "readings", "a patch", ("patch", "patches")),
    SUMMARY,
    *_readings("prompt", "prompt_readings", "a text token of the prompt", ("position", "positions")),
    *_readings("last", "last_readings", "the prompt's last token", None),
    *_readings("answer", "answer_readings", "a token of the model's answer", ("position", "positions")),
    EFFECTS_OF_STUDIES,
)


def views_of(run: Run) -> dict[str, View]:
    """The tables that a cache of this run has, by name."""
    return {
        view.name: view
        for view in VIEWS
        if (view.site is None or view.site in run.positions) and (run.tracked or not view.tracks)
    }


def reference() -> str:
    """A section for each table, as Markdown."""
    return "\n\n".join(
        "\n".join(
            [
                f"### `{view.name}`",
                "",
                f"A row is {view.documentation}.",
                "",
                "| column | holds |",
                "| --- | --- |",
                *(f"| `{name}` | {meaning} |" for name, meaning in view.columns.items()),
            ]
        )
        for view in VIEWS
    )


def listing(run: Run) -> str:
    """The tables of a cache with their columns, for a person at a terminal."""
    lines = []
    for view in views_of(run).values():
        lines += [f"{view.name}: a row is {view.documentation}", f"  {', '.join(view.columns)}"]
    return "\n".join(lines)
