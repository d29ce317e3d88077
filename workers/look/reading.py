"""From one image to its arrays and its image table."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch

from vlq.query.errors import InputError, RunError
from vlq.query.image.pictures import BadImage
from vlq.query.schema import Run, digest_of
from vlq.query.store import Store
from vlq.workers.extract import Prepared, read_decoded, taken
from vlq.workers.lenses import lens_of
from vlq.workers.look.pictures import Picture
from vlq.workers.models.base import LensModel


def read_picture(
    model: LensModel, run: Run, rows: pa.Table, picture: Picture, translators: Store | None
) -> tuple[dict[str, np.ndarray], pa.Table]:
    """`read_decoded` of the one image of `rows`. `translators` holds a tuned lens'. Raises InputError, RunError,
    ModelError."""
    try:
        encoded = taken(model, picture.pixels)
    except BadImage as bad:
        raise InputError(f"{picture.name}: {bad}.") from bad
    size = picture.pixels.size
    prepared = Prepared(digest_of(picture.data), size, encoded.grid, encoded.transform, encoded=encoded)
    try:
        return read_decoded(model, lens_of(model, run, translators), run, rows, iter([prepared]))
    except torch.cuda.OutOfMemoryError as error:
        raise RunError(
            "The image does not fit into the GPU's memory beside the model.", "Free the GPU, or use the CPU."
        ) from error
