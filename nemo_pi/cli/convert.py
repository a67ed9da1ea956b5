"""One checkpoint format into another: Hugging Face folders, distributed checkpoints; pickles and GGUF."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from nemo_pi.checkpoint.files import check_writable, real_folder
from nemo_pi.checkpoint.hf.folder import has_safetensors
from nemo_pi.checkpoint.hf.peft import check_peft_export
from nemo_pi.checkpoint.hf.pickled import has_pickled
from nemo_pi.checkpoint.hf.rewrite import rewrite_gguf, rewrite_pickled
from nemo_pi.checkpoint.hf.target import MARKER, check_apart
from nemo_pi.checkpoint.lock import writing
from nemo_pi.checkpoint.manifest import MANIFEST
from nemo_pi.checkpoint.summary import CheckpointSummary, read_source_config, read_summary
from nemo_pi.config.parallelism import resolve_layout
from nemo_pi.config.schema import ModelConfig
from nemo_pi.engine.opening import open_engine
from nemo_pi.engine.state import load_trained, save_weights
from nemo_pi.engine.weights import export_adapters, export_weights
from nemo_pi.errors import CheckpointError, ConfigError
from nemo_pi.families.export import AUTO, export_form
from nemo_pi.model.options import BuildOptions
from nemo_pi.parallel import launcher
from nemo_pi.parallel.layout import ParallelLayout

# Any one of these makes a folder one that --overwrite replaces.
_CHECKPOINT_FILES = (MANIFEST, MARKER, "config.json")


def convert(
    source: Path,
    target: Path,
    *,
    tp: int,
    pp: int,
    dtype: str | None,
    overwrite: bool,
    architecture: str = AUTO,
    as_peft: bool = False,
) -> tuple[CheckpointSummary, str]:
    """Writes `source` to `target` in the other format; all ranks of the launch call it together.

    Args:
        source: a Hugging Face folder, a distributed checkpoint at whatever layout it was saved, or what only
            comes in this way: a folder with pickled weights or a GGUF file.
        target: folder to write; it appears only once it is complete.
        tp: ranks that share each matrix while converting.
        pp: ranks that the layers are dealt over while converting.
        dtype: to store Hugging Face weights in; None keeps what they were stored in.
        overwrite: whether an existing checkpoint or export at `target` is replaced.
        architecture: class of transformers to write Hugging Face weights as, as model.export.architecture.
        as_peft: whether a checkpoint of adapters is written as `peft` loads them, not merged.

    Returns:
        What `source` was, and the kind that was written: `huggingface`, `distributed` or `peft`.

    Raises:
        CheckpointError: `source` cannot be read, or `target` exists.
        ConfigError: a layout that does not fit the model or the number of ranks, or a useless `dtype`.
        BackendUnavailableError: the package that reads GGUF files is missing.
    """
    found = _rewriting(source)
    if found is not None:
        kind, rewrite = found
        _check_alone(kind, tp, pp)
        _check_architecture(kind, None, architecture)
        check_apart(target, source)
        with _sole_target(target, overwrite):
            rewrite(target, dtype=dtype)
        return replace(read_summary(target), kind=kind, path=source), "huggingface"
    summary = read_summary(source)
    if as_peft:
        _check_adapters(summary, dtype, architecture)
    kind = "distributed" if summary.kind == "huggingface" else "huggingface"
    check_apart(target, source)
    _check_target(target, overwrite)
    _check_dtype(kind, dtype)
    _check_architecture(kind, summary, architecture)
    sizes = ModelConfig(tensor_model_parallel_size=tp, pipeline_model_parallel_size=pp)
    layout = resolve_layout(sizes, summary.shape, launcher.launched_world_size())
    with _sole_target(target, overwrite):
        if as_peft:
            _write_adapters(summary, layout, target, overwrite)
            return summary, "peft"
        engine = open_engine(summary, layout, BuildOptions(params_dtype=_compute_dtype(summary)))
        beside: dict[str, Any] = {"tokenizer_path": summary.tokenizer_path, "overwrite": overwrite}
        if kind == "distributed":
            save_weights(engine, target, _meta(summary), **beside)
        else:
            source_config = read_source_config(source)
            beside |= {"dtype": dtype, "architecture": architecture}
            export_weights(engine, target, source_config=source_config, **beside)
    return summary, kind


def _check_adapters(summary: CheckpointSummary, dtype: str | None, architecture: str) -> None:
    given = "a whole model" if summary.adapter is None else None
    if dtype is not None or architecture != AUTO:
        given = "--dtype or --architecture, which are for merged weights"
    if given is not None:
        raise ConfigError(
            "--peft",
            required="a checkpoint of adapters (model.peft), written as they are",
            given=given,
            fix="leave out --peft to write whole weights",
        )
    check_peft_export(summary.shape, summary.extension)


def _write_adapters(
    summary: CheckpointSummary, layout: ParallelLayout, target: Path, overwrite: bool
) -> None:
    record = summary.adapter
    assert record is not None, "_check_adapters has looked"
    build = BuildOptions(params_dtype=getattr(torch, summary.dtype), lora=record.lora)
    # Of the base nothing is read: not one of its weights is written.
    engine = open_engine(summary, layout, build, load=load_trained)
    export_adapters(
        engine,
        target,
        base_path=record.base_path,
        source_config=read_source_config(summary.path),
        tokenizer_path=summary.tokenizer_path,
        overwrite=overwrite,
    )


@contextmanager
def _sole_target(target: Path, overwrite: bool) -> Iterator[None]:
    """Holds the target from before the first weight is read, so that what is looked at now stays as it is.

    Raises:
        CheckpointError: another process writes it, or it exists and shall not be replaced.
    """
    with ExitStack() as held:
        if launcher.is_global_zero():
            check_writable("target", target)
            held.enter_context(writing(real_folder(target)))
        _check_target(target, overwrite)
        yield


def _rewriting(source: Path) -> tuple[str, Callable[..., None]] | None:
    """The kind of a source that is no checkpoint to start from, and what makes one of it."""
    if source.is_file() and source.suffix == ".gguf":
        return "GGUF", partial(rewrite_gguf, source)
    if not source.is_dir() or (source / MANIFEST).is_file() or has_safetensors(source):
        return None
    if (source / "config.json").is_file() and has_pickled(source):
        return "pickled weights", partial(rewrite_pickled, source)
    files = list(source.glob("*.gguf"))
    return ("GGUF", partial(rewrite_gguf, files[0])) if len(files) == 1 else None


def _check_alone(kind: str, tp: int, pp: int) -> None:
    """One process reads tensor by tensor: there is nothing to divide."""
    ranks = launcher.launched_world_size()
    if (tp, pp, ranks) != (1, 1, 1):
        raise ConfigError(
            "--tensor-model-parallel-size and --pipeline-model-parallel-size",
            required=f"1 and 1 on one rank for {kind}, which is rewritten tensor by tensor",
            given=f"{tp} and {pp} on {ranks}",
            fix="leave them out, and start it without torchrun: what is written opens at any layout",
        )


def _meta(summary: CheckpointSummary) -> dict[str, Any]:
    """What the manifest says of a model that has not been trained here."""
    return {
        "shape": summary.shape.to_dict(),
        "extension": summary.extension.to_dict(),
        "window_source": summary.window_source,
        "global_step": 0,
        "consumed_samples": 0,
        "source_config": read_source_config(summary.path),
    }


def _check_architecture(kind: str, summary: CheckpointSummary | None, architecture: str) -> None:
    """Before the model is loaded; an error names the flag."""
    if kind == "huggingface" and summary is not None:
        try:
            export_form(summary.shape, summary.extension, architecture)
        except ConfigError as error:
            fix = error.fix.replace(f"{error.field}=", "--architecture ")
            raise ConfigError(
                "--architecture", required=error.required, given=error.given, fix=fix
            ) from error
    elif architecture != AUTO:
        raise ConfigError(
            "--architecture",
            required=f"{AUTO}, unless a distributed checkpoint becomes a Hugging Face folder",
            given=architecture,
            fix="leave it out; a second conversion can change it",
        )


def _check_dtype(kind: str, dtype: str | None) -> None:
    if kind == "distributed" and dtype is not None:
        raise ConfigError(
            "--dtype",
            required="no dtype for a distributed checkpoint: it keeps the weights as they are stored",
            given=dtype,
            fix="leave it out; model.export.dtype or a conversion back can change it",
        )


def _check_target(target: Path, overwrite: bool) -> None:
    replaceable = not target.exists() or any((target / name).is_file() for name in _CHECKPOINT_FILES)
    if target.exists() and not (overwrite and replaceable):
        raise CheckpointError(
            str(target),
            required="a folder that does not exist yet",
            given="an existing one" if target.is_dir() else "a file",
            fix="choose another name, or --overwrite to replace a checkpoint or an export",
        )


def _compute_dtype(summary: CheckpointSummary) -> torch.dtype:
    """That of the weights; where a Hugging Face folder mixes several, fp32 holds them all without loss."""
    source = read_source_config(summary.path) if summary.kind == "huggingface" else None
    mixed = source is not None and source["other_dtypes"]
    dtype: torch.dtype = torch.float32 if mixed else getattr(torch, summary.dtype)
    return dtype
