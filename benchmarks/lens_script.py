"""What people do today: a script that reads one image after another and saves a file for each.

The whole model with `output_hidden_states=True`; norm, head, softmax and top-k over every state; ids and probabilities
to a file. (The scripts in use also decode every token to text and lay out a page for each image; that is left out
here.) It prints the seconds that its loop took.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path


def main() -> None:
    import torch
    from PIL import Image
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    images, model_folder, out, prompt, k = sys.argv[1:]
    model = LlavaForConditionalGeneration.from_pretrained(model_folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(model_folder)
    paths = sorted(path for path in Path(images).iterdir() if path.suffix in (".png", ".jpg"))
    norm = model.model.language_model.norm

    start = time.perf_counter()
    for path in paths:
        inputs = processor(images=Image.open(path).convert("RGB"), text=prompt, return_tensors="pt")
        with torch.no_grad():
            states = model(**inputs, output_hidden_states=True).hidden_states
            tokens, probabilities = [], []
            for layer, hidden in enumerate(states):
                normed = hidden if layer == len(states) - 1 else norm(hidden)  # the last one is normed already
                best = torch.softmax(model.lm_head(normed[0]), dim=-1).topk(int(k))
                tokens.append(best.indices)
                probabilities.append(best.values)
        saved = {"token": torch.stack(tokens), "probability": torch.stack(probabilities)}
        torch.save(saved, Path(out) / f"{path.stem}.pt")
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main()
