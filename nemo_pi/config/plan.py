"""The plan of a run as text, for people to read before anything is allocated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from nemo_pi.checkpoint.space import free_bytes
from nemo_pi.config.capacity import capacity_of
from nemo_pi.config.disk import checkpoint_bytes, export_bytes
from nemo_pi.config.evaluation_plan import PlannedEvaluation, evaluation_rows
from nemo_pi.config.fitting import what_would_fit
from nemo_pi.config.memory import estimate_memory, is_tiled
from nemo_pi.config.plan_data import data_rows
from nemo_pi.config.plan_layers import layer_rows
from nemo_pi.config.plan_model import Rows, model_rows
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.config.step_time import seconds_of_a_step
from nemo_pi.errors import NemoPiError
from nemo_pi.families.export import export_form
from nemo_pi.model.options import HOST
from nemo_pi.rope.pose_spec import PoseSpec
from nemo_pi.units import duration, grouped, plural, short, size_of

_LABEL_WIDTH = 18
_NOTICED_ON_DISK = 128 << 20


def render_plan(
    run: ResolvedRun,
    *,
    logs: Path | None = None,
    checkpoints: Path | None = None,
    evaluation: PlannedEvaluation | None = None,
) -> str:
    """What the run will do, in sections of `label  value` lines; a section without lines is left out.

    Args:
        run: the validated run.
        logs: folder of logs; None reads it from exp_manager's keys.
        checkpoints: folder of checkpoints; None reads it there too.
        evaluation: what plan_evaluation made of the run, for its cost.

    Raises:
        BackendUnavailableError: the requested rotary kernel cannot run here.
    """
    return "\n".join(
        [f"Plan of {run.name}", *section_lines(plan_sections(run, logs, checkpoints, evaluation))]
    )


def plan_sections(
    run: ResolvedRun,
    logs: Path | None,
    checkpoints: Path | None,
    evaluation: PlannedEvaluation | None,
) -> dict[str, Rows]:
    """The plan's rows by the title of their section; arguments as render_plan's."""
    return {
        "Context window": _window_rows(run),
        "Model": model_rows(run),
        "Batches": _batch_rows(run),
        "Training": _training_rows(run),
        "Evaluation while it trains": evaluation_rows(run, evaluation),
        "Memory of the fullest rank (estimate)": _memory_rows(run),
        "Folders": _folder_rows(run, logs, checkpoints),
    }


def section_lines(sections: Mapping[str, Rows]) -> list[str]:
    """Lines of sections, each below its title and behind an empty line."""
    lines: list[str] = []
    for title, rows in sections.items():
        if not rows:
            continue
        lines += ["", title, *(f"  {_padded(label)}{value}" for label, value in rows)]
    return lines


def _padded(label: str) -> str:
    """In one column, save for a label that is longer (an argument of a method)."""
    return f"{label:<{_LABEL_WIDTH}}" if len(label) < _LABEL_WIDTH else f"{label}  "


def _window_rows(run: ResolvedRun) -> Rows:
    extension = run.extension
    rows = [
        ("original", f"{grouped(extension.original_window)} tokens, from {run.window_source}"),
        ("target", f"{grouped(extension.target_window)} tokens"),
        ("training length", _length(run)),
        *([] if run.pose is None else [("PoSE", _pose(run.pose))]),
        ("method", extension.scaling.plan(extension.numbers)),
        ("factor", f"{extension.factor:g}" + ("" if extension.is_scaled else " (nothing is scaled)")),
    ]
    for name, value in extension.extra:
        shown = f"{len(value)} values" if isinstance(value, tuple) else f"{value}"
        rows.append((f"  {name}", shown))
    rows += [(f"  {label}", text) for label, text in extension.scaling.plan_notes(extension.numbers)]
    rows.append(
        ("rotary", f"base {extension.base:g}, {extension.rotary_dim} of {extension.head_dim} channels")
    )
    return rows + layer_rows(run.shape, extension)


def _length(run: ResolvedRun) -> str:
    text = f"{grouped(run.training_length)} tokens"
    if run.pose is not None:
        return f"{text}, positions skipping through the target window"
    shorter = run.training_length < run.extension.target_window
    return f"{text}, shorter than the target window" if shorter else text


def _pose(pose: PoseSpec) -> str:
    if pose.sampler == "random":
        return f"random: positions sampled from {grouped(pose.target_window)}"
    text = {
        "uniform": "text from anywhere on in the document",
        "zero": "unbroken text",
        "aligned": "text from where the positions say",
    }[pose.content_offset]
    return f"{pose.sampler}: {plural(pose.num_chunks, 'chunk')} a sample, {text}"


def _batch_rows(run: ResolvedRun) -> Rows:
    per_step = run.tokens_per_step
    return [
        ("ranks", run.parallel.describe()),
        ("micro batch", plural(run.micro_batch_size, "sample")),
        (
            "global batch",
            f"{plural(run.global_batch_size, 'sample')} = {plural(run.num_micro_batches, 'micro-batch')} "
            f"on each of {plural(run.parallel.dp, 'data-parallel rank')}",
        ),
        (
            "tokens",
            f"{grouped(per_step)} a step, {short(per_step * run.max_steps)} in all",
        ),
        *data_rows(run),
    ]


def _training_rows(run: ResolvedRun) -> Rows:
    optim, sched = run.optim, run.schedule
    warmup = ""
    if sched.warmup_steps:
        warmup = f"{plural(sched.warmup_steps, 'warm-up step')} from {run.warmup_start_lr:g}, then "
    after = (
        "constant"
        if sched.name == "constant"
        else f"{sched.name} to {sched.min_lr:g} at step {sched.max_steps}"
    )
    sharded = run.engine.optim.use_distributed_optimizer and run.parallel.dp * run.parallel.cp > 1
    clip = "none" if run.gradient_clip_val is None else f"norm {run.gradient_clip_val:g}"
    return [
        ("steps", grouped(run.max_steps)),
        ("precision", run.precision),
        (
            "optimizer",
            f"AdamW, betas {optim.betas[0]:g} and {optim.betas[1]:g}, weight decay {optim.weight_decay:g}"
            + (", states sharded" if sharded else ""),
        ),
        ("learning rate", f"{optim.lr:g}: {warmup}{after}"),
        *(
            ("", f"{factor:g} times that for {linear.rpartition('.')[2]}")
            for linear, factor in run.engine.optim.lr_multipliers.items()
        ),
        ("gradient clipping", clip),
        ("loss", _loss(run)),
        *_tiles(run),
        ("recomputation", _recomputation(run)),
        *_megatron_options(run),
        ("seed", str(run.seed)),
        *_time(run),
    ]


def _megatron_options(run: ResolvedRun) -> Rows:
    given = [f"{key.removeprefix('model.')} {value}" for key, value in run.megatron_options().items()]
    return [("Megatron options", ", ".join(given))] if given else []


def _memory_rows(run: ResolvedRun) -> Rows:
    estimate, capacity = estimate_memory(run), capacity_of(run)
    names = ("weights", "gradients", "optimizer", "activations", "working", "total")
    labels = {"optimizer": "optimizer states", "working": "loss or backward"}
    rows = [(labels.get(name, name), f"{size_of(getattr(estimate, name)):>10}") for name in names]
    what = "" if torch.cuda.is_available() else " available here"
    rows[-1] = ("total", rows[-1][1] + _of(capacity.device, what))
    if estimate.host:
        rows.append(("host memory", f"{size_of(estimate.host):>10}{_of(capacity.host, ' available here')}"))
    if estimate.disk:
        rows.append(
            ("file", f"{size_of(estimate.disk):>10}, in {run.recompute.folder}{_gain(estimate.disk)}")
        )
    if capacity.lacks(estimate):
        rows.append(("", f"MORE than there is; {what_would_fit(run, capacity)}"))
    return rows


def _gain(on_disk: int) -> str:
    """What to expect of activations in a file on a CPU: the C heap's gaps between tensors are as large."""
    if torch.cuda.is_available() or on_disk >= _NOTICED_ON_DISK:
        return ""
    return f"; below {size_of(_NOTICED_ON_DISK)} the process hardly becomes smaller"


def _of(num_bytes: int | None, what: str) -> str:
    return "" if num_bytes is None else f" of {size_of(num_bytes)}{what}"


def _time(run: ResolvedRun) -> Rows:
    step = seconds_of_a_step(run)
    if step is None:
        return []
    text = f"about {duration(step)} a step, {duration(step * run.max_steps)} in all"
    return [("time", f"{text}, by the speed of matrix products on this machine")]


def _folder_rows(run: ResolvedRun, logs: Path | None, checkpoints: Path | None) -> Rows:
    given = run.exp_manager
    params = given.get("checkpoint_callback_params") or {}
    if logs is None:
        base = Path(given.get("exp_dir") or "nemo_experiments") / str(given.get("name") or run.name)
        logs = Path(given["explicit_log_dir"]) if given.get("explicit_log_dir") else base
    if checkpoints is None:
        checkpoints = Path(params["dirpath"]) if params.get("dirpath") else logs / "checkpoints"
    every = params.get("every_n_train_steps")
    often = f", every {plural(int(every), 'step')}" if every else ", at the end"
    return [
        ("logs", str(logs)),
        ("checkpoints", f"{checkpoints}{often}"),
        ("  disk", _disk(run, checkpoints, params.get("save_top_k"))),
        ("export", _export(run)),
    ]


def _disk(run: ResolvedRun, checkpoints: Path, keep: int | None) -> str:
    one, free = checkpoint_bytes(run), free_bytes(checkpoints)
    text = f"about {size_of(one)} each"
    if keep is not None and keep > 0:
        # An old one goes when the new one is whole.
        most = (keep + 1) * one + export_bytes(run)
        text += f", {size_of(most)} with {keep} kept while another is written"
        if most > free:
            return f"{text}: MORE than the {size_of(free)} that are free"
    return f"{text}; {size_of(free)} are free"


def _export(run: ResolvedRun) -> str:
    adapters = run.export.peft_path
    if adapters is not None:
        merged = "" if run.export.hf_path is None else f"; merged: {_merged_export(run)}"
        return f"{adapters} (adapters for peft){merged}"
    return _merged_export(run)


def _merged_export(run: ResolvedRun) -> str:
    if run.export.hf_path is None:
        return "none"
    text = f"{run.export.hf_path} (Hugging Face, {run.export.dtype})"
    try:
        form = export_form(run.shape, run.extension, run.export.architecture)
    except NemoPiError:
        return text  # what looks at the run behind its plan stops with it
    return f"{text}, {form.describe()}" if form.why else text


def _loss(run: ResolvedRun) -> str:
    chunk = run.engine.build.loss_chunk_tokens
    if chunk is None:
        return "from whole logits"
    return f"from hidden states, {plural(chunk, 'token')} at a time"


def _tiles(run: ResolvedRun) -> Rows:
    size = run.engine.build.mlp_chunk_tokens
    if size is None:
        return []
    all_at_once = "" if is_tiled(run) else ", which is all of them at once"
    return [("MLP", f"{plural(size, 'token')} at a time{all_at_once}")]


def _recomputation(run: ResolvedRun) -> str:
    recompute = run.recompute
    if recompute.granularity is None:
        return "none"
    if recompute.keeps_attention:
        return "whole layers but attention" + _waiting(run)
    if recompute.granularity == "selective":
        names = {"core_attn": "core attention", "mlp": "MLP"}
        return " and ".join(names[module] for module in recompute.modules)
    return f"whole layers, {recompute.method}, {plural(recompute.num_layers or 1, 'layer')}{_waiting(run)}"


def _waiting(run: ResolvedRun) -> str:
    """Where what recomputed layers keep waits, if not where it is."""
    recompute = run.recompute
    places = {None: "", HOST: "; what they keep waits in host memory"}
    return places.get(recompute.offload, f"; what they keep waits in a file in {recompute.folder}")
