"""A plain loop around transformers' Llama: SDPA attention, torch's fused AdamW; Liger's kernels if asked."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch.nn.utils import clip_grad_norm_
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.training.job import Job
from benchmarks.training.material import sample
from benchmarks.training.pacer import Pacer
from benchmarks.training.sizes import SIZES


def load(job: Job) -> LlamaForCausalLM:
    """The model in fp32, its positions interpolated as the job says."""
    config = LlamaConfig.from_pretrained(job.folder)
    factor = job.target_window / SIZES[job.size].window
    if factor > 1:
        config.rope_parameters = {"rope_type": "linear", "rope_theta": 10000.0, "factor": factor}
    config.max_position_embeddings = job.target_window
    config.use_cache = False
    if job.contestant == "liger":
        from liger_kernel.transformers import apply_liger_kernel_to_llama

        apply_liger_kernel_to_llama()
    model = LlamaForCausalLM.from_pretrained(
        Path(job.folder), config=config, dtype=torch.float32, attn_implementation="sdpa"
    )
    return model.to(job.device).train()


def inputs(job: Job) -> dict[str, torch.Tensor]:
    """The sample as transformers takes it, on the job's device, a batch of one."""
    tokens, labels = (torch.from_numpy(ids)[None].to(job.device) for ids in sample(job.folder, job.length))
    # Given shifted, so that the last token counts as it does elsewhere.
    return {"input_ids": tokens, "labels": labels, "shift_labels": labels}


def make_step(job: Job) -> Callable[[], float]:
    """A step as in any tutorial."""
    model = load(job)
    if job.recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        parameters, lr=job.lr, betas=job.betas, eps=job.eps, weight_decay=0.0, fused=True
    )
    batch = inputs(job)
    forward = torch.compile(model) if job.compiled else model

    def step() -> float:
        with torch.autocast("cuda", torch.bfloat16) if job.on_gpu else nullcontext():
            loss = forward(**batch).loss
        loss.backward()
        clip_grad_norm_(parameters, job.clip_grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def run(job: Job, pacer: Pacer) -> None:
    """Races."""
    pacer.run(make_step(job))
