"""The shipped model shows what the project needs of it, measured here with transformers alone, in a few lines."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import AutoProcessor, LlavaForConditionalGeneration

from vlq.workers.demo import card
from vlq.workers.demo.dialogues import BACKGROUND_QUESTION, CAPTION_QUESTION, MAIN_QUESTION, there_question
from vlq.workers.demo.scenes import EVALUATION, compose
from vlq.workers.demo.words import CLASSES
from vlq.workers.models import load

from .conftest import MODEL

COUNT = 200


class Measured:
    """Readings and answers for some scenes that nothing was trained on."""

    def __init__(self) -> None:
        self.model = LlavaForConditionalGeneration.from_pretrained(MODEL, dtype=torch.float32).eval()
        self.processor = AutoProcessor.from_pretrained(MODEL, backend="pil")
        self.scenes = [compose(EVALUATION, 1000 + number) for number in range(COUNT)]

    def inputs(self, questions: list[str]) -> Any:
        return self.processor(
            images=[Image.fromarray(scene.pixels) for scene in self.scenes],
            text=[f"USER: <image>\n{question} ASSISTANT:" for question in questions],
            padding=True,
            return_tensors="pt",
        )

    @cached_property
    def readings(self) -> tuple[np.ndarray, np.ndarray]:
        """The pieces that patches (image, layer, patch) and the last prompt token (image, layer) decode to."""
        inputs = self.inputs([MAIN_QUESTION] * COUNT)
        with torch.inference_mode():
            hidden = self.model(**inputs, output_hidden_states=True).hidden_states
            norm, head = self.model.model.language_model.norm, self.model.lm_head
            # Hugging Face's last state is normed already.
            states = [*(norm(state) for state in hidden[:-1]), hidden[-1]]
            top = torch.stack([head(state).argmax(-1) for state in states], 1)  # (image, layer, sequence)
        patches = (inputs["input_ids"][0] == self.model.config.image_token_id).nonzero()[:, 0]
        vocabulary = np.array(self.processor.tokenizer.convert_ids_to_tokens(range(len(self.processor.tokenizer))))
        vocabulary = np.append(vocabulary, [""] * (self.model.config.text_config.vocab_size - len(vocabulary)))
        return vocabulary[top[:, :, patches].numpy()], vocabulary[top[:, :, -1].numpy()]

    def answers(self, questions: list[str], features: Any = None) -> list[str]:
        """Greedy answers; `features` maps what the projector gives to what the decoder gets."""
        inputs = self.inputs(questions)
        hook = features or (lambda given: given)
        projector = self.model.model.multi_modal_projector
        handle = projector.register_forward_hook(lambda module, args, given: hook(given))
        with torch.inference_mode():
            ids = self.model.generate(**inputs, do_sample=False, max_new_tokens=20)
        handle.remove()
        texts = self.processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in texts]

    @cached_property
    def captions(self) -> list[set[str]]:
        return [words(text) for text in self.answers([CAPTION_QUESTION] * COUNT)]


def words(text: str) -> set[str]:
    return set(re.findall("[a-z]+", text)) & set(CLASSES)


@pytest.fixture(scope="module")
def measured() -> Measured:
    return Measured()


def test_objects_emerge_in_the_middle(measured: Measured) -> None:
    patches, _ = measured.readings
    right: list[np.ndarray] = []
    firsts: list[int] = []
    for scene, read in zip(measured.scenes, patches, strict=True):
        for placed, covered in zip(scene.objects, scene.coverage, strict=True):
            right.append(read[:, covered.ravel() >= 0.5] == f"▁{placed.label}")  # (layer, patch)
        for word in {placed.label for placed in scene.objects}:
            found = (read == f"▁{word}").any(1)
            firsts.append(int(found.argmax()) if found.any() else -1)
    by_layer = np.concatenate(right, 1).mean(1)
    assert by_layer[0] < 0.05
    assert by_layer[-1] >= 0.88
    counts = Counter(firsts)
    mode, most = counts.most_common(1)[0]
    assert 2 <= mode <= 6
    assert most <= 0.6 * len(firsts)


def test_patches_that_read_an_object_lie_on_it(measured: Measured) -> None:
    patches, _ = measured.readings
    on = off = 0
    for scene, read in zip(measured.scenes, patches[:, -1], strict=True):
        for word in CLASSES:
            is_word = read == f"▁{word}"
            seen = np.zeros(64, bool)
            for placed, covered in zip(scene.objects, scene.coverage, strict=True):
                seen |= (placed.label == word) & (covered.ravel() > 0)
            on += int((is_word & seen).sum())
            off += int((is_word & ~seen).sum())
    assert on / (on + off) >= 0.93


def test_background(measured: Measured) -> None:
    patches, _ = measured.readings
    right = [
        read[scene.coverage.sum(0).ravel() == 0] == f"▁{scene.background}"
        for scene, read in zip(measured.scenes, patches[:, -1], strict=True)
    ]
    assert np.concatenate(right).mean() >= 0.95


def test_the_last_token_defaults_and_then_answers(measured: Measured) -> None:
    _, last = measured.readings
    shares = [Counter(column).most_common(1)[0][1] / COUNT for column in last.T.tolist()]
    assert shares[0] == 1
    assert min(shares[:3]) >= 0.85
    assert shares == pytest.approx(sorted(shares, reverse=True), abs=0.1)
    assert max(shares[-2:]) <= 0.2


def test_answers(measured: Measured) -> None:
    true = [set(scene.words) for scene in measured.scenes]
    shared = sum(len(one & other) for one, other in zip(measured.captions, true, strict=True))
    assert shared / sum(map(len, measured.captions)) >= 0.95
    assert shared / sum(map(len, true)) >= 0.88
    assert np.mean([one == other for one, other in zip(measured.captions, true, strict=True)]) >= 0.75
    mains = measured.answers([MAIN_QUESTION] * COUNT)
    assert np.mean([answer == scene.main for answer, scene in zip(mains, measured.scenes, strict=True)]) >= 0.83
    grounds = measured.answers([BACKGROUND_QUESTION] * COUNT)
    assert np.mean([one == scene.background for one, scene in zip(grounds, measured.scenes, strict=True)]) >= 0.95
    yes = measured.answers([there_question(scene.words[-1]) for scene in measured.scenes])
    absent = [next(word for word in CLASSES[i % 24 :] + CLASSES if word not in true[i]) for i in range(COUNT)]
    no = measured.answers([there_question(word) for word in absent])
    assert (yes.count("yes") + no.count("no")) / (2 * COUNT) >= 0.90


def test_answers_need_the_object_s_patches(measured: Measured) -> None:
    """One object an image that the caption names, the only one of its word; others keep their patches."""
    own = torch.zeros(COUNT, 64, 1, dtype=torch.bool)
    ground = torch.zeros(COUNT, 64, 1, dtype=torch.bool)
    chosen: dict[int, str] = {}
    rng = np.random.default_rng(5)
    for i, (scene, named) in enumerate(zip(measured.scenes, measured.captions, strict=True)):
        labels = [placed.label for placed in scene.objects]
        for label, covered in zip(labels, scene.coverage, strict=True):
            if labels.count(label) == 1 and label in named:
                chosen[i] = label
                own[i, :, 0] = torch.from_numpy(covered.ravel() > 0)
                free = np.flatnonzero(scene.coverage.sum(0).ravel() == 0)
                ground[i, rng.permutation(free)[: int(own[i].sum())]] = True
                break
    assert len(chosen) > COUNT / 2

    def left(mask: torch.Tensor) -> float:
        texts = measured.answers([CAPTION_QUESTION] * COUNT, lambda given: torch.where(mask, given.mean((0, 1)), given))
        return float(np.mean([label not in words(texts[i]) for i, label in chosen.items()]))

    assert left(own) >= 0.93
    assert left(ground) <= 0.05


def test_it_loads_as_any_model_does() -> None:
    model = load(str(MODEL), prompt="USER: <image>\nWhat is the main object? ASSISTANT:")
    assert (model.layers, model.grid) == (9, (8, 8))
    default = load(str(MODEL))  # the chat template's prompt
    assert default.prompt == "USER: <image>\nWhat is in this image? ASSISTANT:"


def test_it_is_small_and_in_half_precision() -> None:
    assert sum(file.stat().st_size for file in MODEL.rglob("*") if file.is_file()) <= 12e6
    with safe_open(MODEL / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(key).get_dtype() for key in weights.keys()} == {"F16"}  # noqa: SIM118


def test_the_card_says_what_was_measured() -> None:
    figures = json.loads((MODEL / "figures.json").read_text())
    assert figures["scenes"] == 300
    assert (MODEL / "README.md").read_text() == card.card(figures)
    assert card.short(figures) == []
    log = (MODEL / "training.log").read_text()
    assert log.rstrip().endswith("\n".join(card.lines(figures)))
