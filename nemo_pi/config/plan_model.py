"""The plan's section about the model: what it starts from, its sizes and what computes it."""

from __future__ import annotations

from nemo_pi.config.kernels import backends_of, is_for_this_machine
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.families.registry import family_of
from nemo_pi.model.backends import ROTARY
from nemo_pi.units import grouped, short

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
        *_backends(run),
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


def _backends(run: ResolvedRun) -> Rows:
    """What computes it: a row for each job."""
    if not is_for_this_machine(run):
        return [("layers of", "Transformer Engine, which is not on this machine")]
    described = backends_of(run).describe()
    window = run.shape.sliding_window
    sliding = run.shape.num_layers - len(run.shape.full_attention_layers)
    share = f" in {sliding} of {run.shape.num_layers} layers" if run.shape.full_attention_layers else ""
    limit = f", {grouped(window)} tokens back{share}" if window else ""
    return [
        ("attention", described["attention"] + limit),
        ("norm", described["norm"]),
        ("activation", described["activation"]),
        ("softmax", described["softmax"]),
        ("products", described["matmul"]),
        ("rotary kernel", described[ROTARY]),
    ]
