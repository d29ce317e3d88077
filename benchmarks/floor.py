"""The lens beside the model: reading batches against (a bare forward pass) + (the bare matrix product of the head).

Ours is what a worker does with decoded images: forward pass, final norm and head at every position of every layer,
the k best with exact ties, logsumexp, entropy, summed probabilities, and all of it in the host's memory. The floor is
transformers' forward pass without any of it, plus one matrix product of the head's shape over as many positions as the
run reads, in the model's dtype and the fastest block. On a CPU, where a worker has one thread, `torch.topk` and
`torch.logsumexp` belong to the floor.

On a GPU the model is LLaVA-1.5-7B's in shape, with random weights, and the demo's; on a CPU the demo's, and one with
LLaVA's grid and vocabulary on a small decoder. There, too, the whole worker (files in, cache out) stands beside the
script that people write today.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image

from benchmarks import lens_script
from benchmarks.inputs import PROMPT, llava_7b, made, save_photos, small, wide
from benchmarks.measure import Figure, faster, in_turns, number, rate
from vlq.query.schema import RUN, Run
from vlq.query.store import open_store
from vlq.workers.corpus import list_images
from vlq.workers.extract import BatchReader
from vlq.workers.lenses import lens_of
from vlq.workers.models import load
from vlq.workers.models.base import LensModel, compile_blocks
from vlq.workers.models.encoded import Encoded
from vlq.workers.models.vocabulary import vocabulary_hash, vocabulary_table
from vlq.workers.plan import first_plan
from vlq.workers.worker import Setup, ShardWorker, describe_run, packed

MOST = {"cuda": 1.10, "cpu": 1.15}
"""Of the floor."""

TIMES_A_SCRIPT = 5.0
"""As fast as a plain script, on a GPU."""

K = 20
ROUNDS = 5
BLOCKS = (256, 320, 512, 1024, 2048, 4096, 8192)
BATCHES = 4
CALLS = 6
"""Shards that a worker has under way at once, as of a GPU with as many cores."""
PEAK = 8192
"""Side of the square matrices whose product shows what the device can do."""


@dataclass(frozen=True)
class Case:
    """A loaded model, its run, and batches of images in the host's memory."""

    name: str
    model: LensModel
    run: Run
    batches: Sequence[Sequence[Encoded]]

    @property
    def images(self) -> int:
        return sum(map(len, self.batches))

    @property
    def positions(self) -> int:
        """Read at every layer of each batch."""
        return sum(len(image.sites[site]) for image in self.batches[0] for site in self.run.summed)


def run(work: Path, *, quick: bool = False, images: int = 0) -> Iterator[Figure]:
    if torch.cuda.is_available():
        model = llava_7b("cuda", torch.bfloat16)
        case = case_of("LLaVA-1.5-7B, bfloat16", model, work, 8)
        yield from measure(case, quick)
        yield from whole(model, work, quick)
        yield from measure_compiled(case, quick)
        del model, case
        torch.cuda.empty_cache()
        demo = load(str(small(work, quick=True).model), prompt=PROMPT, device="cuda", dtype="float32")
        yield from measure(case_of("the demo's model", demo, work, 64), quick)
    else:
        torch.set_num_threads(1)
        for case in (small(work, quick=True), wide(work, quick=True)):
            model = load(str(case.model), prompt=PROMPT)
            yield from measure(case_of(case.name, model, work, case.batch_size), quick)


def case_of(name: str, model: LensModel, work: Path, batch_size: int) -> Case:
    run = run_of(model, batch_size)
    count = BATCHES * batch_size
    photos = made(work / f"photos-{count}", lambda folder: save_photos(folder, count))
    encoded = [model.encode(Image.open(path)) for path in sorted(photos.glob("*.jpg"))]
    return Case(name, model, run, [encoded[at : at + batch_size] for at in range(0, count, batch_size)])


def run_of(model: LensModel, batch_size: int, shard_size: int = 32) -> Run:
    setup = Setup(
        str(small_model()), PROMPT, K, ("patch", "prompt"), model.device.type, "auto", 2, batch_size, shard_size
    )
    table = vocabulary_table(model.tokenizer, model.vocabulary_size)
    return describe_run(setup, model, vocabulary_hash(table))


def small_model() -> Path:
    """A folder whose files can be hashed: the record of a run wants a model's."""
    from vlq.workers.demo.card import MODEL

    return MODEL


# --- the lens and its floor --------------------------------------------------------------------------------------


def measure(case: Case, quick: bool) -> Iterator[Figure]:
    device = case.model.device.type
    forward, gemm = bare_forward(case), bare_product(case)
    for side in (ours := lambda: read(case), forward, gemm):
        side()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    sides = in_turns(1 if quick else ROUNDS, *(timed(side, device) for side in (ours, forward, gemm)))
    seconds = [median(side) / case.images for side in sides]
    floor = [a + b for a, b in zip(sides[1], sides[2], strict=True)]
    ratio = median(one / other for one, other in zip(sides[0], floor, strict=True))
    note = (
        f"{case.run.layers} layers, {case.positions} positions a batch of {len(case.batches[0])}, vocabulary "
        f"{case.run.vocabulary_size:,}; forward pass {number(seconds[1] * 1000)} ms and product "
        f"{number(seconds[2] * 1000)} ms an image"
    )
    if device == "cuda":
        note += f"; {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB at most; {peak_share(case, seconds[0])}"
    yield Figure(
        f"{case.name}, on {device_name(device)}",
        1 / seconds[0],
        "images/s",
        1 / (seconds[1] + seconds[2]),
        "floor",
        ratio,
        f"at most {MOST[device]} times the floor",
        ratio <= MOST[device],
        note,
    )


def measure_compiled(case: Case, quick: bool) -> Iterator[Figure]:
    """The same with compiled blocks, against the floor of a forward pass without and with them."""
    with as_loaded(case.model):
        start = time.perf_counter()
        compile_blocks(case.model)
        read(case)
        taken = time.perf_counter() - start
        sides = (lambda: read(case), bare_forward(case), own_forward(case), bare_product(case))
        for side in sides:
            side()
        found = in_turns(1 if quick else ROUNDS, *(timed(side, "cuda") for side in sides))
        for block in case.model.blocks:
            del block.forward
    ours, plain, fast, gemm = (median(side) / case.images for side in found)
    note = (
        f"compiled in {taken:.0f} s; {ours / (fast + gemm):.2f} times the floor of a compiled forward pass "
        f"({number(fast * 1000)} ms an image, {number(plain * 1000)} without)"
    )
    ratio, most = ours / (plain + gemm), MOST["cuda"]
    aim = f"at most {most} times the floor"
    name = f"{case.name}, blocks compiled"
    yield Figure(name, 1 / ours, "images/s", 1 / (plain + gemm), "floor", ratio, aim, ratio <= most, note)


def read(case: Case) -> None:
    """Every batch, two under way at a time, as a worker does it."""
    reader = BatchReader(case.model, lens_of(case.model, case.run), case.run)
    waiting: Callable[[], Any] | None = None
    for batch in case.batches:
        begun = reader.begin(batch, [""] * len(batch))
        if waiting:
            waiting()
        waiting = begun
    assert waiting
    waiting()
    reader.sums()


def own_forward(case: Case) -> Callable[[], None]:
    """The forward pass as the model has it now."""
    prepared = [case.model.batch(batch) for batch in case.batches]

    @torch.inference_mode()
    def forward() -> None:
        for batch in prepared:
            case.model.run_decoder(batch)

    return forward


def bare_forward(case: Case) -> Callable[[], None]:
    own = own_forward(case)

    def forward() -> None:
        with as_loaded(case.model):
            own()

    return forward


@contextmanager
def as_loaded(model: LensModel) -> Iterator[None]:
    """The decoder's blocks and all in them run as transformers has them."""
    modules = [module for block in model.blocks for module in block.modules() if "forward" in module.__dict__]
    own = [module.__dict__.pop("forward") for module in modules]
    try:
        yield
    finally:
        for module, forward in zip(modules, own, strict=True):
            module.forward = forward


@torch.inference_mode()
def bare_product(case: Case) -> Callable[[], None]:
    """One product of the head's shape a layer and batch, in the fastest block."""
    head = case.model.lm_head.weight
    states = torch.randn(case.positions, head.shape[1], device=case.model.device).to(head.dtype)  # type: ignore[union-attr, index]

    def one(block: int) -> None:
        for part in torch.split(states, block):
            logits = torch.mm(part, head.T)  # type: ignore[union-attr, operator]
            if not logits.is_cuda:
                torch.topk(logits, K)
                torch.logsumexp(logits, -1)

    blocks = [block for block in BLOCKS if block < case.positions] + [case.positions]
    for block in blocks:
        one(block)
    best = min(blocks, key=lambda block: min(timed(lambda: one(block), head.device.type)() for _ in range(3)))  # type: ignore[union-attr, arg-type]

    @torch.inference_mode()
    def products() -> None:
        for _ in range(len(case.batches) * case.run.layers):
            one(best)

    return products


def timed(call: Callable[[], Any], device: str) -> Callable[[], float]:
    """Seconds that a call takes, to the end of what it began on a GPU. Of a CPU they are those of its one thread: what
    else the machine does is not in them."""
    clock = time.perf_counter if device == "cuda" else time.process_time

    def seconds() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        start = clock()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        return clock() - start

    return seconds


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} CPU threads"


def peak_share(case: Case, seconds: float) -> str:
    """What the products of an image make of the device's rate for large square matrices of the same dtype.

    A multiplication and an addition for each weight and token of both towers, and for each of the head's weights and
    position read; attention's own products are left out.
    """
    model, image = case.model, case.batches[0][0]
    counted = dict(model.model.model.named_children())
    towers = {name: sum(parameter.numel() for parameter in module.parameters()) for name, module in counted.items()}
    decoder = towers["language_model"] - model.decoder.embed_tokens.weight.numel()  # type: ignore[union-attr, operator]
    rest = sum(towers.values()) - towers["language_model"]
    heads = model.lm_head.weight.numel() * case.positions / len(case.batches[0]) * case.run.layers  # type: ignore[union-attr, operator]
    operations = 2 * (decoder * image.length + rest * len(image.sites["patch"]) + heads)
    side = torch.randn(PEAK, PEAK, device="cuda").to(model.dtype)
    best = min(timed(lambda: torch.mm(side, side), "cuda")() for _ in range(10))
    peak = 2 * PEAK**3 / best
    return (
        f"{operations / seconds / 1e12:.0f} TFLOP/s, {operations / seconds / peak:.0%} of the {peak / 1e12:.0f} that a "
        f"product of {PEAK} x {PEAK} reaches"
    )


# --- files in, cache out -----------------------------------------------------------------------------------------


def whole(model: LensModel, work: Path, quick: bool) -> Iterator[Figure]:
    """A worker beside the script, both with the model on the GPU; and what decoding every token to text costs."""
    count = 64 if quick else 512
    photos = made(work / f"photos-{count}", lambda folder: save_photos(folder, count))
    paths = sorted(photos.glob("*.jpg"))
    few = paths[:16]
    worker(model, photos, work / "floor-cache", 64)
    lens_script.read(model.model, model.processor, few[:2], scratch(work), PROMPT, K)
    seconds, spent = worker(model, photos, work / "floor-cache", count)
    ours = count / seconds
    theirs = len(few) / lens_script.read(model.model, model.processor, few, scratch(work), PROMPT, K)
    note = f"{count} JPEGs of 640 x 480 (the script: {len(few)}); {spent}"
    yield rate("LLaVA-1.5-7B, files to cache", ours, theirs, "script", least=TIMES_A_SCRIPT, note=note)
    saved = scratch(work) / f"{few[0].stem}.pt"
    lens_script.read(model.model, model.processor, few[:1], saved.parent, PROMPT, K)
    text = lens_script.decode_all(model.processor.tokenizer, saved)
    yield faster(
        "decoding the tokens of one image to text, one by one", 1000 / ours, text * 1000, "that alone, beside our all"
    )


def scratch(work: Path) -> Path:
    folder = work / "floor-files"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def worker(model: LensModel, photos: Path, cache: Path, count: int) -> tuple[float, str]:
    """Seconds in which one worker reads so many images into a cache, shard after shard; and what they went to."""
    shutil.rmtree(cache, ignore_errors=True)
    run = run_of(model, 8)
    store = open_store(str(cache), create=True)
    store.create(RUN, run.to_bytes())
    setup = Setup("", PROMPT, K, ("patch", "prompt"), "cuda", "auto", 2, 8, 32)
    one = ShardWorker(setup)
    one._model = model
    plan = first_plan(list_images(str(photos), count), run.shard_size)
    start = time.perf_counter()
    with ThreadPoolExecutor(CALLS) as threads:
        shards = [(str(cache), run.to_bytes(), shard, packed(rows)) for shard, rows in plan.rows()]
        done = list(threads.map(lambda shard: one.extract(*shard), shards))
    seconds = time.perf_counter() - start
    busy, writing = sum(shard.busy for shard in done), sum(shard.writing for shard in done)
    starved = sum(shard.starved for shard in done)
    return seconds, (
        f"{seconds:.1f} s, in which the model was at work for {busy:.1f} s and waited {starved:.1f} s for images, and "
        f"{writing:.1f} s went to writing, of {CALLS} shards at once"
    )
