"""The figures of the demo's model: what each must at least be, how they are printed, and the model card."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

MODEL = Path(__file__).parent / "model"
FIGURES = "figures.json"
CARD = "README.md"


@dataclass(frozen=True)
class Figure:
    """One line of the report."""

    name: str
    text: str
    least: str = ""
    holds: Callable[[dict[str, Any]], bool] = lambda figures: True


def _first_layers(figures: dict[str, Any]) -> bool:
    shares = figures["first_layer"]
    mode = max(range(len(shares)), key=lambda layer: shares[layer])
    return bool(max(shares) <= 0.6 and 0 < mode < len(shares) - 1 and abs(mode - (len(shares) - 1) / 2) <= 2)


def _default_then_own(figures: dict[str, Any]) -> bool:
    shares = figures["last_token_share"]
    falls = all(later <= earlier + 0.02 for earlier, later in pairwise(shares))
    return bool(shares[0] == 1.0 and min(shares[:3]) >= 0.9 and max(shares[-2:]) <= 0.15 and falls)


REPORT = (
    Figure(
        "object_patches",
        "object patches whose top-1 is their object's word, by layer",
        "layer 0 < .05, last >= .88",
        lambda f: f["object_patches"][0] < 0.05 and f["object_patches"][-1] >= 0.88,
    ),
    Figure(
        "first_layer",
        "first layer of a present object's word in an image, share of (image, word) by layer",
        "mode in the middle, no layer above .6",
        _first_layers,
    ),
    Figure("never", "the same: at no layer"),
    Figure(
        "on_object",
        "of the patches that read an object's word, on an object of that word, by layer",
        "last >= .93",
        lambda f: f["on_object"][-1] >= 0.93,
    ),
    Figure("absent_words", "words of absent objects that some patch reads, per image, by layer"),
    Figure("absent_words_sure", "the same with probability >= .5"),
    Figure(
        "present_words_sure", "words of present objects that some patch reads with probability >= .5, share by layer"
    ),
    Figure(
        "background_patches",
        "background patches whose top-1 is the background's word, by layer",
        "last >= .95",
        lambda f: f["background_patches"][-1] >= 0.95,
    ),
    Figure(
        "word_precision", "caption: precision of the objects' words", ">= .95", lambda f: f["word_precision"] >= 0.95
    ),
    Figure("word_recall", "caption: recall of the objects' words", ">= .88", lambda f: f["word_recall"] >= 0.88),
    Figure("whole_set", "caption: exactly the right set of words", ">= .75", lambda f: f["whole_set"] >= 0.75),
    Figure("main_object", "the main object named right", ">= .83", lambda f: f["main_object"] >= 0.83),
    Figure("background", "the background named right"),
    Figure("yes_no", '"Is there a ...?" answered right', ">= .90", lambda f: f["yes_no"] >= 0.90),
    Figure(
        "last_token_share",
        'last token of "What is the main object?": share of its most common reading, by layer',
        "1 at layer 0, at least .9 up to layer 2, falling, at most .15 at the end",
        _default_then_own,
    ),
    Figure(
        "ablated",
        "an object's patches replaced by the mean patch: its word leaves the caption",
        ">= .93",
        lambda f: f["ablated"] >= 0.93,
    ),
    Figure(
        "ablated_ring",
        "the same with a ring of one patch around",
        ">= .93",
        lambda f: f["ablated_ring"] >= 0.93,
    ),
    Figure(
        "ablated_background",
        "as many random background patches replaced: the word leaves the caption",
        "<= .05",
        lambda f: f["ablated_background"] <= 0.05,
    ),
)


def shown(value: Any) -> str:
    """'.93', and a list as such numbers."""
    if isinstance(value, list):
        return " ".join(shown(one) for one in value)
    text = f"{value:.2f}"
    return text.removeprefix("0") if value < 1 else text


def short(figures: dict[str, Any]) -> list[str]:
    """The names of the figures that are not what they must be."""
    return [figure.name for figure in REPORT if not figure.holds(figures)]


def lines(figures: dict[str, Any]) -> list[str]:
    """The report as text, the least that is asked in brackets."""
    found = [f"Measured on {figures['scenes']} new scenes:"]
    for figure in REPORT:
        least = f"  [{figure.least}]" if figure.least else ""
        mark = "" if figure.holds(figures) else "  SHORT"
        found.append(f"  {figure.text}: {shown(figures[figure.name])}{least}{mark}")
    return found


def save(figures: dict[str, Any], folder: Path) -> None:
    """Write figures.json and the model card."""
    (folder / FIGURES).write_text(json.dumps(figures, indent=1) + "\n")
    (folder / CARD).write_text(card(figures))


def card(figures: dict[str, Any]) -> str:
    """The model card, in Markdown."""
    rows = "\n".join(f"| {one.text} | {shown(figures[one.name])} | {one.least} |" for one in REPORT)
    measured = MEASURED.format(scenes=figures["scenes"])
    return f"{ABOUT}\n## Measured\n\n{measured}\n| | measured | must be |\n|---|---|---|\n{rows}\n"


ABOUT = """# VLQ's demo model

A small LLaVA for VLQ's demo and tests: Hugging Face's `LlavaForConditionalGeneration` (CLIP vision tower of 4 layers,
MLP projector, Llama decoder of 8 layers, width 128 throughout, 2.8 M parameters, an untied head of 896 rows over
888 tokens), saved as float16 safetensors. It was trained from nothing on synthetic scenes and is no use for
photographs.

    from transformers import AutoProcessor, LlavaForConditionalGeneration
    model = LlavaForConditionalGeneration.from_pretrained("workers/demo/model", dtype="float32")
    processor = AutoProcessor.from_pretrained("workers/demo/model")

- **Images**: 112 x 112 pixels, 8 x 8 patches. One to four objects of 32 to 64 pixels (24 classes, the same one twice
  allowed) on one of 5 backgrounds, each object with its box. The main object is the largest by the area of its box.
- **Prompts**: `USER: <image>\\nWhat is the main object? ASSISTANT:` (the demo's), and in its place "What is in this
  image?", "What is the background?", "Is there a dog?".
- **Tokens**: LLaMA-style `▁` pieces with byte fallback. 'puppy' and some four hundred other words are in the vocabulary
  though no image shows them; 'dachshund' takes several pieces.
- **Layers**: 0 is the embedding that enters the decoder, `l` the residual stream after block `l`, 1 to 8.

## Training

`python -m vlq.workers.demo.train` makes it on two CPU cores; every draw is seeded, so the same kind of machine and the
same library versions make the same weights. `training.log` is what its stages said, on a machine that was busy with
other work: hence the times. That readings emerge, and where, comes from the recipe; the script's head explains it. In
the decoder no loss was ever put on positions that held an image. Ears, noses and eyes are objects of their own here:
nothing says that they are parts of dogs.

The sprites are from Noto Color Emoji, under the SIL Open Font License (`workers/demo/sprites/LICENSE-OFL.txt`).
"""

MEASURED = """On {scenes} scenes of the evaluation's split, whose sprites are turned and scaled otherwise than in
training, by `python -m vlq.workers.demo.evaluate`. An object's patch is one that it covers by half or more; a
background's patch shows no object. By layer: 0 to 8.

Readings by top-1 alone name objects that are not there, at every layer; those with a probability of one half or more
do so much less, and from layer 6 on they still find nearly all that are present. So ask with `min_prob=0.5`. At the
last prompt token early layers decode to one token in nearly every image; the answer's word comes at layer 7.
"""
