"""Which samples each data-parallel rank reads, from the number of consumed samples alone."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import Sampler

from nemo_pi.errors import ConfigError


class ConsecutiveSampler(Sampler[list[int]]):
    """Micro-batches of consecutive samples: global batch g holds samples [g·G, (g+1)·G).

    Micro-batch m of a global batch holds, over all ranks together, the next micro_batch_size · dp_size
    samples, rank r taking the r-th chunk of micro_batch_size. The samples of a global batch therefore do
    not depend on the layout. A last global batch that is not full is left out.

    Args:
        total: number of samples in the dataset.
        consumed: samples that earlier training has consumed (a resumed run starts behind them).
        micro_batch_size: samples per rank and forward pass.
        dp_rank: this data-parallel rank.
        dp_size: number of data-parallel ranks.
        global_batch_size: G, samples per optimizer step over all ranks.

    Raises:
        ConfigError: a global batch that is not a multiple of micro_batch_size · dp_size.
    """

    def __init__(
        self,
        total: int,
        consumed: int,
        micro_batch_size: int,
        dp_rank: int,
        dp_size: int,
        global_batch_size: int,
    ) -> None:
        if min(micro_batch_size, dp_size, global_batch_size) < 1 or global_batch_size % (
            micro_batch_size * dp_size
        ):
            raise ConfigError(
                "model.global_batch_size",
                required="a positive multiple of micro_batch_size · data-parallel size "
                f"({micro_batch_size} · {dp_size})",
                given=global_batch_size,
                fix="change model.global_batch_size or model.micro_batch_size",
            )
        assert 0 <= dp_rank < dp_size and consumed >= 0 and total >= 0
        self.total, self.consumed = total, consumed
        self.micro_batch_size, self.dp_rank, self.dp_size = micro_batch_size, dp_rank, dp_size
        self.global_batch_size = global_batch_size

    @property
    def num_global_batches(self) -> int:
        """Full global batches that are left."""
        return max(0, self.total - self.consumed) // self.global_batch_size

    def __len__(self) -> int:
        return self.num_global_batches * self.global_batch_size // (self.micro_batch_size * self.dp_size)

    def __iter__(self) -> Iterator[list[int]]:
        step = self.micro_batch_size * self.dp_size
        first = self.consumed + self.dp_rank * self.micro_batch_size
        for micro_batch in range(len(self)):
            start = first + micro_batch * step
            yield list(range(start, start + self.micro_batch_size))
