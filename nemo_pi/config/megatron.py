"""Keys of the YAML that Megatron takes as they stand: declared on the schema's field, carried by one walk.

`passed(None, transformer="masked_softmax_fusion")` as the default of a field is all that stands between a key
and Megatron's TransformerConfig; `optimizer` and `ddp` do the same for its OptimizerConfig and its
DistributedDataParallelConfig.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import field, fields, is_dataclass
from typing import Any, TypeVar

T = TypeVar("T")
Names = str | tuple[str, ...] | None
"""An option of Megatron's, or one for each item of the key's value."""


def passed(default: T, *, transformer: Names = None, optimizer: Names = None, ddp: Names = None) -> T:
    """A field of the schema whose value Megatron takes as it stands; null leaves it to nemo_pi or Megatron.

    Args:
        default: of the field.
        transformer: what it is called in Megatron's TransformerConfig.
        optimizer: what it is called in its OptimizerConfig.
        ddp: what it is called in its DistributedDataParallelConfig.
    """
    names = {"transformer": transformer, "optimizer": optimizer, "ddp": ddp}
    declared: T = field(default=default, metadata={place: name for place, name in names.items() if name})
    return declared


def options_of(section: Any, place: str) -> dict[str, Any]:
    """Megatron's options that a section of the YAML and the sections in it give, by Megatron's names.

    Args:
        section: a dataclass of the schema.
        place: `transformer`, `optimizer` or `ddp`, as in `passed`.
    """
    return {option: value for _, option, value in _given(section, place, "model")}


def keys_of(section: Any, place: str) -> dict[str, str]:
    """Megatron's name of each option that a section gives → the key of the YAML that gives it."""
    return {option: key for key, option, _ in _given(section, place, "model")}


def _given(section: Any, place: str, path: str) -> Iterator[tuple[str, str, Any]]:
    """(key, option, value) of every declared field that is not null."""
    for key in fields(section):
        value, names, dotted = getattr(section, key.name), key.metadata.get(place), f"{path}.{key.name}"
        if is_dataclass(value):
            yield from _given(value, place, dotted)
        elif isinstance(names, tuple):
            yield from ((dotted, name, item) for name, item in zip(names, value, strict=True))
        elif names and value is not None:
            yield dotted, names, value


def filled(kind: Callable[..., T], options: dict[str, Any], **more: Any) -> T:
    """An instance of `kind`, whose fields have Megatron's names; other options go to its field `megatron`."""
    own = set(inspect.signature(kind).parameters)
    named = {name: value for name, value in options.items() if name in own}
    rest = {name: value for name, value in options.items() if name not in own}
    return kind(**named, **more, megatron=rest)
