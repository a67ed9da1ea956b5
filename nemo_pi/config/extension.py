"""The three numbers of an extension (original window, target window, training length) and its method."""

from __future__ import annotations

from typing import Any

from nemo_pi.checkpoint.summary import CheckpointSummary
from nemo_pi.config.layer_kinds import check_agrees, with_kinds
from nemo_pi.config.rescaling import keep_scaled, own_base
from nemo_pi.config.schema import ModelConfig
from nemo_pi.errors import ConfigError
from nemo_pi.families.shape import ModelShape
from nemo_pi.rope.fields import YAML_KEYS
from nemo_pi.rope.methods.registry import INTERPOLATION, UNSCALED, check_available
from nemo_pi.rope.spec import ContextExtension
from nemo_pi.rope.tables import attention_factor, inverse_frequencies
from nemo_pi.rope.validation import check_factor

# Field of ContextExtension → its value where neither YAML nor checkpoint says.
_ROTARY: dict[str, Any] = {"base": 10000.0, "rotary_percent": 1.0, "interleaved": False}

_OWN_BASE = (
    " and drops yours; to compute with a base of your own: %s (pos_scaling_type=ntk derives one from "
    "the factor)"
)


def resolve_extension(
    model: ModelConfig, shape: ModelShape, summary: CheckpointSummary | None
) -> tuple[ContextExtension, str]:
    """The extension to train with, and where the original window was read.

    A checkpoint that has been extended before keeps its extension where the YAML asks for the same or
    for nothing; anything else needs `allow_rescaling`, which replaces the old scaling: the factor always
    counts from the original window, scalings are never multiplied.
    """
    try:
        return _resolve(model, shape, summary)
    except ConfigError as error:
        raise error.respelled(YAML_KEYS) from error


def _resolve(
    model: ModelConfig, shape: ModelShape, summary: CheckpointSummary | None
) -> tuple[ContextExtension, str]:
    method, factor = _method_and_factor(model)
    check_agrees(model, summary)
    if method is not None:
        check_available(method)
    held = None if summary is None or not summary.extension.is_scaled else summary.extension
    if summary is not None and held is not None and not model.allow_rescaling:
        kept = keep_scaled(model, method, factor, summary)
        return kept, _source_of(kept.original_window, held.original_window, summary)
    extra = model.pos_scaling_extra_args
    if held is not None and method is None:
        # Rescaled without naming a method, a model keeps its own, and its arguments where none are given.
        method, extra = held.method, held.extra_args if extra is None else extra
    original, source = _original_window(model, factor, summary)
    extension = ContextExtension.build(
        original_window=original,
        target_window=_target_window(model, original, factor),
        method=method or INTERPOLATION,
        factor=factor,
        head_dim=shape.head_dim,
        extra_args=extra,
        **_rotary(model, summary),
    )
    extension = with_kinds(model, shape, summary, extension)
    # Once, for methods of other packages: what they get wrong shall stop the run here.
    inverse_frequencies(extension, extension.target_window)
    attention_factor(extension, extension.target_window)
    return extension, source


def resolve_training_length(model: ModelConfig, extension: ContextExtension) -> int:
    """Tokens of one training sample: encoder_seq_length, or the target window, or PoSE's original one."""
    length, target = model.encoder_seq_length, extension.target_window
    if length is None:
        return target if model.data.pose is None else extension.original_window
    if not 1 <= length <= target:
        raise ConfigError(
            "model.encoder_seq_length",
            required=f"1 to {target}, the target window (max_position_embeddings)",
            given=length,
            fix="model.encoder_seq_length=null trains at the full target window (with PoSE, at the original "
            f"one); or model.max_position_embeddings={max(1, length)}",
        )
    return length


def check_extends(model: ModelConfig, extension: ContextExtension, summary: CheckpointSummary | None) -> None:
    """Refuse a run that would extend nothing and was not told so: most likely a key was forgotten.

    Training on at the checkpoint's own window is asked for by pos_scaling_type none, by a factor of 1 or by
    naming that window; a checkpoint that is scaled already is trained on as it is without a word.
    """
    given = (model.max_position_embeddings, model.pos_scaling_factor, model.seq_len_interpolation_factor)
    if summary is None or extension.is_scaled or extension.method == UNSCALED or any(given):
        return
    window = extension.original_window
    raise ConfigError(
        "model.max_position_embeddings",
        required="a target window in tokens: without one nothing would be extended",
        given=f"null, beside a checkpoint of {window} tokens",
        fix=f"model.max_position_embeddings={8 * window} reads eight times as far; to train on as it is, "
        "model.pos_scaling_type=none",
    )


def _method_and_factor(model: ModelConfig) -> tuple[str | None, float | None]:
    """Method and factor that are asked for, in either spelling; the two together are a contradiction."""
    method, factor, old = model.pos_scaling_type, model.pos_scaling_factor, model.seq_len_interpolation_factor
    for key, value in (("pos_scaling_factor", factor), ("seq_len_interpolation_factor", old)):
        try:
            check_factor(1.0 if value is None else value)
        except ConfigError as error:
            raise error.respelled({"factor": f"model.{key}"}) from error
    if old is None:
        return method, factor
    if factor is not None:
        raise ConfigError(
            "model.seq_len_interpolation_factor",
            required="null where pos_scaling_factor is given: both spell the same factor",
            given=f"{old}, beside pos_scaling_factor={factor}",
            fix="model.seq_len_interpolation_factor=null keeps pos_scaling_factor",
        )
    if method not in (None, INTERPOLATION):
        raise ConfigError(
            "model.seq_len_interpolation_factor",
            required=f"pos_scaling_type {INTERPOLATION} or null: the key means linear interpolation",
            given=f"{old}, beside pos_scaling_type={method}",
            fix=f"model.pos_scaling_factor={old} model.seq_len_interpolation_factor=null",
        )
    return INTERPOLATION, old


def _original_window(
    model: ModelConfig, factor: float | None, summary: CheckpointSummary | None
) -> tuple[int, str]:
    given, target = model.original_max_position_embeddings, model.max_position_embeddings
    if summary is not None:
        return _window_of_checkpoint(given, summary, corrects=model.allow_rescaling)
    if given is not None:
        return given, "model.original_max_position_embeddings"
    if target is None:
        raise ConfigError(
            "model.max_position_embeddings",
            required="a number of tokens, as there is no checkpoint to take a window from",
            given="null",
            fix="give model.max_position_embeddings",
        )
    if factor is not None:
        return max(1, round(target / factor)), "model.max_position_embeddings ÷ model.pos_scaling_factor"
    return target, "model.max_position_embeddings (no checkpoint)"


def _window_of_checkpoint(
    given: int | None, summary: CheckpointSummary, *, corrects: bool
) -> tuple[int, str]:
    """The checkpoint's own window; the YAML corrects only one known not to be the pretrained one, or, where
    it says so (`corrects`), any that is no more than what the checkpoint claims to read."""
    extension = summary.extension
    found = extension.learned_window
    if given in (None, found):
        return found, summary.window_source
    if summary.shape.sliding_window is not None and 1 <= given < found and not extension.is_scaled:
        # With a sliding attention window, published configs name how far a stack of layers could look back
        # (Mistral 7B v0.1: 32,768) rather than what the model was pretrained on (8,192).
        return given, _source_of(given, found, summary)
    claimed = 1 <= given <= extension.target_window
    if corrects and claimed:
        # Mistral-Nemo's first config.json named 1,024,000 tokens; it was pretrained on 131,072.
        return given, _source_of(given, found, summary)
    mend = "; where the checkpoint is wrong, model.allow_rescaling=true beside it counts from yours"
    raise ConfigError(
        "model.original_max_position_embeddings",
        required=f"{found}, as the checkpoint says ({summary.window_source})",
        given=given,
        fix="model.original_max_position_embeddings=null takes the checkpoint's" + (mend if claimed else ""),
    )


def _source_of(window: int, found: int, summary: CheckpointSummary) -> str:
    """Where the original window was read: the checkpoint, or the YAML that knows better."""
    if window == found:
        return summary.window_source
    return f"model.original_max_position_embeddings ({summary.window_source} says {found})"


def _target_window(model: ModelConfig, original: int, factor: float | None) -> int:
    if model.max_position_embeddings is not None:
        return model.max_position_embeddings
    return round(original * factor) if factor is not None else original


def _rotary(model: ModelConfig, summary: CheckpointSummary | None) -> dict[str, Any]:
    """Base, rotated part and layout of the rotation: the checkpoint's, else the YAML's, else the usual."""
    settings: dict[str, Any] = {}
    for field, usual in _ROTARY.items():
        key = YAML_KEYS[field]
        given = getattr(model, key.removeprefix("model."))
        if summary is None:
            settings[field] = usual if given is None else given
            continue
        settings[field] = getattr(summary.extension, field)
        if given is not None and given != settings[field]:
            raise ConfigError(
                key,
                required=f"{settings[field]}, as in the {summary.kind} checkpoint {summary.path}",
                given=given,
                fix=f"{key}=null takes the checkpoint's"
                + (_OWN_BASE % own_base(given) if field == "base" else ""),
            )
    return settings
