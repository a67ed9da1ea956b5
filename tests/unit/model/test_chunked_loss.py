"""The chunked loss and its gradients against plain float64 cross-entropy, on one rank and on two."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import cross_entropy, linear_cross_entropy

from nemo_pi.kernels.native import obstacle
from nemo_pi.kernels.softmax import NATIVE_SOFTMAX, TORCH_SOFTMAX, TorchSoftmax
from nemo_pi.model.chunked_loss import weighted_loss_sum
from tests.unit.checkpoint.models import run_ranks

SIZES = [(1, 1, 2), (37, 24, 98), (64, 16, 7)]  # tokens, hidden size, vocabulary


def inputs(
    sizes: tuple[int, int, int] = SIZES[1], dtype: torch.dtype = torch.float64, scale: float = 1.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, projection, labels, and weights of which a third is 0."""
    tokens, hidden, vocab = sizes
    generator = torch.Generator().manual_seed(3)
    hidden_NH = torch.randn(tokens, hidden, generator=generator, dtype=torch.float64).to(dtype)
    weight_VH = (scale * torch.randn(vocab, hidden, generator=generator, dtype=torch.float64)).to(dtype)
    labels_N = torch.randint(0, vocab, (tokens,), generator=generator)
    weight_N = torch.arange(1, tokens + 1) % 3 / 2
    return hidden_NH.requires_grad_(), weight_VH.requires_grad_(), labels_N, weight_N


def plain(hidden_NH: Tensor, weight_VH: Tensor, labels_N: Tensor, weight_N: Tensor) -> tuple[Tensor, ...]:
    """The loss of whole logits, and the gradients of hidden states and projection under a factor of 3."""
    wide = [x.detach().double().requires_grad_() for x in (hidden_NH, weight_VH)]
    loss = (cross_entropy(wide[0] @ wide[1].t(), labels_N, reduction="none") * weight_N).sum()
    return loss.detach(), *torch.autograd.grad(3 * loss, wide)


def chunked(*arguments: Tensor, chunk_tokens: int = 8) -> tuple[Tensor, ...]:
    """The same by chunks."""
    loss = weighted_loss_sum(*arguments, chunk_tokens=chunk_tokens)
    return loss.detach(), *torch.autograd.grad(3 * loss, arguments[:2])


@pytest.mark.parametrize("chunk_tokens", [1, 8, 37, 1000])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_equals_whole_logits(chunk_tokens: int, sizes: tuple[int, int, int], scale: float) -> None:
    """Sharp softmaxes too, whose smallest probabilities are not representable."""
    arguments = inputs(sizes, scale=scale)
    for ours, theirs in zip(chunked(*arguments, chunk_tokens=chunk_tokens), plain(*arguments), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-12), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("chunk_tokens", [1, 8, 1000])
def test_a_bias_of_the_logits(chunk_tokens: int, dtype: torch.dtype, within: float) -> None:
    """Loss and gradients, its own among them, and the loss without any gradient."""
    hidden_NH, weight_VH, labels_N, weight_N = inputs(dtype=dtype)
    bias_V = torch.linspace(-2, 2, weight_VH.size(0)).to(dtype).requires_grad_()
    leaves = (hidden_NH, weight_VH, bias_V)
    loss = weighted_loss_sum(*leaves[:2], labels_N, weight_N, chunk_tokens=chunk_tokens, bias_V=bias_V)
    ours = (loss.detach(), *torch.autograd.grad(3 * loss, leaves))
    with torch.no_grad():
        alone = weighted_loss_sum(*leaves[:2], labels_N, weight_N, chunk_tokens=chunk_tokens, bias_V=bias_V)
    assert torch.equal(alone, ours[0])
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    logits_NV = wide[0] @ wide[1].t() + wide[2]
    exact = (cross_entropy(logits_NV, labels_N, reduction="none") * weight_N).sum()
    for one, theirs in zip(ours, (exact.detach(), *torch.autograd.grad(3 * exact, wide)), strict=True):
        assert (one.double() - theirs).norm() <= within * theirs.norm()


@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-6), (torch.bfloat16, 6e-3)])
def test_rounds_no_more_than_its_dtype(dtype: torch.dtype, within: float) -> None:
    """The loss of many bf16 tokens is summed in fp32."""
    arguments = inputs((5000, 16, 50), dtype)
    loss, *gradients = chunked(*arguments, chunk_tokens=128)
    expected_loss, *expected = plain(*arguments)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected_loss, rtol=max(1e-6, within / 10), atol=0)
    for ours, theirs in zip(gradients, expected, strict=True):
        assert ours.dtype == dtype
        assert (ours.double() - theirs).norm() < within * theirs.norm()


@pytest.mark.parametrize("kernel", [TORCH_SOFTMAX, NATIVE_SOFTMAX], ids=lambda kernel: type(kernel).__name__)
def test_padding_gets_no_probability_and_no_gradient(kernel: TorchSoftmax) -> None:
    if kernel is NATIVE_SOFTMAX and obstacle() is not None:
        pytest.skip(f"native: {obstacle()}")
    hidden_NH, weight_VH, labels_N, weight_N = inputs((37, 16, 45), torch.float32)
    padded_VH = torch.cat([weight_VH.detach(), 50 * torch.ones(3, 16)]).requires_grad_()
    loss = weighted_loss_sum(
        hidden_NH, padded_VH, labels_N, weight_N, chunk_tokens=8, softmax=kernel, real_rows=45
    )
    gradients = torch.autograd.grad(3 * loss, (hidden_NH, padded_VH))
    expected = plain(hidden_NH, weight_VH, labels_N, weight_N)
    assert torch.equal(gradients[1][45:], torch.zeros(3, 16))
    for ours, theirs in zip((loss, gradients[0], gradients[1][:45]), expected, strict=True):
        assert (ours.double() - theirs).norm() < 2e-6 * theirs.norm()


@pytest.mark.skipif(obstacle() is not None, reason=f"native: {obstacle()}")
@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_the_compiled_softmax_equals_pytorchs(scale: float) -> None:
    arguments = inputs((37, 16, 48), torch.float32, scale)
    expected = plain(*arguments)
    for kernel in (TORCH_SOFTMAX, NATIVE_SOFTMAX):
        loss = weighted_loss_sum(*arguments, chunk_tokens=8, softmax=kernel)
        gradients = torch.autograd.grad(3 * loss, arguments[:2])
        for ours, theirs in zip((loss, *gradients), expected, strict=True):
            assert (ours.double() - theirs).norm() < 2e-6 * theirs.norm()


def test_equals_torchs_own_chunked_loss() -> None:
    """An independent implementation in chunks, of which bf16 would round the sum."""
    hidden_NH, weight_VH, labels_N, weight_N = inputs((300, 32, 500), torch.float32)
    mask_N = (weight_N > 0).float()
    ours = chunked(hidden_NH, weight_VH, labels_N, mask_N, chunk_tokens=64)
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=64)
    marked_N = labels_N.masked_fill(mask_N == 0, -100)
    loss = linear_cross_entropy(hidden_NH, weight_VH, marked_N, reduction="sum", options=options)
    theirs = loss.detach(), *torch.autograd.grad(3 * loss, (hidden_NH, weight_VH))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_without_gradients_only_the_loss_is_computed() -> None:
    arguments = inputs()
    expected = plain(*arguments)[0]
    with torch.no_grad():
        loss = weighted_loss_sum(*arguments, chunk_tokens=8)
    torch.testing.assert_close(loss, expected)
    assert not loss.requires_grad


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_side_gets_no_gradient(frozen: int) -> None:
    arguments = inputs()
    arguments[frozen].requires_grad_(False)
    weighted_loss_sum(*arguments, chunk_tokens=8).backward()
    assert arguments[frozen].grad is None
    torch.testing.assert_close(3 * arguments[1 - frozen].grad, plain(*arguments)[2 - frozen])  # type: ignore[operator]


def test_nothing_to_score_is_zero() -> None:
    hidden_NH, weight_VH, labels_N, weight_N = inputs()
    loss, *gradients = chunked(hidden_NH, weight_VH, labels_N, torch.zeros_like(weight_N))
    assert loss == 0 and not any(gradient.any() for gradient in gradients)
    nothing = chunked(hidden_NH[:0], weight_VH, labels_N[:0], weight_N[:0])
    assert nothing[0] == 0 and not nothing[2].any()


def test_gradients_serve_one_backward_pass() -> None:
    """They are scaled where they are: a second pass would be wrong, so it stops."""
    loss = weighted_loss_sum(*inputs(), chunk_tokens=8)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="one backward pass"):
        loss.backward()


def test_holds_one_chunk_of_logits() -> None:
    """No tensor of a forward and backward pass is larger than a chunk's logits or the projection."""
    arguments = inputs((512, 8, 64))
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                largest = max(largest, result.numel())
            return result

    with Watch():
        weighted_loss_sum(*arguments, chunk_tokens=16).backward()
    assert largest == 512 * 8  # the hidden states' gradient; a chunk's logits are 16 × 64


def on_two_ranks(folder: Path) -> None:
    """Each rank holds half of the vocabulary; saves the loss and its gradients by rank."""
    results = []
    for scale in (1.0, 40.0):
        hidden_NH, weight_VH, labels_N, weight_N = inputs(scale=scale)
        half_VH = weight_VH.detach().chunk(2)[dist.get_rank()].clone().requires_grad_()
        loss = weighted_loss_sum(
            hidden_NH, half_VH, labels_N, weight_N, chunk_tokens=8, group=dist.group.WORLD
        )
        results.append((loss.detach(), *torch.autograd.grad(3 * loss, (hidden_NH, half_VH))))
    torch.save(results, folder / f"rank{dist.get_rank()}.pt")


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    """Losses on both ranks; partial gradients of hidden states add up; each rank's own rows' gradients."""
    run_ranks(tmp_path, on_two_ranks, tmp_path, world=2, tensor=2)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    for scale, one, other in zip((1.0, 40.0), first, second, strict=True):
        loss, grad_hidden_NH, grad_weight_VH = plain(*inputs(scale=scale))
        assert torch.equal(one[0], other[0])
        torch.testing.assert_close(one[0], loss, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(one[1] + other[1], grad_hidden_NH, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(torch.cat([one[2], other[2]]), grad_weight_VH, rtol=1e-11, atol=1e-11)
