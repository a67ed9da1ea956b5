"""Hugging Face's spelling of a context extension, read and written (transformers 5: `rope_parameters`).

Which rope_type a method has there, which window is written as max_position_embeddings and what it makes of
published files is the method's own to say (`to_hf`, `hf_window`, `from_hf`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nemo_pi.errors import CheckpointError, ConfigError
from nemo_pi.rope.fields import HF_ENTRIES
from nemo_pi.rope.methods.base import ScalingMethod
from nemo_pi.rope.methods.hf_rope import HfRope, unusable
from nemo_pi.rope.methods.registry import BUILT_IN, PLUG_INS, UNSCALED, method_named
from nemo_pi.rope.spec import PROVIDER, ContextExtension

RECORD = "nemo_pi_extension"
"""Top-level config.json key with the whole spec: what Hugging Face has no words for (a static NTK base, one
chosen freely, the window before direct fine-tuning). It counts only where it agrees with what Hugging Face
itself reads.

transformers keeps it when it saves a model again. A tool that drops it leaves the positions as they are, but
a static NTK model then looks like one that was trained with its larger base at the whole window: it counts
as unscaled, and extending it starts from there. For NTK that is exact (bases multiply)."""

_FIRST = [(method.hf_types[0], method) for method in BUILT_IN.values() if method.hf_types]
_OLDER = [(name, method) for method in BUILT_IN.values() for name in method.hf_types[1:]]
_TYPES: dict[str, type[ScalingMethod]] = dict([_FIRST[0], *_OLDER, *_FIRST[1:]])


def to_hf(spec: ContextExtension) -> dict[str, Any]:
    """Entries to put into config.json.

    The pairing of channels is not among them: Hugging Face's Llama rotates halves, so the exporter of an
    interleaved model must reorder the rows of q and k (see nemo_pi.rope.channel_order).

    Returns:
        `rope_parameters`, `max_position_embeddings` and, where these two cannot say it all, RECORD.

    Raises:
        ConfigError: Hugging Face has no words for the method.
    """
    rope = spec.scaling.to_hf(spec.numbers)
    if spec.rotary_percent != 1.0:
        rope["partial_rotary_factor"] = spec.rotary_percent
    window = spec.scaling.hf_window(spec.numbers)
    entries: dict[str, Any] = {"rope_parameters": rope, "max_position_embeddings": window}
    if spec.method != UNSCALED or spec.target_window != spec.original_window:
        entries[RECORD] = spec.to_dict()
    return entries


def from_hf(config: Mapping[str, Any], head_dim: int) -> ContextExtension:
    """The extension a config.json describes; one that is already scaled comes back with its method.

    Args:
        config: the parsed config.json: `rope_parameters`, or the older `rope_scaling` (with `rope_type` or
            `type`) and top-level `rope_theta`.
        head_dim: channels of one attention head, before any partial rotary factor.

    Raises:
        CheckpointError: naming the entry of config.json that is missing, unknown or contradictory.
    """
    try:
        spec = read_extension(config, head_dim)
    except ConfigError as error:
        # An argument's entry has the argument's own name.
        entry = error.respelled({**HF_ENTRIES, "extra_args": ""})
        field, fix = f"config.json ({entry.field})", "correct this entry of config.json"
        raise CheckpointError(field, required=entry.required, given=entry.given, fix=fix) from error
    return _recorded(config, spec) or spec


def read_extension(config: Mapping[str, Any], head_dim: int) -> ContextExtension:
    """What Hugging Face's own entries say, as transformers 5 computes with them.

    Args:
        config: the parsed config.json.
        head_dim: channels of one attention head, before any partial rotary factor (which is applied once).

    Raises:
        CheckpointError: naming the entry that is missing, unknown or malformed.
        ConfigError: for values that contradict each other.
    """
    rope = _rope_entries(config)
    method = _method(rope, config)
    values: dict[str, Any] = {"base": rope["rope_theta"], "rotary_percent": rope["partial_rotary_factor"]}
    values |= method.from_hf(HfRope(rope, config))
    return ContextExtension.build(method=method.name, head_dim=head_dim, **values)


def _rope_entries(config: Mapping[str, Any]) -> dict[str, Any]:
    """rope_scaling or rope_parameters, completed from the top level; the inner entry wins over the outer.

    Where both are there (someone followed a page that names the older one), transformers 5 takes the older.
    """
    inner = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(inner, Mapping) or any(isinstance(value, Mapping) for value in inner.values()):
        fix = "use a model whose layers share their positions"
        raise unusable("rope_parameters", "one set of entries for all layers", inner, fix)
    rope = {key: value for key, value in inner.items() if value is not None}
    for key, default in (("rope_theta", 10000.0), ("partial_rotary_factor", 1.0)):
        outer = config.get(key)
        rope.setdefault(key, default if outer is None else outer)
    return rope


def _method(rope: Mapping[str, Any], config: Mapping[str, Any]) -> type[ScalingMethod]:
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if isinstance(rope_type, str) and rope_type in _TYPES:
        return _TYPES[rope_type]
    if isinstance(rope_type, str) and rope_type in PLUG_INS.names():
        # The file selects a name that an installed package has registered; only that package's code runs.
        method = method_named(rope_type)
        if rope_type in method.hf_types:
            return method
    record = config.get(RECORD)
    provider = record.get(PROVIDER) if isinstance(record, Mapping) else None
    fix = "convert the checkpoint to one of these, or use another model"
    required = "one of " + ", ".join(_TYPES)
    raise unusable("rope_type", required, rope_type, PLUG_INS.how_to_get(provider) if provider else fix)


def _recorded(config: Mapping[str, Any], read: ContextExtension) -> ContextExtension | None:
    """The spec under RECORD, unless someone has edited config.json since.

    Raises:
        CheckpointError: it belongs to these entries, and what it says cannot be understood here: read
            without it, a method that Hugging Face has no words for would pass for plain RoPE, and an
            extension would scale it a second time.
    """
    record = config.get(RECORD)
    if not isinstance(record, Mapping) or not _belongs(record, read):
        return None
    try:
        spec = ContextExtension.from_dict(record)
        written, given = to_hf(spec), to_hf(read)
    except ConfigError as error:
        raise _not_understood(error, record) from error
    same = all(written[key] == given[key] for key in ("rope_parameters", "max_position_embeddings"))
    # Whatever the trained layout was, the weights beside a config.json rotate halves.
    return replace(spec, interleaved=False) if same else None


def _belongs(record: Mapping[str, Any], read: ContextExtension) -> bool:
    """Whether a record agrees with what Hugging Face reads as far as can be said without its method."""
    # Which of its windows a method writes, and which base, is its own to say (hf_window, to_hf).
    windows = (record.get("target_window"), record.get("original_window"))
    return record.get("head_dim") == read.head_dim and read.scaling.hf_window(read.numbers) in windows


def _not_understood(error: ConfigError, record: Mapping[str, Any]) -> CheckpointError:
    entry = error.respelled({name: f"{RECORD}.{name}" for name in (*record, "method")})
    return CheckpointError(
        f"config.json ({entry.field})",
        required=entry.required,
        given=entry.given,
        fix=f"{entry.fix}; or delete {RECORD} from config.json, to take its positions as Hugging Face does",
    )
