"""The demo's own ground truth: taking an object's patches takes its word from the caption; of two it takes both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import vlq
from vlq.query.schema import Study
from vlq.query.studies.chosen import Written, chosen, labelled, numbered, tokens_of
from vlq.workers.demo.dialogues import CAPTION_QUESTION, prompt_of
from vlq.workers.intervene.ablation import Moments
from vlq.workers.intervene.shards import effects_of, encode_ahead, sums_of
from vlq.workers.models import load
from vlq.workers.models.base import LensModel

from .conftest import MODEL

pytestmark = pytest.mark.timeout(900)

SCENES = 60
"""So many of the demo's are looked at."""

KINDS = ("all", "random")


@dataclass(frozen=True)
class Asked:
    """The demo's corpus, and its model with the question for all objects."""

    corpus: Any
    model: LensModel
    objects: dict[int, Counter[str]]
    moments: Moments

    def effects(self, label: str, images: list[int], **changes: Any) -> list[dict[str, Any]]:
        """What taking the label's objects with a ring around does to its word, and random patches."""
        if not images:
            return []
        rows = chosen(self.corpus, labelled(label), Written.of(f"image_id in {images}"))
        ids = tokens_of(self.corpus, Written.word(label)).ids
        values = {"combinations": "all", "baselines": ("random",), "repeats": 1} | changes
        study = Study("run", repr(label), repr(label), ids, "mean", 1, answer=14, seed=0, **values)
        with ThreadPoolExecutor(1) as decoder:
            found = effects_of(self.model, study, self.moments, rows, encode_ahead(self.model, rows, decoder))
        return found.table.to_pylist()  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def asked(demo_cache: Path) -> Iterator[Asked]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    corpus = vlq.open(str(demo_cache))
    objects = {row["image_id"]: Counter(item["label"] for item in row["objects"]) for row in corpus.images().rows}
    model = load(str(MODEL), prompt=prompt_of(CAPTION_QUESTION))
    some = chosen(corpus, numbered([0]), limit=SCENES)
    with ThreadPoolExecutor(1) as decoder:
        sums, _ = sums_of(model, some, encode_ahead(model, some, decoder))
    yield Asked(corpus, model, objects, sums.moments())
    torch.set_num_threads(threads)


def test_taking_an_object_takes_its_word(asked: Asked) -> None:
    rows: list[dict[str, Any]] = []
    for label in sorted({label for counts in asked.objects.values() for label in counts}):
        images = [image for image, counts in asked.objects.items() if counts[label] == 1 and image < SCENES]
        rows += asked.effects(label, images)
    held = {
        kind: [row for row in rows if row["kind"] == kind and row["gone"] is not None] for kind in ("all", "random")
    }
    shares = {kind: sum(row["gone"] for row in found) / len(found) for kind, found in held.items()}
    assert len(held["all"]) > SCENES / 2
    assert shares["all"] >= 0.90
    assert shares["random"] <= 0.05


def test_of_two_objects_one_keeps_the_word(asked: Asked) -> None:
    kept, lost = [], []
    for label in sorted({label for counts in asked.objects.values() for label, count in counts.items() if count == 2}):
        images = [image for image, counts in asked.objects.items() if counts[label] == 2]
        rows = asked.effects(label, images, combinations="regions", baselines=(), repeats=0)
        for image in images:
            own = {row["set"]: row["gone"] for row in rows if row["image_id"] == image}
            if {*own} == {"all", "region 1", "region 2"} and own["all"] is not None:  # none hides the other
                lost.append(own["all"])
                kept += [not own["region 1"], not own["region 2"]]
    assert len(lost) >= 10
    assert sum(lost) / len(lost) >= 0.9
    assert sum(kept) / len(kept) >= 0.9
