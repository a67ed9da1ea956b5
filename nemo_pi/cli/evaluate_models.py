"""Which models examples/evaluate.py measures: what computes each, and what the report calls it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nemo_pi.checkpoint.files import read_json
from nemo_pi.checkpoint.manifest import MANIFEST
from nemo_pi.errors import CheckpointError, ConfigError
from nemo_pi.families import registry
from nemo_pi.units import plural


def choose_backend(model: Path, request: str, world_size: int) -> str:
    """transformers or megatron.

    Raises:
        ConfigError: transformers was asked for what it cannot do.
        CheckpointError: a family that neither knows.
    """
    distributed = (model / MANIFEST).is_file()
    if request == "auto":
        others = distributed or world_size > 1 or unshipped(model) is not None
        return "megatron" if others else "transformers"
    if request == "transformers" and (distributed or world_size > 1):
        raise ConfigError(
            "--backend",
            required="megatron for a distributed checkpoint, or on more than one rank",
            given=f"transformers for {model} on {plural(world_size, 'rank')}",
            fix="--backend auto",
        )
    if request == "transformers" and (family := unshipped(model)) is not None:
        raise ConfigError(
            "backend",
            required=f"a model that transformers ships, to compute {model} with it",
            given=f"transformers for the model_type {family!r}, a family of nemo_pi's alone",
            fix="backend=megatron, or backend=auto, which chooses it",
        )
    return request


def unshipped(model: Path) -> str | None:
    """The family of a Hugging Face folder that transformers has no class for, and nemo_pi has; else None.

    Raises:
        CheckpointError: neither has.
    """
    if not (model / "config.json").is_file():
        return None
    family = read_json(model / "config.json").get("model_type")
    # Imported here and last: it takes seconds, and the families known by name need no question.
    if not isinstance(family, str) or _is_known_to_ship(family) or _transformers_ships(family):
        return None
    if family not in registry.names():
        raise CheckpointError(
            f"{model / 'config.json'}: model_type",
            required=f"a model that transformers ships, or a family of {', '.join(registry.names())}",
            given=repr(family),
            fix=registry.PLUG_INS.how_to_get(),
        )
    return family


def _is_known_to_ship(family: str) -> bool:
    return family in registry.PLUG_INS.built_in and not registry.family_named(family).remote_code


def _transformers_ships(family: str) -> bool:
    from transformers import CONFIG_MAPPING

    return family in CONFIG_MAPPING


def names_of(folders: Sequence[Path]) -> list[str]:
    """What the report calls the models: folder names, as long as it takes to tell them apart."""
    parts = [folder.expanduser().absolute().parts for folder in folders]
    names = [folder[-1] for folder in parts]
    for count in range(2, max(map(len, parts)) + 1):
        if len(set(names)) == len(names):
            break
        twice = {name for name in names if names.count(name) > 1}
        names = [
            Path(*folder[-count:]).as_posix() if name in twice else name
            for folder, name in zip(parts, names, strict=True)
        ]
    return names
