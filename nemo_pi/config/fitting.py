"""Which single change of a run's YAML would make it fit the memory that there is."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch

from nemo_pi.config.capacity import Capacity
from nemo_pi.config.load import resolve
from nemo_pi.config.memory import MemoryEstimate, estimate_memory
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.errors import NemoPiError
from nemo_pi.model.options import DISK, HOST
from nemo_pi.units import grouped

Change = dict[str, Any]
"""Keys of `model` and their new values."""

_FULL: Change = {
    "activations_checkpoint_granularity": "full",
    "activations_checkpoint_modules": None,
    "activations_checkpoint_method": None,
    "activations_checkpoint_num_layers": None,
}
_TILED: Change = {"mlp_chunk_size": "auto"}
_LORA: Change = {"peft": {"peft_scheme": "lora"}}


def single_changes(run: ResolvedRun, capacity: Capacity) -> list[str]:
    """Overrides, each of which alone makes a run fit; what costs least speed first.

    Where no single one does, what recomputes, tiles and offloads together, if that does.
    """
    elsewhere: Change = {"activations_offload": HOST if torch.cuda.is_available() else DISK}
    changes = [_TILED, _FULL]
    if run.recompute.granularity == "full" or run.recompute.keeps_attention:
        changes.append(elsewhere)
    layout = run.parallel
    sizes = {
        "tensor_model_parallel_size": layout.tp,
        "context_parallel_size": layout.cp,
        "pipeline_model_parallel_size": layout.pp,
    }
    changes += [{key: 2 * size} for key, size in sizes.items()]
    if torch.cuda.is_available():
        changes.append({"optim": {"optimizer_cpu_offload": True}})
    changes.append(_LORA)
    fitting = [text for change in changes if (text := _text_if_fits(run, change, capacity))]
    if fitting:
        return fitting
    together = (_FULL | _TILED, _FULL | _TILED | elsewhere, _FULL | _TILED | elsewhere | _LORA)
    return [text for change in together if (text := _text_if_fits(run, change, capacity))][:1]


def what_would_fit(run: ResolvedRun, capacity: Capacity) -> str:
    """The changes as a sentence; what else could be done where none is enough."""
    changes = single_changes(run, capacity)
    if changes:
        which = "this makes it fit: " if len(changes) == 1 else "each of these alone makes it fit: "
        return which + "; ".join(changes)
    length = longest_that_fits(run, capacity)
    if length is None:
        return "not even a short sample fits: more ranks, a smaller model, or adapters (model.peft)"
    return f"samples of {grouped(length)} tokens would fit (model.encoder_seq_length={length})"


def longest_that_fits(run: ResolvedRun, capacity: Capacity) -> int | None:
    """The longest sample that the run as it is could be trained on; None where not even a short one fits."""
    unit = run.parallel.sequence_multiple
    low, high = 0, run.training_length // unit
    while high - low > 1:
        middle = (low + high) // 2
        engine = replace(run.engine, length=middle * unit)
        shorter = replace(run, training_length=middle * unit, engine=engine)
        low, high = (low, middle) if capacity.lacks(estimate_memory(shorter)) else (middle, high)
    return low * unit or None


def _text_if_fits(run: ResolvedRun, change: Change, capacity: Capacity) -> str | None:
    """A change as overrides; None where it is no change, is refused, or is not enough."""
    given = run.config.model
    if all(getattr(given, key) == value for key, value in change.items()):
        return None
    for ranks in (run.parallel.world_size, 2 * run.parallel.world_size):
        estimate = _changed(run, change, ranks)
        if estimate is not None and not capacity.lacks(estimate):
            text = " ".join(_overrides(given, change))
            return text if ranks == run.parallel.world_size else f"{text} on {ranks} ranks"
    return None


def _overrides(given: Any, change: Change) -> Iterator[str]:
    for key, value in change.items():
        if isinstance(value, dict):
            added = "+" if getattr(given, key) is None else ""
            yield from (f"{added}model.{key}.{name}={str(inner).lower()}" for name, inner in value.items())
        elif getattr(given, key) != value:
            yield f"model.{key}={'null' if value is None else value}"


def _changed(run: ResolvedRun, change: Change, ranks: int) -> MemoryEstimate | None:
    """The estimate of a run with other values; None where they are refused."""
    values = deepcopy(run.to_dict())
    for key, value in change.items():
        inner = values["model"].get(key)
        values["model"][key] = {**inner, **value} if isinstance(inner, dict) else value
    if ranks != run.parallel.world_size and not any("parallel" in key for key in change):
        return None
    try:
        changed = resolve(values, world_size=ranks, summary=run.checkpoint)
        # Those of the run: others would have to race first.
        build = replace(changed.engine.build, backends=run.engine.build.backends)
        return estimate_memory(replace(changed, engine=replace(changed.engine, build=build)))
    except NemoPiError:
        return None
