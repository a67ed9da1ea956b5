"""The largest |h_j| of a model: how strongly its own queries and keys can pull at each rotated pair.

In Theorem 2.1 of Position Interpolation (arXiv 2306.15595) the score of a query and a key at distance s is
Re Σ_j h_j e^{i s θ_j}, with h_j = q_j · conj(k_j) of the pair's two channels as complex numbers. Rotation
leaves |q_j| and |k_j| as they are, so that |h_j| = |q_j|·|k_j| is read where the model attends, whatever the
positions.

Shape legend: B rows, N query heads, G key/value heads, S tokens, D channels of a head, F rotated pairs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.evaluation.scorer import score_texts
from nemo_pi.rope.spec import ContextExtension


@dataclass(frozen=True)
class LargestPulls:
    """max |h_j| over all queries and the keys before them."""

    by_pair: tuple[float, ...]
    """Of each rotated pair, over all layers and heads [F]."""
    layer: int
    """Where the largest of all is, counted from 0."""
    head: int
    """Query head, counted from 0."""
    pair: int
    """j, counted from 0."""
    num_tokens: int
    """Tokens of text that were read."""

    @property
    def largest(self) -> float:
        """max_j |h_j|."""
        return max(self.by_pair)


class Watch(TorchFunctionMode):
    """Keeps the largest |h_j| of every attention that PyTorch computes while it is entered.

    Args:
        extension: says which channels are rotated, and how they pair.
    """

    def __init__(self, extension: ContextExtension) -> None:
        super().__init__()
        self._rotary_dim, self._interleaved = extension.rotary_dim, extension.interleaved
        self.calls: list[Tensor] = []
        """[N, F] of each call, in order."""

    def __torch_function__(
        self, func: Any, types: Any, args: Collection[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Looks at queries and keys on their way."""
        if func is scaled_dot_product_attention:
            named = dict(zip(("query", "key"), args, strict=False)) | dict(kwargs or {})
            self.calls.append(self._largest(named["query"], named["key"]))
        return func(*args, **(kwargs or {}))

    def _largest(self, query_BNSD: Tensor, key_BGSD: Tensor) -> Tensor:
        q_BNSF, k_BGSF = self._moduli(query_BNSD), self._moduli(key_BGSD)
        # A query sees no key behind it: of those before it and beside it, the largest.
        seen_BGSF = k_BGSF.cummax(dim=2).values
        shared = q_BNSF.size(1) // k_BGSF.size(1)
        largest = [
            (q_BNSF[:, head] * seen_BGSF[:, head // shared]).amax((0, 1)) for head in range(q_BNSF.size(1))
        ]
        return torch.stack(largest).cpu()

    def _moduli(self, x_BNSD: Tensor) -> Tensor:
        """Length of each rotated pair."""
        rotated = x_BNSD[..., : self._rotary_dim].float()
        if self._interleaved:
            first, second = rotated[..., 0::2], rotated[..., 1::2]
        else:
            first, second = rotated.chunk(2, dim=-1)
        return torch.hypot(first, second)


def measure_pulls(
    scorer: HuggingFaceScorer, extension: ContextExtension, text_BS: Tensor, layers: Collection[int]
) -> LargestPulls | None:
    """Reads texts within the model's window and keeps the largest |h_j|.

    Args:
        scorer: the model, reading positions as it was trained to.
        extension: its positions.
        text_BS: token ids int64, one text a row.
        layers: those that count, counted from 0: rotated ones, of the extension's own kind.

    Returns:
        None where the model's class computes attention in a way that cannot be watched.
    """
    with Watch(extension) as watch:
        for text_1S in text_BS.split(1):
            score_texts(scorer, text_1S)
    if not watch.calls or len(watch.calls) % len(text_BS):
        return None
    each = len(watch.calls) // len(text_BS)
    by_layer = [torch.stack(watch.calls[layer::each]).amax(0) for layer in range(each) if layer in layers]
    numbers = [layer for layer in range(each) if layer in layers]
    if not by_layer:
        return None
    all_LNF = torch.stack(by_layer)
    place, head, pair = (int(i) for i in torch.unravel_index(all_LNF.argmax(), all_LNF.shape))
    return LargestPulls(
        by_pair=tuple(all_LNF.amax((0, 1)).tolist()),
        layer=numbers[place],
        head=head,
        pair=pair,
        num_tokens=text_BS.numel(),
    )
