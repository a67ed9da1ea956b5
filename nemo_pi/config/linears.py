"""Linear layers by the names that a YAML calls them: of adapters, and of learning rates."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from nemo_pi.errors import ConfigError, nearest
from nemo_pi.families.lora import TARGETS, Lora

_MULTIPLIERS = "model.optim.lr_multipliers"
# What `peft`'s users call the same layers, in the models that they mostly have.
_HUGGING_FACE = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value"), "attention_qkv"),
    **dict.fromkeys(("o_proj", "out_proj", "dense"), "attention_dense"),
    **dict.fromkeys(("gate_proj", "up_proj", "gate_up_proj", "fc1", "dense_h_to_4h"), "mlp_fc1"),
    **dict.fromkeys(("down_proj", "fc2", "dense_4h_to_h"), "mlp_fc2"),
}


def named_linears(key: str, name: str, *, fix: str) -> tuple[str, ...]:
    """Megatron's names of the layers that one of families.lora.TARGETS stands for.

    Args:
        key: of the YAML, where the name stands.
        name: as given.
        fix: what to do where no name is like it.

    Raises:
        ConfigError: an unknown name.
    """
    if name not in TARGETS:
        found = _HUGGING_FACE.get(name) or nearest(name, TARGETS)
        raise ConfigError(
            key,
            required=f"names among {', '.join(TARGETS)}",
            given=repr(name),
            fix=f"did you mean {found}?" if found else fix,
        )
    return TARGETS[name]


def resolve_lr_multipliers(given: Mapping[str, float] | None, lora: Lora | None) -> dict[str, float]:
    """Megatron's names of linear layers → what their learning rate is multiplied by (`lr_multipliers`).

    Args:
        given: by the names of families.lora.TARGETS; None: none.
        lora: the adapters, where they are trained in place of the layers.

    Raises:
        ConfigError: an unknown name, layers named twice or not trained, or a factor that is not above 0.
    """
    factors: dict[str, float] = {}
    for name, factor in (given or {}).items():
        linears = named_linears(_MULTIPLIERS, name, fix=f"{_MULTIPLIERS}=null trains all layers alike")
        _check_factor(name, factor)
        _check_layers(name, linears, factors, lora)
        factors |= dict.fromkeys(linears, float(factor))
    return factors


def _check_factor(name: str, factor: Any) -> None:
    if type(factor) not in (int, float) or not (isfinite(factor) and factor > 0):
        raise ConfigError(
            f"{_MULTIPLIERS}.{name}",
            required="a factor above 0",
            given=repr(factor),
            fix=f"{_MULTIPLIERS}.{name}=1 trains them like all others",
        )


def _check_layers(
    name: str, linears: tuple[str, ...], before: Mapping[str, float], lora: Lora | None
) -> None:
    twice = [linear for linear in linears if linear in before]
    if twice:
        raise ConfigError(
            f"{_MULTIPLIERS}.{name}",
            required="each layer under one name",
            given=f"{twice[0].rpartition('.')[2]} under two",
            fix=f"remove {name} from {_MULTIPLIERS}, or the other name that holds it",
        )
    idle = [linear for linear in linears if lora is not None and linear not in lora.linears]
    if idle:
        raise ConfigError(
            f"{_MULTIPLIERS}.{name}",
            required="layers with adapters (model.peft.lora_tuning.target_modules), which alone are trained",
            given=f"{idle[0].rpartition('.')[2]}, which has none",
            fix=f"remove {name} from {_MULTIPLIERS}, or add it to target_modules",
        )
