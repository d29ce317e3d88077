"""One image's page: the picture, its patches, and what each of them reads at every layer, in one HTML file."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np

from vlq.query.client import LocalCorpus
from vlq.query.errors import CacheError
from vlq.query.one import OneImage, one_image
from vlq.query.tokens import Token
from vlq.service.lens import readings_of, shown
from vlq.service.pictures import picture

MOST_READINGS = 4_000_000
"""Tokens of readings that a page holds; of large images fewer for each reading, so that a browser bears it."""

MOST_SIDE = 1600
"""Pixels of the longer side of the picture; a larger one is scaled down."""

SCALE = 8000
"""A log-probability is stored as the 16 bits of SCALE * sqrt(-logprob): the closer to 0, the more exactly."""


def image_page(corpus: LocalCorpus, number: int = 0) -> str:
    """The page of a corpus' image. It asks no server for anything, and runs no script but its own.

    Raises KeyError if the image has no readings, CacheError if there are none at patches, or not at all
    layers.
    """
    if "patch" not in corpus.cache.run.at:
        raise CacheError(f"{corpus.cache.url} has no readings at patches.", "Read the image with --at patch,prompt.")
    image = one_image(corpus, number)
    run = corpus.cache.run
    if len(run.read_layers) < run.layers:
        raise CacheError(f"{corpus.cache.url} has readings at some layers only.", "A page shows all of them.")
    rows, columns = image.grid
    script = _text("image.js")
    some = "" if run.patches_column is None else f" of which {len(image.patches_read)} were read (others are hatched),"
    facts = f"{run.model}: {rows} x {columns} patches,{some} layers 0 (the embedding) to {run.layers - 1}"
    return Template(_text("image.html")).substitute(
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src '{_hash_of(script)}'",
        name=escape(image.name),
        facts=escape(facts),
        style=_text("image.css"),
        rows=rows,
        columns=columns,
        width=image.size[0],
        height=image.size[1],
        last=run.layers - 1,
        picture=_picture(image),
        data=_inside_html(image_data(corpus, image)),
        script=script,
    )


def image_data(corpus: LocalCorpus, image: OneImage) -> dict[str, Any]:
    """What the page's script is given, as JSON has it.

    `x` and `y` are the edges of the patches' columns and rows, in the image's pixels. `tokens` are those that are read
    anywhere in the image. Of each of `sites`, `token` (their numbers, uint16, or uint32 if they are `wide`) and `cost`
    (uint16, as SCALE tells) are (layer, position, k) arrays in base64, little-endian; `labels` are its own tokens, and
    `read` the positions that were read, if not all of them were: elsewhere the arrays say nothing.
    """
    run = corpus.cache.run
    found = [readings_of(corpus, image, site, run.k) for site in run.at]
    positions = sum(one.token.shape[1] for one in found)
    k = max(1, min(run.k, MOST_READINGS // max(1, positions * run.layers)))
    ids = np.unique(np.concatenate([one.token[..., :k].ravel() for one in found]))
    ids = ids[ids != run.no_id]  # which stands where nothing was read
    wide = len(ids) > 2**16
    labels = {"prompt": image.prompt_ids, "answer": image.answer_ids}
    sites = [
        {
            "name": one.site,
            "positions": one.token.shape[1],
            "token": _encoded(_numbers(ids, one.token[..., :k]).astype("<u4" if wide else "<u2")),
            "cost": _encoded(_costs(one.logprob[..., :k].astype(np.float64))),
            "read": image.patches_read if one.site == "patch" and len(image.patches_read) < image.patches else None,
            "labels": [shown(corpus.vocabulary.token(id)) for id in labels[one.site]] if one.site in labels else None,
        }
        for one in found
    ]
    x, y = image.edges
    return {
        "size": image.size,
        "grid": image.grid,
        "x": x,
        "y": y,
        "layers": run.layers,
        "k": k,
        "wide": wide,
        "scale": SCALE,
        "tokens": [_described(corpus.vocabulary.token(int(id)), corpus) for id in ids],
        "sites": sites,
    }


def _numbers(ids: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """The places of tokens among ids; 0 where there is none."""
    places = np.searchsorted(ids, tokens)
    return np.where(places < len(ids), places, 0)


def _costs(logprobs: np.ndarray) -> np.ndarray:
    costs = SCALE * np.sqrt(-np.minimum(np.nan_to_num(logprobs, nan=-np.inf), 0))
    stored: np.ndarray = np.clip(np.round(costs), 0, 2**16 - 1).astype("<u2")
    return stored


def _described(token: Token, corpus: LocalCorpus) -> dict[str, Any]:
    return {
        "id": token.id,
        "piece": token.piece,
        "text": token.text or "",
        "shown": shown(token),
        "starts": corpus.vocabulary.starts_word(token.id),
    }


def _picture(image: OneImage) -> str:
    """The picture as an element of HTML."""
    found = picture(image, MOST_SIDE)
    if found is None:
        return '<div class="absent">The image is not where it was.</div>'
    data, kind = found
    style = ' style="image-rendering: pixelated"' if max(image.size) < 256 else ""
    return f'<img alt="" src="data:{kind};base64,{base64.b64encode(data).decode()}"{style}>'


def _encoded(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def _inside_html(values: Any) -> str:
    """JSON that ends no element and opens none, whatever texts it holds."""
    text = json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


@cache
def _text(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _hash_of(script: str) -> str:
    """What a content security policy calls a script by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"
