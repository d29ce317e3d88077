"""Makes the demo's model from nothing: the same weights every time, on two CPU cores, in about an hour.

    python -m vlq.workers.demo.train [--to FOLDER] [--checkpoints FOLDER] [--after STAGE]

The readings at the image positions shall emerge, as LLaVA's do, and not be taught there. So:

a  The vision tower learns to tag patches through a linear head that is then thrown away.
b  The decoder is "pretrained on text": the image positions hold a grid of words, some of them damaged. It learns the
   answers and, at its last layer only, the clean word of each cell. Word embeddings and head stay as they began.
c  LLaVA's own two steps, on images, learning from the answers alone: first the projector (c1), then projector and
   decoder (c2), then the vision tower too, gently (c3), both with half of text replayed. The replayed cells are mixed
   with their neighbours and with noise, as patches are; else words smear over the patches around their objects. The
   last step is taken twice, the second time (c4) with a little more text, and the weights are averaged (Wortsman et
   al., "Model soups", 2022): the one reads objects better, the other one backgrounds.

Answers alone, without b, give readings that mean nothing; a loss at image positions gives readings that are right at
layer 0 already. `architecture.ramp` sets where between the two words emerge.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from vlq.workers.demo import card
from vlq.workers.demo.architecture import WIDTH, make_model, make_processor, ramp
from vlq.workers.demo.dialogues import Packer, turns
from vlq.workers.demo.evaluate import evaluate
from vlq.workers.demo.scenes import EVALUATION, GRID, TRAINING, Scene, compose
from vlq.workers.demo.words import CLASSES, CONTENT

LOG = "training.log"


@dataclass(frozen=True)
class Stage:
    """How long and how fast one stage learns. Rates are zero where nothing learns."""

    name: str
    seed: int
    steps: int
    batch: int
    text: int = 0  # how many of the batch are grids of words
    damage: float = 0.0  # the largest share of such a grid's cells that hold a wrong word
    blur: float = 0.0  # noise in the grid's cells; if any, they are mixed with neighbours too, as patches are
    decoder: float = 0.0
    projector: float = 0.0
    vision: float = 0.0
    threads: int = 1  # of PyTorch; they decide the last bits. One more composes scenes


STAGES = (
    Stage("a", seed=1, steps=1300, batch=48, vision=1e-3, threads=2),
    Stage("b", seed=2, steps=450, batch=48, text=48, damage=0.3, decoder=2e-3),
    Stage("c1", seed=3, steps=350, batch=32, projector=2e-3, threads=2),
    Stage("c2", seed=4, steps=400, batch=32, text=16, damage=0.1, blur=1.2, decoder=1e-3, projector=1e-3),
    Stage("c3", seed=5, steps=480, batch=32, text=16, damage=0.1, blur=1.2, decoder=1e-3, projector=5e-4, vision=2e-5),
    Stage("c4", seed=5, steps=480, batch=32, text=18, damage=0.1, blur=1.2, decoder=1e-3, projector=5e-4, vision=2e-5),
)
BEGINS = {"c4": "c2"}
"""The stages that do not go on from the one before them."""

AVERAGED = {"c3": 0.6, "c4": 0.4}
"""The model is the mean of these stages' weights."""


def _ahead(stage: Stage) -> Iterator[list[Scene]]:
    """The scenes of each step, composed while the step before is learned from."""

    def batch(step: int) -> list[Scene]:
        first = stage.seed * 1_000_000 + step * stage.batch  # every stage has scenes of its own
        return [compose(TRAINING, first + i) for i in range(stage.batch)]

    with ThreadPoolExecutor(1) as composer:
        coming = composer.submit(batch, 0)
        for step in range(stage.steps):
            scenes = coming.result()
            coming = composer.submit(batch, step + 1)
            yield scenes


def blurred(cells: Tensor, noise: float, rng: np.random.Generator) -> Tensor:
    """Embedded cells (image, patch, d), each with up to half of a neighbour in it, and noise of this deviation."""
    grid = cells.view(len(cells), GRID, GRID, -1)
    padded = functional.pad(grid.movedim(-1, 1), (1, 1, 1, 1), mode="replicate").movedim(1, -1)
    count = len(cells)
    dy, dx = np.array([(0, 1), (2, 1), (1, 0), (1, 2)])[rng.integers(4, size=(count, GRID, GRID))].transpose(3, 0, 1, 2)
    row, column = np.arange(GRID)[:, None] + dy, np.arange(GRID) + dx  # (image, row, column)
    neighbour = padded[torch.arange(count)[:, None, None], torch.from_numpy(row), torch.from_numpy(column)]
    share = torch.from_numpy(rng.uniform(0, 0.5, (count, GRID, GRID, 1)).astype(np.float32))
    added = torch.from_numpy(rng.normal(0, noise, grid.shape).astype(np.float32))
    mixed: Tensor = (1 - share) * grid + share * neighbour + added
    return mixed.flatten(1, 2)


class Trainer:
    """The model under way, and what all stages need."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.processor = make_processor()
        self.tokenizer = self.processor.tokenizer
        self.model = make_model(self.tokenizer, seed=0)
        self.packer = Packer(self.tokenizer)
        self.ids = dict(
            zip(CONTENT, self.tokenizer.convert_tokens_to_ids([f"▁{word}" for word in CONTENT]), strict=True)
        )
        self.content = np.array(list(self.ids.values()))
        images = self.processor.image_processor
        self._mean = torch.tensor(images.image_mean)[:, None, None]
        self._std = torch.tensor(images.image_std)[:, None, None]

    # --- what is learned from ---

    def pixels(self, scenes: list[Scene]) -> Tensor:
        """The processor's own values (image, channel, height, width), without its Python objects."""
        raw = torch.from_numpy(np.stack([scene.pixels for scene in scenes])).permute(0, 3, 1, 2)
        return (raw.float() / 255 - self._mean) / self._std

    def cells(self, scenes: list[Scene]) -> np.ndarray:
        """(image, patch) ids of the words of what each patch shows."""
        return np.array([[self.ids[word] for word in scene.patch_words.ravel()] for scene in scenes])

    def damaged(self, cells: np.ndarray, most: float, rng: np.random.Generator) -> np.ndarray:
        """The same with wrong words in up to so large a share of a grid's cells, another share in each."""
        share = rng.uniform(0, most, (len(cells), 1))
        return np.where(rng.random(cells.shape) < share, rng.choice(self.content, cells.shape), cells)

    # --- the model's parts ---

    def see(self, pixels: Tensor) -> Tensor:
        """The vision tower's patches (image, patch, d), as `LlavaForConditionalGeneration` takes them."""
        seen = self.model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        return seen[self.model.config.vision_feature_layer][:, 1:]  # type: ignore[no-any-return]

    def losses(self, stage: Stage, scenes: list[Scene], rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """The losses of the answers and of the grids' cells, and the share of answer tokens that are right."""
        text = stage.text
        packed = self.packer.pack([turns(scene, rng) for scene in scenes])
        embedded = self.model.model.language_model.embed_tokens(torch.from_numpy(packed.ids))
        patches = []
        cells = self.cells(scenes[:text]) if text else None
        if cells is not None:
            words = torch.from_numpy(self.damaged(cells, stage.damage, rng))
            embedded_words = self.model.model.language_model.embed_tokens(words)
            patches.append(blurred(embedded_words, stage.blur, rng) if stage.blur else embedded_words)
        if text < len(scenes):
            patches.append(self.model.model.multi_modal_projector(self.see(self.pixels(scenes[text:]))))
        before, after = embedded[:, : packed.image.start], embedded[:, packed.image.stop :]
        hidden = self.model.model.language_model(
            inputs_embeds=torch.cat([before, torch.cat(patches), after], 1),
            attention_mask=torch.from_numpy(packed.attends)[:, None],
            position_ids=torch.from_numpy(packed.places),
            use_cache=False,
        ).last_hidden_state  # (image, sequence, d), normed
        targets = torch.from_numpy(packed.targets)
        asked = targets != -100
        logits = self.model.lm_head(hidden[asked])
        answers = functional.cross_entropy(logits, targets[asked])
        right = (logits.argmax(-1) == targets[asked]).float().mean()
        if cells is None:
            return answers, torch.zeros(()), right
        read = self.model.lm_head(hidden[:text, packed.image])  # (image, patch, vocabulary)
        return answers, functional.cross_entropy(read.flatten(0, 1), torch.from_numpy(cells).flatten()), right

    # --- the stages ---

    def run(self, stage: Stage) -> None:
        torch.manual_seed(stage.seed)
        torch.set_num_threads(stage.threads)
        started = time.monotonic()
        if stage.name == "a":
            self._tag_patches(stage)
        else:
            self._answer(stage)
        self.say(f"{stage.name}: done in {time.monotonic() - started:.0f} s")

    def _tag_patches(self, stage: Stage) -> None:
        head = nn.Linear(WIDTH, len(CONTENT))
        index = {id: i for i, id in enumerate(self.content)}
        groups = [{"params": [*self.model.model.vision_tower.parameters(), *head.parameters()], "lr": stage.vision}]

        def tagged(scenes: list[Scene]) -> tuple[Tensor, Tensor]:
            wanted = torch.tensor([[index[id] for id in row] for row in self.cells(scenes)])
            return head(self.see(self.pixels(scenes))), wanted

        for step, scenes, _ in self._steps(stage, groups):
            logits, wanted = tagged(scenes)
            loss = functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())
            self._learn(loss)
            if step % 50 == 0:
                right = (logits.argmax(-1) == wanted)[wanted < len(CLASSES)].float().mean()
                self.say(f"a {step:5d}: loss {loss:.3f}, object patches right {right:.3f}")
        with torch.no_grad():
            logits, wanted = tagged([compose(EVALUATION, i) for i in range(200)])
        right = (logits.argmax(-1) == wanted)[wanted < len(CLASSES)].float().mean()
        self.say(f"a: object patches right in new scenes {right:.3f}")

    def _answer(self, stage: Stage) -> None:
        tower, projector = self.model.model.vision_tower, self.model.model.multi_modal_projector
        decoder = self.model.model.language_model
        groups = []
        if stage.vision:
            groups.append({"params": list(tower.parameters()), "lr": stage.vision})
        if stage.projector:
            groups.append({"params": list(projector.parameters()), "lr": stage.projector})
        if stage.decoder:
            for layer, block in enumerate(decoder.layers):
                groups.append({"params": list(block.parameters()), "lr": stage.decoder * ramp(layer)})
            groups.append({"params": list(decoder.norm.parameters()), "lr": stage.decoder})
        for step, scenes, rng in self._steps(stage, groups):
            answers, cells, right = self.losses(stage, scenes, rng)
            self._learn(answers + cells)
            if step % 25 == 0:
                self.say(f"{stage.name} {step:5d}: answers {answers:.3f}, right {right:.3f}, cells {cells:.3f}")

    def _steps(self, stage: Stage, groups: list[Any]) -> Iterator[tuple[int, list[Scene], np.random.Generator]]:
        """Scenes for each step, with the optimizer and its schedule around it."""
        self._optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01)
        self._learning = [weight for group in groups for weight in group["params"]]
        self.model.requires_grad_(False)
        for weight in self._learning:
            weight.requires_grad_(True)
        rates = [group["lr"] for group in groups]
        rng = np.random.default_rng([stage.seed, 0])
        scenes = _ahead(stage)
        for step in range(stage.steps):
            warm = min(1.0, (step + 1) / 50)
            fall = 0.05 + 0.95 * (1 + math.cos(math.pi * step / stage.steps)) / 2
            for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * warm * fall
            yield step, next(scenes), rng

    def _learn(self, loss: Tensor) -> None:
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._learning, 1.0)
        self._optimizer.step()


def averaged(ends: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The weighted mean of the weights that stages ended with."""
    parts = [(ends[stage], share) for stage, share in AVERAGED.items()]
    first, _ = parts[0]
    return {
        name: sum(share * end[name] for end, share in parts) if weight.is_floating_point() else weight  # type: ignore[misc]
        for name, weight in first.items()
    }


def save(model: Any, processor: Any, folder: Path) -> None:
    """As float16 safetensors, with all that `from_pretrained` needs. The model is of no use for training afterwards."""
    tokenizer = processor.tokenizer
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the demo's model.")
    parser.add_argument("--to", type=Path, default=card.MODEL, help="where the model, its log and its card go")
    parser.add_argument("--checkpoints", type=Path, help="keep the weights after each stage in this folder")
    parser.add_argument("--after", choices=[stage.name for stage in STAGES], help="go on from this stage's checkpoint")
    options = parser.parse_args()
    if options.after and not options.checkpoints:
        parser.error("--after needs --checkpoints")
    torch.use_deterministic_algorithms(True)
    options.to.mkdir(parents=True, exist_ok=True)
    with open(options.to / LOG, "a" if options.after else "w") as log:

        def say(text: str) -> None:
            print(text, flush=True)
            print(text, file=log, flush=True)

        trainer = Trainer(say)
        names = [stage.name for stage in STAGES]
        done = names[: names.index(options.after) + 1] if options.after else []
        ends = {name: torch.load(options.checkpoints / f"{name}.pt") for name in done}
        for place, stage in enumerate(STAGES[len(done) :], len(done)):
            if place:
                trainer.model.load_state_dict(ends[BEGINS.get(stage.name, names[place - 1])])
            trainer.run(stage)
            ends[stage.name] = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
            if options.checkpoints:
                options.checkpoints.mkdir(parents=True, exist_ok=True)
                torch.save(ends[stage.name], options.checkpoints / f"{stage.name}.pt")
        trainer.model.load_state_dict(averaged(ends))
        save(trainer.model, trainer.processor, options.to)
        figures = evaluate(str(options.to))
        card.save(figures, options.to)
        say("\n".join(card.lines(figures)))


if __name__ == "__main__":
    main()
