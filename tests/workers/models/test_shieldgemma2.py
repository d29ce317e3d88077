"""ShieldGemma 2: the whole model that its class keeps two logits of, asked of policies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    ShieldGemma2Config,
    ShieldGemma2ForImageClassification,
    ShieldGemma2Processor,
)

from vlq.query.errors import ModelError
from vlq.workers.lenses import logit_lens
from vlq.workers.models import load
from vlq.workers.models.base import LensModel
from vlq.workers.models.processors import load_processor
from vlq.workers.models.shieldgemma2 import ShieldGemma2

from . import checks
from .tiny import make_gemma3

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% for c in m.content %}{% if c.type == 'image' %}<start_of_image>"
    "{% else %}the main object: {{ c.text }} Is the object in the image?{% endif %}{% endfor %}{% endfor %} ASSISTANT:"
)
"""It never asks whether the answer is to begin."""

POLICY = "No dog is in the image."
YES, NO = 30, 40


def make_shieldgemma2(folder: Path) -> Path:
    inner = make_gemma3(folder)
    whole = Gemma3ForConditionalGeneration.from_pretrained(inner)
    parts = Gemma3Processor.from_pretrained(inner, backend="pil")
    parts.tokenizer.pad_token = "<unk>"
    settings = json.loads((inner / "config.json").read_text())
    for name in ("model_type", "architectures", "transformers_version"):
        del settings[name]
    shutil.rmtree(inner)
    config = ShieldGemma2Config(**settings, yes_token_index=YES, no_token_index=NO)
    model = ShieldGemma2ForImageClassification(config)
    model.model.load_state_dict(whole.state_dict())
    model.save_pretrained(folder)
    processor = ShieldGemma2Processor(
        parts.image_processor, parts.tokenizer, chat_template=TEMPLATE, image_seq_length=16
    )
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return make_shieldgemma2(tmp_path_factory.mktemp("models") / "shieldgemma2")


@pytest.fixture(scope="module")
def model(folder: Path) -> LensModel:
    return load(str(folder), prompt=POLICY)


def test_it_reads_what_the_model_reads(model: LensModel) -> None:
    checks.norms_are_not_ones(model)
    checks.reads_what_the_model_reads(model, [checks.noise(64, 64), checks.noise(90, 40, seed=1)])


def test_patches_are_where_they_say(model: LensModel) -> None:
    checks.patches_are_where_they_say(model, checks.noise(180, 70))


def test_answers_are_the_models_own(folder: Path) -> None:
    model = load(str(folder), prompt=POLICY, answer=True)
    with torch.no_grad():  # random weights would answer with the image's own tokens, and these cannot be read anew
        model.lm_head.weight[model.tokenizer.convert_tokens_to_ids("▁") :] = 0  # type: ignore[index]
    checks.answers_what_the_model_answers(model, [checks.noise(60, 40), checks.noise(30, 70)], most=3)


@torch.inference_mode()
def test_the_last_tokens_reading_is_the_classifiers(model: LensModel, folder: Path) -> None:
    """As transformers has it: the processor with policies, and the class with two logits."""
    image = checks.noise(90, 60)
    own = ShieldGemma2Processor.from_pretrained(folder, backend="pil")
    inputs = own(images=[image], custom_policies={"own": POLICY}, policies=["own"], return_tensors="pt")
    encoded = model.encode(image)
    assert torch.equal(inputs["input_ids"][0], encoded.tokens["input_ids"])
    assert torch.equal(inputs["pixel_values"], encoded.values["pixel_values"])
    classified = ShieldGemma2ForImageClassification.from_pretrained(folder)(**inputs)
    last: list[torch.Tensor] = []
    model.forward([encoded], lambda layer, hidden: last.append(hidden[0, -1:].clone()), layers=[model.layers - 1])
    lens = logit_lens(model, model.vocabulary_size, 1)
    found = lens.read(model.layers - 1, last[0], torch.zeros(0, 1))
    order = found.token[0].tolist()
    logprobs = found.logprob[0, [order.index(id) for id in (YES, NO)]]
    torch.testing.assert_close(torch.softmax(logprobs, -1), classified.probabilities[0], atol=1e-4, rtol=1e-4)


def test_weights_by_the_names_of_the_hub(model: LensModel, folder: Path, tmp_path: Path) -> None:
    """Those by which they were converted first, with a head that is the embedding."""
    other = Path(shutil.copytree(folder, tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    del weights["model.lm_head.weight"]
    renamed = {
        name.replace("model.model.", "model.", 1).replace(".vision_tower.", ".vision_tower.vision_model."): values
        for name, values in weights.items()
    }
    assert "model.language_model.model.norm.weight" in renamed
    save_file(renamed, other / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((other / "config.json").read_text())
    config["text_config"]["tie_word_embeddings"] = config["tie_word_embeddings"] = True
    (other / "config.json").write_text(json.dumps(config))
    found = load(str(other), prompt=POLICY)
    assert found.lm_head.weight is found.model.get_input_embeddings().weight
    checks.reads_what_the_model_reads(found, [checks.noise(64, 64)])
    black = Image.new("RGB", (64, 64))
    assert torch.equal(checks.embeddings(found, black)[0], checks.embeddings(model, black)[0])


def test_another_prompt_is_another_policy(model: LensModel) -> None:
    again = checks.asked(model, "No cat.")
    assert again.model is model.model
    assert again.prompt == model.prompt.replace(POLICY, "No cat.")
    assert checks.asked(model, model.prompt).prompt == model.prompt


def test_it_is_read_whole(folder: Path) -> None:
    model = ShieldGemma2ForImageClassification.from_pretrained(folder)
    model.hf_device_map = {"": "cpu"}
    with pytest.raises(ModelError, match="read neither quantised nor from several GPUs"):
        ShieldGemma2(model, load_processor(str(folder), folder), None)
