"""The model section of a .nemo file: written from a run, complete in itself, and read back as one."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nemo_pi.config.layer_kinds import sliding_section
from nemo_pi.config.load import resolve
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.config.sections import EvaluationConfig
from nemo_pi.config.shapes import shape_section
from nemo_pi.rope.fields import YAML_KEYS


def self_contained_model_config(run: ResolvedRun) -> DictConfig:
    """The model section with everything the checkpoint supplied written out.

    A .nemo file carries it, so that the model can be rebuilt where that checkpoint is not.
    """
    section: dict[str, Any] = asdict(run.config.model) | shape_section(run.shape)
    for field, key in YAML_KEYS.items():
        section[key.removeprefix("model.")] = getattr(run.extension, field)
    scale = run.extension.query_scale
    section.update(
        restore_from_path=None,
        pos_scaling_extra_args=run.extension.extra_args or None,
        sliding_rotary=sliding_section(run.extension),
        query_scaling=None if scale is None else scale.to_dict(),
        seq_len_interpolation_factor=None,
        # It was the training's, and names files of its machine.
        evaluation=asdict(EvaluationConfig()),
    )
    return OmegaConf.create(section)


# Keys that NeMo adds to a model's section and that are not ours to check.
_NEMO_KEYS = ("target", "nemo_version")


def run_of_model_config(cfg: DictConfig) -> ResolvedRun:
    """A one-rank run from a self-contained model section, as a .nemo file holds it."""
    section = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(section, dict)
    model = {str(key): value for key, value in section.items() if key not in _NEMO_KEYS}
    # It reads what it is given, at its own length; how it was trained no longer matters.
    model["data"] = {**(model.get("data") or {}), "pose": None}
    # Nothing is trained: the number of steps must only leave room for any warm-up.
    values = {"model": model, "trainer": {"max_steps": 10**9}, "dry_run": True}
    return resolve(OmegaConf.create(values), world_size=1, summary=None)
