"""Hugging Face's spelling of a context extension, read and written (transformers 5: `rope_parameters`).

Where layers with a sliding window have rotary embeddings of their own, `rope_parameters` holds two sets of
entries, one for each kind of layer (transformers' `layer_types`).

Which rope_type a method has there, which window is written as max_position_embeddings and what it makes of
published files is the method's own to say (`to_hf`, `hf_window`, `from_hf`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nemo_pi.errors import CheckpointError, ConfigError
from nemo_pi.rope.fields import HF_ENTRIES
from nemo_pi.rope.hf_kinds import FULL, SLIDING, check_one_window, read_query_scale, set_of
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

PRETRAINED, SERVED = "seq_length", "model_max_length"
"""Top-level keys of config.json with the original window and with the target one, for servers; transformers
knows neither. vLLM and SGLang multiply max_position_embeddings by the factor where no entry states the
original window: of PRETRAINED and that key they take the smaller one, or this one. Where an entry states it
they do not, and take SERVED before a max_position_embeddings that is the original window."""
OTHER_WINDOWS = (PRETRAINED, SERVED, "max_sequence_length", "max_seq_length", "max_seq_len", "seq_len")
"""Keys of config.json that servers take for a window; none of another extension may stay."""

_FIRST = [(method.hf_types[0], method) for method in BUILT_IN.values() if method.hf_types]
_OLDER = [(name, method) for method in BUILT_IN.values() for name in method.hf_types[1:]]
_TYPES: dict[str, type[ScalingMethod]] = dict([_FIRST[0], *_OLDER, *_FIRST[1:]])


def to_hf(spec: ContextExtension) -> dict[str, Any]:
    """Entries to put into config.json.

    The pairing of channels is not among them: Hugging Face's Llama rotates halves, so the exporter of an
    interleaved model must reorder the rows of q and k (see nemo_pi.rope.channel_order).

    Returns:
        `rope_parameters`, `max_position_embeddings` and, where these two cannot say it all, PRETRAINED or
        SERVED, and RECORD.

    Raises:
        ConfigError: Hugging Face has no words for the method.
    """
    sets = [set_of(kind) for kind in spec.kinds]
    rope = sets[0] if spec.sliding is None else dict(zip((FULL, SLIDING), sets, strict=True))
    window = spec.scaling.hf_window(spec.numbers)
    if spec.sliding is not None and spec.sliding.is_scaled:
        check_one_window(spec.sliding, window)
    entries: dict[str, Any] = {"rope_parameters": rope, "max_position_embeddings": window}
    entries |= _for_servers(spec, sets[0], window)
    if any(kind.method != UNSCALED or kind.target_window != kind.original_window for kind in spec.kinds):
        entries[RECORD] = spec.to_dict()
    return entries


def _for_servers(spec: ContextExtension, rope: Mapping[str, Any], window: int) -> dict[str, int]:
    """What brings servers to the target window; nothing where max_position_embeddings does."""
    if "factor" in rope and "original_max_position_embeddings" not in rope:
        # Of kinds of layers that differ (Gemma 3) they multiply none.
        return (
            {PRETRAINED: spec.original_window}
            if spec.sliding is None and window != spec.original_window
            else {}
        )
    return {SERVED: spec.target_window} if window != spec.target_window else {}


def config_entries(spec: ContextExtension) -> dict[str, Any]:
    """What to_hf says, as a config.json says it: once, and in words that transformers has known since 4.45.

    Returns:
        `rope_theta`, `rope_scaling` where positions are scaled, `max_position_embeddings`, and where they are
        needed `original_max_position_embeddings`, `partial_rotary_factor` and RECORD. Where kinds of layers
        differ or queries grow: what to_hf returns.

    Raises:
        ConfigError: Hugging Face has no words for the method.
    """
    entries = to_hf(spec)
    if spec.sliding is not None or spec.query_scale is not None:
        return entries  # neither is known in other words, nor before transformers 5
    rope = entries.pop("rope_parameters")
    file: dict[str, Any] = {}
    if spec.rotary_percent != 1.0:
        file["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    return {**file, **spec.scaling.to_hf_file(spec.numbers, rope), **entries}


def from_hf(
    config: Mapping[str, Any],
    head_dim: int,
    sets: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    scales_queries: bool = False,
) -> ContextExtension:
    """The extension a config.json describes; one that is already scaled comes back with its method.

    Args:
        config: the parsed config.json: `rope_parameters`, or the older `rope_scaling` (with `rope_type` or
            `type`) and top-level `rope_theta`.
        head_dim: channels of one attention head, before any partial rotary factor.
        sets: where layers have rotary embeddings by kind, the entries of each: FULL and, where there are
            such layers, SLIDING. None: config.json has one set for all layers.
        scales_queries: whether the model's class reads what queries grow by.

    Raises:
        CheckpointError: naming the entry of config.json that is missing, unknown or contradictory.
    """
    try:
        spec = read_extension(config, head_dim) if sets is None else _read_kinds(config, head_dim, sets)
        if scales_queries:
            spec = replace(spec, query_scale=read_query_scale(HfRope(_rope_entries(config), config)))
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


def _read_kinds(
    config: Mapping[str, Any], head_dim: int, sets: Mapping[str, Mapping[str, Any]]
) -> ContextExtension:
    """Each kind of layer as if all were of it."""
    # Of a window at the top level, too, transformers knows nothing where entries stand by kind of layer.
    outer = ("rope_scaling", "rope_theta", "original_max_position_embeddings")
    others = {key: value for key, value in config.items() if key not in outer}
    kinds = [read_extension({**others, "rope_parameters": entries}, head_dim) for entries in sets.values()]
    return replace(kinds[0], sliding=kinds[1]) if len(kinds) > 1 else kinds[0]


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
