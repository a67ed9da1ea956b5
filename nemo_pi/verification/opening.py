"""A checkpoint's model at a layout, its weights read when it is their turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import psutil
import torch
from torch import nn

from nemo_pi.checkpoint.hf.blocks import blocks
from nemo_pi.checkpoint.hf.folder import HuggingFaceWeights
from nemo_pi.checkpoint.hf.load import load_huggingface, located_parameters
from nemo_pi.checkpoint.summary import CheckpointSummary
from nemo_pi.engine.engine import MegatronEngine
from nemo_pi.engine.opening import open_engine
from nemo_pi.engine.settings import EngineSettings
from nemo_pi.families.fusion import reorder_heads, stored_order, unfuse
from nemo_pi.families.registry import family_of
from nemo_pi.families.shape import ModelShape
from nemo_pi.model.build import check_backends
from nemo_pi.model.gpt import RotaryGPTModel
from nemo_pi.model.options import BuildOptions
from nemo_pi.parallel import groups
from nemo_pi.parallel.layout import ParallelLayout
from nemo_pi.rope.spec import ContextExtension
from nemo_pi.verification.empty import InTurn, give_storage, without_weights


class _Part:
    """One part of a chunk as the loader takes a chunk: some of its parameters, all of its layers' numbers."""

    def __init__(self, chunk: RotaryGPTModel, prefix: str, part: nn.Module) -> None:
        self.decoder, self._prefix, self._part = chunk.decoder, prefix, part

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Under the chunk's names."""
        for name, parameter in self._part.named_parameters():
            yield f"{self._prefix}.{name}", parameter


class OpenedModel:
    """An engine over a checkpoint. A Hugging Face folder's weights are read layer by layer where they are
    needed; a distributed checkpoint's all at once.

    Every rank of `layout` makes one.

    Args:
        checkpoint: of either kind, from read_summary.
        layout: of the ranks that have been launched.
        build: dtype and kernels.
        keep: whether a layer that was read stays in memory.
        rotated_as: how queries and keys are rotated, weights as they are; None: as the checkpoint says.
        passed: called behind each part in each forward pass, for a progress bar.

    Raises:
        BackendUnavailableError, CheckpointError: as open_engine.
    """

    def __init__(
        self,
        checkpoint: CheckpointSummary,
        layout: ParallelLayout,
        build: BuildOptions,
        *,
        keep: bool,
        rotated_as: ContextExtension | None = None,
        passed: Callable[[], None] = lambda: None,
    ) -> None:
        self.checkpoint, self.keep = checkpoint, keep
        self.unlike: dict[str, None] = {}
        """Names of stored tensors that do not come back bit by bit (an ordered set), once they were read."""
        if checkpoint.kind != "huggingface":
            self.engine = open_engine(checkpoint, layout, build)
            self.keep = True
            return
        self._weights = HuggingFaceWeights(checkpoint.path)
        build = replace(build, megatron={**build.megatron, "perform_initialization": False})
        shape, extension = checkpoint.shape, rotated_as or checkpoint.extension
        check_backends(shape, extension, layout, build)
        groups.ensure_process_group()
        groups.initialize(layout, seed=0)
        with without_weights():
            self.engine = MegatronEngine(
                EngineSettings(shape, extension, layout, micro_batch_size=1, build=build)
            )
        parts = {
            part: _Part(chunk, prefix, part) for chunk in self.engine.chunks for prefix, part in _parts(chunk)
        }
        tied = {id(parameter) for parameter in _shared(self.engine, shape)}
        self._parts = parts
        alone = [part for part in parts if not tied & {id(parameter) for parameter in part.parameters()}]
        # The output layer takes a tied embedding's weight from it, without calling it.
        for part in parts.keys() - set(alone):
            self._fill(part)
        self._turns = InTurn(alone, self._fill, keep=keep, passed=passed)

    def _fill(self, part: nn.Module) -> None:
        give_storage(part, groups.device())
        source, shape, extension = self._parts[part], self.checkpoint.shape, self.checkpoint.extension
        load_huggingface(
            [source],  # type: ignore[list-item]
            self.checkpoint.path,
            shape,
            tp_rank=groups.tensor_rank(),
            tp_size=groups.tensor_size(),
            extension=extension,
        )
        self.unlike.update(dict.fromkeys(_unlike(source, self._weights, shape, extension)))


def _parts(chunk: RotaryGPTModel) -> Iterator[tuple[str, nn.Module]]:
    """(name, module) of everything that is filled at once: each layer, and what stands around them."""
    around: dict[str, nn.Module] = {}
    for name, module in chunk.named_modules():
        if module._parameters and not name.startswith("decoder.layers."):
            around[name] = module
    for number, layer in enumerate(chunk.decoder.layers):
        yield f"decoder.layers.{number}", layer
    yield from around.items()


def _shared(engine: MegatronEngine, shape: ModelShape) -> list[nn.Parameter]:
    if not shape.tied_embeddings:
        return []
    return [
        parameter
        for chunk in engine.chunks
        for name, parameter in chunk.named_parameters()
        if "word_embeddings" in name or name.startswith("output_layer")
    ]


def _unlike(
    part: Any, weights: HuggingFaceWeights, shape: ModelShape, extension: ContextExtension
) -> Iterator[str]:
    """Names of tensors that a part would not write as they are stored."""
    order = stored_order(extension, family_of(shape).interleaved)
    rank, size = groups.tensor_rank(), groups.tensor_size()
    for tensor, rule, layer in located_parameters([part], shape):
        names, columns = rule.names(layer), 1 if rule.split_dim == 1 else None
        for block in blocks(rule, shape, rank, size):
            fused = tensor[slice(*block.rows)]
            parts = (fused,) if len(block.parts) == 1 else unfuse(fused, rule, shape)
            back = reorder_heads(parts, rule, shape, order)
            for (number, rows), one in zip(block.parts, back, strict=True):
                stored = weights.read(names[number], columns, rank, size, rows=rows)
                if not torch.equal(one.cpu().to(stored.dtype), stored):
                    yield names[number]


def fits_in_memory(checkpoint: CheckpointSummary, dtype: torch.dtype, copies: int = 1) -> bool:
    """Whether `copies` whole models take less than half of the memory that is free now."""
    family = family_of(checkpoint.shape)
    needed = copies * family.num_parameters(checkpoint.shape) * dtype.itemsize
    if torch.cuda.is_available():
        return needed < torch.cuda.mem_get_info()[0] / 2
    return needed < psutil.virtual_memory().available / 2
