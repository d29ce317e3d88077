"""The bare loop: forward pass, norm and head at every layer, torch.topk, torch.logsumexp, and nothing else.

Images are decoded and preprocessed beforehand and nothing is kept. As many processes and threads as a run has.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import figures_of

BLOCKS = (64, 128, 256, 512, 1024, 4096)
"""Positions whose logits are computed at once: the fastest of these is taken."""

MOST_LOGITS = 2**28
"""No block is tried that would hold more (1 GiB)."""


@dataclass(frozen=True)
class Task:
    """What the loop is to do. `top` is torch's topk, or VLQ's own."""

    model: str
    images: str
    prompt: str
    k: int
    batch_size: int
    processes: int
    threads: int
    block: int | None = None  # None: find the fastest
    top: str = "torch"


@dataclass(frozen=True)
class Done:
    """What a loop showed."""

    steady: float  # images a second over all processes
    cpu: float  # milliseconds of CPU time an image
    block: int  # positions that were read at once


def bare_loop(task: Task) -> Done:
    command = [sys.executable, "-m", "benchmarks.bare", json.dumps(asdict(task))]
    return Done(**figures_of(command))


def main() -> None:
    task = Task(**json.loads(sys.argv[1]))
    names = sorted(str(path) for path in Path(task.images).iterdir() if path.suffix in (".png", ".jpg"))
    spawn = multiprocessing.get_context("spawn")
    ready, results = spawn.Barrier(task.processes + 1), spawn.Queue()
    for part in range(task.processes):
        spawn.Process(target=work, args=(task, names[part :: task.processes], ready, results), daemon=True).start()
    ready.wait()
    start = time.perf_counter()
    shares = [results.get() for _ in range(task.processes)]
    seconds = time.perf_counter() - start
    cpu = sum(used for used, _ in shares)
    print(json.dumps(asdict(Done(len(names) / seconds, cpu * 1000 / len(names), shares[0][1]))))


def work(task: Task, names: list[str], ready: Any, results: Any) -> None:
    """One process' share."""
    import torch
    import transformers
    from PIL import Image

    torch.set_num_threads(task.threads)
    processor: Any = transformers.AutoProcessor.from_pretrained(task.model, backend="pil")
    model: Any = transformers.LlavaForConditionalGeneration.from_pretrained(task.model, dtype=torch.float32).eval()
    encoded = [
        processor(images=Image.open(name).convert("RGB"), text=task.prompt, return_tensors="pt") for name in names
    ]
    input_ids = encoded[0]["input_ids"]
    pixels = [
        torch.cat([one["pixel_values"] for one in encoded[at : at + task.batch_size]])
        for at in range(0, len(names), task.batch_size)
    ]

    with torch.inference_mode():
        block = task.block or fastest_block(task, model, input_ids, pixels[0])
        for batch in pixels[:2]:
            read(task, model, input_ids, batch, block)
        ready.wait()
        before = time.process_time()
        for batch in pixels:
            read(task, model, input_ids, batch, block)
    results.put((time.process_time() - before, block))


def read(task: Task, model: Any, input_ids: Any, pixels: Any, block: int) -> None:
    states = forward(model, input_ids, pixels)
    for layer, hidden in enumerate(states):
        lens(task, model, hidden, layer == len(states) - 1, block)


def forward(model: Any, input_ids: Any, pixels: Any) -> Any:
    """Every layer's hidden states (image, position, d); the last one is normed already."""
    output = model.model(
        input_ids=input_ids.expand(len(pixels), -1), pixel_values=pixels, use_cache=False, output_hidden_states=True
    )
    return output.hidden_states


def lens(task: Task, model: Any, hidden: Any, normed: bool, block: int) -> None:
    import torch

    from vlq.workers.top import top

    for states in hidden.flatten(0, 1).split(block):
        logits = model.lm_head(states if normed else model.model.language_model.norm(states))
        if task.top == "torch":
            torch.topk(logits, task.k)
        else:
            top(logits, task.k)
        torch.logsumexp(logits, -1)


def fastest_block(task: Task, model: Any, input_ids: Any, pixels: Any) -> int:
    """By trying each on one layer of one batch, three times."""
    hidden = forward(model, input_ids, pixels)[0]
    positions = hidden.shape[0] * hidden.shape[1]
    width = model.lm_head.weight.shape[0]
    seconds: dict[int, float] = {}
    for _ in range(3):
        for block in BLOCKS:
            block = min(block, positions)
            if block * width <= MOST_LOGITS:
                start = time.perf_counter()
                lens(task, model, hidden, False, block)
                seconds[block] = min(seconds.get(block, float("inf")), time.perf_counter() - start)
    return min(seconds, key=lambda block: seconds[block])


if __name__ == "__main__":
    main()
