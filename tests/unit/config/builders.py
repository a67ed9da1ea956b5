"""What the tests of config/ start from: a small valid configuration and a checkpoint's summary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from nemo_pi.checkpoint.summary import CheckpointSummary
from nemo_pi.config.load import resolve
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.families.shape import ModelShape
from nemo_pi.rope.spec import ContextExtension

SHAPE = ModelShape(
    num_layers=4,
    hidden_size=256,
    ffn_hidden_size=688,
    num_attention_heads=4,
    num_query_groups=2,
    head_dim=64,
    vocab_size=2048,
)
YAML_SHAPE = {
    "num_layers": 4,
    "hidden_size": 256,
    "ffn_hidden_size": 688,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "vocab_size": 2048,
}

# A value other than the default for what the engine takes.
EVERYTHING = {
    "rotary_kernel": "torch",
    "init_method_std": 0.007,
    "micro_batch_size": 2,
    "global_batch_size": 8,
    "loss_chunk_size": 77,
    "activations_checkpoint_granularity": "full",
    "activations_checkpoint_method": "block",
    "activations_checkpoint_num_layers": 3,
    "optim": {
        "name": "fused_adam",
        "lr": 4e-4,
        "betas": [0.8, 0.9],
        "eps": 1e-6,
        "weight_decay": 0.03,
        "sched": {
            "name": "CosineAnnealing",
            "warmup_steps": 7,
            "warmup_start_fraction": 0.2,
            "max_steps": 60,
            "min_lr": 1e-5,
            "constant_steps": 4,
        },
    },
}


def summary_of(
    shape: ModelShape = SHAPE, extension: ContextExtension | None = None, **changes: Any
) -> CheckpointSummary:
    """A checkpoint with a window of 512 tokens, or with the extension given."""
    facts: dict[str, Any] = {
        "kind": "huggingface",
        "path": Path("/models/base"),
        "window_source": "/models/base/config.json: max_position_embeddings",
        "tokenizer_path": Path("/models/base"),
    }
    plain = ContextExtension.unscaled(512, shape.head_dim)
    return CheckpointSummary(shape=shape, extension=extension or plain, **(facts | changes))


def values_of(model: dict[str, Any] | None = None, **top: Any) -> dict[str, Any]:
    """A configuration that resolves against `summary_of()`, changed in the model section and at the top."""
    section = {"max_position_embeddings": 4096, "data": {"data_prefix": ["/data/tokens"]}}
    return {"name": "run", "trainer": {"max_steps": 100}, "model": section | (model or {})} | top


def changed(run: ResolvedRun, **changes: Any) -> ResolvedRun:
    """The run with some fields replaced, its own or its engine's (`parallel` is the layout)."""
    names = {"parallel": "layout"}
    engine, build, optim = run.engine, run.engine.build, run.engine.optim
    parts: list[dict[str, Any]] = [{}, {}, {}, {}]
    for key, value in changes.items():
        name = names.get(key, key)
        owner = next(i for i, part in enumerate((engine, build, optim, run)) if name in vars(part))
        parts[owner][name] = value
    engine = replace(engine, **parts[0], build=replace(build, **parts[1]), optim=replace(optim, **parts[2]))
    return replace(run, **parts[3], engine=engine)


def run_of(
    model: dict[str, Any] | None = None,
    *,
    world_size: int = 1,
    summary: CheckpointSummary | None = None,
    **top: Any,
) -> ResolvedRun:
    """A run from `summary_of()`, or from the summary given."""
    return resolve(values_of(model, **top), world_size=world_size, summary=summary or summary_of())
