"""What is asked about a scene and answered, as text and as tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vlq.workers.demo.scenes import GRID, Scene, with_article
from vlq.workers.demo.words import CLASSES

CAPTION_QUESTION = "What is in this image?"
MAIN_QUESTION = "What is the main object?"
BACKGROUND_QUESTION = "What is the background?"


def there_question(word: str) -> str:
    return f"Is there {with_article(word)}?"


def prompt_of(question: str) -> str:
    """LLaVA-1.5's spelling."""
    return f"USER: <image>\n{question} ASSISTANT:"


MAIN_PROMPT = prompt_of(MAIN_QUESTION)
"""The demo's prompt."""


def turns(scene: Scene, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Four questions and their answers. Whether the last one's answer is yes is a coin's toss."""
    yes = bool(rng.integers(2))
    asked = scene.words if yes else [word for word in CLASSES if word not in scene.words]
    return [
        (CAPTION_QUESTION, scene.caption),
        (MAIN_QUESTION, scene.main),
        (BACKGROUND_QUESTION, scene.background),
        (there_question(asked[rng.integers(len(asked))]), "yes" if yes else "no"),
    ]


@dataclass(frozen=True)
class Packed:
    """Dialogues of a batch, each image's turns behind one shared beginning, blind to one another.

    So each turn is learned exactly as it will be asked: the first and only one after the image.
    """

    ids: np.ndarray  # (image, sequence) int64
    places: np.ndarray  # (image, sequence) int64: the position ids, counted as if a turn were alone
    targets: np.ndarray  # (image, sequence) int64: the next token where it belongs to an answer, else -100
    attends: np.ndarray  # (image, sequence, sequence) bool: row may look at column
    image: slice  # the image's positions in every sequence


class Packer:
    """Turns dialogues into tokens. Keeps every turn it has seen: there are few."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._seen: dict[tuple[str, str], tuple[list[int], int]] = {}
        self._image_token = tokenizer.convert_tokens_to_ids("<image>")
        before = tokenizer(MAIN_PROMPT)["input_ids"]
        before = before[: before.index(self._image_token)]
        self._beginning = [*before, *[self._image_token] * (GRID * GRID)]
        self.image = slice(len(before), len(self._beginning))

    def turn(self, question: str, answer: str) -> tuple[list[int], int]:
        """The tokens behind the image, the end of the answer included, and how many of them are the question's."""
        if (question, answer) not in self._seen:
            asked = self._tokenizer(prompt_of(question))["input_ids"]
            whole = [*self._tokenizer(f"{prompt_of(question)} {answer}")["input_ids"], self._tokenizer.eos_token_id]
            assert whole[: len(asked)] == asked
            start = asked.index(self._image_token) + 1
            self._seen[question, answer] = whole[start:], len(asked) - start
        return self._seen[question, answer]

    def pack(self, dialogues: list[list[tuple[str, str]]]) -> Packed:
        encoded = [[self.turn(*turn) for turn in dialogue] for dialogue in dialogues]
        first = len(self._beginning)
        length = first + max(sum(len(ids) for ids, _ in dialogue) for dialogue in encoded)
        shape = (len(encoded), length)
        ids = np.full(shape, self._tokenizer.pad_token_id, np.int64)
        ids[:, :first] = self._beginning
        places = np.zeros(shape, np.int64)
        places[:, :first] = range(first)
        targets = np.full(shape, -100, np.int64)
        owner = np.full(shape, -1, np.int64)  # 0 the beginning, then the turns; padding is its own
        owner[:, :first] = 0
        for row, dialogue in enumerate(encoded):
            at = first
            for number, (turn, asked) in enumerate(dialogue, 1):
                end = at + len(turn)
                ids[row, at:end] = turn
                places[row, at:end] = range(first, first + len(turn))
                targets[row, at + asked - 1 : end - 1] = turn[asked:]
                owner[row, at:end] = number
                at = end
        same = (owner[:, None, :] == owner[:, :, None]) | (owner[:, None, :] == 0)
        return Packed(ids, places, targets, same & np.tri(length, dtype=bool), self.image)
