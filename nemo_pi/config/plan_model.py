"""The plan's section about the model: what it starts from, its sizes and what computes it."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.config.units import grouped, short
from nemo_pi.families.registry import family_of
from nemo_pi.kernels import native
from nemo_pi.kernels.capability import rotary_needs
from nemo_pi.kernels.native_attention import takes_width
from nemo_pi.kernels.products import mkl_keeps_to_avx2
from nemo_pi.kernels.registry import FUSED, select_rotary_kernel

Rows = list[tuple[str, str]]
"""Labels and values of one section of the plan."""


def model_rows(run: ResolvedRun) -> Rows:
    """Sizes, checkpoint, tokenizer and the kernels chosen."""
    shape = run.shape
    groups = (
        f", {shape.num_query_groups} key/value heads"
        if shape.num_query_groups < shape.num_attention_heads
        else ""
    )
    return [
        ("starts from", _start(run)),
        ("parameters", f"{short(family_of(shape).num_parameters(shape))} ({shape.family})"),
        ("layers", f"{shape.num_layers} × {shape.hidden_size}, {shape.num_attention_heads} heads{groups}"),
        ("vocabulary", f"{grouped(shape.vocab_size)}{', tied' if shape.tied_embeddings else ''}"),
        ("tokenizer", _tokenizer(run)),
        ("attention", _attention(run)),
        ("rotary kernel", _rotary_kernel(run)),
    ]


def _start(run: ResolvedRun) -> str:
    start = run.checkpoint
    if start is None:
        return "restore_from_path, not given yet" if run.checkpoint_open else "random weights"
    step = f", step {grouped(start.global_step)}" if start.global_step else ""
    return f"{start.kind} checkpoint {start.path}, {start.dtype}{step}"


def _tokenizer(run: ResolvedRun) -> str:
    if run.tokenizer is None:
        return "none: token ids are taken as they are"
    return " ".join(part for part in (run.tokenizer.library, run.tokenizer.model) if part)


def _attention(run: ResolvedRun) -> str:
    window = run.shape.sliding_window
    sliding = run.shape.num_layers - len(run.shape.full_attention_layers)
    share = f" in {sliding} of {run.shape.num_layers} layers" if run.shape.full_attention_layers else ""
    limit = f", {grouped(window)} tokens back{share}" if window else ""
    if run.transformer_engine is False:
        return f"{_own_attention(run)}{limit}"
    if run.transformer_engine is None:
        here = torch.cuda.is_available() and find_spec("transformer_engine") is not None
        return f"{'Transformer Engine' if here else _own_attention(run)} (auto){limit}"
    return f"Transformer Engine{limit}"


def _own_attention(run: ResolvedRun) -> str:
    """What attends without Transformer Engine."""
    compiled = (
        native.serves(run.compute_dtype)
        and mkl_keeps_to_avx2()
        and takes_width(run.shape.head_dim)
        and run.shape.sliding_window is None
    )
    return "compiled for CPUs" if compiled else "PyTorch SDPA"


def _rotary_kernel(run: ResolvedRun) -> str:
    needs = rotary_needs(run.extension, run.compute_dtype)
    chosen = select_rotary_kernel(run.engine.build.rotary_kernel, needs).name
    chosen_by = {"auto": " (auto)", FUSED: " (apply_rope_fusion)"}
    return chosen + chosen_by.get(run.engine.build.rotary_kernel, "")
