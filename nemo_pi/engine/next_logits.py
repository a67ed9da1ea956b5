"""Logits of the token after a text, at any layout: a whole pass for every token, nothing kept between them.

Shape legend: B texts, S tokens of a text, L what this context-parallel rank holds of them, H hidden size, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region
from torch import Tensor

from nemo_pi.engine.batches import MicroBatch
from nemo_pi.engine.engine import Batch, MegatronEngine
from nemo_pi.model.gpt import RotaryGPTModel
from nemo_pi.parallel import groups
from nemo_pi.rope.positions import text_positions


class UncachedLogits:
    """The logits after texts, by Megatron's forward-only schedule.

    Args:
        engine: with weights loaded; every rank of a replica calls alike.
    """

    def __init__(self, engine: MegatronEngine) -> None:
        self.engine = engine

    def __call__(self, text_BS: Tensor) -> Tensor:
        """Logits fp32 [B, V] of the token after each text, the same on every rank of a replica."""
        layout, num_rows = self.engine.settings.layout, text_BS.size(0)
        is_last_BS = torch.zeros(text_BS.shape)
        is_last_BS[:, -1] = 1.0
        batch = {
            "tokens": text_BS,
            "labels": text_BS,
            # Travels with its token, whichever rank gets that, and so marks whose hidden state is wanted.
            "loss_mask": is_last_BS,
            "position_ids": text_positions(text_BS.size(1)).expand_as(text_BS),
        }
        batch = padded(batch, layout.sequence_multiple)
        # padded() has repeated the mark together with the last token.
        batch["loss_mask"][:, text_BS.size(1) :] = 0.0
        rows, size = micro_batch_rows(torch.arange(num_rows), layout.vpp)
        outputs = self.engine.collect(
            {key: value[rows] for key, value in batch.items()}, self._forward_step, size
        )
        shape = (num_rows, self.engine.settings.shape.vocab_size)
        logits_BV = torch.zeros(shape, device=groups.device())
        if outputs:
            logits_BV.copy_(torch.cat(outputs)[:num_rows, : shape[1]])
        return groups.broadcast_from_last_stage(logits_BV)

    def _forward_step(
        self, data_iterator: Iterator[MicroBatch], model: RotaryGPTModel
    ) -> tuple[Tensor, partial[Tensor]]:
        """One micro-batch through one model chunk, as Megatron's schedules call it."""
        batch = next(data_iterator)
        hidden_LBH = model.hidden_states(**batch.inputs)
        return hidden_LBH, partial(_last_logits, model, batch.loss_mask)


def padded(batch: Batch, multiple: int) -> Batch:
    """The batch with S a multiple of `multiple`.

    Nothing looks ahead, so what is added changes no score before it. The last token and its position are
    repeated: a larger position would change the frequencies of the methods that depend on the length.
    """
    missing = -batch["tokens"].size(1) % multiple
    return {key: torch.cat([value, value[:, -1:].expand(-1, missing)], dim=1) for key, value in batch.items()}


def micro_batch_rows(shard: Tensor, vpp: int | None) -> tuple[Tensor, int]:
    """The shard split into a micro-batch for each pipeline stage, as far as it goes: (rows, rows of each).

    The last row stands in for missing ones here, too.
    """
    stages = groups.pipeline_size()
    size = -(-shard.numel() // stages)
    # The interleaved schedule wants as many micro-batches as stages.
    count = stages if vpp else -(-shard.numel() // size)
    return torch.cat([shard, shard[-1:].expand(size * count - shard.numel())]), size


def _last_logits(
    model: RotaryGPTModel, is_last_BL: Tensor, hidden_LBH: Tensor, non_loss_data: bool
) -> Tensor:
    """Logits [B, V] of a micro-batch on the last stage, the same on all its ranks."""
    hidden_NH, weight_VH, bias_V = model.output_inputs(hidden_LBH)
    is_last_LB1 = is_last_BL.t()[:, :, None] > 0
    hidden_LBH = hidden_NH.view(*is_last_LB1.shape[:2], -1)
    # masked_fill, not a product: 0 · inf would be NaN.
    hidden_BH = hidden_LBH.masked_fill(~is_last_LB1, 0.0).sum(0)
    if groups.context_size() > 1:
        dist.all_reduce(hidden_BH, group=groups.context_group())
    logits_BV = torch.nn.functional.linear(hidden_BH, weight_VH, bias_V)
    if model.vocab_group is not None:
        logits_BV = gather_from_tensor_model_parallel_region(logits_BV, group=model.vocab_group)
    return logits_BV.float()
