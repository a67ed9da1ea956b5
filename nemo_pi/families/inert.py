"""What in the JSON files of a Hugging Face folder names code, and the same files without it.

`auto_map` names classes in .py files, which are never copied; an attention called `org/name` is a kernel that
transformers downloads and loads; a few other keys ask for the one or the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_CODE_KEYS = frozenset(
    ("auto_map", "trust_remote_code", "code_revision", "custom_pipelines", "custom_generate")
    + ("use_kernels", "kernel_config", "allow_all_kernels")
)
_IMPLEMENTATION = re.compile(r"_?(attn|attention|experts)_implementation(_internal)?")
# What transformers has itself; a name of any other form is looked for on the hub.
_KNOWN_IMPLEMENTATION = re.compile(r"eager|sdpa|flash_attention_\d|flex_attention|grouped_mm|batched_mm")
_CLASS_KEYS = ("tokenizer_class", "processor_class", "image_processor_type", "feature_extractor_type")


def without_code(values: Mapping[str, Any], *, implementations: bool = True) -> dict[str, Any]:
    """A copy of a configuration in which no key names code, at any depth; everything else is as it was.

    Args:
        values: of config.json, generation_config.json or a tokenizer's file.
        implementations: keep the choice of an attention where it is one of transformers' own.
    """
    return {
        key: _inert(value, implementations)
        for key, value in values.items()
        if not _names_code(str(key), value, implementations)
    }


def _inert(value: Any, implementations: bool) -> Any:
    if isinstance(value, Mapping):
        return without_code(value, implementations=implementations)
    return [_inert(item, implementations) for item in value] if isinstance(value, list) else value


def _names_code(key: str, value: Any, implementations: bool) -> bool:
    if key in _CODE_KEYS:
        return True
    if _IMPLEMENTATION.fullmatch(key):
        if not implementations:
            return True
        named = value.values() if isinstance(value, Mapping) else [value]  # by part of the model
        return any(name is not None and not _KNOWN_IMPLEMENTATION.fullmatch(str(name)) for name in named)
    # "org/name--module.Class" is a class in somebody's repository; one of transformers' own is a plain name.
    return key in _CLASS_KEYS and isinstance(value, str) and not value.isidentifier()
