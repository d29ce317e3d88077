"""One image as the API and its page tell it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from vlq.query.client import LocalCorpus
from vlq.query.compile import Statement
from vlq.query.errors import NotFound
from vlq.query.geometry import READ
from vlq.query.one import OneImage, one_image
from vlq.query.schema import READ_COLUMNS

SHOWN_K = 5
"""Tokens of each reading, unless more are asked for: what a tooltip shows."""


def described(corpus: LocalCorpus, id: int) -> dict[str, Any]:
    """An image as `Described` of the API has it. Raises NotFound."""
    snapshot = corpus.cache.snapshot()
    statement = Statement(
        "SELECT *, "
        "(SELECT max(image_id) FROM read_parquet($images) WHERE image_id < $id AND error IS NULL) AS previous, "
        "(SELECT min(image_id) FROM read_parquet($images) WHERE image_id > $id AND error IS NULL) AS following "
        "FROM read_parquet($images) WHERE image_id = $id",
        {"id": id},
        {"images": None},
    )
    names, rows = corpus.engine.rows(statement, snapshot)
    if not rows:
        raise NotFound(f"There is no image {id}.", "The images and their numbers: images()")
    row = dict(zip(names, rows[0], strict=True))
    grid, found = row["grid"], one_image(corpus, id) if row["error"] is None else None
    x, y = found.edges if found is not None else (None, None)
    pieces = {"prompt": (), "answer": ()} if found is None else {"prompt": found.prompt_ids, "answer": found.answer_ids}
    texts: dict[str, list[dict[str, Any]]] = {
        site: [asdict(corpus.vocabulary.token(token)) for token in ids] for site, ids in pieces.items()
    }
    for piece, logprob in zip(texts["answer"], row.get("answer_logprobs") or (), strict=False):
        piece["probability"] = float(np.exp(logprob))
    own = {name: value for name, value in row.items() if name not in (*READ_COLUMNS, "previous", "following")}
    return {
        "id": id,
        **{name: row[name] for name in ("image", "uri", "sha256", "width", "height", "transform", "error")},
        "grid": None if grid is None else (grid["rows"], grid["columns"]),
        "x": x,
        "y": y,
        "patches_read": row.get(READ),
        "prompt": texts["prompt"],
        "answer": row.get("answer"),
        "answer_tokens": texts["answer"],
        "columns": own,
        "previous": row["previous"],
        "next": row["following"],
    }


def found_image(corpus: LocalCorpus, id: int) -> OneImage:
    """Raises NotFound if there is no such image, or it has no readings."""
    try:
        return one_image(corpus, id)
    except KeyError:
        raise NotFound(f"There is no image {id} with readings.", "The images and their numbers: images()") from None
