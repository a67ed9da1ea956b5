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
from nemo_pi.config.load import checkpoint_path, resolve_stages
from nemo_pi.config.plan_stages import render_stages
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
    exports: tuple[Path, ...] = ()
    """All folders exported in this start, by stage; `exported` is the last stage's."""

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
            for folder in self.exports:
                print(f"Hugging Face folder: {folder}")


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
    stages = resolve_stages(cfg, world_size=_world_size(cfg), summary=summary)
    folders = run_folders(stages[0])
    for stage in stages:
        check_places(stage, folders)
    evaluations = [plan_evaluation(stage) for stage in stages]
    stages = tuple(settle_backends(stage, folders) for stage in stages)
    if is_global_zero():
        places = {"logs": folders.logs, "checkpoints": folders.checkpoints}
        print(render_stages(stages, **places, evaluations=evaluations), flush=True)
    if stages[0].dry_run:
        check_plan(stages, folders)
        return None
    # Imported here: NeMo, Lightning and Megatron take seconds, which a plan or a mistake need not wait for.
    from nemo_pi.nemo.training import train

    collector.resume()
    trained = train(stages, folders, evaluations)
    last = trained.global_step if trained.finished else stages[-1].last_step
    exported = trained.exported[-1] if trained.finished and trained.exported else None
    return RunResult(folders, exported, trained.global_step, last, trained.metrics, trained.exported)


def _world_size(cfg: DictConfig) -> int:
    trainer = cfg.get("trainer")
    # Anything but a section is refused by resolve, which says so.
    return world_size_of(trainer if OmegaConf.is_dict(trainer) else {})
