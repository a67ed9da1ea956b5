"""Recomputed layers that put away what they keep, or spare attention, against Megatron's recomputation."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from nemo_pi.kernels import native, native_attention
from nemo_pi.model.build import BuildOptions
from nemo_pi.model.core_attention import DocumentBoundaries
from nemo_pi.model.options import ALL_BUT_ATTENTION, BackendRequests, Recompute
from nemo_pi.parallel.cpu_shim import cpu_shim
from tests.unit.model.models import SHAPE, build, forward, random_tokens
from tests.unit.model.test_tiled_mlp import SHAPES, assert_same, model_of, trained

pytestmark = pytest.mark.usefixtures("one_rank")

SPARED = Recompute("selective", modules=(ALL_BUT_ATTENTION,))
FULL = Recompute("full", "uniform", 1)
DOCUMENTS = DocumentBoundaries(((0, 7, 24), (0, 24)))
DEEP = replace(SHAPE, num_layers=4)
SLIDING = replace(SHAPE, num_layers=4, sliding_window=6, full_attention_layers=(1, 3), family="qwen2")


def on_disk(recompute: Recompute, folder: Path) -> Recompute:
    return replace(recompute, offload="disk", folder=str(folder))


def backward(loss: Tensor) -> None:
    with cpu_shim():
        loss.backward()


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("documents", [None, DOCUMENTS], ids=["whole", "packed"])
@pytest.mark.parametrize("disk", [False, True], ids=["in place", "disk"])
@pytest.mark.parametrize("recompute", [FULL, Recompute("full", "block", 3), SPARED], ids=str)
def test_changes_not_a_bit(
    recompute: Recompute, disk: bool, documents: DocumentBoundaries | None, tmp_path: Path
) -> None:
    wanted = trained(model_of(DEEP), documents)
    chosen = on_disk(recompute, tmp_path) if disk else recompute
    assert_equal(trained(model_of(DEEP, recompute=chosen), documents), wanted)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", SHAPES)
def test_every_kind_of_layer(kind: str, tmp_path: Path) -> None:
    chosen = on_disk(SPARED, tmp_path)
    assert_equal(trained(model_of(SHAPES[kind], recompute=chosen)), trained(model_of(SHAPES[kind])))


@pytest.mark.parametrize("kind", SHAPES)
def test_with_slices_of_the_mlp(kind: str, tmp_path: Path) -> None:
    """Whose output is not computed the second time, where no norm reads it."""
    tiled = trained(model_of(SHAPES[kind], mlp_chunk_tokens=9))
    chosen = on_disk(SPARED, tmp_path)
    assert_equal(trained(model_of(SHAPES[kind], mlp_chunk_tokens=9, recompute=chosen)), tiled)
    assert_same(tiled, trained(model_of(SHAPES[kind])))


@pytest.mark.parametrize("documents", [None, DOCUMENTS], ids=["whole", "packed"])
def test_layers_with_a_window_beside_those_without(
    documents: DocumentBoundaries | None, tmp_path: Path
) -> None:
    wanted = trained(model_of(SLIDING), documents)
    assert_equal(trained(model_of(SLIDING, recompute=on_disk(SPARED, tmp_path)), documents), wanted)


@pytest.mark.parametrize("name", ["native", "sdpa", "rows"])
def test_every_attention_is_spared(name: str) -> None:
    if name != "sdpa" and (native.obstacle() or not torch.backends.mkldnn.is_available()):
        pytest.skip("not on this machine")
    found = []
    for recompute in (Recompute(), SPARED):
        torch.manual_seed(3)
        options = BuildOptions(
            init_method_std=0.15, recompute=recompute, backends=BackendRequests(attention=name)
        )
        model = build(options=options).train()
        # Long enough for whole rows of scores.
        tokens = random_tokens(1, 520)
        backward(forward(model, tokens, None, tokens).sum())
        found.append({key: value.grad for key, value in model.named_parameters()})
    assert_equal(found[1], found[0])  # type: ignore[arg-type]


@contextmanager
def attention_counted() -> Iterator[list[int]]:
    calls: list[int] = []
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

    class Counting(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.overloadpacket is attend:
                calls.append(args[0].size(2))
            return func(*args, **(kwargs or {}))

    with Counting():
        yield calls


@pytest.mark.parametrize(("recompute", "times"), [(FULL, 2), (SPARED, 1)])
def test_attention_is_computed_once(recompute: Recompute, times: int, tmp_path: Path) -> None:
    torch.manual_seed(3)
    backends = BackendRequests(attention="sdpa")
    model = build(options=BuildOptions(recompute=on_disk(recompute, tmp_path), backends=backends)).train()
    with attention_counted() as calls:
        trained(model)
    assert len(calls) == times * SHAPE.num_layers


def test_what_is_put_away_is_not_held(tmp_path: Path) -> None:
    """Of each layer but the last, whose backward pass comes next, nothing stays in memory."""
    alive: list[weakref.ref[Tensor]] = []
    model = model_of(DEEP, recompute=on_disk(SPARED, tmp_path))
    for layer in model.decoder.layers:
        layer.register_forward_pre_hook(
            lambda _, args, kwargs: alive.append(weakref.ref(kwargs["hidden_states"])), with_kwargs=True
        )
    losses_BS = forward(model, random_tokens(), None, random_tokens(seed=1))
    gc.collect()
    # The first one is the embedding's output, which the embedding's own graph does not hold either.
    assert [one() is not None for one in alive[1:]] == [False, False, True]
    backward(losses_BS.sum())


def test_micro_batches_in_flight_do_not_mix(tmp_path: Path) -> None:
    """Two forward passes, then the backward pass of the first: as a pipeline's stages do."""
    found = []
    for recompute in (Recompute(), on_disk(SPARED, tmp_path)):
        model = model_of(DEEP, recompute=recompute)
        one, other = (
            forward(model, random_tokens(seed=seed), None, random_tokens(seed=1)) for seed in (5, 6)
        )
        backward(one.sum())
        backward(2 * other.sum())
        found.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert_equal(found[1], found[0])  # type: ignore[arg-type]


def test_a_pass_that_is_given_up_gives_its_place_back(tmp_path: Path) -> None:
    model = model_of(DEEP, recompute=on_disk(FULL, tmp_path))
    sizes = []
    for _ in range(3):
        forward(model, random_tokens(), None, random_tokens(seed=1))
        gc.collect()
        sizes.append(size_of_files_in(tmp_path))
    assert sizes == [3 * 2 * 24 * 64 * 4] * 3


def size_of_files_in(folder: Path) -> int:
    """Of those that this process has open, with or without a name."""
    opened = Path("/proc/self/fd")
    if not opened.exists():
        pytest.skip("needs /proc")
    links = [each for each in opened.iterdir() if each.is_symlink()]
    return sum(each.stat().st_size for each in links if str(each.readlink()).startswith(str(folder)))


def test_evaluation_puts_nothing_away(tmp_path: Path) -> None:
    model = model_of(DEEP, recompute=on_disk(SPARED, tmp_path / "none"))
    with torch.no_grad():
        forward(model.eval(), random_tokens())
    model.train()
    with torch.no_grad():
        forward(model, random_tokens())


def test_16_bit_weights(tmp_path: Path) -> None:
    wanted = trained(model_of(DEEP, params_dtype=torch.bfloat16))
    chosen = on_disk(SPARED, tmp_path)
    assert_equal(trained(model_of(DEEP, params_dtype=torch.bfloat16, recompute=chosen)), wanted)


def test_the_compiled_kernel_is_the_one_that_is_spared() -> None:
    """The tests above would also pass with PyTorch's."""
    if native.obstacle():
        pytest.skip("not on this machine")
    with patch.object(native_attention, "attend", wraps=native_attention.attend) as attend:
        trained(model_of(DEEP, recompute=SPARED))
    assert attend.call_count == DEEP.num_layers
