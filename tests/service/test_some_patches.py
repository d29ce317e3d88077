"""What the service tells of images of which some patches were read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import safetensors.numpy

from vlq.query.cache.reader import Cache
from vlq.query.client.local import LocalCorpus
from vlq.query.client.one import one_image
from vlq.service.images import described
from vlq.service.lens import lens_bytes

from ..synthetic import make_cache, make_run


def test_which_were_read_and_that_nothing_is_said_of_the_others(tmp_path: Path) -> None:
    _, run, arrays = make_cache(tmp_path, make_run(patches_column="objects"), images=8, seed=1, failed=[2])
    corpus, kinds = LocalCorpus(Cache.open(str(tmp_path))), set()
    for number in (0, 1, 3, 4, 5, 6, 7):
        token = arrays["patch/token"][number]
        there = token[0, :, 0] != run.no_id
        kinds.add(int(there.any()) + int(there.all()))
        assert described(corpus, number)["patches_read"] == np.flatnonzero(there).tolist()
        found = safetensors.numpy.load(lens_bytes(corpus, one_image(corpus, number), "patch", 4))
        assert (found["token"][:, :, ~there] == len(found["ids"])).all()
        assert np.isnan(found["prob"][:, :, ~there]).all()
        own = np.moveaxis(found["ids"][found["token"][:, :, there]], 0, -1) if there.any() else token[:, there]
        assert np.array_equal(own, token[:, there])
    assert kinds == {0, 1, 2}
    assert described(corpus, 2)["patches_read"] is None
