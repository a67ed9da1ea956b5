"""An engine's weights and optimizer as a distributed checkpoint, at any parallel layout."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nemo_pi.checkpoint.collective import together
from nemo_pi.checkpoint.distributed import load_distributed, save_distributed
from nemo_pi.checkpoint.manifest import read_manifest
from nemo_pi.engine.engine import MegatronEngine
from nemo_pi.engine.optimizer import load_states, optimizer_tensors, prepare_to_load
from nemo_pi.engine.settings import AdamSettings
from nemo_pi.errors import CheckpointError, TrainingError
from nemo_pi.families.lora import Lora
from nemo_pi.model.lora import is_adapter, is_trained, merge, other_adapters
from nemo_pi.parallel.cpu_shim import cpu_shim

_SHARDED = "use_distributed_optimizer"
_MULTIPLIERS = "lr_multipliers"
# Optimizer states split over replicas are saved so that any other layout can read them.
_RESHARDABLE = {"distrib_optim_sharding_type": "fully_reshardable"}


def _model_state(engine: MegatronEngine, lora: Lora | None = None) -> dict[str, Any]:
    """Megatron's state of the model: all but adapters, or of those that `lora` trains alone."""
    engine.gather_weights()

    def belongs(name: str, chunk: nn.Module) -> bool:
        return not is_adapter(name) if lora is None else is_trained(name, lora, chunk)

    return {
        f"model{number}": {
            name: value
            for name, value in chunk.sharded_state_dict(metadata=_RESHARDABLE).items()
            if belongs(name, chunk)
        }
        for number, chunk in enumerate(engine.chunks)
    }


def _optimizer_state(engine: MegatronEngine, model: dict[str, Any], loading: bool) -> dict[str, Any]:
    return engine.optimizer.sharded_state_dict(model, is_loading=loading, metadata=_RESHARDABLE)


def save_engine(
    engine: MegatronEngine,
    folder: Path,
    meta: dict[str, Any],
    tokenizer_path: str | None = None,
    *,
    clear_name: bool = False,
) -> None:
    """Writes weights and optimizer, of adapters those alone; all ranks call it together.

    Args:
        engine: after start_training.
        folder: the new checkpoint; it appears only when complete.
        meta: shape, extension and progress, for the manifest.
        tokenizer_path: folder whose tokenizer files travel along.
        clear_name: whether whatever lies under `folder`'s name makes room (see save_distributed).

    Raises:
        TrainingError: weights or optimizer states are not finite; nothing is written then.
        CheckpointError: it could not be written.
    """
    check_finite(engine, "saving")
    with cpu_shim():
        model = _model_state(engine, engine.settings.build.lora)
        state = {**model, "optimizer": _optimizer_state(engine, model, loading=False)}
        optim = engine.settings.optim
        kind = {_SHARDED: optim.use_distributed_optimizer, _MULTIPLIERS: dict(optim.lr_multipliers)}
        save_distributed(
            folder, state, {**meta, **kind}, tokenizer_path=tokenizer_path, clear_name=clear_name
        )


def check_finite(engine: MegatronEngine, what: str) -> None:
    """Looks at every weight and every optimizer state, used by a sample or not; all ranks call it together.

    Args:
        engine: after start_training.
        what: is about to be done, for the message.

    Raises:
        TrainingError: naming the first tensor with a number that is none; CheckpointError on other ranks.
    """
    engine.gather_weights()

    def look() -> None:
        for name, tensor in chain(_weights(engine), optimizer_tensors(engine.optimizer)):
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                bad = int((~torch.isfinite(tensor)).sum())
                raise TrainingError(
                    what,
                    required="finite weights and optimizer states",
                    given=f"{bad} of the {tensor.numel()} numbers of {name} are not; nothing was written",
                    fix="start again, which goes on from the last checkpoint, with a lower model.optim.lr or "
                    "with model.skip_bad_steps=10",
                )

    together(what, look, None)


def _weights(engine: MegatronEngine) -> Iterator[tuple[str, Tensor]]:
    for chunk in engine.chunks:
        yield from chunk.named_parameters()


def save_weights(
    engine: MegatronEngine,
    folder: Path,
    meta: dict[str, Any],
    *,
    tokenizer_path: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Writes weights alone; otherwise as save_engine, and an engine without an optimizer will do."""
    with cpu_shim():
        state = _model_state(engine)
        save_distributed(folder, state, meta, tokenizer_path=tokenizer_path, overwrite=overwrite)


def load_weights(engine: MegatronEngine, folder: Path) -> None:
    """Reads weights alone, to start a new run from a distributed checkpoint."""
    with cpu_shim():
        loaded = load_distributed(folder, _model_state(engine))
        _assign_weights(engine, loaded, whole=engine.settings.build.lora is None)


def load_trained(engine: MegatronEngine, folder: Path) -> None:
    """Reads the engine's own adapters, and what else is trained, from a checkpoint of such."""
    lora = engine.settings.build.lora
    assert lora is not None, "an engine without adapters"
    with cpu_shim():
        _assign_weights(engine, load_distributed(folder, _model_state(engine, lora)), whole=False)


def load_merged(engine: MegatronEngine, folder: Path, lora: Lora) -> None:
    """Adds a checkpoint's adapters to the engine's weights, which are those of its base.

    The engine's own adapters, if it has any, are others, and stay as they are.

    Args:
        engine: with the base's weights.
        folder: the checkpoint.
        lora: what it says of its adapters.
    """
    with cpu_shim(), other_adapters(engine.chunks, lora, engine.settings.shape):
        _assign_weights(engine, load_distributed(folder, _model_state(engine, lora)), whole=False)
        merge(engine.chunks)


def load_weights_into_training(engine: MegatronEngine, folder: Path) -> None:
    """As load_weights or load_trained, after start_training: the optimizer keeps its fresh states."""
    if engine.settings.build.lora is None:
        load_weights(engine, folder)
    else:
        load_trained(engine, folder)
    with cpu_shim():
        # It holds copies of 16-bit weights.
        engine.optimizer.reload_model_params()


def load_engine(engine: MegatronEngine, folder: Path, *, check_contents: bool = True) -> None:
    """Reads weights and optimizer, to go on with a run; `engine` after start_training.

    Args:
        engine: after start_training; where it has adapters, with its base's weights.
        folder: the checkpoint.
        check_contents: whether hashes are compared first; False where that has just been done.

    Raises:
        CheckpointError: the checkpoint cannot be read, or was written by another kind of optimizer.
    """
    _check_kind(folder, engine.settings.optim)
    with cpu_shim():
        model = _model_state(engine, engine.settings.build.lora)
        # Before the state dict is made: it lists the states that exist.
        prepare_to_load(engine.optimizer)
        state = {**model, "optimizer": _optimizer_state(engine, model, loading=True)}
        loaded = load_distributed(folder, state, check_contents=check_contents)
        _assign_weights(engine, loaded, whole=engine.settings.build.lora is None)
        load_states(engine.optimizer, loaded["optimizer"])


def _check_kind(folder: Path, optim: AdamSettings) -> None:
    manifest, sharded = read_manifest(folder), optim.use_distributed_optimizer
    saved = manifest.get(_SHARDED, sharded)
    if saved != sharded:
        raise _other_kind(folder, "model.use_distributed_optimizer", str(saved).lower(), str(sharded).lower())
    # Megatron keeps layers of one learning rate together, and finds them by it.
    before, now = manifest.get(_MULTIPLIERS, {}), dict(optim.lr_multipliers)
    if before != now:
        raise _other_kind(folder, "model.optim.lr_multipliers", _in_yaml(before), _in_yaml(now))


def _in_yaml(multipliers: dict[str, float]) -> str:
    named = (f"{linear.rpartition('.')[2]}: {factor:g}" for linear, factor in sorted(multipliers.items()))
    return f"{{{', '.join(named)}}}" if multipliers else "null"


def _other_kind(folder: Path, key: str, saved: str, given: str) -> CheckpointError:
    return CheckpointError(
        f"{folder}: optimizer states",
        required=f"{key}={saved}, as they were saved",
        given=given,
        fix="set it back, or start a new run (another name) from this checkpoint's weights; a stage may have "
        "reset_optimizer: true",
    )


def _assign_weights(engine: MegatronEngine, loaded: dict[str, Any], *, whole: bool) -> None:
    """What was asked for was read, or load_distributed has raised; of a model beside adapters, that is one or
    the other, and the rest stays as it is."""
    for number, chunk in enumerate(engine.chunks):
        chunk.load_state_dict(loaded[f"model{number}"], strict=whole)
