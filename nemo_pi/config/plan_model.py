"""The plan's section about the model: what it starts from, its sizes and what computes it."""

from __future__ import annotations

from collections.abc import Mapping

from nemo_pi.config.kernels import backends_of, is_for_this_machine
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.families.lora import TARGETS, num_adapted, num_trained
from nemo_pi.families.registry import family_of
from nemo_pi.families.shape import ModelShape
from nemo_pi.model.backends import ROTARY, SLIDING
from nemo_pi.units import grouped, plural, short

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
        *_trained(run),
        ("layers", f"{shape.num_layers} × {shape.hidden_size}, {shape.num_attention_heads} heads{groups}"),
        ("vocabulary", _vocabulary(run)),
        ("tokenizer", _tokenizer(run)),
        *_backends(run),
    ]


def _trained(run: ResolvedRun) -> Rows:
    """Adapters, where they are what is trained."""
    lora, shape = run.engine.build.lora, run.shape
    if lora is None:
        return []
    trained = num_trained(lora, shape)
    whole = family_of(shape).num_parameters(shape) + num_adapted(lora, shape)
    names = {linears: name for name, linears in reversed(list(TARGETS.items()))}
    places = names.get(lora.linears) or ", ".join(names[linear,] for linear in lora.linears)
    more = f", dropout {lora.dropout:g}" if lora.dropout else ""
    return [
        ("adapters", f"LoRA ({lora.variant}), rank {lora.dim}, alpha {lora.alpha:g}{more}, on {places}"),
        (
            "trained",
            f"{short(trained)} of {short(whole)} parameters ({trained / whole:.2%})"
            + (", embeddings and norms among them" if lora.embeddings_and_norms else ""),
        ),
    ]


def _vocabulary(run: ResolvedRun) -> str:
    shape, tp = run.shape, run.parallel.tp
    padding = shape.vocab_rows(tp) * tp - shape.vocab_size
    padded = f", and {plural(padding, 'row')} of padding, so that {tp} ranks share it" if padding else ""
    return f"{grouped(shape.vocab_size)}{', tied' if shape.tied_embeddings else ''}{padded}"


def _start(run: ResolvedRun) -> str:
    start = run.checkpoint
    if start is None:
        return "restore_from_path, not given yet" if run.checkpoint_open else "random weights"
    step = f", step {grouped(start.global_step)}" if start.global_step else ""
    beside = "" if start.adapter is None else f", adapters merged into {start.adapter.base_path}"
    return f"{start.kind} checkpoint {start.path}, {start.dtype}{step}{beside}"


def _tokenizer(run: ResolvedRun) -> str:
    if run.tokenizer is None:
        return "none: token ids are taken as they are"
    return " ".join(part for part in (run.tokenizer.library, run.tokenizer.model) if part)


def _backends(run: ResolvedRun) -> Rows:
    """What computes it: a row for each job."""
    if not is_for_this_machine(run):
        return [("layers of", "Transformer Engine, which is not on this machine")]
    described = backends_of(run).describe()
    return [
        *_attention(run.shape, described),
        ("norm", described["norm"]),
        ("activation", described["activation"]),
        ("softmax", described["softmax"]),
        ("products", described["matmul"]),
        ("rotary kernel", described[ROTARY]),
    ]


def _attention(shape: ModelShape, described: Mapping[str, str]) -> Rows:
    """One row, or one for each kind of layer where they are computed by different choices."""
    window, sliding = shape.sliding_window, len(shape.sliding_layers)
    share = f" in {sliding} of {shape.num_layers} layers" if sliding < shape.num_layers else ""
    limit = f", {grouped(window)} tokens back{share}" if window else ""
    if SLIDING not in described:
        return [("attention", described["attention"] + limit)]
    return [("attention", described["attention"]), ("sliding window", described[SLIDING] + limit)]
