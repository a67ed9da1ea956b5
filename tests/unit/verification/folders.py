"""Folders for the tests of verification: random models, and copies with a fault."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from nemo_pi.rope.channel_order import interleaved_from_halves
from tests.unit.families.test_parity import SCALED, saved, scaled
from tests.unit.model.models import WINDOW, transformers_model
from tests.unit.rope.peers import Peer, make_spec

TARGET = 8 * WINDOW
HEAD_DIM = 16


def folder_of(path: Path, family: str = "llama", method: str = "none", **settings: Any) -> Path:
    """A random model of a family, saved by transformers."""
    spec = make_spec(method, original_window=WINDOW, target_window=TARGET, head_dim=HEAD_DIM)
    rope: dict[str, Any] = {}
    if method != "none":
        rope = {"rope_parameters": Peer(spec).rope_parameters, "max_position_embeddings": spec.target_window}
    transformers_model(family, **{**rope, **settings}).save_pretrained(path)
    return path


def edited(folder: Path, copy: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy whose config.json was changed."""
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    change(config)
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def rewritten(folder: Path, copy: Path, change: Callable[[str, Tensor], Tensor]) -> Path:
    """A copy each of whose tensors was changed by its name."""
    shutil.copytree(folder, copy)
    tensors = load_file(copy / "model.safetensors")
    changed = {name: change(name, tensor).contiguous() for name, tensor in tensors.items()}
    save_file(changed, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def swapped_order(name: str, tensor: Tensor) -> Tensor:
    """Query and key as a model has them that rotates neighbouring channels."""
    if not name.endswith(("q_proj.weight", "k_proj.weight")):
        return tensor
    order = interleaved_from_halves(HEAD_DIM, HEAD_DIM)
    return tensor.unflatten(0, (-1, HEAD_DIM))[:, order].flatten(0, 1)


def cases() -> Iterator[tuple[str, str, dict[str, Any], str]]:
    """(family, name, settings, method) of every random model that the families' own tests have."""
    for case in SCALED:
        family, settings, method = case.values
        yield str(family), str(case.id).split(": ")[1].rsplit(", ", 1)[0], dict(settings), str(method)


def family_folder(path: Path, family: str, settings: dict[str, Any], method: str) -> PreTrainedModel:
    """Saves such a model as published ones are, and returns transformers' own."""
    return saved(path, family, scaled(family, settings, method))
