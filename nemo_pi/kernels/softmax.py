"""The softmax of the loss's logits, in their place, for model/vocab_parallel.py to call.

Shape legend: n tokens of one chunk, V rows of the vocabulary on this rank.
"""

from __future__ import annotations

from torch import Tensor

from nemo_pi.kernels import native_layers


class TorchSoftmax:
    """PyTorch's log-softmax, which the caller computes itself."""

    def takes(self, logits_nV: Tensor) -> bool:
        """Whether softmax_ does rows like these; the caller does the others."""
        return False

    def softmax_(self, logits_nV: Tensor, label_n: Tensor) -> tuple[Tensor, Tensor]:
        """Makes rows of logits into probabilities, where they are.

        Returns:
            The log-probability of each row's label, and the log-sum-exp of its logits, [n] both.
        """
        raise NotImplementedError


class NativeSoftmax(TorchSoftmax):
    """The compiled kernel: one pass over each row."""

    def takes(self, logits_nV: Tensor) -> bool:
        """As TorchSoftmax."""
        return native_layers.takes(logits_nV)

    def softmax_(self, logits_nV: Tensor, label_n: Tensor) -> tuple[Tensor, Tensor]:
        """As TorchSoftmax."""
        return native_layers.softmax_(logits_nV, label_n)


TORCH_SOFTMAX, NATIVE_SOFTMAX = TorchSoftmax(), NativeSoftmax()
