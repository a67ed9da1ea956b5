"""`model.data.pose` and `model.data.pack_documents`: checked against each other and against the windows."""

from __future__ import annotations

from nemo_pi.config.sections import DataConfig, PoseConfig
from nemo_pi.config.shapes import check_choice
from nemo_pi.errors import ConfigError
from nemo_pi.rope.pose_spec import SAMPLERS, PoseSpec


def resolve_pose(data: DataConfig, *, training_length: int, target_window: int) -> PoseSpec | None:
    """What `model.data` asks for; None where positions do not skip.

    Raises:
        ConfigError: as check_pose, or text that would be read from elsewhere than the documents of a row.
    """
    if data.pose is None:
        return None
    spec = check_pose(data.pose, training_length=training_length, target_window=target_window)
    for key in ("pack_documents", "reset_position_ids", "reset_attention_mask"):
        if spec.moves_text and getattr(data, key):
            raise ConfigError(
                "model.data.pose.content_offset",
                required=f"zero, with {key}: a document is then read as it stands",
                given=f"{spec.content_offset} (sampler {spec.sampler})",
                fix="model.data.pose.sampler=paper model.data.pose.content_offset=zero, or "
                "model.data.pose.sampler=contiguous model.data.pose.content_offset=null",
            )
    return spec


def check_pose(pose: PoseConfig, *, training_length: int, target_window: int) -> PoseSpec:
    """What the section asks for.

    Args:
        pose: the section.
        training_length: tokens of one sample.
        target_window: tokens that positions are drawn from.

    Raises:
        ConfigError: an unknown name, values that do not go together, or windows that leave nothing to skip.
    """
    check_choice("model.data.pose.sampler", pose.sampler, tuple(SAMPLERS))
    allowed = SAMPLERS[pose.sampler]
    offset = allowed[0] if pose.content_offset is None else pose.content_offset
    check_choice("model.data.pose.content_offset", offset, SAMPLERS["paper"])
    if offset not in allowed:
        raise ConfigError(
            "model.data.pose.content_offset",
            required=f"{' or '.join(allowed)}, or null, with sampler {pose.sampler}",
            given=offset,
            fix="model.data.pose.sampler=paper takes any of the three",
        )
    _check_chunks(pose, training_length)
    if target_window <= training_length:
        raise ConfigError(
            "model.data.pose",
            required="a target window (max_position_embeddings) longer than the training length "
            "(encoder_seq_length): positions skip through what is between them",
            given=f"{target_window} and {training_length} tokens",
            fix="raise model.max_position_embeddings, lower model.encoder_seq_length, "
            "or model.data.pose=null",
        )
    return PoseSpec(target_window, pose.sampler, pose.chunks, offset)


def _check_chunks(pose: PoseConfig, training_length: int) -> None:
    only_two = {
        "released": "the released code draws two",
        "random": "every token is a chunk of its own, so leave the default",
    }
    if pose.sampler in only_two and pose.chunks != 2:
        raise ConfigError(
            "model.data.pose.chunks",
            required=f"2 with sampler {pose.sampler} ({only_two[pose.sampler]})",
            given=pose.chunks,
            fix="model.data.pose.chunks=2, or model.data.pose.sampler=paper",
        )
    if not 2 <= pose.chunks <= training_length:
        raise ConfigError(
            "model.data.pose.chunks",
            required=f"2 to {training_length}, the training length (encoder_seq_length)",
            given=pose.chunks,
            fix="model.data.pose.chunks=2 is the paper's",
        )
