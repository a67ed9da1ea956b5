"""Chat templates of the kinds that published models have, and the bundled tokenizer with one of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

BUNDLED = Path(__file__).resolve().parents[3] / "demo" / "model"

_TURN = "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
_ASKING = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"

PLAIN = "{% for m in messages %}" + _TURN + "{% endfor %}" + _ASKING
"""ChatML, as SmolLM2 and many others."""
MARKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
    "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}" + _TURN + "{% endif %}{% endfor %}" + _ASKING
)
"""ChatML that says itself what the assistant writes."""
THINKING = (
    "{% for m in messages %}{% if m.role == 'assistant' and loop.last %}"
    "{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' + m.content + '<|im_end|>\n' }}"
    "{% else %}" + _TURN + "{% endif %}{% endfor %}" + _ASKING
)
"""Shows the last answer otherwise than those before it, as Qwen3's."""
TRIMMING = (
    "{{ '<|im_start|>system\nToday is a day.<|im_end|>\n' }}{% for m in messages %}"
    "{{ '<|im_start|>' + m.role + '\n\n' + m.content | trim + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n\n' }}{% endif %}"
)
"""A system prompt of its own and trimmed texts, as Llama 3's."""
STRICT = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user and assistant') }}{% endif %}" + _TURN + "{% endfor %}"
)
"""Refuses what it was not made for, as Mistral's and Gemma's; has no prompt to generate from."""

TWO_TURNS = [
    {"role": "user", "content": "Who sought the whale?"},
    {"role": "assistant", "content": "Captain Ahab did, to the end."},
    {"role": "user", "content": "And who told of it?"},
    {"role": "assistant", "content": "Ishmael."},
]


def save_tokenizer(folder: Path, template: str | None = PLAIN) -> Path:
    """The bundled tokenizer with ChatML's tokens and a template."""
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


def write_lines(path: Path, records: Sequence[Any]) -> Path:
    """JSON lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path
