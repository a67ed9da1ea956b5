"""What a run leaves behind, read by other tools than its own: TensorBoard files and safetensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Curves:
    """Scalars by optimizer step, as TensorBoard shows them (fp32)."""

    scalars: dict[str, dict[int, float]]

    def __getitem__(self, name: str) -> dict[int, float]:
        return self.scalars[name]


def read_curves(logs: Path) -> Curves:
    """Every scalar under `logs`; a later file's value of a step replaces an earlier one's."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    scalars: dict[str, dict[int, float]] = {}
    for file in sorted(logs.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if value.tensor.float_val:
                    scalars.setdefault(value.tag, {})[event.step] = value.tensor.float_val[0]
    return Curves(scalars)


def read_weights(folder: Path) -> Weights:
    """All tensors of a Hugging Face folder."""
    from safetensors.numpy import load_file

    return {
        name: array
        for file in sorted(folder.glob("*.safetensors"))
        for name, array in load_file(file).items()
    }


def largest_update_error(weights: Weights, reference: Weights, start: Weights) -> tuple[float, str]:
    """Largest distance of a tensor from the reference's, as a part of how far training moved that tensor.

    Comparing weights themselves would forgive almost anything: a few steps hardly move them.
    """
    assert weights.keys() == reference.keys(), weights.keys() ^ reference.keys()
    errors = []
    for name, wanted in reference.items():
        moved = float(np.linalg.norm(wanted.astype(np.float64) - start[name]))
        assert moved > 0, f"{name} was not trained"
        errors.append((float(np.linalg.norm(weights[name].astype(np.float64) - wanted)) / moved, name))
    return max(errors)
