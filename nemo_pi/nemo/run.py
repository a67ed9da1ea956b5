"""A run from its YAML to its results: planned here, trained by what is imported only then."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from nemo_pi import collector
from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.config.evaluation_plan import plan_evaluation
from nemo_pi.config.load import checkpoint_path, resolve
from nemo_pi.config.plan import render_plan
from nemo_pi.config.trainer_keys import world_size_of
from nemo_pi.nemo.backends import settle_backends
from nemo_pi.nemo.folders import RunFolders, run_folders
from nemo_pi.nemo.preflight import check_places, check_plan
from nemo_pi.parallel.launcher import is_global_zero

STOPPED = 75
"""Exit status of a run that was told to stop before its last step (EX_TEMPFAIL: try again). An environment in
which only 0 is no failure, such as torchrun within a batch script, can set NEMO_PI_STOPPED_STATUS=0."""


@dataclass(frozen=True)
class RunResult:
    """What a run leaves behind."""

    folders: RunFolders
    """Logs and checkpoints."""
    exported: Path | None
    """The Hugging Face folder, if one was asked for and training came to its end."""
    global_step: int
    """Optimizer steps behind the final weights."""
    max_steps: int
    """Optimizer steps of the whole run; more than global_step where the run was told to stop. A run that came
    to its goal (`model.evaluation.stop_at`) ends with that step."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """The last value of each; none where all steps were done before."""

    @property
    def status(self) -> int:
        """Exit status of the process."""
        if self.global_step >= self.max_steps:
            return 0
        given = os.environ.get("NEMO_PI_STOPPED_STATUS", "")
        return int(given) if given.isdigit() else STOPPED

    def announce(self) -> None:
        """Says on the first rank where everything is."""
        if is_global_zero():
            if self.global_step < self.max_steps:
                print(f"Stopped at step {self.global_step} of {self.max_steps}; start it again to go on.")
            print(f"Trained to step {self.global_step}. Checkpoints: {self.folders.checkpoints}")
            if self.exported is not None:
                print(f"Hugging Face folder: {self.exported}")


def run(cfg: DictConfig) -> RunResult | None:
    """Plans and trains what `cfg` describes; every rank calls it.

    Args:
        cfg: a composed conf/extend_context.yaml or conf/pretrain.yaml.

    Returns:
        What was left behind; None after a dry run.

    Raises:
        NemoPiError: before anything is allocated or written, wherever it can be known by then.
    """
    path = checkpoint_path(cfg)
    summary = None if path is None else read_summary(path)
    resolved = resolve(cfg, world_size=_world_size(cfg), summary=summary)
    folders = run_folders(resolved)
    check_places(resolved, folders)
    evaluation = plan_evaluation(resolved)
    resolved = settle_backends(resolved, folders)
    if is_global_zero():
        places = {"logs": folders.logs, "checkpoints": folders.checkpoints}
        print(render_plan(resolved, **places, evaluation=evaluation), flush=True)
    if resolved.dry_run:
        check_plan(resolved, folders)
        return None
    # Imported here: NeMo, Lightning and Megatron take seconds, which a plan or a mistake need not wait for.
    from nemo_pi.nemo.training import train

    collector.resume()
    trained = train(resolved, folders, evaluation)
    last = trained.global_step if trained.finished else resolved.max_steps
    return RunResult(folders, trained.exported, trained.global_step, last, trained.metrics)


def _world_size(cfg: DictConfig) -> int:
    trainer = cfg.get("trainer")
    # Anything but a section is refused by resolve, which says so.
    return world_size_of(trainer if OmegaConf.is_dict(trainer) else {})
