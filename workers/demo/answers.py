"""What the demo's model answers, also when some of its patches are taken from it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlq.query.image.masks import around
from vlq.workers.demo.dialogues import (
    BACKGROUND_QUESTION,
    CAPTION_QUESTION,
    MAIN_QUESTION,
    prompt_of,
    there_question,
)
from vlq.workers.demo.scenes import GRID, Scene
from vlq.workers.demo.words import CLASSES

BATCH = 50
LONGEST_ANSWER = 24


class Answers:
    """Asks questions of scenes, answered greedily."""

    def __init__(self, model: Any, processor: Any) -> None:
        self._model = model
        self._processor = processor

    @torch.inference_mode()
    def ask(
        self, scenes: list[Scene], questions: list[str], replaced: tuple[np.ndarray, Tensor] | None = None
    ) -> list[str]:
        """One answer a scene. `replaced`: a mask (scene, patch), and what stands there for the projector's own (d,)."""
        answers: list[str] = []
        for start in range(0, len(scenes), BATCH):
            part = slice(start, start + BATCH)
            inputs = self._processor(
                images=[Image.fromarray(scene.pixels) for scene in scenes[part]],
                text=[prompt_of(question) for question in questions[part]],
                padding=True,
                return_tensors="pt",
            )
            if replaced is not None:
                where, by = torch.from_numpy(replaced[0][part])[:, :, None], replaced[1]
                handle = self._projector.register_forward_hook(
                    lambda module, args, output, where=where, by=by: torch.where(where, by, output)
                )
            try:
                given = self._model.generate(**inputs, do_sample=False, max_new_tokens=LONGEST_ANSWER)
            finally:
                if replaced is not None:
                    handle.remove()
            new = given[:, inputs["input_ids"].shape[1] :]
            answers += [text.strip() for text in self._processor.batch_decode(new, skip_special_tokens=True)]
        return answers

    @torch.inference_mode()
    def mean_patch(self, scenes: list[Scene]) -> Tensor:
        """(d,): what the projector gives, on average over all patches of the scenes."""
        seen: list[Tensor] = []
        handle = self._projector.register_forward_hook(
            lambda module, args, output: seen.append(output.reshape(-1, output.shape[-1]))
        )
        try:
            self.ask(scenes, [MAIN_QUESTION] * len(scenes))
        finally:
            handle.remove()
        return torch.cat(seen).mean(0)

    @property
    def _projector(self) -> Any:
        return self._model.model.multi_modal_projector

    def figures(self, scenes: list[Scene]) -> dict[str, Any]:
        """How often each kind of question is answered right."""
        named = [named_objects(answer) for answer in self.ask(scenes, [CAPTION_QUESTION] * len(scenes))]
        true = [set(scene.words) for scene in scenes]
        shared = sum(len(one & other) for one, other in zip(named, true, strict=True))
        mains = self.ask(scenes, [MAIN_QUESTION] * len(scenes))
        grounds = self.ask(scenes, [BACKGROUND_QUESTION] * len(scenes))
        rng = np.random.default_rng(0)
        present = [str(rng.choice(scene.words)) for scene in scenes]
        absent = [str(rng.choice([word for word in CLASSES if word not in scene.words])) for scene in scenes]
        yes = self.ask(scenes, [there_question(word) for word in present])
        no = self.ask(scenes, [there_question(word) for word in absent])
        return {
            "word_precision": _share(shared, sum(len(one) for one in named)),
            "word_recall": _share(shared, sum(len(one) for one in true)),
            "whole_set": _share(sum(one == other for one, other in zip(named, true, strict=True)), len(scenes)),
            "main_object": _share(
                sum(answer == scene.main for answer, scene in zip(mains, scenes, strict=True)), len(scenes)
            ),
            "background": _share(
                sum(answer == scene.background for answer, scene in zip(grounds, scenes, strict=True)), len(scenes)
            ),
            "yes_no": _share(yes.count("yes") + no.count("no"), 2 * len(scenes)),
        }


def named_objects(answer: str) -> set[str]:
    return set(re.findall(r"\w+", answer)) & set(CLASSES)


def ablations(answers: Answers, scenes: list[Scene]) -> dict[str, Any]:
    """How often an object's word leaves the caption when patches become the mean patch.

    One object a scene, drawn from those that the untouched answer names and that are the only ones of their word. Its
    patches are all in which it is seen; the ring adds their neighbours; as many patches without any object are the
    control.
    """
    untouched = answers.ask(scenes, [CAPTION_QUESTION] * len(scenes))
    rng = np.random.default_rng(1)
    chosen: list[tuple[Scene, str]] = []
    masks: dict[str, list[np.ndarray]] = {"ablated": [], "ablated_ring": [], "ablated_background": []}
    for scene, answer in zip(scenes, untouched, strict=True):
        labels = [placed.label for placed in scene.objects]
        single = [i for i, label in enumerate(labels) if labels.count(label) == 1 and label in named_objects(answer)]
        if not single:
            continue
        i = int(rng.choice(single))
        own = scene.coverage[i] > 0  # (GRID, GRID)
        empty = np.flatnonzero(scene.coverage.sum(0) == 0)
        control = np.zeros(GRID * GRID, bool)
        control[rng.permutation(empty)[: own.sum()]] = True
        chosen.append((scene, labels[i]))
        masks["ablated"].append(own.ravel())
        masks["ablated_ring"].append((own | around(own[None])[0]).ravel())
        masks["ablated_background"].append(control)
    if not chosen:  # a model that names nothing right has nothing to lose
        return dict.fromkeys(masks, 0.0)
    some = [scene for scene, _ in chosen]
    mean = answers.mean_patch(scenes)
    figures: dict[str, Any] = {}
    for name, mask in masks.items():
        given = answers.ask(some, [CAPTION_QUESTION] * len(some), (np.stack(mask), mean))
        left = sum(word not in named_objects(text) for text, (_, word) in zip(given, chosen, strict=True))
        figures[name] = _share(left, len(some))
    return figures


def _share(part: int, whole: int) -> float:
    return round(part / max(whole, 1), 3)
