"""Where a step spends its time: python -m benchmarks.training.profiling JOB, in a process of its own.

Operators are sorted by what they are for or are part of; those that read or write something as wide as the
vocabulary and are no matrix products belong to the loss. The rest of the time is Python and dispatch.
"""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.harness import timed
from benchmarks.training.estimate import gemm_flops_per_second
from benchmarks.training.job import Job
from benchmarks.training.sizes import SIZES
from nemo_pi.kernels.products import ONEDNN, onednn_obstacle

GEMM, LOSS, COPIES, OTHER = "matrix products", "loss", "copies", "other operators"
ATTENTION = "attention"
OUTSIDE = "outside operators"
_KINDS = (
    (
        GEMM,
        r"aten::(mm|addmm_?|bmm|baddbmm|_addmm_activation|mkldnn_linear|_linear)$|mkldnn::_linear_pointwise",
    ),
    (ATTENTION, r"(?i)scaled_?dot_?product|flash_attn|flash_attention|efficient_attention|^_(Attend|Rows)"),
    ("optimizer", r"Optimizer\.|_fused_adam|_foreach_|clip_grad|linalg_vector_norm|adamw?_"),
    (LOSS, r"softmax|nll_loss|cross_entropy|logsumexp|Loss"),
    ("rotary", r"(?i)rotat|rotary|apply_rope"),
    ("norms", r"(?i)rms_?norm|layer_norm|rsqrt"),
    (COPIES, r"aten::(copy_|cat|clone|contiguous|fill_|zero_|stack|index_put_|_foreach_copy_)$"),
    ("activation", r"(?i)silu|gelu|sigmoid|swiglu"),
    ("embedding", r"embedding|index_select"),
    ("collectives", r"c10d::|gloo:|nccl"),
)
KINDS = (*dict.fromkeys(kind for kind, _ in _KINDS), OTHER, OUTSIDE)
"""All kinds, in the order of a report."""
_STEPS = 5


def kind_of(name: str, shapes: Iterable[Any], vocab_size: int) -> str:
    """What an operator is for.

    Args:
        name: as the profiler has it, e.g. aten::mm.
        shapes: of its inputs; a list of numbers is a shape.
        vocab_size: tells the loss by.
    """
    found = next((kind for kind, pattern in _KINDS if re.search(pattern, name)), OTHER)
    if found in (GEMM, ATTENTION, "optimizer", "embedding"):
        return found
    wide = any(isinstance(shape, list) and vocab_size in shape[1:] for shape in shapes)
    return LOSS if wide else found


def kind_of_event(event: Any, vocab_size: int) -> str:
    """The kind of a profiled operator, or of the nearest one around it that is more than arithmetic.

    A multiplication within a hand-written rotary function is rotary, anything within attention is attention.
    """
    kind = kind_of(event.name, event.input_shapes or (), vocab_size)
    around = event.cpu_parent
    while around is not None:
        outer = kind_of(around.name, around.input_shapes or (), vocab_size)
        if outer == ATTENTION or (kind in (OTHER, COPIES) and outer not in (OTHER, COPIES)):
            kind = outer
        around = around.cpu_parent
    return kind


def profile_step(step: Any, vocab_size: int, on_gpu: bool) -> dict[str, Any]:
    """Times some steps without and some with the profiler.

    Returns:
        Seconds of an unprofiled step, seconds of a profiled one by kind, and the ten longest operators as
        [name, kind, seconds, calls].
    """
    step()
    plain = statistics.median(timed(step) for _ in range(_STEPS))
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
    with profile(activities=activities, record_shapes=True) as profiler:
        profiled = sum(timed(step) for _ in range(_STEPS)) / _STEPS
    kinds = dict.fromkeys(KINDS, 0.0)
    operators: dict[str, list[Any]] = {}
    for event in profiler.events():
        if event.device_type != DeviceType.CPU:
            continue  # a kernel by itself: its time is also that of the operator that started it
        microseconds = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        seconds, kind = microseconds / 1e6 / _STEPS, kind_of_event(event, vocab_size)
        kinds[kind] += seconds
        entry = operators.setdefault(event.name, [event.name, kind, 0.0, 0])
        entry[2] += seconds
        entry[3] += 1
    for entry in operators.values():
        entry[3] //= _STEPS
    kinds[OUTSIDE] = max(0.0, profiled - sum(kinds.values()))
    longest = sorted(operators.values(), key=lambda entry: -entry[2])[:10]
    return {"seconds": plain, "profiled": profiled, "kinds": kinds, "longest": longest}


def main() -> None:
    """Profiles one contestant and sends what was found."""
    from benchmarks.training.pacer import Pacer
    from benchmarks.training.worker import contestant, own_channel

    channel = own_channel()
    job = Job.from_json(sys.argv[1])
    pacer = Pacer(channel)
    step = contestant(job).make_step(job)
    if not pacer.ready():
        return
    found = profile_step(step, SIZES[job.size].shape.vocab_size, job.on_gpu)
    dtype = torch.bfloat16 if job.on_gpu else torch.float32
    side = 8192 if job.on_gpu else 2048
    libraries: list[Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = [torch.mm]
    if onednn_obstacle() is None:
        libraries.append(ONEDNN.times_transposed)
    found["gemm_peak"] = max(gemm_flops_per_second(job.device, dtype, side, product) for product in libraries)
    pacer.send({"event": "profile", **found})


if __name__ == "__main__":
    main()
