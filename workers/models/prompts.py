"""The text that a model is given with an image: a prompt as it is, or a question in the processor's chat template."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from vlq.query.errors import ModelError
from vlq.workers.models import PLACEHOLDER
from vlq.workers.models.weights import first_line

DEFAULT_QUESTION = "What is in this image?"

TEMPLATE = "USER: {image}\n{question} ASSISTANT:"
"""LLaVA's prompt, for a processor without a chat template."""

TODAY = datetime(2025, 1, 1, tzinfo=UTC)
"""What chat templates are told that write today's date, as Mistral Small's does: a run that is gone on with on another
day asks what it asked."""

DATED = "{%- macro strftime_now(format) -%}{{ format"
DATED += "".join(f" | replace('%{code}', '{TODAY:%{code}}')" for code in (*"AaBbcDdeFfHIjMmpRSTXxYyZz", "-d", "-m"))
DATED += " }}{%- endmacro -%}{{ '' }}"
"""Jinja that is put in front of such a template, so that it tells this day in place of transformers' own."""


def full_prompt(processor: Any, prompt: str | None, image_text: str, template: str) -> str:
    """`LensModel.full_prompt` of a family whose image is `image_text` in a prompt's text, and whose questions go into
    `template` where the processor has none."""
    token = getattr(processor, "image_token", PLACEHOLDER)
    if prompt is not None:
        if not prompt.strip():
            raise ModelError("The prompt is empty.", f"Give a question, or a whole prompt with {PLACEHOLDER} in it.")
        places = prompt.count(token) + (prompt.count(PLACEHOLDER) if token != PLACEHOLDER else 0)
        if places > 1:
            raise ModelError(f"The prompt names the image {places} times.", f"One {PLACEHOLDER} is read per prompt.")
        if places == 1:
            return prompt if image_text in prompt else prompt.replace(PLACEHOLDER, image_text)
    question = DEFAULT_QUESTION if prompt is None else prompt
    if not processor.chat_template and processor.tokenizer.chat_template:
        _take_tokenizers_template(processor)
    if not processor.chat_template:
        return template.format(image=image_text, question=question)
    if not hasattr(processor, "image_token"):  # what stands for an image is known to the template alone
        before, _, behind = in_template(processor, "\0").partition("\0")
        if question.startswith(before) and question.endswith(behind):
            return question
    return in_template(processor, question)


def _take_tokenizers_template(processor: Any) -> None:
    """Give a processor its tokenizer's chat template, if that has a place for an image: those of language models know
    of text alone, and are let go of."""
    tokenizer = processor.tokenizer
    processor.chat_template = tokenizer.chat_template
    try:
        in_template(processor, DEFAULT_QUESTION)
    except ModelError:
        processor.chat_template = tokenizer.chat_template = None


def in_template(processor: Any, question: str) -> str:
    """The prompt that a processor's chat template makes of an image and a question. Raises ModelError."""
    content = [{"type": "image"}, {"type": "text", "text": question}]
    instead = f"Give a whole prompt, which is not put into it: --prompt '{PLACEHOLDER} ...'"

    template = processor.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    dated = {"chat_template": DATED + template} if template and "strftime_now" in template else {}

    def filled(content: list[dict[str, str]]) -> str:
        messages = [{"role": "user", "content": content}]
        return str(processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **dated))

    try:
        prompt = filled(content)
    except Exception as error:  # a template may do anything
        message = f"The model's chat template takes no image with a question: {first_line(error)}"
        raise ModelError(message, instead) from error
    token = getattr(processor, "image_token", None)
    if token is not None and token in prompt:  # a question names none
        return prompt
    without = ""
    with suppress(Exception):
        without = filled(content[1:])
    if prompt == without or str(content) in prompt:  # one for text alone leaves images out, or writes the list itself
        raise ModelError("The model's chat template has no place for an image.", instead)
    return prompt
