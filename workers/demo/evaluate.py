"""What the demo's model can do, measured on scenes it never saw, each figure beside the least it must be.

    python -m vlq.workers.demo.evaluate [--model FOLDER] [--scenes 300] [--save]

The model is loaded as any other, by `vlq.workers.models.load`: float32 from the saved float16. --save writes
figures.json and the model card, README.md, beside the weights.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from vlq.workers.demo.answers import Answers, ablations
from vlq.workers.demo.card import MODEL, lines, save, short
from vlq.workers.demo.dialogues import MAIN_PROMPT
from vlq.workers.demo.scenes import EVALUATION, Scene, compose
from vlq.workers.demo.words import CLASSES, CONTENT
from vlq.workers.lenses import logit_lens
from vlq.workers.models import load

if TYPE_CHECKING:
    from vlq.workers.models.base import LensModel

SCENES = 300
BATCH = 50

MOSTLY = 0.5
"""An object's patch: one that it covers by at least this share. A background's patch shows no object at all."""

SURE = 0.5
"""The `min_prob` that the figures compare with none."""


class Readings:
    """What patches and the last prompt token of scenes decode to, by the project's own lens."""

    def __init__(self, model: LensModel, scenes: list[Scene]) -> None:
        self.scenes = scenes
        self.word_ids = {word: model.tokenizer.convert_tokens_to_ids(f"▁{word}") for word in CONTENT}
        lens = logit_lens(model, 1, 4096)
        tokens, logprobs = [], []
        for start in range(0, len(scenes), BATCH):
            batch = [model.encode(Image.fromarray(scene.pixels)) for scene in scenes[start : start + BATCH]]
            layers: list[tuple[np.ndarray, np.ndarray]] = []

            image, place = model.places(batch, ("patch", "prompt"))

            def visit(
                layer: int,
                hidden: torch.Tensor,
                at: tuple[torch.Tensor, torch.Tensor] = (image, place),
                count: int = len(batch),
                layers: list[tuple[np.ndarray, np.ndarray]] = layers,
            ) -> None:
                read = lens.read(layer, hidden[at], torch.zeros(0, len(at[0])))
                layers.append((read.token.view(count, -1).numpy(), read.logprob.view(count, -1).numpy()))

            model.forward(batch, visit)
            tokens.append(np.stack([token for token, _ in layers], 1))
            logprobs.append(np.stack([logprob for _, logprob in layers], 1))
        token, probability = np.concatenate(tokens), np.exp(np.concatenate(logprobs))
        patches = model.most_patches
        self.patch, self.last = token[:, :, :patches], token[:, :, -1]  # (image, layer, patch), (image, layer)
        self.probability = probability[:, :, :patches]

    def figures(self) -> dict[str, Any]:
        """All that is said of readings, by layer where it is a list."""
        layers = range(self.patch.shape[1])
        ids = np.array([self.word_ids[word] for word in CLASSES])
        object_right, object_all, on_object, object_words = np.zeros((4, len(layers)))
        ground_right, ground_all = np.zeros((2, len(layers)))
        firsts: Counter[int | None] = Counter()
        absent, absent_sure, present_sure = np.zeros((3, len(layers)))
        present_count = 0
        for i, scene in enumerate(self.scenes):
            read, sure = self.patch[i], self.probability[i] >= SURE  # (layer, patch)
            seen = {
                word: sum(scene.coverage[j] for j, placed in enumerate(scene.objects) if placed.label == word).ravel()
                for word in scene.words
            }  # word -> (patch,)
            nothing = scene.coverage.sum(0).ravel() == 0
            ground_right += (read[:, nothing] == self.word_ids[scene.background]).sum(1)
            ground_all += nothing.sum()
            for word, share in seen.items():
                is_word = read == self.word_ids[word]
                object_right += (is_word & (share >= MOSTLY)).sum(1)
                object_all += (share >= MOSTLY).sum()
                on_object += (is_word & (share > 0)).sum(1)
                found = is_word.any(1)
                firsts[int(found.argmax()) if found.any() else None] += 1
                present_sure += (is_word & sure).any(1)
                present_count += 1
            object_words += np.isin(read, ids).sum(1)
            others = ids[[word not in seen for word in CLASSES]]
            for layer in layers:
                absent[layer] += np.isin(others, read[layer]).sum()
                absent_sure[layer] += np.isin(others, read[layer][sure[layer]]).sum()
        shares = [Counter(self.last[:, layer].tolist()).most_common(1)[0][1] / len(self.scenes) for layer in layers]
        return {
            "object_patches": _rounded(object_right / object_all),
            "first_layer": _rounded([firsts[layer] / present_count for layer in layers]),
            "never": round(firsts[None] / present_count, 3),
            "on_object": _rounded(on_object / np.maximum(object_words, 1)),
            "absent_words": _rounded(absent / len(self.scenes)),
            "absent_words_sure": _rounded(absent_sure / len(self.scenes)),
            "present_words_sure": _rounded(present_sure / present_count),
            "background_patches": _rounded(ground_right / ground_all),
            "last_token_share": _rounded(shares),
        }


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 3) for value in values]


def evaluate(folder: str, count: int = SCENES) -> dict[str, Any]:
    """Every figure, measured on the first `count` scenes of the evaluation's split."""
    scenes = [compose(EVALUATION, number) for number in range(count)]
    model = load(folder, prompt=MAIN_PROMPT)
    figures = {"scenes": count, **Readings(model, scenes).figures()}
    answers = Answers(model.model, model.processor)
    return figures | answers.figures(scenes) | ablations(answers, scenes)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the demo's model.")
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--save", action="store_true", help="write figures.json and README.md into the model's folder")
    options = parser.parse_args()
    figures = evaluate(options.model, options.scenes)
    print("\n".join(lines(figures)))
    if options.save:
        save(figures, Path(options.model))
    sys.exit(1 if short(figures) else 0)


if __name__ == "__main__":
    main()
