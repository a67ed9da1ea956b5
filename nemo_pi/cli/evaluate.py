"""examples/evaluate.py: models measured one after the other, and their report."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from nemo_pi.checkpoint.files import check_writable
from nemo_pi.cli.ends import INTERRUPTED
from nemo_pi.cli.evaluate_arguments import parse
from nemo_pi.cli.evaluate_config import EvaluateConfig
from nemo_pi.cli.evaluate_models import choose_backend, names_of, unshipped
from nemo_pi.cli.evaluate_origin import describe_origin
from nemo_pi.cli.evaluate_plan import (
    ModelPlan,
    check_same_text,
    choose_windows,
    describe_costs,
    plan_model,
)
from nemo_pi.cli.paths import check_paths
from nemo_pi.cli.progress import progress_bar
from nemo_pi.errors import DataError, NemoPiError
from nemo_pi.evaluation.evaluate import run_tasks
from nemo_pi.evaluation.gates import check_gates, failures
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.evaluation.report import RESULTS, render_text, write_report
from nemo_pi.evaluation.results import ModelResults, write_results
from nemo_pi.evaluation.scorer import Scorer
from nemo_pi.model.engine_layers import resolve_transformer_engine
from nemo_pi.model.options import BuildOptions
from nemo_pi.parallel import launcher

FAILED = 1
"""Exit status where a model does not pass a gate."""


def open_scorer(plan: ModelPlan, dtype: torch.dtype) -> Scorer:
    """What rates the model's tokens and generates."""
    name = plan.name
    if plan.summary is None or plan.layout is None:
        _say(f"{name}: computed by transformers")
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # of loading weights, which would cut through ours
        return HuggingFaceScorer(plan.folder, name=name, dtype=dtype)
    # Imported here: transformers needs none of Megatron, which takes seconds to import.
    from nemo_pi.engine.megatron_scorer import MegatronScorer
    from nemo_pi.engine.opening import open_engine

    # Cached generation has been tried with local layers only.
    generates = any(item.plan.cost.tokens_generated for item in plan.planned)
    transformer_engine = not generates and resolve_transformer_engine("auto")
    build = BuildOptions(params_dtype=dtype, transformer_engine=transformer_engine)
    engine = open_engine(plan.summary, plan.layout, build)
    family = unshipped(plan.folder)
    why = f" (transformers has no model_type {family!r})" if family else ""
    _say(f"{name}: {plan.summary.kind} checkpoint computed by megatron{why}, {plan.layout.describe()}")
    return MegatronScorer(engine, name)


def measure(plan: ModelPlan, measured: list[ModelResults], config: EvaluateConfig, bar: Any) -> None:
    """Run one model's tasks; after each, what it has measured so far ends `measured`, which is written."""

    def progress(what: str, done: int, _: int) -> None:
        bar.set_description(f"{plan.name}: {what}", refresh=False)
        bar.update(start + done - bar.n)

    def finished(results: ModelResults) -> None:
        measured[before:] = [results]
        if launcher.is_global_zero():
            keep_results(measured, results_folder(config))

    before = len(measured)
    scorer, start = open_scorer(plan, getattr(torch, config.dtype)), bar.n
    run_tasks(
        scorer,
        plan.planned,
        plan.context,
        name=plan.name,
        progress=progress,
        finished=finished,
        origin=describe_origin(plan, config),
    )


def run(description: str | None = None, arguments: Sequence[str] | None = None) -> int:
    """Plan all tasks on all models, say what they cost, measure, and report; every launched rank calls it.

    Returns:
        The exit status: FAILED where a model does not pass a gate, INTERRUPTED after Ctrl-C.
    """
    config = parse(description, arguments)
    models = [("models", model) for model in config.models]
    check_paths([*models, ("documents", config.documents), ("tokenizer", config.tokenizer)])
    folders = [Path(model).expanduser() for model in config.models]
    for folder in folders:
        choose_backend(folder, config.backend, launcher.launched_world_size())
    check_writable("results", results_folder(config))
    tasks = config.chosen_tasks()
    windows = choose_windows(config)
    check_gates(config.gate, tasks, len(folders), windows[1])
    plans = [
        plan_model(name, folder, config, windows)
        for name, folder in zip(names_of(folders), folders, strict=True)
    ]
    check_same_text(plans, config.gate, tasks)
    _say(describe_costs(plans))
    if launcher.is_global_zero():
        check_results(config)
    measured: list[ModelResults] = []
    try:
        with progress_bar(sum(plan.num_tokens for plan in plans), "token") as bar:
            for plan in plans:
                measure(plan, measured, config, bar)
    except KeyboardInterrupt:
        _report(measured, config)
        _say("Stopped." + (" The report holds what was measured by then." if measured else ""))
        return INTERRUPTED
    except NemoPiError:  # of a later model's weights, say, after hours with the first
        _report(measured, config)
        raise
    _report(measured, config)
    if dist.is_initialized():
        from nemo_pi.parallel import groups

        groups.destroy()
    failed = failures(measured, config.gate, tasks)
    _say("\n".join(f"gate: {failure}" for failure in failed))
    return FAILED if failed else 0


def _report(measured: list[ModelResults], config: EvaluateConfig) -> None:
    """Tell and write what has been measured, if anything.

    Raises:
        DataError: it cannot be written.
    """
    if not measured or not launcher.is_global_zero():
        return
    # First of all: what was measured for hours is not to be lost with a disk that is full by now.
    print(render_text(measured), flush=True)
    try:
        files = write_report(measured, results_folder(config))
    except OSError as error:
        raise _unwritable(config, error) from error
    print(f"Results: {files.folder}\nReport: {files.page}")


def check_results(config: EvaluateConfig) -> None:
    """Makes the results' folder and writes a file into it, before hours of computing.

    Raises:
        DataError: it cannot be written to.
    """
    folder = results_folder(config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / RESULTS).is_dir():
            raise IsADirectoryError(f"{folder / RESULTS} is a folder")
        probe = folder / f".{RESULTS}.{os.getpid()}"
        try:
            probe.write_bytes(bytes(4096))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(config, error) from error


def keep_results(models: list[ModelResults], folder: Path) -> None:
    """Writes what has been measured so far; a disk that is full only costs this copy of it."""
    try:
        write_results(models, folder / RESULTS)
    except OSError as error:
        _say(f"{folder / RESULTS} cannot be written now ({error}); the evaluation goes on")


def _unwritable(config: EvaluateConfig, error: OSError) -> DataError:
    return DataError(
        "results",
        required="a folder that can be written to",
        given=f"{config.results}: {error}",
        fix="give another folder, results=..., or correct its permissions or its free space",
    )


def results_folder(config: EvaluateConfig) -> Path:
    """What is written to."""
    return Path(config.results).expanduser()


def _say(text: str) -> None:
    """Tells on the first rank, out of the report's way."""
    if launcher.is_global_zero():
        print(text, file=sys.stderr, flush=True)
