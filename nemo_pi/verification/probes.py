"""What both sides are asked: rows of tokens, each at positions where something else could go wrong.

Shape legend: B rows, S tokens of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nemo_pi.errors import ConfigError
from nemo_pi.rope.positions import text_positions
from nemo_pi.rope.spec import ContextExtension

FAR = 10_000_000
"""Positions of the last row end here: fp32 angles of its fastest pair would be off by half a radian."""
LEAST_TOKENS = 8
"""Fewer leave no room for documents and generated tokens."""


@dataclass(frozen=True)
class Probes:
    """Rows that transformers and our model both read."""

    names: tuple[str, ...]
    """What each row shows."""
    tokens_BS: Tensor
    """int64 token ids."""
    positions_BS: Tensor
    """int64, rising within a row; gaps are no new documents."""
    documents: tuple[int, ...]
    """Rows that hold one document each, from position 0 on; what follows its end is padding."""
    lengths: tuple[int, ...]
    """Their lengths; together they fill one row."""

    @property
    def num_tokens(self) -> int:
        """Tokens of a row."""
        return self.tokens_BS.size(1)

    def packed_tokens(self) -> Tensor:
        """The documents side by side, int64 [1, S]."""
        pairs = zip(self.documents, self.lengths, strict=True)
        return torch.cat([self.tokens_BS[row, :length] for row, length in pairs])[None]

    def packed_positions(self) -> Tensor:
        """Their positions, which start anew with each, int64 [1, S]."""
        return torch.cat([text_positions(length) for length in self.lengths])[None]

    def boundaries(self) -> Tensor:
        """Where they start and the last one ends, int32 [1, documents + 1]."""
        return torch.tensor([0, *self.lengths]).cumsum(0, dtype=torch.int32)[None]

    def unpacked(self, x_1S: Tensor) -> list[Tensor]:
        """Something per token of the packed row, cut into its documents."""
        return list(x_1S[0].split(list(self.lengths)))


def make_probes(extension: ContextExtension, vocab_size: int, num_tokens: int, seed: int) -> Probes:
    """Random tokens inside the original window, over its edge, at the target's end and far beyond it.

    Args:
        extension: of the checkpoint.
        vocab_size: ids are drawn below it.
        num_tokens: of a row.
        seed: of tokens and far positions.

    Raises:
        ConfigError: rows that are too short.
    """
    if num_tokens < LEAST_TOKENS:
        raise ConfigError(
            "--tokens", required=f"at least {LEAST_TOKENS}", given=num_tokens, fix=f"--tokens {LEAST_TOKENS}"
        )
    draw = torch.Generator().manual_seed(seed)
    original, target = extension.original_window, extension.target_window
    text_S = text_positions(num_tokens)
    rows: dict[str, Tensor] = {"inside": text_S}
    if original > num_tokens:
        rows["edge"] = text_S + original - num_tokens // 2
    if target > original:
        rows["target"] = text_S + max(0, target - num_tokens)
    rows["beyond"] = _skipping(num_tokens, 100 * target, draw)
    rows["far"] = _skipping(num_tokens, FAR, draw)
    lengths = (num_tokens // 4, num_tokens // 2, num_tokens - num_tokens // 4 - num_tokens // 2)
    first = len(rows)
    rows |= {f"document {number}": text_S for number in range(1, len(lengths) + 1)}
    tokens_BS = torch.randint(0, vocab_size, (len(rows), num_tokens), generator=draw)
    return Probes(
        names=tuple(rows),
        tokens_BS=tokens_BS,
        positions_BS=torch.stack(list(rows.values())),
        documents=tuple(range(first, len(rows))),
        lengths=lengths,
    )


def _skipping(num_tokens: int, end: int, draw: torch.Generator) -> Tensor:
    """Positions from 0 up to end - 1 that rise by unequal steps of at least 1."""
    steps_S = torch.rand(num_tokens, generator=draw, dtype=torch.float64)
    steps_S[0] = 0.0
    shares_S = steps_S.cumsum(0)
    positions_S = (shares_S / shares_S[-1] * max(0, end - num_tokens)).long()
    return positions_S + text_positions(num_tokens)
