"""The backends that nemo_pi knows for each job of a layer, and the one place where they are chosen.

What a backend's `load` returns, by job:

- attention: a CausalAttention (kernels/attention.py), or a class in place of Megatron's core attention;
- norm: a function of x, weight and epsilon (kernels/norm.py), or a class in place of Megatron's norm;
- activation: a function of gate and up side by side (kernels/activation.py), a class that Megatron builds in
  its place, or None for Megatron's own fused one;
- softmax: a TorchSoftmax (kernels/softmax.py);
- matmul: a TorchProducts (kernels/products.py).

Rotary kernels have a table of their own (kernels/rotary.py). To add a backend, see CONTRIBUTING.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from typing import Any

import torch

from nemo_pi.errors import ConfigError
from nemo_pi.kernels import activation, attention, native, norm, products, softmax
from nemo_pi.kernels.needs import Capability, Needs
from nemo_pi.kernels.registry import Backend, Choice, Measured, select

ENTRY_POINTS = "nemo_pi.backends"
"""Group of Python entry points under which other packages name a Backend of theirs."""
_CPU, _CUDA = frozenset({"cpu"}), frozenset({"cuda"})
_FP32 = frozenset({torch.float32})
_OURS = Capability(engine_layers=False)
_ENGINE = Capability(_CUDA, engine_layers=True)
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
    ],
    "norm": [
        _engine("norm", _engine_part("TENorm")),
        _compiled("norm", norm.rms_norm_native, multiple_of=16),
        Backend("torch", "norm", _OURS, lambda: norm.rms_norm_torch),
    ],
    "activation": [
        # Compiled for GPUs by torch's JIT; the same numbers as Transformer Engine's within rounding.
        Backend("megatron", "activation", Capability(_CUDA), lambda: None),
        _engine("activation", _engine_part("TEActivationOp")),
        _compiled("activation", activation.swiglu_native, multiple_of=16),
        Backend("torch", "activation", Capability(), lambda: activation.swiglu_torch),
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


def field_of(job: str) -> str:
    """The key of the YAML that names a job's backend."""
    return f"model.{job}_backend"


def candidates(job: str) -> tuple[Backend, ...]:
    """All backends known for a job, in the order in which `auto` prefers them where nothing is measured."""
    _load_entry_points()
    return tuple(_JOBS[job])


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
            mend="register it for a job that layers have",
        )
    known = [other.name for other in _JOBS[backend.job]]
    if backend.name in ("auto", *known):
        raise ConfigError(
            f"backend {backend.name}: name",
            required=f"a new one: {backend.job} has {', '.join(known)}, and auto chooses among them",
            given=backend.name,
            mend="register it under another name",
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
    return select(field_of(job), request, needs, candidates(job), measure=measure, elsewhere=elsewhere)


@cache
def _load_entry_points() -> None:
    for point in entry_points(group=ENTRY_POINTS):
        register(point.load())
