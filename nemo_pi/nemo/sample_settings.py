"""Which keys decide what sample number i of a run is, so that a resumed run reads on where it stopped.

Samples are a function of their number and of these; a checkpoint keeps the number. With others, a resumed run
would read some text twice and some never, at positions of another kind.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nemo_pi.checkpoint.manifest import read_manifest
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.data.length_weights import parse_length_weights
from nemo_pi.errors import ConfigError

RECORD = "samples"
"""Where the manifest of a checkpoint keeps them."""


def sample_settings(run: ResolvedRun) -> dict[str, Any]:
    """{key of the YAML: value}, JSON-ready; paths of data are left out, for data may move.

    PoSE's target window is the model's, which a resumed run compares besides.
    """
    pose, weights = run.pose, parse_length_weights(run.data.length_weights)
    return {
        "model.data.pose.sampler": pose and pose.sampler,
        "model.data.pose.chunks": pose and pose.num_chunks,
        "model.data.pose.content_offset": pose and pose.content_offset,
        "model.data.length_weights": weights
        and dict(zip(map(str, weights.bounds), weights.weights, strict=True)),
        "model.data.pack_documents": run.data.pack_documents,
        "model.data.reset_position_ids": run.data.reset_position_ids,
        "model.data.reset_attention_mask": run.data.reset_attention_mask,
        "model.data.seed": run.data.seed,
        "model.encoder_seq_length": run.training_length,
    }


def check_same_samples(run: ResolvedRun, folder: Path) -> None:
    """Compares with what the checkpoint in `folder` was trained on, as far as it says.

    Raises:
        ConfigError: naming every key that differs, and both its values.
    """
    saved = read_manifest(folder).get(RECORD, {})
    given = sample_settings(run)
    differing = [key for key in given if key in saved and saved[key] != given[key]]
    if differing:
        raise ConfigError(
            ", ".join(differing),
            required=f"{_values(saved, differing)}, as {folder} was trained",
            given=_values(given, differing),
            fix="set it back to resume, or give this run another name; restore_from_path starts a new run "
            "from a checkpoint's weights",
        )


def _values(settings: dict[str, Any], keys: list[str]) -> str:
    """As YAML spells them."""
    return ", ".join(json.dumps(settings[key]).strip('"') for key in keys)
