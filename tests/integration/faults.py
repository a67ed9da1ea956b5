"""Planted in forked ranks before the script: mistakes to be noticed, and ends before their time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch


def shift_positions_on_last_rank() -> None:
    """The second half of each sample is one position further, on one rank only."""

    def shifted(batch: dict[str, Any]) -> dict[str, Any]:
        positions = batch["position_ids"].clone()
        positions[:, positions.size(1) // 2 :] += 1
        return {**batch, "position_ids": positions}

    if _is_last_rank():
        _change_micro_batches(before=shifted)


def shift_positions_on_one_context_rank() -> None:
    """All positions of one rank's shard are one further; the tokens are the right ones."""
    from nemo_pi.parallel import groups

    def shifted(share: Any) -> Any:
        return replace(share, position_ids=share.position_ids + (groups.context_rank() == 1))

    _change_micro_batches(after=shifted)


def measure_lengths_on_each_context_rank() -> None:
    """Frequencies that depend on a length follow a rank's shard instead of the whole sequence."""

    def local(share: Any) -> Any:
        return replace(share, seq_len=int(share.position_ids.max()) + 1)

    _change_micro_batches(after=local)


def drop_a_document_boundary() -> None:
    """The last rank sees the first two documents of each row as one; their tokens and positions stay."""

    def joined(batch: dict[str, Any]) -> dict[str, Any]:
        starts = batch["cu_seqlens"]
        return {**batch, "cu_seqlens": torch.cat((starts[:, :1], starts[:, 2:], starts[:, -1:]), dim=1)}

    if _is_last_rank():
        _change_micro_batches(before=joined)


def lose_skips_on_last_stage() -> None:
    """Where the loss is computed, positions run on from 0 as if no chunk had been moved."""

    def unskipped(batch: dict[str, Any]) -> dict[str, Any]:
        positions = batch["position_ids"]
        return {**batch, "position_ids": torch.arange(positions.size(1)).expand_as(positions)}

    if _is_last_rank():
        _change_micro_batches(before=unskipped)


def forget_gradients_of_other_ranks_keys() -> None:
    """What other ranks' queries say of a rank's keys and values is not added to its gradients."""
    from nemo_pi.model import context_attention

    def own_part(rows: Any, gradients: list[Any]) -> tuple[Any, Any]:
        places = rows.split.order_BS.chunk(rows.split.size, dim=1)[rows.split.rank]
        own = [row.squeeze(1).permute(2, 0, 1, 3)[at] for row, at in zip(gradients, places, strict=True)]
        return torch.stack(own, dim=2)[:, 0], torch.stack(own, dim=2)[:, 1]

    context_attention.SplitRows.scatter = own_part  # type: ignore[method-assign]


def keep_gradients_apart() -> None:
    """Replicas do not add their gradients up."""
    from megatron.core.distributed import DistributedDataParallel

    DistributedDataParallel.finish_grad_sync = lambda *_, **__: None


def forget_norms_under_sequence_parallelism() -> None:
    """Gradients of norm weights are not added up over the parts of a sequence."""
    from nemo_pi.model import norm

    original = norm.RMSNorm.__init__

    def unmarked(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.weight.sequence_parallel = False

    norm.RMSNorm.__init__ = unmarked  # type: ignore[method-assign]


def forget_norms_of_heads() -> None:
    """Gradients of query and key norms, which every tensor rank has of its own heads, are not added up."""
    from megatron.core.distributed import finalize_model_grads

    finalize_model_grads.__globals__["_allreduce_non_tensor_model_parallel_grads"] = lambda *_, **__: None


def count_layers_on_each_stage() -> None:
    """A layer's sliding window is looked up by its number on its pipeline stage of two layers."""
    from nemo_pi.model import core_attention

    original = core_attention.is_layer_window_attention
    core_attention.is_layer_window_attention = (  # type: ignore[attr-defined]
        lambda size, layers, number: original(size, layers, (number - 1) % 2 + 1)
    )


def rotate_by_number_on_each_stage() -> None:
    """Whether a layer is rotated is looked up by its number on its pipeline stage of two layers."""
    from nemo_pi.model import build

    original = build.RotaryPlan.of
    build.RotaryPlan.of = (
        lambda *model: replace(  # type: ignore[method-assign]
            plan := original(*model), kinds=plan.kinds[:2] * 2
        )
    )


def forget_heads_of_other_ranks() -> None:
    """A norm over all heads is computed over those of each rank."""
    _keep_sums_apart("forward")


def forget_gradients_of_other_ranks_heads() -> None:
    """That the mean square of a norm over all heads moves the outputs of other ranks, too, is forgotten."""
    _keep_sums_apart("backward")


def _keep_sums_apart(direction: str) -> None:
    from nemo_pi.model import whole_norm

    norm, everyone = whole_norm._SplitRmsNorm, whole_norm.dist
    original = getattr(norm, direction)

    def apart(*arguments: Any) -> Any:
        whole_norm.dist = SimpleNamespace(all_reduce=lambda *_, **__: None)  # type: ignore[attr-defined]
        try:
            return original(*arguments)
        finally:
            whole_norm.dist = everyone  # type: ignore[attr-defined]

    setattr(norm, direction, staticmethod(apart))


def forget_shared_embedding() -> None:
    """The gradients of a shared embedding are not added up over the first and the last stage."""
    from megatron.core.distributed import finalize_model_grads

    finalize_model_grads.__globals__["_allreduce_word_embedding_grads"] = lambda *_, **__: None


def give_replicas_the_same_samples() -> None:
    """Every replica reads the first one's share of a batch."""
    from nemo_pi.nemo import loaders

    original = loaders.ConsecutiveSampler
    loaders.ConsecutiveSampler = lambda **kwargs: original(**{**kwargs, "dp_rank": 0})  # type: ignore[assignment,misc]


def signal_at_step(step: int, number: int, last_rank_only: bool) -> None:
    """Sends the process a signal where gradients of `step` are ready and weights are not yet updated."""
    from nemo_pi.engine.engine import MegatronEngine

    if number in (signal.SIGINT, signal.SIGHUP) and signal.getsignal(number) == signal.SIG_IGN:
        # Tests that were started in the background inherit this, and so would the run (as under nohup).
        signal.signal(number, signal.SIG_DFL)
    _signal_at_call(MegatronEngine, "step", step, number, last_rank_only)


def kill_while_saving(save: int) -> None:
    """Kills the process in its checkpoint number `save`, when tensors are written and the manifest is not."""
    from nemo_pi.checkpoint import distributed

    _signal_at_call(distributed, "_seal", save, signal.SIGKILL, False)


def hang_at_step(step: int, rank: int, seconds: float) -> None:
    """One rank does something else for a while where gradients of `step` are ready."""
    from nemo_pi.engine.engine import MegatronEngine

    def sleep() -> None:
        if int(os.environ.get("RANK", 0)) == rank:
            time.sleep(seconds)

    _at_call(MegatronEngine, "step", step, sleep)


def ruin_weights_at_step(step: int, row: int) -> None:
    """The update of `step` leaves a row of the embedding that no sample reads without numbers."""
    from nemo_pi.engine.engine import MegatronEngine

    original, calls = MegatronEngine.step, [0]

    def stepped(self: Any, *args: Any, **kwargs: Any) -> Any:
        norm = original(self, *args, **kwargs)
        calls[0] += 1
        if calls[0] == step:
            self.chunks[0].embedding.word_embeddings.weight.data[row] = float("nan")
        return norm

    MegatronEngine.step = stepped  # type: ignore[method-assign]


def ruin_moments_at_step(step: int) -> None:
    """After `step` one number of Adam's second moments is infinite; no weight is, yet."""
    from nemo_pi.engine.engine import MegatronEngine
    from nemo_pi.engine.optimizer import optimizer_tensors

    original, calls = MegatronEngine.step, [0]

    def stepped(self: Any, *args: Any, **kwargs: Any) -> Any:
        norm = original(self, *args, **kwargs)
        calls[0] += 1
        if calls[0] == step:
            named = optimizer_tensors(self.optimizer)
            tensor = [tensor for name, tensor in named if "avg_sq" in name][-1]
            tensor.view(-1)[0] = float("inf")
        return norm

    MegatronEngine.step = stepped  # type: ignore[method-assign]


def lose_gradients_at_steps(*steps: int) -> None:
    """Gradients of these steps are no numbers, on all ranks."""
    from nemo_pi.engine.engine import MegatronEngine

    original, calls = MegatronEngine.step, [0]

    def stepped(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] in steps:
            next(iter(self.chunks[0].parameters())).main_grad.fill_(float("nan"))
        return original(self, *args, **kwargs)

    MegatronEngine.step = stepped  # type: ignore[method-assign]


def truncate_at_step(step: int, path: str) -> None:
    """Someone copies other data over a file that is being read: it is empty for a moment."""
    from nemo_pi.engine.engine import MegatronEngine

    _at_call(MegatronEngine, "step", step, lambda: os.truncate(path, 16))


def fill_disk_at_step(step: int, folder: str) -> None:
    """Somebody else writes until nothing more goes onto a disk."""
    from nemo_pi.engine.engine import MegatronEngine

    def fill() -> None:
        with open(os.path.join(folder, "filler"), "wb", buffering=0) as stream:
            try:
                while True:
                    stream.write(bytes(4096))
            except OSError:
                return

    _at_call(MegatronEngine, "step", step, fill)


def signal_while_saving(save: int, number: int) -> None:
    """Sends the process a signal in its checkpoint number `save`."""
    from nemo_pi.checkpoint import distributed

    _signal_at_call(distributed, "_seal", save, number, False)


def fail_logs_at_step(step: int) -> None:
    """From `step` on TensorBoard's files cannot be written."""
    from lightning.pytorch.loggers import TensorBoardLogger

    from nemo_pi.engine.engine import MegatronEngine

    def fail() -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

        from torch.utils.tensorboard import SummaryWriter

        SummaryWriter.add_scalar = refuse  # type: ignore[method-assign]
        assert TensorBoardLogger

    _at_call(MegatronEngine, "step", step, fail)


def _signal_at_call(owner: Any, name: str, call: int, number: int, last_rank_only: bool) -> None:
    def send() -> None:
        if _is_last_rank() or not last_rank_only:
            os.kill(os.getpid(), number)

    _at_call(owner, name, call, send)


def _at_call(owner: Any, name: str, call: int, act: Callable[[], None]) -> None:
    original, calls = getattr(owner, name), [0]

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            act()
        return original(*args, **kwargs)

    setattr(owner, name, counted)


def _change_micro_batches(before: Any = None, after: Any = None) -> None:
    """Changes each global batch before it is cut up, or each micro-batch after."""
    from nemo_pi.engine import engine

    original = engine.micro_batches

    def changed(batch: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        parts = original(before(batch) if before else batch, *args, **kwargs)
        return map(after, parts) if after else parts

    engine.micro_batches = changed


def _is_last_rank() -> bool:
    return int(os.environ.get("RANK", 0)) == int(os.environ.get("WORLD_SIZE", 1)) - 1
