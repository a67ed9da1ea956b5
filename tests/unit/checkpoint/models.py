"""Tiny models that the tests of this package share: transformers' own, and Megatron's on gloo ranks."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.transformer.transformer_config import TransformerConfig
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from nemo_pi.checkpoint.hf.gather import ModelGroups
from nemo_pi.checkpoint.hf.load import load_huggingface
from nemo_pi.checkpoint.summary import CheckpointSummary, read_summary
from nemo_pi.families.shape import ModelShape
from nemo_pi.parallel.cpu_shim import cpu_shim

# What the ranks of these tests import; done once, before they are forked.
HEAVY_PACKAGES = [
    "megatron.core.dist_checkpointing",
    "nemo_pi.model.build",
    "transformers.models.auto.modeling_auto",
    "tests.unit.checkpoint.optimizers",
]

TIMEOUT = timedelta(minutes=2)
"""A rank that waits for another longer than this fails: a hang is a failed test, not a stuck suite."""

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
}


def save_transformers_model(
    folder: Path,
    family: str = "llama",
    *,
    dtype: torch.dtype = torch.float32,
    shard: str = "5GB",
    **overrides: Any,
) -> Path:
    """A random transformers model with norms that are not all one, saved by transformers itself."""
    torch.manual_seed(7)
    kind, settings = (
        (LlamaForCausalLM, LlamaConfig) if family == "llama" else (MistralForCausalLM, MistralConfig)
    )
    model = kind(settings(**{**SIZES, "bos_token_id": 3, "eos_token_id": 5, **overrides}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    return folder


def build_chunks(shape: ModelShape, *, virtual: int | None = None) -> list[GPTModel]:
    """Stock megatron-core chunks of this rank, local layer spec, CPU-initialised."""
    tensor = parallel_state.get_tensor_model_parallel_world_size()
    pipeline = parallel_state.get_pipeline_model_parallel_world_size()
    config = TransformerConfig(
        num_layers=shape.num_layers,
        hidden_size=shape.hidden_size,
        ffn_hidden_size=shape.ffn_hidden_size,
        num_attention_heads=shape.num_attention_heads,
        num_query_groups=shape.num_query_groups,
        kv_channels=shape.head_dim,
        layernorm_epsilon=shape.norm_epsilon,
        normalization="RMSNorm",
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        tensor_model_parallel_size=tensor,
        pipeline_model_parallel_size=pipeline,
        virtual_pipeline_model_parallel_size=virtual,
        pipeline_dtype=torch.float32,
        use_cpu_initialization=True,
        gradient_accumulation_fusion=False,
    )
    stages: list[int | None] = list(range(virtual)) if virtual else [None]
    with cpu_shim():
        return [
            GPTModel(
                config=config,
                transformer_layer_spec=get_gpt_layer_local_spec(normalization="RMSNorm"),
                vocab_size=shape.vocab_size,
                max_sequence_length=64,
                position_embedding_type="none",
                pre_process=parallel_state.is_pipeline_first_stage(
                    ignore_virtual=stage is None, vp_stage=stage
                ),
                post_process=parallel_state.is_pipeline_last_stage(
                    ignore_virtual=stage is None, vp_stage=stage
                ),
                share_embeddings_and_output_weights=shape.tied_embeddings,
                vp_stage=stage,
            )
            for stage in stages
        ]


def start_rank(
    rank: int = 0,
    world: int = 1,
    store: str = "",
    tensor: int = 1,
    pipeline: int = 1,
    virtual: int | None = None,
) -> None:
    """Joins a gloo world (over a file, where it has several ranks) and makes Megatron's groups."""
    if world == 1:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    else:
        address = f"file://{store}"
        dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world, timeout=TIMEOUT)
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=tensor,
        pipeline_model_parallel_size=pipeline,
        virtual_pipeline_model_parallel_size=virtual,
    )


def filled_chunks(folder: Path, *, virtual: int | None = None) -> tuple[CheckpointSummary, list[GPTModel]]:
    """Stock chunks of this rank with a Hugging Face folder's weights, NaN wherever the import left a gap."""
    summary = read_summary(folder)
    chunks = build_chunks(summary.shape, virtual=virtual)
    for chunk in chunks:
        for parameter in chunk.parameters():
            parameter.data.fill_(float("nan"))
    load_huggingface(
        chunks,
        folder,
        summary.shape,
        tp_rank=parallel_state.get_tensor_model_parallel_rank(),
        tp_size=parallel_state.get_tensor_model_parallel_world_size(),
    )
    return summary, chunks


def model_groups() -> ModelGroups:
    """This rank's tensor and pipeline groups."""
    return ModelGroups(
        parallel_state.get_tensor_model_parallel_group(), parallel_state.get_pipeline_model_parallel_group()
    )


def model_state(chunks: list[GPTModel]) -> dict[str, Any]:
    """Megatron's sharded state dict of this rank's chunks."""
    metadata = {"distrib_optim_sharding_type": "fully_reshardable"}
    return {f"model{i}": chunk.sharded_state_dict(metadata=metadata) for i, chunk in enumerate(chunks)}


def meta_of(summary: CheckpointSummary, *, step: int = 3, samples: int = 12) -> dict[str, Any]:
    """What a manifest must be told."""
    return {
        "shape": summary.shape.to_dict(),
        "extension": summary.extension.to_dict(),
        "global_step": step,
        "consumed_samples": samples,
    }


def stored_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a Hugging Face folder, read by safetensors itself."""
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors.update(load_file(file))
    return tensors


def assert_same_bits(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """Same names, dtypes, shapes and bits."""
    assert sorted(ours) == sorted(theirs)
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert torch.equal(ours[name].view(torch.uint8), tensor.view(torch.uint8)), name


def stop_rank() -> None:
    """Leaves it."""
    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()


def _enter(
    rank: int,
    work: Callable[..., None],
    layout: tuple[int, int, int | None],
    world: int,
    store: str,
    errors: str,
    args: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    try:
        start_rank(rank, world, store, layout[0], layout[1], layout[2])
        work(*args)
        stop_rank()
    except BaseException:
        (Path(errors) / f"rank{rank}.txt").write_text(traceback.format_exc())
        os._exit(1)  # without this, gloo's threads may wait for ranks that are gone


def run_ranks(
    tmp_path: Path,
    work: Callable[..., None],
    *args: Any,
    world: int,
    tensor: int = 1,
    pipeline: int = 1,
    virtual: int | None = None,
) -> None:
    """Runs `work(*args)` on `world` new processes with Megatron's groups up; fails with their tracebacks."""
    errors = tmp_path / f"ranks-{len(list(tmp_path.glob('ranks-*')))}"
    errors.mkdir()
    layout = (tensor, pipeline, virtual)
    # A clean server process imports the heavy packages once and forks every rank from there.
    multiprocessing.set_forkserver_preload(HEAVY_PACKAGES)
    try:
        mp.start_processes(
            _enter,
            (work, layout, world, str(errors / "store"), str(errors), args),
            nprocs=world,
            start_method="forkserver",
        )
    except Exception as error:
        texts = [path.read_text() for path in sorted(errors.glob("rank*.txt"))]
        raise AssertionError("\n".join([str(error), *texts])) from None
