"""The shim does what Megatron needs inside its block, and leaves no trace outside, whatever happens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from megatron.core.optimizer import clip_grads
from megatron.core.pipeline_parallel import schedules
from megatron.core.tensor_parallel import random as megatron_random
from megatron.core.utils import local_multi_tensor_scale
from torch.overrides import _get_current_function_mode

from nemo_pi.parallel import cpu_shim as module
from nemo_pi.parallel.cpu_shim import cpu_shim

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the shim does nothing where there is CUDA")


def touched() -> dict[str, Any]:
    """Everything of torch and Megatron that the shim may lay hands on, written down without its table."""
    megatron_random.initialize_rng_tracker()  # made on first use and then kept: Megatron's own doing
    owners: dict[str, Any] = {
        "cuda": torch.cuda,
        "tensor": torch.Tensor,
        "random": megatron_random,
        "tracker": megatron_random.CudaRNGStatesTracker,
        "schedules": schedules,
        "clip_grads": clip_grads,
    }
    return {f"{key}.{name}": value for key, owner in owners.items() for name, value in vars(owner).items()}


@pytest.fixture(autouse=True)
def leaves_no_trace() -> Iterator[None]:
    before = touched()
    yield
    after = touched()
    assert {name for name in before if after.get(name) is not before[name]} == set()
    with pytest.raises((AssertionError, RuntimeError)):
        torch.zeros(1, device="cuda")


def test_factories_that_name_cuda_make_cpu_tensors() -> None:
    with cpu_shim():
        for device in ("cuda", "cuda:0", torch.device("cuda"), torch.cuda.current_device()):
            assert torch.zeros(2, device=device).device.type == "cpu"
        assert torch.tensor([1], dtype=torch.int, device="cuda").dtype == torch.int
        assert torch.empty(2, device="meta").device.type == "meta"


def test_megatrons_type_test_passes() -> None:
    """clip_grads.py asserts this very string."""
    with cpu_shim():
        assert torch.zeros(1).type() == "torch.cuda.FloatTensor"
        assert torch.zeros(1, dtype=torch.bfloat16).type() == "torch.cuda.BFloat16Tensor"
        assert torch.zeros(1).type(torch.float64).dtype == torch.float64
    assert torch.zeros(1).type() == "torch.FloatTensor"


def test_moving_to_the_gpu_moves_nothing() -> None:
    tensor = torch.ones(3)
    with cpu_shim():
        assert tensor.cuda() is tensor
        torch.cuda.synchronize()


def test_gpu_generators_are_not_asked() -> None:
    with cpu_shim():
        state = megatron_random._get_cuda_rng_state()
        megatron_random._set_cuda_rng_state(state)
        with megatron_random.get_cuda_rng_tracker().fork():
            assert torch.zeros(1, device="cuda").device.type == "cpu"


def test_everything_is_restored_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), cpu_shim():
        raise ZeroDivisionError


def test_blocks_can_be_nested() -> None:
    with cpu_shim():
        with cpu_shim():
            pass
        assert torch.zeros(1, device=torch.cuda.current_device()).device.type == "cpu"
        assert torch.zeros(1).type() == "torch.cuda.FloatTensor"


def test_a_models_passes_are_outside_of_the_mode() -> None:
    """However deep the blocks are nested, and whatever happens in the passes."""

    def fails() -> None:
        assert _get_current_function_mode() is None
        raise ZeroDivisionError

    with cpu_shim(), cpu_shim():
        with pytest.raises(ZeroDivisionError):
            module._outside(fails)()
        assert _get_current_function_mode() is not None
        assert torch.zeros(1, device="cuda").device.type == "cpu"


def test_gradients_are_scaled_as_megatron_does_it() -> None:
    gradients = [torch.arange(3.0), torch.full((2, 2), 0.3)]
    ours, theirs = ([x.clone() for x in gradients] for _ in range(2))
    pointers = [x.data_ptr() for x in ours]
    with cpu_shim():
        clip_grads.multi_tensor_scale_impl(0, torch.zeros(1), [ours, ours], 0.1)
        other = [torch.empty_like(x) for x in gradients]
        clip_grads.multi_tensor_scale_impl(0, torch.zeros(1), [gradients, other], 0.1)
    local_multi_tensor_scale(0, None, [theirs, theirs], 0.1)
    for one, two, three in zip(ours, theirs, other, strict=True):
        assert torch.equal(one, two) and torch.equal(two, three)
    assert [x.data_ptr() for x in ours] == pointers


def test_a_part_that_cannot_be_replaced_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entering fails half way: what was replaced by then is put back."""

    class Stubborn:
        @property
        def name(self) -> None: ...

    table = (*module._REPLACEMENTS[:2], (Stubborn(), "name", lambda: None))
    monkeypatch.setattr(module, "_REPLACEMENTS", table)
    with pytest.raises(AttributeError), cpu_shim():
        pass


def test_with_cuda_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    before = touched()
    with cpu_shim():
        assert {name for name, value in touched().items() if before[name] is not value} == set()
        assert torch.zeros(1).type() == "torch.FloatTensor"
    monkeypatch.undo()
