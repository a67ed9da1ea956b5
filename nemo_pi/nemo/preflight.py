"""What can go wrong before the first step, looked for before anything is allocated or written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from nemo_pi.checkpoint.files import check_writable
from nemo_pi.checkpoint.hf.peft import check_peft_export
from nemo_pi.checkpoint.hf.target import check_apart, check_target
from nemo_pi.checkpoint.retention import all_damaged, checkpoint_folders, latest_checkpoint
from nemo_pi.checkpoint.space import check_space, is_memory, same_disk
from nemo_pi.checkpoint.summary import CheckpointSummary, read_summary
from nemo_pi.config.capacity import capacity_of, ranks_of_a_node
from nemo_pi.config.disk import checkpoint_bytes, export_bytes
from nemo_pi.config.fitting import what_would_fit
from nemo_pi.config.megatron import keys_of
from nemo_pi.config.memory import estimate_memory
from nemo_pi.config.optimizer_memory import check_optimizer_memory
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.errors import BackendUnavailableError, CheckpointError, ConfigError
from nemo_pi.families.export import export_form
from nemo_pi.families.lora import Lora
from nemo_pi.model.engine_layers import resolve_transformer_engine
from nemo_pi.nemo.folders import RunFolders
from nemo_pi.nemo.loaders import check_data, check_tokenizer
from nemo_pi.nemo.sample_settings import check_same_samples
from nemo_pi.nemo.stages import ids_once, named_by_stage, stage_of
from nemo_pi.units import grouped, size_of


def check_plan(stages: Sequence[ResolvedRun], folders: RunFolders) -> None:
    """What a dry run looks at behind its plan: all that needs neither Megatron nor the run's own machine.

    Data that is not given yet is left open; where all token ids are to be looked at, that is done here, too.

    Raises:
        CheckpointError, ConfigError, DataError: what the run itself would stop at.
    """
    stage_to_resume(stages, folders)
    for run in stages:
        with named_by_stage(stages, run):
            check_export(run)
            # Not check_folders: what is free on this disk says nothing of the run's own machine. The plan
            # shows it.
            check_places(run, folders)
    for run in ids_once(stages):
        with named_by_stage(stages, run):
            if run.data.data_prefix:
                check_data(run)
            else:
                check_tokenizer(run)


def check_before_training(stages: Sequence[ResolvedRun]) -> None:
    """Looks at all stages: backends, whether and where they can be exported, and the data, cheapest first.

    Raises:
        BackendUnavailableError, CheckpointError, ConfigError, DataError: what training would stop at later,
            or destroy.
    """
    for run in stages:
        with named_by_stage(stages, run):
            _check_model(run)
            check_export(run)
    for run in ids_once(stages):
        with named_by_stage(stages, run):
            check_data(run)


def _check_model(run: ResolvedRun) -> None:
    """Whether this machine can compute it."""
    # Imported here, and below: Megatron takes seconds, which the checks of a dry run need not wait for.
    from nemo_pi.model.build import check_backends, check_documents

    check_accelerator(run)
    settings = run.engine
    resolve_transformer_engine(settings.build.transformer_engine)
    check_backends(settings.shape, settings.extension, settings.layout, settings.build)
    check_megatron_options(run)
    check_optimizer_memory(run)
    check_memory(run)
    if run.data.pack_documents or run.data.reset_attention_mask:
        check_documents(settings.shape, settings.layout, settings.build)


def check_export(run: ResolvedRun) -> None:
    """Whether Hugging Face has words for the model, and whether its folder may be written.

    Raises:
        CheckpointError, ConfigError: naming what cannot be exported, or the folder.
    """
    if run.export.peft_path is not None:
        check_peft_export(run.shape, run.extension)
    if run.export.hf_path is not None:
        export_form(run.shape, run.extension, run.export.architecture)
    for path in run.export.paths:
        if run.checkpoint is not None:
            check_apart(path, run.checkpoint.path)
        check_target(path)


def check_megatron_options(run: ResolvedRun) -> None:
    """Refuse options that are passed on to Megatron as they stand and that it does not take.

    Raises:
        ConfigError: naming the keys, with Megatron's own words.
    """
    from nemo_pi.model.build import transformer_config

    settings = run.engine
    try:
        transformer_config(settings.shape, settings.layout, settings.build)
    except (AssertionError, TypeError, ValueError) as error:
        known = keys_of(run.config.model, "transformer")
        keys = [known.get(option, option) for option in settings.build.megatron] or ["model"]
        raise ConfigError(
            ", ".join(keys),
            required="values that Megatron's TransformerConfig takes together with this model and layout",
            given=str(error) or type(error).__name__,
            fix="set them to null one by one: null leaves an option to nemo_pi and Megatron",
        ) from error


def check_places(run: ResolvedRun, folders: RunFolders) -> None:
    """Whether there can be folders where the run shall write; asked first of all, before any is looked into.

    Raises:
        CheckpointError: naming the key.
    """
    check_writable("exp_manager.exp_dir", folders.logs)
    check_writable("exp_manager.checkpoint_callback_params.dirpath", folders.checkpoints)
    for key in ("hf_path", "peft_path"):
        path = getattr(run.export, key)
        if path is not None:
            # It is written beside its place and renamed.
            check_writable(f"model.export.{key}", Path(path).parent)
            check_writable(f"model.export.{key}", Path(path))
    if run.recompute.folder is not None:
        check_writable("model.activations_offload_folder", Path(run.recompute.folder))


def check_folders(run: ResolvedRun, folders: RunFolders) -> None:
    """Whether the run can write where it shall, and has room there: logs, checkpoints and export.

    Raises:
        CheckpointError: naming the key, or the folder and both sizes.
    """
    check_places(run, folders)
    check_activations_folder(run)
    one = checkpoint_bytes(run)
    if run.export.hf_path is None:
        check_space(folders.checkpoints, one, "one checkpoint")
        return
    export = Path(run.export.hf_path)
    if same_disk(folders.checkpoints, export):
        check_space(folders.checkpoints, one + export_bytes(run), "one checkpoint and the export")
    else:
        check_space(folders.checkpoints, one, "one checkpoint")
        check_space(export, export_bytes(run), "the export")


def check_activations_folder(run: ResolvedRun) -> None:
    """Whether the file of activations has a disk to be on, and room there.

    Raises:
        CheckpointError: naming the folder and both sizes.
        ConfigError: a folder that there is not, or whose files are memory.
    """
    key, given = "model.activations_offload_folder", run.recompute.folder
    if given is None:
        return
    folder, fix = Path(given), f"name a folder on a disk: {key}=/path/to/folder"
    if not folder.is_dir():
        raise ConfigError(
            key, required="a folder that exists", given=given, fix=f"mkdir -p {given}, or {fix}"
        )
    if is_memory(folder):
        raise ConfigError(
            key, required="a folder on a disk", given=f"{given}, whose files are memory (tmpfs)", fix=fix
        )
    check_space(
        folder,
        ranks_of_a_node(run) * estimate_memory(run).disk,
        "the activations of this machine's ranks",
        fix,
    )


def check_memory(run: ResolvedRun) -> None:
    """Refuses a run whose estimate is more than this machine has, unless it is forced.

    Raises:
        ConfigError: with both numbers, and what would make it fit.
    """
    estimate, capacity = estimate_memory(run), capacity_of(run)
    if run.config.force or not capacity.lacks(estimate):
        return
    on_gpu = torch.cuda.is_available()
    what = "the device" if on_gpu else "this machine, divided by its ranks"
    short, there = estimate.total, capacity.device
    if there is None or short <= there:
        what, short, there = "the host, divided by its ranks", estimate.host, capacity.host
    raise ConfigError(
        "model.encoder_seq_length",
        required=f"a run that fits the {size_of(there or 0)} of {what}",
        given=f"one that takes about {size_of(short)} by the plan's estimate, with"
        f" {grouped(run.training_length)} tokens a sample",
        fix=f"{what_would_fit(run, capacity)}; or start it all the same: force=true",
    )


def check_accelerator(run: ResolvedRun) -> None:
    """Refuse a run that shall compute where Megatron would not: it takes the GPU wherever one is visible.

    Raises:
        ConfigError: the CPU of a machine whose GPU is visible; with how to hide it.
        BackendUnavailableError: a GPU where none is visible.
    """
    asked, visible = run.trainer.get("accelerator"), torch.cuda.is_available()
    if asked == "cpu" and visible:
        raise ConfigError(
            "trainer.accelerator",
            required="auto or gpu where a CUDA device is visible: Megatron's tensors go there",
            given="cpu",
            fix="leave it at auto, or hide the device: CUDA_VISIBLE_DEVICES= (empty) in the environment",
        )
    if asked in ("gpu", "cuda") and not visible:
        raise BackendUnavailableError(
            "trainer.accelerator",
            required="auto or cpu: PyTorch sees no CUDA device here",
            given=asked,
            fix="launch it where there is one (and see what nvidia-smi says there), or set auto",
        )


def stage_to_resume(stages: Sequence[ResolvedRun], folders: RunFolders) -> tuple[int, Path | None]:
    """Number of the stage that a run goes on with, and the checkpoint; (0, None) where it starts.

    Raises:
        ConfigError: as checkpoint_to_resume; or the stages before are not those that it was trained in.
    """
    latest = latest_checkpoint(folders.checkpoints) if folders.resume else None
    try:
        number = 0 if latest is None else stage_of(stages, latest)
        with named_by_stage(stages, stages[number]):
            return number, checkpoint_to_resume(stages[number], folders)
    except (CheckpointError, FileNotFoundError):
        if latest is None or latest.exists():
            raise
    # Removed while it was looked at: a run that still trains there has saved newer ones.
    return stage_to_resume(stages, folders)


def checkpoint_to_resume(run: ResolvedRun, folders: RunFolders) -> Path | None:
    """The checkpoint that this run goes on from; None where it starts at its first step.

    Raises:
        ConfigError: the run's folder holds checkpoints of another model, of other positions, of other
            samples, or of a run that shall not be resumed (its next save would be in their way).
    """
    latest = latest_checkpoint(folders.checkpoints)
    if latest is None:
        damaged = checkpoint_folders(folders.checkpoints) if folders.resume else []
        if damaged:
            raise all_damaged(folders.checkpoints, damaged)
        return None
    if not folders.resume:
        raise ConfigError(
            "exp_manager.resume_if_exists",
            required=f"true, or a folder without checkpoints (found {latest})",
            given=False,
            fix="resume, or give the run another name, version or exp_dir",
        )
    found = read_summary(latest)
    if (found.shape, found.extension) != (run.shape, run.extension):
        raise ConfigError(
            "name",
            required=f"a new one: {latest} belongs to a run with {_differences(run, found)}",
            given=run.name,
            fix="give this run another name; restore_from_path starts a new run from a checkpoint's weights",
        )
    _check_same_training(run, found)
    check_same_samples(run, latest)
    return latest


def _check_same_training(run: ResolvedRun, found: CheckpointSummary) -> None:
    """Whether a checkpoint holds what the run trains: all weights, or just these adapters."""
    own, saved = run.engine.build.lora, None if found.adapter is None else found.adapter.lora
    if saved is not None and own is not None:
        saved = replace(saved, seed=own.seed)  # of first numbers, which are behind it
    if own == saved:
        return
    raise ConfigError(
        "name",
        required=f"a new one: {found.path} belongs to a run that trains {_trained(saved)}",
        given=f"{run.name}, which trains {_trained(own)}",
        fix="give this run another name, or set model.peft back to what it was",
    )


def _trained(lora: Lora | None) -> str:
    if lora is None:
        return "all weights"
    values = ", ".join(f"{key} {value}" for key, value in lora.to_dict().items() if key != "seed")
    return f"adapters ({values})"


def _differences(run: ResolvedRun, found: CheckpointSummary) -> str:
    wanted = {**run.shape.to_dict(), **run.extension.to_dict()}
    given = {**found.shape.to_dict(), **found.extension.to_dict()}
    return ", ".join(
        f"{key} {given[key]} instead of {wanted[key]}" for key in wanted if given[key] != wanted[key]
    )
