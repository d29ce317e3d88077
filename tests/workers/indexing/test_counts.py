"""The index table of counts equals counting the arrays."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from vlq.query.cache.reader import Cache
from vlq.query.schema import COUNTS, Run

from ...synthetic import make_cache, make_run

RUNS: dict[str, dict[str, Any]] = {
    "one grid": {},
    "grids of their own": {"grid": None, "patches": 14},
    "some layers, wide ids": {"read_layers": (0, 2, 3), "vocabulary_size": 70_000, "grid": (2, 2)},
    "answers": {"at": ("patch", "prompt", "answer"), "answer": 3},
    "prompts of their own": {"prompt_column": "question"},
    "some patches": {"patches_column": "objects"},
}


def brute(run: Run, arrays: dict[str, np.ndarray]) -> list[tuple[str, int | None, int, int, int, int | None]]:
    """Site, layer, token, positions, images and leads, one image's layer after another."""
    found: list[tuple[str, int | None, int, int, int, int | None]] = []
    for site in run.positions:
        stored, own = run.stored_at(site)
        top1 = arrays[f"{stored}/token"][:, :, own, 0].astype(np.int64)  # (image, layer, position)
        positions: Counter[tuple[int, int]] = Counter()
        images: Counter[tuple[int, int]] = Counter()
        leads: Counter[tuple[int, int]] = Counter()
        anywhere: Counter[int] = Counter()
        for image in top1:
            seen = set()
            for layer, cells in enumerate(image):
                read = Counter(cells[cells != run.no_id].tolist())
                positions.update({(layer, token): n for token, n in read.items()})
                images.update((layer, token) for token in read)
                if read:
                    leads[layer, min(read, key=lambda token: (-read[token], token))] += 1
                seen |= read.keys()
            anywhere.update(seen)
        for layer, token in sorted(positions):
            key = layer, token
            found.append((site, layer, token, positions[key], images[key], leads[key]))
        for token in sorted(anywhere):
            n = sum(n for (_, read), n in positions.items() if read == token)
            found.append((site, None, token, n, anywhere[token], None))
    return found


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("failed", [[], [0, 5], list(range(10))])
def test_equals_brute_force(tmp_path: Path, run: str, failed: list[int]) -> None:
    _, made, arrays = make_cache(tmp_path, make_run(**RUNS[run]), failed=failed, seed=len(failed))
    (path,) = Cache.open(str(tmp_path)).snapshot().files(COUNTS)
    rows = [tuple(row.values()) for row in pq.read_table(path).to_pylist()]
    assert rows == brute(made, arrays)
    assert bool(rows) == (len(failed) < 10)
