"""What people do today: a script that reads one image after another and saves a file for each.

The whole model with `output_hidden_states=True`; norm, head, softmax and top-k over every state; ids and probabilities
to a file. (The scripts in use also decode every token to text and lay out a page for each image; that is left out
here, but for `decode_all`.) It prints the seconds that its loop took.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def main() -> None:
    import torch
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    images, model_folder, out, prompt, k = sys.argv[1:]
    model = LlavaForConditionalGeneration.from_pretrained(model_folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(model_folder)
    paths = sorted(path for path in Path(images).iterdir() if path.suffix in (".png", ".jpg"))
    print(read(model, processor, paths, Path(out), prompt, int(k)))


def read(model: Any, processor: Any, paths: Sequence[Path], out: Path, prompt: str, k: int) -> float:
    """The loop, on the device where the model is; its seconds."""
    import torch
    from PIL import Image

    norm = model.model.language_model.norm
    start = time.perf_counter()
    for path in paths:
        inputs = processor(images=Image.open(path).convert("RGB"), text=prompt, return_tensors="pt").to(model.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
        with torch.no_grad():
            states = model(**inputs, output_hidden_states=True).hidden_states
            tokens, probabilities = [], []
            for layer, hidden in enumerate(states):
                normed = hidden if layer == len(states) - 1 else norm(hidden)  # the last one is normed already
                best = torch.softmax(model.lm_head(normed[0]).float(), dim=-1).topk(k)
                tokens.append(best.indices.cpu())
                probabilities.append(best.values.cpu())
        saved = {"token": torch.stack(tokens), "probability": torch.stack(probabilities)}
        torch.save(saved, out / f"{path.stem}.pt")
    return time.perf_counter() - start


def decode_all(tokenizer: Any, saved: Path) -> float:
    """Seconds in which every token of an image's file becomes text, one by one as exporters of pages do it."""
    import torch

    tokens = torch.load(saved)["token"].flatten().tolist()
    start = time.perf_counter()
    for token in tokens:
        tokenizer.decode([token])
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
