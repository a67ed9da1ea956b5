"""What a run asks of its kernels: Transformer Engine's layers, and a backend for each job of a layer."""

from __future__ import annotations

import torch

from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.config.schema import ModelConfig
from nemo_pi.config.shapes import check_choice
from nemo_pi.errors import BackendUnavailableError, ConfigError, nearest
from nemo_pi.kernels.backends import JOBS, PLUG_INS, check_available, field_of, names, runnable
from nemo_pi.kernels.registry import AUTO
from nemo_pi.kernels.rotary import FUSED, KERNELS
from nemo_pi.kernels.shifted_attention import NAME as SHIFTED
from nemo_pi.kernels.shifted_attention import SHARE
from nemo_pi.model.backends import Backends, choose_backends
from nemo_pi.model.engine_layers import transformer_engine_available
from nemo_pi.model.options import BackendRequests


def resolve_kernels(model: ModelConfig) -> tuple[bool | None, BackendRequests]:
    """Transformer Engine: demanded (True), forbidden (False) or welcome (None); then the backends asked for.

    Raises:
        ConfigError: a name that is not known, or two keys that contradict each other.
    """
    engine = str(model.transformer_engine).lower()
    check_choice("model.transformer_engine", engine, ("auto", "true", "false"))
    asked = {job: getattr(model, f"{job}_backend") for job in JOBS}
    for job, name in asked.items():
        if name != AUTO:
            _check_known(job, name)
            check_available(job, name)
    asked["activation"] = _activation(model)
    wanted = {"auto": None, "true": True, "false": False}[engine]
    return wanted, BackendRequests(rotary=_rotary(model), **asked)


def _check_known(job: str, name: str) -> None:
    """Refuse a name that nobody has registered, with what can run here or who would register it."""
    known = names(job)
    if name in known:
        return
    here = (AUTO, *runnable(job, "cuda" if torch.cuda.is_available() else "cpu"), *PLUG_INS.names())
    found = nearest(name, here)
    close = f"did you mean {found}? " if found else ""
    raise ConfigError(
        field_of(job),
        required=f"auto or one of {', '.join(known)}",
        given=repr(name),
        fix=f"{close}write one that can run here ({', '.join(here)}), or {PLUG_INS.how_to_get()}",
    )


def _activation(model: ModelConfig) -> str:
    """The activation asked for, Megatron's where bias_activation_fusion asks for it."""
    name, fused, on_gpu = model.activation_backend, model.bias_activation_fusion, torch.cuda.is_available()
    if fused and not on_gpu:
        raise BackendUnavailableError(
            "model.bias_activation_fusion",
            required="a CUDA device, for which Megatron's fused activation is compiled",
            given="true, and PyTorch sees no CUDA device here",
            fix="null lets activation_backend decide",
        )
    if (fused and name not in ("auto", "megatron")) or (fused is False and name == "megatron"):
        raise ConfigError(
            "model.bias_activation_fusion",
            required=f"null, or in agreement with activation_backend={name}",
            given=fused,
            fix="null lets activation_backend decide",
        )
    if fused is None or name != "auto":
        return name
    # On a CPU false changes nothing: Megatron's fused activation cannot run there.
    plain = "torch" if on_gpu else name
    return "megatron" if fused else plain


def _rotary(model: ModelConfig) -> str:
    """The rotary kernel asked for, `fused` where apply_rope_fusion asks for any fused one."""
    kernel, fused = model.rotary_kernel, model.apply_rope_fusion
    check_choice("model.rotary_kernel", kernel, ("auto", *(known.name for known in KERNELS)))
    if fused is False:
        contradiction, kernel = kernel not in ("auto", "torch"), "torch"
    else:
        contradiction = fused is True and kernel == "torch"
        kernel = FUSED if fused and kernel == "auto" else kernel
    if contradiction:
        raise ConfigError(
            "model.apply_rope_fusion",
            required=f"null, or in agreement with rotary_kernel={model.rotary_kernel}",
            given=fused,
            fix="null lets rotary_kernel decide",
        )
    return kernel


def check_shifted(model: ModelConfig, length: int) -> None:
    """Whether attention in groups can be had where it is asked for; nothing is looked at elsewhere.

    Args:
        model: the section.
        length: tokens of a sample.

    Raises:
        ConfigError: groups that do not make up a sample, documents that groups would cut, or a size for
            attention that has no groups.
    """
    group, key = model.shifted_attention_group, "model.shifted_attention_group"
    if model.attention_backend != SHIFTED:
        if group is not None:
            raise ConfigError(
                key,
                required=f"null, or with it model.attention_backend={SHIFTED}",
                given=group,
                fix=f"{key}=null, or model.attention_backend={SHIFTED}",
            )
        return
    for name in ("pack_documents", "reset_attention_mask"):
        if getattr(model.data, name):
            raise ConfigError(
                f"model.data.{name}",
                required=f"false with model.attention_backend={SHIFTED}: its groups are counted from the "
                "start of a row, and would cut documents anywhere",
                given=True,
                fix=f"model.data.{name}=false, or model.attention_backend=auto",
            )
    size = length // SHARE if group is None else group
    if size < 2 or size % 2 or length % size or size >= length:
        halves = [length // parts for parts in (4, 2, 8, 16) if length % (2 * parts) == 0]
        raise ConfigError(
            key,
            required=f"an even number of tokens, two or more of which make up the {length:,} of a sample",
            given="null, a quarter of that" if group is None else group,
            fix=f"{key}={halves[0]}" if halves else "model.attention_backend=auto",
        )


def is_for_this_machine(run: ResolvedRun) -> bool:
    """Whether the layers that a run asks for can be had here; a plan may be made where they cannot."""
    return run.transformer_engine is not True or transformer_engine_available()


def backends_of(run: ResolvedRun) -> Backends:
    """What does each job of a run's model, as it will be built on this machine.

    A run that demands Transformer Engine elsewhere than where it runs is not for this machine: ask
    is_for_this_machine first.

    Raises:
        BackendUnavailableError: a backend asked for by name cannot do the job here.
    """
    return choose_backends(run.engine.workload(), run.engine.build.backends)
