"""What our model computes of probes at a layout, in every way that must come to the same.

Shape legend: B rows, S tokens of a row, L what this context-parallel rank holds of it, V vocabulary, H hidden
size, C tokens that are generated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nemo_pi.checkpoint.summary import CheckpointSummary
from nemo_pi.engine.batches import MicroBatch
from nemo_pi.engine.engine import Batch, MegatronEngine
from nemo_pi.engine.next_logits import padded
from nemo_pi.model.generation import Decoder, can_cache
from nemo_pi.model.gpt import RotaryGPTModel
from nemo_pi.model.options import BackendRequests, BuildOptions
from nemo_pi.parallel import groups
from nemo_pi.parallel.context import split_rows
from nemo_pi.parallel.layout import ParallelLayout
from nemo_pi.rope.tables import rotary_cos_sin
from nemo_pi.verification.exporting import unlike_after_export
from nemo_pi.verification.opening import OpenedModel
from nemo_pi.verification.probes import Probes

REFERENCE_KERNELS = BackendRequests(
    rotary="torch", attention="sdpa", norm="torch", activation="torch", softmax="torch", matmul="torch"
)
"""PyTorch's own operators for every job."""
GENERATED = 3
"""Tokens that are read one by one, with the keys of those before them kept."""


@dataclass(frozen=True)
class Answers:
    """What one layout computes of the probes."""

    logits_BSV: Tensor
    """fp32, of every row."""
    reference_BSV: Tensor
    """fp32, the same by PyTorch's operators alone."""
    packed_SV: Tensor
    """fp32, of the documents side by side in one row."""
    cached_CV: Tensor | None
    """fp32, of the end of a prompt and of the tokens behind it in the first row, read one by one; None where
    keys cannot be kept."""
    layers_LBSH: Tensor | None
    """fp32, hidden states behind each layer; None where ranks share them."""
    backends: dict[str, str]
    """What does each job of the first two."""
    unlike: tuple[str, ...]
    """Stored tensors and entries that do not come back bit by bit."""
    how: str = ""
    """How the way back was tried."""


def num_passes(layout: ParallelLayout) -> int:
    """Forward passes of `answer`."""
    keeps = layout.pp * layout.cp == 1 and not layout.sequence_parallel
    return 3 + (1 + GENERATED if keeps else 0)


@torch.no_grad()
def answer(
    checkpoint: CheckpointSummary,
    layout: ParallelLayout,
    probes: Probes,
    *,
    dtype: torch.dtype,
    keep: bool,
    export_to: Path,
    passed: Callable[[], None] = lambda: None,
) -> Answers:
    """Every launched rank calls it; all get the answers.

    Args:
        checkpoint: of either kind.
        layout: of the ranks.
        probes: what is read.
        dtype: of weights and activations.
        keep: whether weights stay in memory between passes.
        export_to: folder that is written where they do, and compared with the checkpoint.
        passed: called behind each part of the model in each pass.
    """
    model = OpenedModel(checkpoint, layout, BuildOptions(params_dtype=dtype), keep=keep, passed=passed)
    engine = model.engine
    alone = layout.model_ranks == 1
    layers = _Layers(engine) if alone else None
    logits_BSV = logits_of(engine, probes.tokens_BS, probes.positions_BS)
    seen = None if layers is None else layers.taken()
    packed = _batch(probes.packed_tokens(), probes.packed_positions())
    packed_1SV = _logits(engine, {**packed, "cu_seqlens": probes.boundaries()})
    cached_CV = _cached(engine, probes) if can_cache(engine.config) else None
    unlike, how = unlike_after_export(model, export_to)
    named = {job: backend for job, backend in engine.backends.names().items() if job != "softmax"}
    del model, engine
    build = BuildOptions(params_dtype=dtype, backends=REFERENCE_KERNELS)
    plain = OpenedModel(checkpoint, layout, build, keep=False, passed=passed).engine
    return Answers(
        logits_BSV=logits_BSV,
        reference_BSV=logits_of(plain, probes.tokens_BS, probes.positions_BS),
        packed_SV=packed_1SV[0],
        cached_CV=cached_CV,
        layers_LBSH=seen,
        backends=named,
        unlike=unlike,
        how=how,
    )


def our_tables(
    checkpoint: CheckpointSummary, probes: Probes, *, each_row: bool
) -> list[tuple[Tensor, Tensor]]:
    """Our cosines and sines [B, S, F] of the probes' positions, fp32, for each kind of layer."""
    rows = probes.positions_BS.split(1 if each_row else len(probes.positions_BS))
    kinds = [[rotary_cos_sin(kind, row_BS) for row_BS in rows] for kind in checkpoint.extension.kinds]
    return [(torch.cat([cos for cos, _ in pairs]), torch.cat([sin for _, sin in pairs])) for pairs in kinds]


def logits_of(engine: MegatronEngine, tokens_BS: Tensor, positions_BS: Tensor) -> Tensor:
    """Our logits fp32 [B, S, V] of whole rows, the same on all ranks of the layout."""
    return _logits(engine, _batch(tokens_BS, positions_BS))


def _batch(tokens_BS: Tensor, positions_BS: Tensor) -> Batch:
    return {
        "tokens": tokens_BS,
        "labels": tokens_BS,
        "loss_mask": torch.ones(tokens_BS.shape),
        "position_ids": positions_BS,
    }


def _logits(engine: MegatronEngine, batch: Batch) -> Tensor:
    """fp32 [B, S, V] of whole rows, the same on all ranks of the layout."""
    settings, (num_rows, length) = engine.settings, batch["tokens"].shape
    boundaries = batch.get("cu_seqlens")
    batch = padded(
        {key: value for key, value in batch.items() if key != "cu_seqlens"}, settings.layout.sequence_multiple
    )
    if boundaries is not None:
        batch["cu_seqlens"] = boundaries
    # A row of its own where frequencies depend on the longest row beside it.
    size = 1 if settings.extension.depends_on_length else num_rows
    if settings.layout.vpp:
        size, batch = _for_interleaving(batch, settings.layout.pp)
    outputs = engine.collect(batch, _forward_step, size)
    rows, whole = batch["tokens"].shape
    shape = (rows, whole // groups.context_size(), settings.shape.vocab_size)
    logits_BLV = torch.zeros(shape, device=groups.device())
    if outputs:
        logits_BLV.copy_(torch.cat(outputs)[..., : shape[2]])
    logits_BLV = groups.broadcast_from_last_stage(logits_BLV)
    if groups.context_size() > 1:
        starts = [(0, whole)] * rows if boundaries is None else [tuple(row) for row in boundaries.tolist()]
        order_BS = split_rows(starts, groups.context_size(), groups.context_rank()).order_BS
        gathered = groups.gather_over_context(logits_BLV, dim=1)
        index = order_BS.to(gathered.device)[..., None].expand_as(gathered)
        logits_BLV = torch.empty_like(gathered).scatter_(1, index, gathered)
    return logits_BLV[:num_rows, :length].cpu()


def _for_interleaving(batch: Batch, stages: int) -> tuple[int, Batch]:
    """Rows of one micro-batch, and the batch with its last row repeated: as many micro-batches as stages."""
    rows = batch["tokens"].size(0)
    more = -rows % stages
    repeated = {key: torch.cat([value, value[-1:].expand(more, -1)]) for key, value in batch.items()}
    return 1, repeated


def _forward_step(
    data_iterator: Iterator[MicroBatch], model: RotaryGPTModel
) -> tuple[Tensor, partial[Tensor]]:
    """One micro-batch through one model chunk, as Megatron's schedules call it; whole logits."""
    batch = next(data_iterator)
    return model(**batch.inputs, runtime_gather_output=True), partial(_as_it_is)


def _as_it_is(output: Tensor, non_loss_data: bool) -> Tensor:
    return output.float()


def _cached(engine: MegatronEngine, probes: Probes) -> Tensor:
    """Logits [C, V] of the first row's last tokens, read one by one behind a prompt."""
    text_1S = probes.tokens_BS[:1]
    length = text_1S.size(1)
    decoder = Decoder(engine.chunks[0], 1, length)
    # The first call reads the prompt, each of the others one token.
    read = [decoder.logits(text_1S[:, :end]) for end in range(length - GENERATED, length + 1)]
    return torch.cat([logits_1V.float().cpu() for logits_1V in read])


class _Layers:
    """Keeps the hidden states behind each layer of the passes that follow."""

    def __init__(self, engine: MegatronEngine) -> None:
        self._seen: list[list[Tensor]] = [[] for _ in engine.chunks[0].decoder.layers]
        self._handles = [
            layer.register_forward_hook(partial(self._keep, seen))
            for layer, seen in zip(engine.chunks[0].decoder.layers, self._seen, strict=True)
        ]

    def _keep(self, seen: list[Tensor], layer: Any, args: Any, output: Any) -> None:
        hidden_SBH = output if isinstance(output, Tensor) else output[0]
        seen.append(hidden_SBH.float().transpose(0, 1).cpu().clone())

    def taken(self) -> Tensor:
        """[layers, B, S, H]; stops keeping."""
        for handle in self._handles:
            handle.remove()
        return torch.stack([torch.cat(rows) for rows in self._seen])
