"""litgpt's GPT under Lightning Fabric, the step as in litgpt/finetune/full.py with pretraining's clipping."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from litgpt.config import Config
from litgpt.model import GPT, Block
from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama
from litgpt.utils import chunked_cross_entropy
from safetensors.torch import load_file
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing

from benchmarks.training.job import Job
from benchmarks.training.material import sample
from benchmarks.training.pacer import Pacer
from benchmarks.training.sizes import SIZES


def litgpt_config(job: Job) -> Config:
    """The size in litgpt's words."""
    size = SIZES[job.size]
    shape = size.shape
    return Config(
        name="benchmark",
        block_size=job.length,
        n_layer=shape.num_layers,
        n_embd=shape.hidden_size,
        n_head=shape.num_attention_heads,
        n_query_groups=shape.num_query_groups,
        head_size=shape.head_dim,
        vocab_size=shape.vocab_size,
        padded_vocab_size=shape.vocab_size,
        intermediate_size=shape.ffn_hidden_size,
        rotary_percentage=1.0,
        rope_adjustments={"factor": job.target_window / size.window},
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        norm_eps=shape.norm_epsilon,
        mlp_class_name="LLaMAMLP",
    )


def weights(job: Job, config: Config) -> dict[str, Any]:
    """The folder's weights under litgpt's names, by its own converter."""
    state: dict[str, Any] = {}
    fused: dict[int, Any] = {}
    for file in sorted(Path(job.folder).glob("*.safetensors")):
        copy_weights_hf_llama(config, fused, state, load_file(file), dtype=torch.float32)
    return state


def make_step(job: Job) -> Callable[[], float]:
    """A step of litgpt's fine-tuning loop."""
    fabric = Fabric(
        accelerator="cuda" if job.on_gpu else "cpu",
        devices=1,
        precision="bf16-mixed" if job.on_gpu else "32-true",
    )
    config = litgpt_config(job)
    with fabric.init_module():
        model: Any = GPT(config)
    model.load_state_dict(weights(job, config))
    if job.recompute:
        apply_activation_checkpointing(model, check_fn=lambda module: isinstance(module, Block))
    model = fabric.setup(torch.compile(model) if job.compiled else model)
    adam = torch.optim.AdamW(
        model.parameters(), lr=job.lr, betas=job.betas, eps=job.eps, weight_decay=0.0, fused=True
    )
    optimizer: Any = fabric.setup_optimizers(adam)
    tokens, labels = (torch.from_numpy(ids)[None].to(fabric.device) for ids in sample(job.folder, job.length))

    def step() -> float:
        loss = chunked_cross_entropy(model(tokens), labels)
        fabric.backward(loss)
        fabric.clip_gradients(model, optimizer, max_norm=job.clip_grad)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def run(job: Job, pacer: Pacer) -> None:
    """Races."""
    pacer.run(make_step(job))
