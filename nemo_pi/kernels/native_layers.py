"""RMSNorm, SwiGLU and the loss's softmax by the compiled kernels for CPUs (csrc/layers.c, csrc/softmax.c).

One pass over a row forward and one backward. All fp32.

Shapes: n tokens, H channels of a row, F width of half an MLP's hidden layer, V entries of a vocabulary.
"""

from __future__ import annotations

from ctypes import c_float, c_int64

import torch
from torch import Tensor

from nemo_pi.kernels.native import library, pointer, usable_for

# Numbers below which starting threads takes longer than the work.
_FEWEST = 2**14


def takes(x: Tensor, *others: Tensor) -> bool:
    """Whether these kernels run here and take rows like those of `x`."""
    return usable_for(x, *others) and x.size(-1) % 16 == 0 and x.numel() > 0


def rms_norm(x: Tensor, weight_H: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x [..., H] over its root mean square, times the weight; and one factor per token, [..., 1], to keep."""
    x, weight_H = x.contiguous(), weight_H.contiguous()
    normal, inverse = torch.empty_like(x), x.new_empty(*x.shape[:-1], 1)
    library().nemo_pi_rms_norm(
        pointer(x), pointer(weight_H), c_float(eps), pointer(normal), pointer(inverse), *_sizes(x)
    )
    return normal, inverse


def rms_norm_gradients(grad: Tensor, x: Tensor, weight_H: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the weight, given that of the result."""
    grad, x, weight_H = grad.contiguous(), x.contiguous(), weight_H.contiguous()
    rows, width, threads = _sizes(x)
    # A row of sums for each thread, added up in the end: the weight's gradient needs no locks.
    grad_x, sums = torch.empty_like(x), x.new_empty(threads.value, x.size(-1))
    library().nemo_pi_rms_norm_backward(
        *map(pointer, (x, weight_H, inverse, grad, grad_x, sums)), rows, width, threads, threads
    )
    return grad_x, sums.sum(dim=0)


def swiglu(both_2F: Tensor) -> Tensor:
    """silu(gate) · up [..., F] of gate and up side by side [..., 2F]."""
    both_2F = both_2F.contiguous()
    product = both_2F.new_empty(*both_2F.shape[:-1], both_2F.size(-1) // 2)
    library().nemo_pi_swiglu(pointer(both_2F), pointer(product), *_sizes(product))
    return product


def swiglu_gradient(grad_F: Tensor, both_2F: Tensor, *, in_place: bool = False) -> Tensor:
    """Gradient [..., 2F] of gate and up, given that of their product.

    Args:
        grad_F: gradient of the product.
        both_2F: gate and up.
        in_place: write the gradient over `both_2F`, if its rows lie one behind the other. Autograd finds that
            out: whoever saved it cannot use it again.
    """
    grad_F, source_2F = grad_F.contiguous(), both_2F.contiguous()
    # Where rows lie apart, contiguous() has made a copy; writing over that would leave the original as it
    # was.
    here = in_place and source_2F.data_ptr() == both_2F.data_ptr()
    grad_2F = both_2F.detach() if here else torch.empty_like(source_2F)
    library().nemo_pi_swiglu_backward(pointer(source_2F), pointer(grad_F), pointer(grad_2F), *_sizes(grad_F))
    if here:
        # The kernel writes unseen by PyTorch: without this a second backward pass would take gradients for
        # inputs.
        torch.autograd.graph.increment_version(both_2F)
    return grad_2F


def softmax_(logits_nV: Tensor, label_n: Tensor) -> tuple[Tensor, Tensor]:
    """Makes rows of logits, whose entries are neighbours, into probabilities, where they are.

    Returns:
        The log-probability of each row's label, and the log-sum-exp of its logits, [n] both.
    """
    assert logits_nV.stride(1) == 1
    logprob_n, logsumexp_n = (logits_nV.new_empty(logits_nV.size(0)) for _ in range(2))
    library().nemo_pi_softmax(
        pointer(logits_nV),
        c_int64(logits_nV.stride(0)),
        *map(pointer, (label_n.contiguous(), logprob_n, logsumexp_n)),
        *_sizes(logits_nV),
    )
    return logprob_n, logsumexp_n


def _sizes(x: Tensor) -> tuple[c_int64, c_int64, c_int64]:
    """Rows, their width, and threads for them."""
    threads = torch.get_num_threads() if x.numel() >= _FEWEST else 1
    return c_int64(x.numel() // x.size(-1)), c_int64(x.size(-1)), c_int64(threads)
