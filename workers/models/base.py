"""One facade over vision-language models: what the lens needs, by the same names for every family.

A family's adapter says where its parts are and how its images become patches; `checks` see to it that what it says is
so.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, ClassVar

import torch
from PIL import Image
from propcache.api import cached_property
from torch import Tensor, nn
from torch.nn.functional import pad

from vlq.query.errors import ModelError
from vlq.query.schema import MOST_POSITIONS, Transform
from vlq.workers.models import PLACEHOLDER
from vlq.workers.models.encoded import Answer, Encoded, Layout, prompt_ids
from vlq.workers.models.parts import BLOCKS, NORMS, decoder_in, part_called, product
from vlq.workers.models.prefix import Prefix
from vlq.workers.models.prompts import TEMPLATE, full_prompt
from vlq.workers.models.weights import head_of
from vlq.workers.norms import fastest
from vlq.workers.transfer import to_device

Visit = Callable[[int, Tensor], None]
"""Called with a layer and its residual stream (image, sequence, d), which it must not keep or change."""

PER_TOKEN = ("input_ids", "token_type_ids", "mm_token_type_ids", "moe_mm_token_type_ids")
"""What a processor says of each token of the sequence. All else is of the image."""

PROMPTS_KEPT = 1024
"""So many of the images' own prompts are kept as tokens: what is asked of one image is often asked of others."""

SAMPLES = ((64, 64), (96, 48), (200, 160))
"""Sizes of made-up images that a model is tried with; width, height."""


class LensModel(ABC):
    """A loaded model with one prompt; an image may bring its own.

    A family's subclass gives `family` and `layout`, and whatever of the rest is not as it is here.
    """

    family: ClassVar[str]
    """The model's class in transformers."""

    template: ClassVar[str] = TEMPLATE
    """The prompt for a question, if the processor has no chat template."""

    image_text: ClassVar[str | None] = None
    """What an image is in a prompt's text, where that is more than its token."""

    always_masked: ClassVar[bool] = False
    """Whether the model is told which tokens are no padding where there is none, too: some do otherwise without."""

    own_noise: ClassVar[float] = 0.0
    """By this share of the largest logit an image's logits may differ in another batch, whatever the dtype."""

    generating: ClassVar[Mapping[str, Any]] = {}
    """What else `generate` of transformers is told, so that every block sees all of the prompt."""

    def __init__(self, model: Any, processor: Any, prompt: str | None) -> None:
        self.model = model
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.prompt = self.full_prompt(processor, prompt)
        self.prefix: Prefix | None = None
        """What its prompt has in front of the image, where that is run once: as `share_prefix` finds out."""
        self._samples: dict[str, Encoded] = {}

    # What a family says.

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of patches that the decoder sees of every image. None: each image has a grid of its own."""
        return None

    @property
    def most_patches(self) -> int:
        """How many patches an image has; at most, where each has a grid of its own."""
        if self.grid is None:
            raise NotImplementedError
        return math.prod(self.grid)

    @abstractmethod
    def layout(self, width: int, height: int) -> Layout:
        """How an upright image of this size becomes patches."""

    @property
    def image_token_id(self) -> int:
        """What stands in the sequence at each image position."""
        return int(self.model.config.image_token_id)

    @property
    def decoder(self) -> nn.Module:
        """The language model without its head: its blocks, by one of BLOCKS, and the norm behind them, by one of NORMS.
        Raises ModelError if it is none of these."""
        return decoder_in(self.model.model.language_model)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The decoder's blocks, first to last."""
        return part_called(BLOCKS, self.decoder)  # type: ignore[no-any-return]

    @property
    def final_norm(self) -> nn.Module:
        """The norm between the last block and the head."""
        return part_called(NORMS, self.decoder)  # type: ignore[no-any-return]

    @property
    def lm_head(self) -> nn.Module:
        return head_of(self.model)  # type: ignore[no-any-return]

    def finish(self, logits: Tensor) -> Tensor:
        """What the model makes of its head's output, whose memory may be used for it."""
        return logits

    def run_decoder(self, batch: Mapping[str, Tensor]) -> None:
        """One forward pass without the head."""
        self.model.model(**batch, use_cache=False)

    def entering(self, arguments: dict[str, Any]) -> dict[int, tuple[Tensor, Tensor]]:
        """What a tower adds to later layers of one image's sequence, taken out of the decoder's arguments: by layer the
        positions (position,), and what is added there (position, d)."""
        mask, values = arguments.pop("visual_pos_masks", None), arguments.pop("deepstack_visual_embeds", None)
        if mask is None or not values:
            return {}
        places = mask[0].nonzero()[:, 0]
        return {layer: (places, added) for layer, added in enumerate(values, start=1)}

    def position_ids(self, mask: Tensor) -> Tensor | None:
        """(image, sequence) the number of each token among those that the mask lets be seen. None: the model counts."""
        return (mask.cumsum(-1) - 1).clamp(min=0)

    def check_more(self) -> None:  # noqa: B027 - most families need none
        """What else is checked of a family when a model is loaded. Raises ModelError."""

    @classmethod
    def image_text_of(cls, processor: Any) -> str:
        """What an image is in a prompt's text."""
        return cls.image_text or str(getattr(processor, "image_token", PLACEHOLDER))

    # What follows for every family.

    @classmethod
    def full_prompt(cls, processor: Any, prompt: str | None) -> str:
        """The whole text that the model is given, with the image's place in it.

        A prompt that has the placeholder is taken as it is, and so is what this gave before. Any other is a question:
        it goes, after the image, into the processor's chat template, or without one into the family's `template`. No
        prompt asks DEFAULT_QUESTION. Raises ModelError if there is more than one placeholder, or nothing at all.
        """
        return full_prompt(processor, prompt, cls.image_text_of(processor), cls.template)

    def unembed(self, hidden: Tensor) -> Tensor:
        """The model's logits of un-normed states (..., d): as `product` gives them, in float32 on a GPU."""
        return self.finish(product(self._norm(hidden), self.lm_head))

    @cached_property
    def _norm(self) -> Callable[[Tensor], Tensor]:
        return fastest(self.final_norm, self.device)

    @property
    def layers(self) -> int:
        """The embedding that enters the decoder, and each block's output."""
        return len(self.blocks) + 1

    @property
    def vocabulary_size(self) -> int:
        """Rows of lm_head; ids beyond the tokenizer have no text."""
        return int(self.lm_head.weight.shape[0])  # type: ignore[index]

    @property
    def width(self) -> int:
        """Numbers of a state."""
        return int(self.lm_head.weight.shape[1])  # type: ignore[index]

    @property
    def input_embedding(self) -> Tensor:
        """(vocabulary, d) what stands for each token where text enters the model, on the lens' device."""
        weight: Tensor = self.model.get_input_embeddings().weight
        return weight[: self.vocabulary_size].to(self.device)  # there may be more, of tokens that are never written

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """The prompt's text tokens; the image's are left out."""
        return prompt_ids(self._sample)

    def prompt_length(self, prompt: str) -> int:
        """How many text tokens an image's own prompt has."""
        return len(self._sample_of(prompt).sites["prompt"])

    @property
    def device(self) -> torch.device:
        """Where the lens works; a model may be spread over several GPUs."""
        return self.lm_head.weight.device  # type: ignore[return-value]

    @property
    def attention(self) -> str:
        """How attention is computed, by transformers' name."""
        return str(self.model.config._attn_implementation)

    @property
    def dtype(self) -> torch.dtype:
        """Of the computation. Weights may be stored otherwise; the head's never are."""
        return self.lm_head.weight.dtype  # type: ignore[return-value]

    def encode(self, image: Image.Image, prompt: str | None = None) -> Encoded:
        """The model's input for an upright RGB image, with a prompt of its own if it has one, as `full_prompt` takes
        it. Called from several threads. Raises ModelError if the prompt cannot be read."""
        if self.grid is None:
            return self._encode(image, prompt)
        # Only the pixels differ from image to image.
        sample = self._sample if prompt is None else self._sample_of(prompt)
        found = self.processor.image_processor(image, return_tensors="pt")
        values, layout = {name: found[name] for name in sample.values}, self.layout(*image.size)
        return Encoded(sample.tokens, values, sample.sites, layout.grid, layout.transform, image.size)

    def transform(self, width: int, height: int) -> Transform:
        """What `encode` does to the coordinates of an image of this size."""
        return self.layout(width, height).transform

    @cached_property
    def _sample(self) -> Encoded:
        return self._encode(Image.new("RGB", SAMPLES[0]))

    def _sample_of(self, prompt: str) -> Encoded:
        """The same with a prompt of an image's own, and without the pixels: the very same one for the same prompt."""
        found = self._samples.get(prompt)
        if found is None:
            whole = self._encode(Image.new("RGB", SAMPLES[0]), prompt)
            found = replace(whole, values=dict.fromkeys(whole.values, torch.empty(0)))
            if len(self._samples) >= PROMPTS_KEPT:
                self._samples.clear()
            self._samples[prompt] = found
        return found

    def _encode(self, image: Image.Image, prompt: str | None = None) -> Encoded:
        text = self.prompt if prompt is None else self.full_prompt(self.processor, prompt)
        # Chat templates may begin with what the tokenizer would put in front, as `apply_chat_template` knows, too.
        is_begun = bool(bos := self.tokenizer.bos_token) and text.startswith(bos)
        more = {"add_special_tokens": False} if is_begun else {}
        found = dict(self.processor(images=image, text=text, return_tensors="pt", **more))
        for name in ("attention_mask", "labels"):  # one sequence alone has no padding, and nothing is trained
            found.pop(name, None)
        tokens = {name: found.pop(name)[0] for name in PER_TOKEN if name in found}
        layout = self.layout(*image.size)
        input_ids = tokens["input_ids"]
        places = (input_ids == self.image_token_id).nonzero()[:, 0]
        if not len(places):
            piece = self.tokenizer.convert_ids_to_tokens(self.image_token_id)
            written = self.image_text_of(self.processor)
            raise ModelError(
                f"{type(self.model).__name__}: an image is token {self.image_token_id} by its configuration, which is "
                f"{piece or 'none'} of its tokenizer and not in the prompt.",
                f"Are the tokenizer and the model of one folder? The processor writes {written}.",
            )
        cells = math.prod(layout.grid)
        if len(places) != (wanted := cells if layout.count is None else layout.count):
            raise ModelError(
                f"{type(self.model).__name__}: {len(places)} image positions in the prompt, but {wanted} for a grid of "
                f"{layout.grid[0]} x {layout.grid[1]}.",
                "The processor's settings (patch_size, size, vision_feature_select_strategy) do not fit the model.",
            )
        patches = places if layout.patches is None else places[layout.patches]
        if len(patches) != cells or len(patches.unique()) != cells:
            raise ModelError(f"{type(self.model).__name__}: {len(patches)} patches for {cells} cells of the grid.")
        sites = {"patch": patches, "prompt": self.prompt_places(input_ids)}
        if not len(sites["prompt"]) or sites["prompt"][-1] != len(input_ids) - 1:
            raise ModelError(
                "The prompt ends with the image: the model goes on from a patch, and no text has seen the image.",
                f"Put some text behind it, such as '{PLACEHOLDER} This is'.",
            )
        if (length := len(sites["prompt"])) > MOST_POSITIONS:
            raise ModelError(f"The prompt has {length:,} text tokens; VLQ reads {MOST_POSITIONS:,} at most.")
        view = layout.view and replace(layout.view, places=places[layout.view.places])
        return Encoded(tokens, found, sites, layout.grid, layout.transform, image.size, view)

    def prompt_places(self, input_ids: Tensor) -> Tensor:
        """Where the prompt's text is in the sequence: the same tokens for every image."""
        return (input_ids != self.image_token_id).nonzero()[:, 0]

    @torch.inference_mode()
    def forward(self, images: Sequence[Encoded], visit: Visit, layers: Collection[int] | None = None) -> None:
        """Run a batch; `visit` is called for each layer in order, with states that no final norm has touched.

        With `layers` it is called for these alone, and no block above the last of them is run.

        Layer l is what enters block l, which holds all that was added to the residual stream between two blocks. The
        norm belongs to the lens: at the last layer, too, it is applied by `unembed` and nowhere else. Where sequences
        differ in length, the shorter ones are padded at their left: `places` knows. What padding holds is not said.
        """
        wanted = range(self.layers) if layers is None else layers

        def visit_here(layer: int, hidden: Tensor) -> None:
            visit(layer, hidden)
            if layer == max(wanted) < len(self.blocks):
                raise _SeenAll

        with self._behind_prefix(images, visit) as visit, self.watched(visit_here, wanted), suppress(_SeenAll):
            self.run_decoder(self.batch(images))

    def prefix_of(self, images: Sequence[Encoded]) -> Prefix | None:
        """What a batch is run from behind of, if it is not run whole."""
        return self.prefix if self.prefix is not None and self.prefix.pays(self, images) else None

    @contextmanager
    def _behind_prefix(self, images: Sequence[Encoded], visit: Visit) -> Iterator[Visit]:
        """The decoder runs a batch as `prefix_of` says; what is yielded has `visit` see whole sequences either way."""
        prefix = self.prefix_of(images)
        if prefix is None:
            yield visit
        else:
            with prefix.in_front(self, images, visit) as visit_whole:
                yield visit_whole

    @contextmanager
    def watched(self, visit: Visit, layers: Collection[int]) -> Iterator[None]:
        """Call `visit` with the states of these layers, on the lens' device, whenever the decoder runs."""

        def visit_here(layer: int, hidden: Tensor) -> None:
            visit(layer, hidden.to(self.device))

        handles = [
            block.register_forward_pre_hook(_on_input(visit_here, i), with_kwargs=True)
            for i, block in enumerate(self.blocks)
            if i in layers
        ]
        if (last := len(self.blocks)) in layers:
            handles.append(self.blocks[-1].register_forward_hook(_on_output(visit_here, last)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @torch.inference_mode()
    def answer(
        self, images: Sequence[Encoded], most: int, visit: Visit, layers: Collection[int] | None = None
    ) -> list[Answer]:
        """Run a batch as `forward` does, and have the model go on for at most so many tokens an image, greedily."""
        wanted = range(self.layers) if layers is None else layers
        seen: dict[int, list[Tensor]] = {layer: [] for layer in wanted}  # one (image, 1, d) for each token

        def visit_here(layer: int, hidden: Tensor) -> None:
            if len(seen[layer]) == 0:
                visit(layer, hidden)
                seen[layer].append(hidden[:, :0])  # the prompt is done
            else:
                seen[layer].append(hidden.clone())

        batch = self.batch(images)
        batch.pop("position_ids", None)  # `generate` counts by itself
        batch.setdefault("attention_mask", torch.ones_like(batch["input_ids"]))
        with self._behind_prefix(images, visit) as visit, self.watched(visit_here, wanted):
            # One more than wanted, so that the last one's states are there, too.
            found = self.model.generate(**batch, **self.generating, generation_config=self._greedy(most + 1))
        new = found.sequences[:, batch["input_ids"].shape[1] :]  # (image, token)
        logprobs = torch.stack(
            [
                torch.log_softmax(logits.float(), -1).gather(1, new[:, token, None])[:, 0]
                for token, logits in enumerate(found.logits)
            ],
            1,
        )
        states = torch.stack([torch.cat(of_layer, 1) for of_layer in seen.values()])  # (layer, image, token, d)
        answers = []
        for image, tokens in enumerate(new.tolist()):
            length = next((at for at, id in enumerate(tokens[:most]) if id in self.ends), min(most, len(tokens)))
            ids = tuple(tokens[:length])
            text = self.tokenizer.decode(ids, skip_special_tokens=True).strip()
            own = logprobs[image, :length].tolist()
            answers.append(Answer(ids, tuple(own), text, states[:, image, :length]))
        return answers

    @cached_property
    def ends(self) -> frozenset[int]:
        """The tokens that end an answer."""
        own = self.model.generation_config.eos_token_id
        if own is None:
            own = self.tokenizer.eos_token_id
        return frozenset(own if isinstance(own, list) else [] if own is None else [own])

    def _greedy(self, tokens: int) -> Any:
        """So many tokens, the most probable one each time, whatever the model's folder says of sampling."""
        from transformers import GenerationConfig

        ends = sorted(self.ends)
        self.model.generation_config = GenerationConfig(eos_token_id=ends or None)  # type: ignore[no-untyped-call]
        return GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=ends or None,
            pad_token_id=ends[0] if ends else self._padding,
            return_dict_in_generate=True,
            output_logits=True,
        )

    @property
    def _padding(self) -> int:
        """What fills up sequences in front of what is read, and behind answers that have ended."""
        return int(self.tokenizer.pad_token_id or self.tokenizer.eos_token_id or 0)

    def batch(self, images: Sequence[Encoded]) -> dict[str, Tensor]:
        """The model's arguments for several images, on its device; floating-point values in its dtype."""
        length = max(image.length for image in images)
        padding = self._padding
        joined = {
            name: torch.stack(
                [
                    pad(image.tokens[name], (length - image.length, 0), value=padding if name == "input_ids" else 0)
                    for image in images
                ]
            )
            for name in images[0].tokens
        }
        pinned = self.device.type == "cuda"
        joined |= {name: _joined([image.values[name] for image in images], pinned) for name in images[0].values}
        if self.always_masked or any(image.length < length for image in images):
            mask = torch.stack([(torch.arange(length) >= length - image.length).long() for image in images])
            joined["attention_mask"] = mask
            if (positions := self.position_ids(mask)) is not None:
                joined["position_ids"] = positions
        return {name: self._here(values) for name, values in joined.items()}

    def _here(self, values: Tensor) -> Tensor:
        values = to_device(values, self.device)
        return values.to(self.dtype) if values.is_floating_point() else values

    def places(self, images: Sequence[Encoded], sites: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Where the states of a batch's sites are: image and position in the padded sequence, each (row,).

        Image after image, and of each image site after site.
        """
        length = max(image.length for image in images)
        found = [torch.cat([image.sites[site] for site in sites]) + length - image.length for image in images]
        counts = torch.tensor([len(places) for places in found])
        image = torch.repeat_interleave(torch.arange(len(images)), counts)
        return to_device(image, self.device), to_device(torch.cat(found), self.device)


def if_not_finite(dtype: str) -> str:
    """What to do where a model gives no finite numbers in a dtype."""
    return "The weights hold such values themselves." if dtype == "float32" else "Run with --dtype float32."


def compile_blocks(model: LensModel) -> None:
    """Have PyTorch compile the decoder's blocks, which takes a minute and makes large models faster on a GPU. What
    watches the blocks stays outside of them."""
    for block in model.blocks:
        block.forward = torch.compile(block.forward)


class _SeenAll(Exception):
    """Ends a forward pass whose last layer that is asked for was visited."""


def _joined(values: Sequence[Tensor], pinned: bool) -> Tensor:
    """Values of several images along their first axis; along the others the smaller ones are filled up with zeros.

    In `pinned` memory they are copied to a GPU while something else is done.
    """
    largest = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
    filled = []
    for value in values:
        missing = [(0, most - size) for most, size in zip(largest, value.shape[1:], strict=True)]
        filled.append(
            pad(value, [edge for axis in reversed(missing) for edge in axis]) if any(map(sum, missing)) else value
        )
    size = (sum(map(len, filled)), *filled[0].shape[1:])
    return torch.cat(filled, out=torch.empty(size, dtype=filled[0].dtype, pin_memory=pinned))


def _on_input(visit: Visit, layer: int) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        visit(layer, args[0] if args else kwargs["hidden_states"])

    return hook


def _on_output(visit: Visit, layer: int) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        visit(layer, output[0] if isinstance(output, tuple) else output)

    return hook


def stretched(width: int, height: int, model_width: int, model_height: int) -> Transform:
    """An image that is resized to the model's input, whatever its shape."""
    return Transform(model_width / width, model_height / height, 0.0, 0.0, model_width, model_height)


def longest_edge(model: LensModel) -> int:
    """Pixels of an image's longer side, to which the processor resizes it. Raises ModelError if it does otherwise."""
    processor = model.processor.image_processor
    if not processor.do_resize or not processor.size["longest_edge"]:
        raise ModelError(
            f"{model.family}: the processor does not resize images to a longest edge.",
            "Set do_resize and size in the processor's settings.",
        )
    return int(processor.size["longest_edge"])
