"""The backends that nemo_pi knows for each job of a layer, and the one place where they are chosen.

What a backend's `load` returns, by job:

- attention: a CausalAttention (kernels/attention.py), or a class in place of Megatron's core attention;
- norm: a function of x, weight and epsilon, and of the bias where it can do LayerNorm (kernels/norm.py), or a
  class in place of Megatron's norm;
- activation: a function of gate and up side by side and, where it can do more than SwiGLU, of the function's
  name and whether it is gated (kernels/activation.py), a class that Megatron builds in its place, or None for
  Megatron's own fused one;
- softmax: a TorchSoftmax (kernels/softmax.py);
- matmul: a TorchProducts (kernels/products.py).

Rotary kernels have a table of their own (kernels/rotary.py). To add a backend, see CONTRIBUTING.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from nemo_pi.errors import ConfigError
from nemo_pi.kernels import activation, attention, native, norm, products, shifted_attention, softmax
from nemo_pi.kernels.needs import Capability, Needs
from nemo_pi.kernels.registry import AUTO, Backend, Choice, Measured, select
from nemo_pi.plug_ins import PlugIns

_CPU, _CUDA = frozenset({"cpu"}), frozenset({"cuda"})
_FP32 = frozenset({torch.float32})
_BOTH_NORMS = frozenset({"RMSNorm", "LayerNorm"})
# Layers of Transformer Engine have norms and products built in, so that ours have no place there.
_OURS = Capability(engine_layers=False, norms=_BOTH_NORMS)
# Its gelu, as Megatron's fused one, is the approximation by tanh.
_ENGINE = Capability(
    _CUDA,
    engine_layers=True,
    norms=_BOTH_NORMS,
    activations=frozenset({"gated silu", "gated gelu_tanh", "gelu_tanh"}),
)
_FUSED = Capability(_CUDA, activations=frozenset({"gated silu", "gated gelu_tanh"}))
_TE = "transformer_engine"


def _native_obstacle() -> str | None:
    return native.obstacle()


def _compiled(job: str, loaded: Any, **capability: Any) -> Backend:
    """A kernel of csrc/."""
    able = Capability(_CPU, _FP32, engine_layers=False, **capability)
    return Backend("native", job, able, lambda: loaded, obstacle=_native_obstacle)


def _engine(job: str, load: Callable[[], Any]) -> Backend:
    """A part of Transformer Engine's layers."""
    return Backend(_TE, job, _ENGINE, load, package=_TE)


def _engine_part(name: str) -> Callable[[], Any]:
    """A class of Megatron's module about Transformer Engine, imported when a model is built of it."""

    def load() -> Any:
        from megatron.core.extensions import transformer_engine

        return getattr(transformer_engine, name)

    return load


# In the order in which `auto` prefers them where nothing is measured; in a race ties go to the earlier one.
_JOBS: dict[str, list[Backend]] = {
    "attention": [
        _engine("attention", _engine_part("TEDotProductAttention")),
        _compiled("attention", attention.NATIVE, multiple_of=16, widest=256, windows=False),
        Backend("sdpa", "attention", Capability(), lambda: attention.SDPA),
        Backend(
            "rows",
            "attention",
            Capability(_CPU, _FP32, windows=False, split_rows=False, engine_layers=False),
            lambda: attention.ROWS,
            obstacle=products.onednn_obstacle,
        ),
        Backend(
            shifted_attention.NAME,
            "attention",
            Capability(windows=False, split_rows=False, engine_layers=False),
            lambda: shifted_attention.SHIFTED,
            named_only=True,
        ),
    ],
    "norm": [
        _engine("norm", _engine_part("TENorm")),
        _compiled("norm", norm.rms_norm_native, multiple_of=16),
        Backend("torch", "norm", _OURS, lambda: norm.norm_torch),
    ],
    "activation": [
        # Compiled for GPUs by torch's JIT; the same numbers as Transformer Engine's within rounding.
        Backend("megatron", "activation", _FUSED, lambda: None),
        _engine("activation", _engine_part("TEActivationOp")),
        _compiled("activation", activation.swiglu_native, multiple_of=16),
        Backend("torch", "activation", Capability(activations=None), lambda: activation.activation_torch),
    ],
    "softmax": [
        Backend(
            "native",
            "softmax",
            Capability(_CPU, _FP32, multiple_of=16),
            lambda: softmax.NATIVE_SOFTMAX,
            obstacle=_native_obstacle,
        ),
        Backend("torch", "softmax", Capability(), lambda: softmax.TORCH_SOFTMAX),
    ],
    "matmul": [
        # Its layers multiply by themselves; what is left is the loss's products, which are PyTorch's.
        _engine("matmul", lambda: products.TORCH),
        Backend("torch", "matmul", _OURS, lambda: products.TORCH),
        Backend(
            "onednn",
            "matmul",
            Capability(_CPU, _FP32, engine_layers=False),
            lambda: products.ONEDNN,
            obstacle=products.onednn_obstacle,
        ),
    ],
}
JOBS = tuple(_JOBS)
"""Jobs of a layer, rotary apart, in the order in which the plan shows them."""
PLUG_INS = PlugIns(
    "nemo_pi.backends",
    kind="backend",
    expected=Backend,
    # auto as well: a package of that name could never be asked for.
    built_in=[AUTO, *(backend.name for backends in _JOBS.values() for backend in backends)],
)
"""Backends of other packages; `auto` takes none of them, so that none is imported for it."""


def field_of(job: str) -> str:
    """The key of the YAML that names a job's backend."""
    return f"model.{job}_backend"


def names(job: str) -> tuple[str, ...]:
    """What can be asked for, other packages' last: which job those do is seen when they are imported."""
    return tuple(dict.fromkeys([*(backend.name for backend in _JOBS[job]), *PLUG_INS.names()]))


def runnable(job: str, device_type: str) -> tuple[str, ...]:
    """Names of ours that run on such a device in this process, whatever a model asks besides.

    Args:
        job: one of JOBS.
        device_type: cpu or cuda.
    """
    return tuple(
        one.name
        for one in _JOBS[job]
        if device_type in (one.capability.device_types or (device_type,)) and one.obstacle_here() is None
    )


def candidates(job: str, request: str = AUTO) -> tuple[Backend, ...]:
    """The backends that a request may get, in the order in which `auto` prefers them unless it measures.

    Args:
        job: one of JOBS.
        request: another package's backend is among them, and imported, only where it is asked for by name.

    Raises:
        ConfigError: the package that registers the one asked for is broken, or it is for another job.
    """
    known = tuple(one for one in _JOBS[job] if not one.named_only or one.name == request)
    if request == AUTO or any(backend.name == request for backend in known):
        return known
    plug_in = _plug_in(job, request)
    return known if plug_in is None else (*known, plug_in)


def register(backend: Backend) -> None:
    """Adds a backend, behind those that are known.

    Raises:
        ConfigError: its job is none of JOBS, or has a backend of that name.
    """
    if backend.job not in _JOBS:
        raise ConfigError(
            f"backend {backend.name}: job",
            required=f"one of {', '.join(JOBS)}",
            given=backend.job,
            fix="register it for a job that layers have",
        )
    known = [other.name for other in _JOBS[backend.job]]
    if backend.name in ("auto", *known):
        raise ConfigError(
            f"backend {backend.name}: name",
            required=f"a new one: {backend.job} has {', '.join(known)}, and auto chooses among them",
            given=backend.name,
            fix="register it under another name",
        )
    _JOBS[backend.job].append(backend)


def unregister(backend: Backend) -> None:
    """Takes back what register added."""
    _JOBS[backend.job].remove(backend)


def choose(
    job: str,
    request: str,
    needs: Needs,
    measure: Callable[[Sequence[Backend]], Measured] | None = None,
    elsewhere: Mapping[str, str] | None = None,
) -> Choice[Backend]:
    """The backend of a job that a request gets; see kernels/registry.py.

    Args:
        job: one of JOBS.
        request: `auto`, or a name.
        needs: what the model asks of it.
        measure: times several that can do the job; None where none are to be timed.
        elsewhere: {name: why it cannot run} on other ranks, which shall use the same.

    Raises:
        ConfigError: for a name that is not known.
        BackendUnavailableError: the one asked for by name cannot do the job here, with the reason.
    """
    known = candidates(job, request)
    return select(field_of(job), request, needs, known, measure=measure, elsewhere=elsewhere)


def check_available(job: str, name: str) -> None:
    """Whether a name that a user's YAML asks for is one backend's, and that one does this job.

    Raises:
        ConfigError: a package registers it although it is ours or another's, or the package is broken.
    """
    PLUG_INS.check_claims(name, field_of(job))
    candidates(job, name)


def _plug_in(job: str, name: str) -> Backend | None:
    """Another package's backend of this name; None where nobody registers one.

    Raises:
        ConfigError: the package is broken, or its backend does something else.
    """
    field = field_of(job)
    found = PLUG_INS.object_named(name, field)
    if found is None:
        return None
    if found.job not in _JOBS:
        raise PLUG_INS.broken(name, f"a job of {', '.join(JOBS)}", repr(found.job), field)
    if found.job != job:
        raise ConfigError(
            field,
            required=f"a backend for {job}",
            given=f"{name!r} of {PLUG_INS.provider(name)}, which is one for {found.job}",
            fix=f"write {field_of(found.job)}={name}, and auto here",
        )

    def ours(function: Callable[[], Any], promise: str) -> Callable[[], Any]:
        def call() -> Any:
            with PLUG_INS.blamed(name, promise, field):
                return function()

        return call

    obstacle = found.obstacle and ours(found.obstacle, "an obstacle() that says what there is")
    # A package's code fails not only while it is imported but whenever its functions are called.
    return replace(found, load=ours(found.load, "a load() that brings it"), obstacle=obstacle)
