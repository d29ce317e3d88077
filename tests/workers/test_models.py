"""The facade over models: the lens against the model's own outputs, geometry, vocabulary, and what bad models get."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image

from vlq.query.errors import MissingExtra, ModelError
from vlq.query.image.pictures import decode
from vlq.workers.lenses import logit_lens
from vlq.workers.models import load, load_processor, processors
from vlq.workers.models.base import LensModel, compile_blocks
from vlq.workers.models.checks import check
from vlq.workers.models.files import model_hash
from vlq.workers.models.prompts import TEMPLATE, full_prompt
from vlq.workers.models.vocabulary import vocabulary_hash, vocabulary_table
from vlq.workers.models.weights import first_line

from .conftest import PADDED, make_model, save_images
from .runs import vlq

PROMPT = "USER: <image>\nWhat is the main object? ASSISTANT:"


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> LensModel:
    return load(str(tiny_model), prompt=PROMPT)


def noise(width: int = 50, height: int = 40, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def hidden_states(model: LensModel, images: list[Image.Image]) -> list[torch.Tensor]:
    """What the facade's hooks see: one (image, sequence, d) per layer."""
    seen: list[torch.Tensor] = []
    model.forward([model.encode(image) for image in images], lambda layer, hidden: seen.append(hidden.clone()))
    return seen


def test_every_layer_equals_output_hidden_states(model: LensModel) -> None:
    images = [noise(seed=1), noise(30, 70, seed=2)]
    seen = hidden_states(model, images)

    inputs = model.processor(images=images, text=[PROMPT] * 2, return_tensors="pt")
    with torch.inference_mode():
        outputs = model.model(**inputs, output_hidden_states=True)
    norm, head = model.model.model.language_model.norm, model.model.lm_head
    assert len(seen) == len(outputs.hidden_states) == model.layers
    for layer, (ours, theirs) in enumerate(zip(seen, outputs.hidden_states, strict=True)):
        # The last state that the library returns has been through the norm already.
        normed = theirs if layer == model.layers - 1 else norm(theirs)
        with torch.inference_mode():
            expected = torch.log_softmax(head(normed).double(), -1).flatten(0, 1)
        readings = logit_lens(model, 6, 16).read(layer, ours.flatten(0, 1), torch.ones(1, ours[..., 0].numel()))
        order = np.argsort(-expected.numpy(), -1, kind="stable")[:, :6]
        values = np.take_along_axis(expected.numpy(), order, -1)
        np.testing.assert_allclose(readings.logprob.numpy(), values, atol=1e-4)
        apart = (np.diff(values) < -1e-4).all(-1)
        assert apart.mean() > 0.5
        assert np.array_equal(readings.token.numpy()[apart], order[apart])


def test_the_last_layer_is_the_models_own_answer(model: LensModel) -> None:
    images = [noise(seed=3), noise(seed=4)]
    last = hidden_states(model, images)[-1]
    inputs = model.processor(images=images, text=[PROMPT] * 2, return_tensors="pt")
    with torch.inference_mode():
        logits = model.model(**inputs).logits
    ones = torch.ones(1, last[..., 0].numel())
    readings = logit_lens(model, 3, 1000).read(model.layers - 1, last.flatten(0, 1), ones)
    assert torch.equal(readings.token[:, 0], logits.argmax(-1).flatten())


def test_norms_of_the_test_model_are_not_ones(model: LensModel) -> None:
    # With ones, a norm applied twice would go unseen.
    assert float((model.final_norm.weight.detach() - 1).abs().max()) > 0.3  # type: ignore[operator]


def test_positions_come_from_the_input_ids(model: LensModel) -> None:
    assert model.grid == (4, 4)
    sites = model.encode(noise()).sites
    assert len(sites["patch"]) == model.most_patches == 16
    assert np.array_equal(np.diff(sites["patch"].numpy()), np.ones(15))
    text = model.tokenizer.decode(model.prompt_ids, skip_special_tokens=False)
    assert "<image>" not in text
    assert text.endswith("ASSISTANT:")
    assert len(model.prompt_ids) + 16 == model.encode(noise()).length


def test_prompts(tiny_model: Path) -> None:
    default = load(str(tiny_model))
    assert default.prompt == "USER: <image>\nWhat is in this image? ASSISTANT:"
    assert load(str(tiny_model), prompt="What is the dog?").prompt == "USER: <image>\nWhat is the dog? ASSISTANT:"
    assert load(str(tiny_model), prompt="<image> dog").prompt == "<image> dog"
    with pytest.raises(ModelError, match="2 times"):
        load(str(tiny_model), prompt="<image> <image>")
    for nothing in ("", " \n"):
        with pytest.raises(ModelError, match="The prompt is empty"):
            load(str(tiny_model), prompt=nothing)
    for last in ("<image>", "USER: <image>"):  # where the answer follows a patch, and no text has seen the image
        with pytest.raises(ModelError, match="The prompt ends with the image"):
            load(str(tiny_model), prompt=last, answer=True)


def test_a_chat_template_places_the_image(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "chat"
    shutil.copytree(tiny_model, folder)
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{% for c in m.content %}{% if c.type == 'image' %}<image> {% else %}{{ c.text }}"
        "{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
    )
    model = load(str(folder), prompt="What is this?")
    assert model.prompt == "<image> What is this? ASSISTANT:"
    with patch.object(model.processor, "apply_chat_template", side_effect=model.processor.apply_chat_template) as fill:
        model.prompt_length("Where is it?")
    assert fill.call_count == 1  # of an image's own prompt, too
    # As those are that know of text alone.
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ 'USER: ' + m.content }}{% endfor %}")
    with pytest.raises(
        ModelError, match="chat template takes no image with a question: can only concatenate"
    ) as caught:
        load(str(folder), prompt="What is this?")
    assert "--prompt '<image> ...'" in str(caught.value.hint)
    leaves_out = "{% for m in messages %}{% for c in m.content %}{{ c.text }}{% endfor %}{% endfor %}"
    writes_the_list = "{% for m in messages %}{{ m.role + ': ' }}{{ m.content | trim }}{% endfor %}"
    for template in (leaves_out, writes_the_list):
        (folder / "chat_template.jinja").write_text(template)
        with pytest.raises(ModelError, match="chat template has no place for an image") as caught:
            load(str(folder), prompt="What is this?")
        assert "--prompt '<image> ...'" in str(caught.value.hint)
    assert load(str(folder), prompt="<image> What is this?").prompt == "<image> What is this?"


def test_a_chat_template_of_the_tokenizer_alone(tiny_model: Path, tmp_path: Path) -> None:
    """It is the model's where it has a place for an image; those of language models know of text alone."""
    of_images = (
        "{% for m in messages %}{% for c in m.content %}{% if c.type == 'image' %}<image> {% else %}{{ c.text }}"
        "{% endif %}{% endfor %}{% endfor %} ASSISTANT:"
    )
    of_text = "{% for m in messages %}{{ 'USER: ' + m.content }}{% endfor %}"
    writes_the_list = "{% for m in messages %}{{ m.content | trim }}{% endfor %}"
    own = "USER: <image>\nWhat is this? ASSISTANT:"
    for name, template, prompt in (
        ("images", of_images, "<image> What is this? ASSISTANT:"),
        ("text", of_text, own),
        ("list", writes_the_list, own),
    ):
        folder = edited(tiny_model, tmp_path / name, "tokenizer_config.json", chat_template=template)
        assert load(folder, prompt="What is this?").prompt == prompt


@pytest.mark.parametrize("format", ["%Y-%m-%d", "%d %b %Y", "%A, %B %-d, %y"])
def test_a_template_that_writes_the_date_writes_the_same_on_any_day(
    tiny_model: Path, tmp_path: Path, format: str
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "chat_template.jinja").write_text(
        "  {%- if strftime_now is defined %}{%- set date = strftime_now('FORMAT') %}{%- endif %}\n\nIt is {{ date }}."
        "{% for m in messages %}{% for c in m.content %}{% if c.type == 'image' %}<image>{% else %}{{ c.text }}"
        "{% endif %}{% endfor %}{% endfor %}".replace("FORMAT", format)
    )
    processor = load_processor("it", folder)
    found = full_prompt(processor, "What is this?", "<image>", TEMPLATE)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}]
    with patch("transformers.utils.chat_template_utils.datetime") as clock:
        clock.now.return_value = datetime(2025, 1, 1)
        assert found == processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert "2025" in found or "Wednesday" in found
    processor.chat_template = {"default": processor.chat_template, "tools": "no"}
    assert full_prompt(processor, "What is this?", "<image>", TEMPLATE) == found


@pytest.mark.parametrize("begun", [True, False])
def test_a_template_that_begins_the_text_does_so_once(tiny_model: Path, tmp_path: Path, begun: bool) -> None:
    """As Gemma's and LLaMA's: their tokenizers begin what they are given, too."""
    from tokenizers.processors import TemplateProcessing

    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "chat_template.jinja").write_text(
        ("{{ bos_token }}" if begun else "") + "{% for m in messages %}{% for c in m.content %}"
        "{% if c.type == 'image' %}<image>{% else %}{{ c.text }}{% endif %}{% endfor %}{% endfor %} ASSISTANT:"
    )
    processor = load_processor("it", folder)
    ids = [("<s>", processor.tokenizer.bos_token_id)]
    processor.tokenizer.backend_tokenizer.post_processor = TemplateProcessing("<s> $A", "<s> $A $B", ids)
    processor.tokenizer.save_pretrained(folder)
    model = load(str(folder), prompt="What is this?")
    content = [{"type": "image", "image": noise()}, {"type": "text", "text": "What is this?"}]
    expected = model.processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True
    )["input_ids"][0]
    found = model.encode(noise()).tokens["input_ids"].tolist()
    assert found == list(expected)
    assert found[0] == processor.tokenizer.bos_token_id
    assert found.count(found[0]) == 1
    assert model.prompt_ids[0] == found[0]


# --- geometry --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pad": True},
        {"size": {"height": 32, "width": 32}},
        {"size": {"height": 32, "width": 32}, "crop": False},
        {"size": {"shortest_edge": 24}},  # smaller than the crop: the processor pads with black
    ],
    ids=["crop", "pad", "squash", "squash-only", "crop-pads"],
)
@pytest.mark.parametrize(("width", "height"), [(320, 200), (130, 331), (257, 256), (64, 64)])
def test_the_transform_is_what_the_processor_does(
    tmp_path: Path, options: dict[str, Any], width: int, height: int
) -> None:
    model = load(str(make_model(tmp_path / "m", **options)))
    # Colours tell coordinates: red is x, green is y, in 255ths of the image.
    y, x = np.mgrid[0:height, 0:width] + 0.5
    coordinates = np.stack([x / width, y / height, np.ones_like(x)], -1)
    values = (
        model.encode(Image.fromarray((coordinates * 255).round().astype(np.uint8))).values["pixel_values"][0].numpy()
    )
    processor = model.processor.image_processor
    seen = values.transpose(1, 2, 0) * processor.image_std + processor.image_mean  # (row, column, channel) in 0 to 1

    transform = model.transform(width, height)
    assert seen.shape[:2] == (transform.height, transform.width)
    rows, columns = np.mgrid[0 : transform.height, 0 : transform.width] + 0.5
    original_x = (columns - transform.offset_x) / transform.scale_x
    original_y = (rows - transform.offset_y) / transform.scale_y
    # Well inside the image, where no edge or padding bleeds in.
    margin_x, margin_y = 3 / transform.scale_x, 3 / transform.scale_y
    inside = (original_x > margin_x) & (original_x < width - margin_x)
    inside &= (original_y > margin_y) & (original_y < height - margin_y)
    assert inside.mean() > 0.1
    # Within a third of a pixel of the model's input.
    error_x = np.abs(seen[..., 0] * width - original_x)[inside] * transform.scale_x
    error_y = np.abs(seen[..., 1] * height - original_y)[inside] * transform.scale_y
    assert error_x.max() < 0.34
    assert error_y.max() < 0.34


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_a_transparent_image_is_what_the_models_processor_makes_of_its_file(model: LensModel, mode: str) -> None:
    image, file = noise().convert("RGBA"), io.BytesIO()
    image.putalpha(noise(seed=1).convert("L"))
    if mode == "P":
        noise().quantize(16).save(file, "PNG", transparency=3)
    elif mode == "RGB":
        noise().save(file, "PNG", transparency=noise().getpixel((5, 5)))
    else:
        image.convert(mode).save(file, "PNG")
    expected = model.processor(images=Image.open(file), text=PROMPT, return_tensors="pt")["pixel_values"]
    found = model.encode(decode(file.getvalue())).values["pixel_values"]
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)  # a step of 255


# --- vocabulary ------------------------------------------------------------------------------------------------


def test_vocabulary(model: LensModel) -> None:
    rows = vocabulary_table(model.tokenizer, model.vocabulary_size).to_pylist()
    by_piece = {row["piece"]: row for row in rows}
    assert [row["id"] for row in rows] == list(range(model.vocabulary_size))
    assert by_piece["▁dog"] | {"id": 0} == {
        "id": 0,
        "piece": "▁dog",
        "text": " dog",
        "word_start": True,
        "special": False,
    }
    assert (by_piece["dog"]["text"], by_piece["dog"]["word_start"]) == ("dog", False)
    assert (by_piece["<0x0A>"]["text"], by_piece["<0x0A>"]["word_start"]) == ("\n", False)
    assert (by_piece["▁"]["text"], by_piece["▁"]["word_start"]) == (" ", False)
    assert by_piece["<s>"]["special"]
    assert by_piece["<image>"]["special"]
    for row in rows[-PADDED:]:
        assert (row["piece"], row["text"], row["word_start"], row["special"]) == (None, None, False, False)
    ids = model.tokenizer("What is the dog", add_special_tokens=False)["input_ids"]
    assert "".join(rows[id]["text"] for id in ids) == " What is the dog"


def test_a_vocabulary_with_gaps() -> None:
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    ids = {"d": 0, "o": 1, "g": 2, "do": 3, "Ġdo": 4, "Ġ": 5, "Ġdog": 9, "<s>": 12}
    backend = Tokenizer(models.BPE(ids, [("d", "o"), ("Ġ", "do"), ("Ġdo", "g")]))
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")
    assert len(tokenizer) == 8
    for size in (16, 11):
        rows = vocabulary_table(tokenizer, size).to_pylist()
        assert {row["piece"]: row["id"] for row in rows if row["piece"]} == {
            piece: id for piece, id in ids.items() if id < size
        }
        assert (rows[9]["text"], rows[9]["word_start"]) == (" dog", True)
        assert [rows[id]["text"] for id in (6, 7, 8, 10)] == [None] * 4
    assert vocabulary_table(tokenizer, 16)["special"].to_pylist() == [id == 12 for id in range(16)]


def test_vocabulary_hash_tells_vocabularies_apart(model: LensModel) -> None:
    table = vocabulary_table(model.tokenizer, model.vocabulary_size)
    assert vocabulary_hash(table) == vocabulary_hash(table)
    assert vocabulary_hash(table) != vocabulary_hash(table.slice(1))


def test_model_hash_knows_content_not_place(tiny_model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(tiny_model, copy)
    (copy / "README.md").write_text("a card")
    assert model_hash(copy) == model_hash(tiny_model)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert model_hash(copy) != model_hash(tiny_model)


# --- models that will not do -----------------------------------------------------------------------------------


def edited(folder: Path, to: Path, file: str, **changes: Any) -> str:
    shutil.copytree(folder, to)
    values = json.loads((to / file).read_text())
    (to / file).write_text(json.dumps(values | changes))
    return str(to)


def test_missing_and_unfit_models(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    bad = {
        "There is no model folder": str(tmp_path / "missing"),
        "no config.json": str(tmp_path / "nothing"),
        "not an image-text-to-text model": edited(tiny_model, tmp_path / "llama", "config.json", model_type="llama"),
        "of type moondream1, which comes with code of its own": edited(
            tiny_model, tmp_path / "moondream", "config.json", model_type="moondream1", auto_map={"AutoModel": "m.M"}
        ),
        "no adapter for models of type janus": edited(
            tiny_model, tmp_path / "janus", "config.json", model_type="janus"
        ),
        "an image is token 7 by its configuration, which is ▁What of its tokenizer and not in the prompt": edited(
            tiny_model, tmp_path / "other", "config.json", image_token_index=7
        ),
        "an image is token 54 by its configuration, which is none of its tokenizer": edited(
            tiny_model, tmp_path / "beyond", "config.json", image_token_index=54
        ),
        "image positions": edited(
            tiny_model, tmp_path / "grid", "processor_config.json", num_additional_image_tokens=2
        ),
    }
    for message, folder in bad.items():
        with pytest.raises(ModelError, match=message) as caught:
            load(folder)
        assert caught.value.hint


@pytest.mark.parametrize(
    ("config", "message", "hint"),
    [
        ({"model_type": "llava_llama", "mm_vision_tower": "clip"}, "of type llava_llama in the layout of", "llava-hf/"),
        (
            {"model_type": "llava", "mm_vision_tower": "clip"},
            "of type llava in the layout of",
            "llava-hf/llava-1.5-7b-hf",
        ),
        ({"model_type": "llava", "mm_image_tower": "clip"}, "of type llava in the layout of", "llava-hf/"),
        (
            {"model_type": "multi_modality"},
            "of type multi_modality in the layout of",
            "deepseek-community/Janus-Pro-1B",
        ),
        ({"model_type": "internvl_chat", "vision_config": {}, "auto_map": {}}, "in the layout of", "InternVL3-1B-hf"),
        ({"auto_map": {"AutoModel": "m.M"}}, "model comes with code of its own", "end in -hf"),
        ({"model_type": "deepseek_vl_v2"}, r"transformers [\d.]+ does not know", "end in -hf"),
        ({"architectures": ["A"]}, "names no model_type", "complete"),
        ({"model_type": None}, "names no model_type", "complete"),
        ({"model_type": "llava", "quantization": {"group_size": 64, "bits": 4}}, "for MLX", "that it was made of"),
        ({"model_type": "qwen2_5_omni"}, "also speaks", "transformers.Qwen2_5OmniThinkerForConditionalGeneration."),
    ],
    ids=str,
)
def test_models_in_other_layouts(tmp_path: Path, config: dict[str, Any], message: str, hint: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=message) as caught:
        load(str(tmp_path / "model"))
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("file", "message", "hint"),
    [
        ("params.json", "but a model in Mistral's own layout", "mistral-community/pixtral-12b"),
        ("llava-Q4_K.gguf", "but GGUF files, which are not read", "that they were made of"),
    ],
)
def test_folders_of_something_else(tmp_path: Path, file: str, message: str, hint: str) -> None:
    (tmp_path / file).write_text("{}")
    with pytest.raises(ModelError, match=f"holds no config.json, {message}") as caught:
        load(str(tmp_path))
    assert hint in str(caught.value.hint)


def test_an_adapter_beside_its_model(tiny_model: Path, tmp_path: Path) -> None:
    """Transformers would read the model, and without peft not a word of the adapter."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds an adapter for another model") as caught:
        load(str(folder))
    assert "merge_and_unload" in str(caught.value.hint)


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_pointers_in_place_of_files(tiny_model: Path, tmp_path: Path, file: str) -> None:
    """The text is that of git-lfs' specification."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    said = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d' * 32}\nsize 4976698672\n"
    (folder / file).write_text(said)
    with pytest.raises(ModelError, match=f"{file} is a pointer of Git LFS") as caught:
        load(str(folder))
    assert caught.value.hint == "Run there: git lfs pull"


def test_a_processor_that_leaves_images_their_shape(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="expected a grid of 4 x 4 patches of every image"):
        load(str(make_model(tmp_path / "m", crop=False)))


@pytest.mark.parametrize("part", ["processor", "image_processor"])
def test_a_processor_with_code_of_its_own(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """It is not run, and nobody is asked on a terminal whether it should be."""
    folder, kind = tmp_path / "own", {"processor": "AutoProcessor", "image_processor": "AutoImageProcessor"}[part]
    shutil.copytree(tiny_model, folder)
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n\nclass Own: pass\n")
    saved = json.loads((folder / "processor_config.json").read_text())
    own = saved if part == "processor" else saved["image_processor"]
    own |= {f"{part}_class" if part == "processor" else f"{part}_type": "Own", "auto_map": {kind: "own.Own"}}
    (folder / "processor_config.json").write_text(json.dumps(saved))

    def ask(question: str) -> str:
        raise AssertionError(question)

    monkeypatch.setattr("builtins.input", ask)
    with pytest.raises(ModelError, match=r"The processor of .* comes with code of its own"):
        load(str(folder))
    assert not (tmp_path / "ran").exists()


def test_a_tokenizer_for_another_package(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "slow"
    shutil.copytree(tiny_model, folder)
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    found = processors.find_spec
    monkeypatch.setattr(processors, "find_spec", lambda name: None if name == "sentencepiece" else found(name))
    with pytest.raises(MissingExtra, match=r"stored as tokenizer\.model alone, and sentencepiece") as caught:
        load(str(folder))
    assert caught.value.hint == "Run: pip install sentencepiece"


def test_damaged_weights(tiny_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    cut = tmp_path / "cut"
    shutil.copytree(tiny_model, cut)
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(str(cut))

    lacking = tmp_path / "lacking"
    shutil.copytree(tiny_model, lacking)
    weights = load_file(lacking / "model.safetensors")
    del weights[next(name for name in weights if "lm_head" in name)]
    save_file(weights, lacking / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="lacks 1 weights"):
        load(str(lacking))

    of_another = tmp_path / "of_another"
    shutil.copytree(tiny_model, of_another)
    config = json.loads((of_another / "config.json").read_text())
    config["text_config"]["vocab_size"] += 9
    (of_another / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"lm_head\.weight is stored as 55 x 32, and by its .* it is 64 x 32\."):
        load(str(of_another))

    overflowing = tmp_path / "overflowing"
    shutil.copytree(tiny_model, overflowing)
    weights = load_file(overflowing / "model.safetensors")
    weights[next(name for name in weights if "layers.1.mlp.down_proj" in name)] *= 1e7
    save_file(weights, overflowing / "model.safetensors", {"format": "pt"})
    load(str(overflowing))
    with pytest.raises(ModelError, match="the model's logits are not finite in float16") as caught:
        load(str(overflowing), dtype="float16")
    assert caught.value.hint == "Run with --dtype float32."

    pruned = tmp_path / "pruned"
    shutil.copytree(tiny_model, pruned)
    (pruned / "model.safetensors").unlink()
    (pruned / "model.safetensors").symlink_to(tmp_path / "blobs" / "gone")
    with pytest.raises(ModelError, match="holds no weights"):
        model_hash(pruned)


@pytest.mark.parametrize(
    ("said", "passed_on"),
    [
        ("\nIt needs timm.\nAnd more.", "It needs timm."),
        ("Made from one of: \n(1) a file,\n(2) sentencepiece.", "Made from one of: (1) a file, (2) sentencepiece."),
        ("One of " + ", ".join(["bert"] * 200), "One of " + "bert, " * 65 + "ber..."),
        ("", "ValueError"),
    ],
)
def test_what_is_passed_on_of_what_a_library_says(said: str, passed_on: str) -> None:
    assert first_line(ValueError(said)) == passed_on


def test_an_adapter_that_forgets_the_norm_is_caught(model: LensModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "unembed", lambda hidden: model.lm_head(hidden))
    with pytest.raises(ModelError, match="differs from the model's logits"):
        check(model)


def test_an_adapter_that_norms_twice_is_caught(model: LensModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "unembed", lambda hidden: model.lm_head(model.final_norm(model.final_norm(hidden))))
    with pytest.raises(ModelError, match="differs from the model's logits"):
        check(model)


def test_a_model_spread_over_devices_reads_the_same(tiny_model: Path, model: LensModel) -> None:
    spread = load(str(tiny_model), prompt=PROMPT, device_map="auto")  # all on the one device here
    images = [noise(seed=1), noise(30, 70, seed=2)]
    for ours, theirs in zip(hidden_states(spread, images), hidden_states(model, images), strict=True):
        assert torch.equal(ours, theirs)


def test_a_model_that_does_not_fit_its_devices(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ModelError, match="does not fit into the GPUs of one worker") as caught:
        load(str(tiny_model), prompt=PROMPT, device="cuda", device_map="cpu")
    assert "--gpus-per-worker" in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # by PyTorch's own compiler
def test_compiled_blocks_are_watched_from_outside(tiny_model: Path) -> None:
    """Compiled for real, by PyTorch for this CPU."""
    model = load(str(tiny_model), prompt=PROMPT)
    images = [noise(seed=5), noise(seed=6)]
    before = hidden_states(model, images)
    compile_blocks(model)
    for plain, compiled in zip(before, hidden_states(model, images), strict=True):
        torch.testing.assert_close(compiled, plain, atol=1e-5, rtol=1e-5)
    check(model, 2)
    with pytest.raises(ModelError, match="compiled for a GPU"):
        load(str(tiny_model), compiled=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--answer", "3"], "--compile does not go with --answer"),
        (["--device-map", "auto"], "--compile does not go with --device-map"),
    ],
)
def test_where_blocks_are_not_compiled(tmp_path: Path, tiny_model: Path, options: list[str], message: str) -> None:
    images = save_images(tmp_path / "images", 1)
    done = vlq("run", images, "--model", tiny_model, "--cache", tmp_path / "cache", "--compile", *options)
    _, error = done.communicate(timeout=120)
    assert done.returncode == 2
    assert message in error


def test_a_file_that_stays_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text(f"{{{name}}}")
    read: list[str] = []
    real = hashlib.file_digest

    def counted(file: Any, kind: str) -> Any:
        read.append(Path(file.name).name)
        return real(file, kind)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    found = model_hash(folder)
    assert [model_hash(folder) for _ in range(2)] == [found, found]
    assert read == ["config.json", "model.safetensors"]
    before = (folder / "config.json").stat()
    (folder / "config.json").write_text("{CONFIG.JSON}")  # as long, and as old as it says
    os.utime(folder / "config.json", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert model_hash(folder) != found
    assert read[2:] == ["config.json"]
    assert model_hash(Path(shutil.copytree(folder, tmp_path / "other"))) == model_hash(folder)
