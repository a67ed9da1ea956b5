"""One replica's model, optimizer and Megatron schedule: everything a step needs, without Lightning.

Shape legend: B micro-batch rows, S sequence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallelConfig, finalize_model_grads
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.transformer.module import Float16Module
from torch import Tensor, nn

from nemo_pi.engine.agreement import agreed_backends
from nemo_pi.engine.batches import MicroBatch, micro_batches
from nemo_pi.engine.data_parallel import ReplicatedModule
from nemo_pi.engine.optimizer import build_optimizer, guarded_step
from nemo_pi.engine.overlap import GRADIENTS, WEIGHTS, overlaps
from nemo_pi.engine.settings import EngineSettings
from nemo_pi.model.build import build_model_chunks
from nemo_pi.model.engine_layers import resolve_transformer_engine
from nemo_pi.model.gpt import RotaryGPTModel
from nemo_pi.model.loss import check_batch, loss_report
from nemo_pi.parallel import groups
from nemo_pi.parallel.cpu_shim import cpu_shim

Batch = dict[str, Tensor]
ForwardStep = Callable[[Iterator[MicroBatch], Any], tuple[Tensor, Any]]


class MegatronEngine:
    """Builds this rank's chunks and runs Megatron's forward-backward schedule on them.

    Megatron's process groups must be up. Weights are random until a checkpoint is loaded into `chunks`;
    call `start_training` after that, because the optimizer copies 16-bit weights when it is made.

    Raises:
        BackendUnavailableError: layers or kernels that were asked for by name cannot be had here.
    """

    def __init__(self, settings: EngineSettings) -> None:
        resolve_transformer_engine(settings.build.transformer_engine)
        self.settings = settings
        self.backends = agreed_backends(settings.workload(), settings.build.backends)
        with cpu_shim():
            chunks = build_model_chunks(
                settings.shape, settings.extension, settings.layout, settings.build, self.backends
            )
        # Weights without storage (verification/empty.py) cannot be moved, and are filled where they belong.
        self.chunks: list[RotaryGPTModel] = [
            chunk if any(weight.is_meta for weight in chunk.parameters()) else chunk.to(groups.device())
            for chunk in chunks
        ]
        self.config = self.chunks[0].config
        self.modules: list[Any] = list(self.chunks)
        if self.config.bf16 or self.config.fp16:
            self.modules = [Float16Module(self.config, chunk) for chunk in self.chunks]
        self.optimizer: Any = None

    def start_training(self) -> None:
        """Wraps the chunks in Megatron's DDP and makes the optimizer."""
        overlap = overlaps(self.settings)
        chosen: dict[str, Any] = dict(
            # 16-bit sums over micro-batches and replicas would round small gradients away, unless asked for.
            grad_reduce_in_fp32=self.settings.optim.megatron.get("main_grads_dtype", "fp32") == "fp32",
            use_distributed_optimizer=self.settings.optim.use_distributed_optimizer,
        )
        ddp_config = DistributedDataParallelConfig(**chosen | dict(self.settings.ddp) | overlap)
        with cpu_shim():
            self.modules = [
                # As Megatron's training loop: what later chunks communicate is hidden behind the first one's
                # computation anyway.
                ReplicatedModule(self.config, ddp_config, module, disable_bucketing=number > 0)
                for number, module in enumerate(self.modules)
            ]
        gather = {WEIGHTS: overlap[WEIGHTS]}
        optim = replace(self.settings.optim, megatron={**self.settings.optim.megatron, **gather})
        self.optimizer = build_optimizer(self.modules, optim, self.settings.build.params_dtype)
        self.config.finalize_model_grads_func = finalize_model_grads
        if overlap[GRADIENTS]:
            # Within it, no gradient is reduced: the schedule enters it for all micro-batches but the last.
            paused = [module.no_sync for module in self.modules]
            self.config.no_sync_func = paused if len(paused) > 1 else paused[0]
        self.config.grad_scale_func = self.optimizer.scale_loss

    def begin_step(self, step: int) -> None:
        """Sets what dropout of adapters draws from, so that a resumed run draws what it would have drawn.

        Args:
            step: of the optimizer.
        """
        lora = self.settings.build.lora
        if lora is None or not lora.dropout:
            return
        # Ranks that read the same rows must leave out the same channels.
        apart = groups.tensor_rank() if self.settings.layout.sequence_parallel else 0
        place = (groups.replica_rank(), groups.pipeline_rank(), apart)
        digest = hashlib.sha256(f"dropout {lora.seed} {step} {place}".encode()).digest()
        torch.manual_seed(int.from_bytes(digest[:7], "big"))

    def forward_backward(self, batch: Batch) -> float:
        """Accumulates the gradients of one global batch's shard and returns its mean loss over all ranks.

        Args:
            batch: this data-parallel rank's samples, tensors [samples, S]; see data.samples.
        """
        for module in self.modules:
            module.train()
            # Gradients add up in DDP's buffers, which the optimizer's zero_grad does not clear.
            module.zero_grad_buffer()
        self.optimizer.zero_grad()
        return self._run(batch, forward_only=False)

    def gather_weights(self) -> None:
        """Waits for the weights that other replicas have updated, before they are read outside of training.

        Only overlap_param_gather leaves them on their way until the next step's forward pass.
        """
        for module in self.modules:
            if getattr(module, "use_forward_hook", False):
                module.start_param_sync(force_sync=True)

    def step(self, accepts: Callable[[float], bool] = lambda norm: True) -> float:
        """Clips, updates the weights and returns the gradient norm before clipping.

        Args:
            accepts: given that norm, whether the weights are updated; the same answer on all ranks.
        """
        with cpu_shim(), torch.no_grad():
            return guarded_step(self.optimizer, accepts)

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> float:
        """The mean loss of one global batch's shard over all ranks; weights and gradients are untouched."""
        self.gather_weights()
        for module in self.modules:
            module.eval()
        return self._run(batch, forward_only=True)

    @torch.no_grad()
    def collect(self, batch: Batch, forward_step: ForwardStep, micro_batch_size: int) -> list[Any]:
        """Forward passes alone; returns what came out of each micro-batch, on ranks of the last stage only.

        Args:
            batch: tensors [samples, S]; samples is a multiple of `micro_batch_size` and, under interleaved
                pipelining, makes a multiple of the stages' number of micro-batches.
            forward_step: takes the iterator of micro-batches and a model chunk without wrappers; returns the
                chunk's output and a function of (output, non_loss_data=True), called on the last stage.
            micro_batch_size: samples per micro-batch.
        """
        self.gather_weights()
        for chunk in self.chunks:
            chunk.eval()
        return _schedule(
            self.chunks, batch, forward_step, micro_batch_size, forward_only=True, collect_non_loss_data=True
        )

    def set_lr(self, lr: float) -> None:
        """Sets the learning rate of the next step."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_mult", 1.0)

    def _run(self, batch: Batch, forward_only: bool) -> float:
        check_batch(batch["tokens"], batch["labels"], batch["loss_mask"], self.settings.shape.vocab_size)
        outputs = _schedule(
            self.modules,
            batch,
            _forward_step,
            self.settings.micro_batch_size,
            self.settings.rotary_length,
            forward_only=forward_only,
        )
        return self._mean_loss(outputs)

    def _mean_loss(self, outputs: list[dict[str, Tensor]]) -> float:
        # fp32 counts tokens exactly up to 2^24 only.
        totals = torch.zeros(2, dtype=torch.float64, device=groups.device())
        for output in outputs:
            totals += torch.stack([output["loss_sum"].double(), output["tokens"].double()])
        if outputs:
            dist.all_reduce(totals, group=groups.data_group())
        loss_sum, tokens = groups.broadcast_from_last_stage(totals).tolist()
        # A batch without a scored token has a loss of 0, not NaN.
        return loss_sum / max(tokens, 1.0)


def _schedule(
    modules: Sequence[nn.Module],
    batch: Batch,
    forward_step: ForwardStep,
    size: int,
    rotary_length: int | None = None,
    **how: bool,
) -> list[Any]:
    """Megatron's schedule over a rank's chunks, in micro-batches of `size` samples."""
    samples, sequence = batch["tokens"].shape
    context = (groups.context_size(), groups.context_rank())
    # Interleaved schedules draw each chunk's micro-batches from an iterator of its own.
    iterators = [
        micro_batches(batch, size, groups.device(), *context, rotary_length=rotary_length) for _ in modules
    ]
    with cpu_shim():
        return get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=iterators if len(iterators) > 1 else iterators[0],
            model=list(modules) if len(modules) > 1 else modules[0],
            num_microbatches=samples // size,
            seq_length=sequence,  # of whole rows: the schedule divides it by the context-parallel size
            micro_batch_size=size,
            **how,
        )


def _forward_step(data_iterator: Iterator[MicroBatch], model: nn.Module) -> tuple[Tensor, Any]:
    """One micro-batch through one model chunk, as Megatron's schedules call it."""
    batch = next(data_iterator)
    loss_sum = model(**batch.inputs, labels=batch.labels, loss_mask=batch.loss_mask)
    return loss_sum, partial(loss_report, batch.loss_mask)
