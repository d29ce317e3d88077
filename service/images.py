"""One image as the API and its page tell it."""

from __future__ import annotations

import re
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import numpy as np

from vlq.query.client.local import LocalCorpus
from vlq.query.client.one import OneImage, image_of, one_image
from vlq.query.errors import NotFound
from vlq.query.image.geometry import READ
from vlq.query.language.compile import Statement
from vlq.query.schema import FOLDER_HERE, READ_COLUMNS

SHOWN_K = 5
"""Tokens of each reading, unless more are asked for: what a tooltip shows."""


def described(corpus: LocalCorpus, id: int) -> dict[str, Any]:
    """An image as `Described` of the API has it. Raises NotFound."""
    snapshot = corpus.cache.snapshot()
    statement = Statement(
        "SELECT beside.*, own.* FROM (SELECT * FROM read_parquet($images) WHERE image_id = $id) AS own CROSS JOIN ("
        "SELECT max(image_id) FILTER (image_id < $id) AS previous, min(image_id) FILTER (image_id > $id) AS following "
        "FROM read_parquet($images) WHERE error IS NULL) AS beside",
        {"id": id},
        {"images": None},
    )
    names, rows = corpus.engine.rows(statement, snapshot)
    if not rows:
        raise NotFound(f"There is no image {id}.", "The images and their numbers: images()")
    previous, following, *values = rows[0]
    row = dict(zip(names[2:], values, strict=True))  # a user's column may have any name
    grid, found = row["grid"], image_of(corpus.cache.run, id, row) if row["error"] is None else None
    x, y = found.edges if found is not None else (None, None)
    pieces = {"prompt": (), "answer": ()} if found is None else {"prompt": found.prompt_ids, "answer": found.answer_ids}
    texts: dict[str, list[dict[str, Any]]] = {
        site: [asdict(corpus.vocabulary.token(token)) for token in ids] for site, ids in pieces.items()
    }
    for piece, logprob in zip(texts["answer"], row.get("answer_logprobs") or (), strict=False):
        piece["probability"] = float(np.exp(logprob))
    own = {name: value for name, value in row.items() if name not in READ_COLUMNS}
    return {
        "id": id,
        **{name: row[name] for name in ("image", "sha256", "width", "height", "transform", "error")},
        "uri": re.sub(FOLDER_HERE, r"\1", row["uri"]),
        "grid": None if grid is None else (grid["rows"], grid["columns"]),
        "x": x,
        "y": y,
        "patches_read": row.get(READ),
        "prompt": texts["prompt"],
        "answer": row.get("answer"),
        "answer_tokens": texts["answer"],
        "columns": own,
        "previous": previous,
        "next": following,
    }


def found_image(corpus: LocalCorpus, id: int) -> OneImage:
    """Raises NotFound if there is no such image, or it has no readings."""
    try:
        return _found(corpus, corpus.cache.snapshot().digest, id)
    except KeyError:
        raise NotFound(f"There is no image {id} with readings.", "The images and their numbers: images()") from None


@lru_cache(maxsize=64)
def _found(corpus: LocalCorpus, digest: str, id: int) -> OneImage:
    """An image of a cache as it is now. Its page asks for it several times, and looking it up takes a tenth of what its
    readings take."""
    return one_image(corpus, id)
